//! Commands beside each other, and kills at moments that nobody chose: what tests of single moments do not meet.
//!
//! A few seconds each; `RKVM_CHAOS_SECONDS` gives them longer, `RKVM_CHAOS_SEED` repeats the choices (not the moments) of a run that failed.

#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::fs;
use std::time::{Duration, Instant, SystemTime};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use rkvm_testing::{
    Cmd, Isolation, Running, Sandbox, arguments, children, in_both_isolations, processes, wait,
};

in_both_isolations! {
    commands_beside_each_other,
    kills_at_any_moment,
}

/// Lanes of commands: more than processors, so that every process is interrupted where it does not expect it.
const LANES: usize = 4;

/// xorshift64: choices that a seed repeats.
struct Choices(u64);

impl Choices {
    fn below(&mut self, end: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % end
    }

    fn of<'a, T>(&mut self, all: &'a [T]) -> &'a T {
        &all[self.below(all.len() as u64) as usize]
    }
}

fn number(variable: &str) -> Option<u64> {
    std::env::var(variable).ok()?.parse().ok()
}

/// Calls `turn` in each lane until the time is over, with the name of a container that nobody else uses.
fn in_lanes(isolation: Isolation, turn: impl Fn(&Sandbox, &mut Choices, &str) + Sync) {
    let sandbox = Sandbox::of(isolation);
    sandbox.load_busybox();
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap().as_nanos() as u64;
    let seed = number("RKVM_CHAOS_SEED").unwrap_or(now) | 1;
    eprintln!("RKVM_CHAOS_SEED={seed}");
    let end = Instant::now() + Duration::from_secs(number("RKVM_CHAOS_SECONDS").unwrap_or(10));
    std::thread::scope(|scope| {
        for lane in 0..LANES {
            let (sandbox, turn) = (&sandbox, &turn);
            scope.spawn(move || {
                let mut choices = Choices(seed.wrapping_mul(2 * lane as u64 + 1));
                for round in 0.. {
                    if Instant::now() >= end {
                        break;
                    }
                    turn(sandbox, &mut choices, &format!("c{lane}-{round}"));
                }
            });
        }
    });
    assert_eq!(sandbox.rkvm(["ps", "-aq"]).ok().text(), "");
    // The address of a monitor that was killed when it had nothing else left to do.
    sandbox.rkvm(["system", "prune", "--force"]).ok();
    sandbox.assert_no_leaks();
}

fn commands_beside_each_other(isolation: Isolation) {
    in_lanes(isolation, |sandbox, choices, name| {
        let run = |flags: &[&str]| sandbox.rkvm(["run", "--name", name]).args(flags);
        match choices.below(5) {
            0 => {
                let script = "echo out; echo err >&2; exit 7";
                let output = run(&["--rm", "busybox", "sh", "-c", script]).run().expect_code(7);
                assert_eq!((output.text().as_str(), output.stderr().as_str()), ("out", "err\n"));
            }
            1 => {
                let input = "x".repeat(200_000);
                let output = run(&["--rm", "-i", "busybox", "cat"]).stdin(input.as_bytes()).ok();
                assert!(output.stdout() == input, "{} bytes of {}", output.stdout().len(), input.len());
            }
            2 => {
                run(&["-d", "busybox", "sleep", "1000"]).ok();
                let exec =
                    |code: &str| sandbox.rkvm(["exec", name, "sh", "-c", &format!("echo in; exit {code}")]);
                assert_eq!(exec("0").ok().text(), "in");
                exec("3").run().expect_code(3);
                for verb in ["pause", "unpause"] {
                    sandbox.rkvm([verb, name]).ok();
                }
                sandbox.rkvm(["stop", "-t", "0", name]).ok();
                sandbox.rkvm(["rm", name]).ok();
            }
            3 => {
                run(&["-d", "busybox", "sh", "-c", "echo 1; echo 2; exit 3"]).ok();
                assert_eq!(sandbox.rkvm(["wait", name]).ok().text(), "3");
                assert_eq!(sandbox.rkvm(["logs", "-f", name]).ok().text(), "1\n2");
                sandbox.rkvm(["rm", name]).ok();
            }
            _ => {
                sandbox.rkvm(["ps", "-a"]).ok();
                sandbox.rkvm(["images"]).ok();
            }
        }
    });
}

/// Who is killed, and how.
#[derive(Debug, Clone, Copy)]
enum Victim {
    Client(Signal),
    /// The container's monitor, with the children that look like it.
    Monitor,
    /// Children of the monitor: the container's first process or its machine, and what helps to make it.
    Children,
}

/// Kills `victim` of the command that `client` runs, about container `name`.
fn strike(sandbox: &Sandbox, client: &Running, name: &str, victim: Victim) {
    let shoot = |pid: i32, signal: Signal| {
        // It may have ended by itself.
        let _ = kill(Pid::from_raw(pid), signal);
    };
    let Ok(id) = fs::read_link(sandbox.root().join("lib/names").join(name)) else {
        // Not made yet, or removed already: only the client is there.
        return shoot(client.pid(), Signal::SIGKILL);
    };
    let monitors = processes().filter(|pid| arguments(*pid).contains(id.to_str().unwrap()));
    // All are found before the first is killed: those that come meanwhile are what is to be met.
    let (victims, signal): (Vec<i32>, _) = match victim {
        Victim::Client(signal) => (vec![client.pid()], signal),
        Victim::Monitor => (monitors.collect(), Signal::SIGKILL),
        Victim::Children => (monitors.flat_map(children).collect(), Signal::SIGKILL),
    };
    victims.into_iter().for_each(|pid| shoot(pid, signal));
}

fn kills_at_any_moment(isolation: Isolation) {
    in_lanes(isolation, |sandbox, choices, name| {
        let started =
            |command: Cmd, flags: &[&str]| command.args(flags).args(["--name", name, "busybox", "sleep"]);
        let run = || sandbox.rkvm(["run"]);
        let prepared = ["stop", "rm", "exec", "restart", "pause"];
        let what = *choices.of(&["run", "run -d", "start", "stop", "rm", "exec", "restart", "pause"]);
        if prepared.contains(&what) {
            started(run(), &["-d"]).arg("1000").ok();
        }
        let command = match what {
            "run" => started(run(), &["--rm"]).arg("0.1"),
            "run -d" => started(run(), &["-d", "-p", "127.0.0.1::80"]).arg("1000"),
            "start" => {
                started(sandbox.rkvm(["create"]), &[]).arg("1000").ok();
                sandbox.rkvm(["start", name])
            }
            "rm" => sandbox.rkvm(["rm", "-f", name]),
            "exec" => sandbox.rkvm(["exec", name, "sleep", "0.05"]),
            "stop" | "restart" => sandbox.rkvm([what, "-t", "0", name]),
            _ => sandbox.rkvm([what, name]),
        };
        let signals = [Signal::SIGKILL, Signal::SIGINT, Signal::SIGTERM];
        let victim = match choices.below(4) {
            0 => Victim::Monitor,
            1 => Victim::Children,
            _ => Victim::Client(*choices.of(&signals)),
        };
        // Most happens at the beginning.
        let delay = Duration::from_micros(choices.below(300).pow(2) * 3);
        let when = format!("{what} of {name}, {victim:?} after {delay:?}");
        let client = command.spawn();
        std::thread::sleep(delay);
        strike(sandbox, &client, name, victim);
        // It ends by itself, whoever is gone.
        client.wait();
        sandbox.rkvm(["ps", "-a"]).ok();
        let removed = || {
            let output = sandbox.rkvm(["rm", "-f", name]).run();
            (output.code == 0 && !sandbox.root().join("lib/names").join(name).is_symlink()).then_some(())
        };
        // A monitor that outlives its client may still be making the container.
        assert!(wait::within(Duration::from_secs(30), removed).is_some(), "{when}: it cannot be removed");
    });
}
