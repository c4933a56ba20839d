//! When a container that has ended is started again (Docker's restart policies).

use std::time::Duration;

use rkvm_engine::record::RestartPolicy;

/// First delay; doubled at each restart.
const FIRST: Duration = Duration::from_millis(100);
/// Longest delay.
const LONGEST: Duration = Duration::from_secs(60);
/// A run that lasted this long makes the next delay the first one again.
const STEADY: Duration = Duration::from_secs(10);

/// The delays of one monitor.
#[derive(Debug)]
pub struct Backoff {
    next: Duration,
}

impl Default for Backoff {
    fn default() -> Self {
        Self { next: FIRST }
    }
}

impl Backoff {
    /// How long to wait before the next start, after a run of length `ran`.
    pub fn delay(&mut self, ran: Duration) -> Duration {
        if ran >= STEADY {
            self.next = FIRST;
        }
        let delay = self.next;
        self.next = (delay * 2).min(LONGEST);
        delay
    }
}

/// Whether a container is started again after it ended with `exit_code`, having been restarted `restarts` times.
pub fn wanted(policy: RestartPolicy, exit_code: u8, restarts: u32) -> bool {
    match policy {
        RestartPolicy::No => false,
        RestartPolicy::OnFailure { max_retries } => {
            exit_code != 0 && (max_retries == 0 || restarts < max_retries)
        }
        RestartPolicy::Always | RestartPolicy::UnlessStopped => true,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn delays_double_to_a_minute_and_begin_again_after_a_steady_run() {
        let mut backoff = Backoff::default();
        let short = Duration::from_secs(1);
        let delays: Vec<u128> = (0..12).map(|_| backoff.delay(short).as_millis()).collect();
        assert_eq!(delays[..4], [100, 200, 400, 800]);
        assert_eq!(delays[11], 60_000);
        assert_eq!(backoff.delay(STEADY), FIRST);
    }

    #[test]
    fn on_failure_counts_and_takes_success_for_an_end() {
        let policy = RestartPolicy::OnFailure { max_retries: 2 };
        assert!(!wanted(policy, 0, 0));
        assert!(wanted(policy, 1, 1));
        assert!(!wanted(policy, 1, 2));
        assert!(wanted(RestartPolicy::OnFailure { max_retries: 0 }, 1, 1000));
        assert!(wanted(RestartPolicy::Always, 0, 1000));
        assert!(!wanted(RestartPolicy::No, 1, 0));
    }
}
