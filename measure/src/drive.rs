//! The measurement itself: turn by turn.

use std::fs;
use std::sync::Barrier;
use std::thread;
use std::time::{Duration, Instant};

use crate::contestant::{Contestant, Instance};
use crate::error::{Error, Result};
use crate::interrupt;
use crate::memory;
use crate::model::{CacheState, Completion, DensityPoint, Failure, Missing, Sample, SampleKind, SubjectKind};
use crate::plan::Turn;
use crate::start::{self, After, Conditions, Started};

/// Told how far a measurement is.
pub trait Watcher {
    /// A start was made, or one of a density measurement.
    fn done(&mut self, done: usize, planned: usize, what: &str);
}

/// What was measured.
#[derive(Debug, Default)]
pub struct Measured {
    /// All starts, in order.
    pub samples: Vec<Sample>,
    /// Those that failed.
    pub failures: Vec<Failure>,
    /// Peers that were given up, and why; the others went on.
    pub given_up: Vec<Missing>,
    /// The density measurement.
    pub density: Vec<DensityPoint>,
    /// Why it ended early.
    pub broken_off: Option<String>,
    /// Starts that were planned.
    pub planned: usize,
}

impl Measured {
    /// Whether everything that was planned was measured.
    pub fn completion(&self) -> Completion {
        match &self.broken_off {
            None => Completion::Complete,
            Some(reason) => Completion::Partial {
                reason: reason.clone(),
                done: self.samples.len() + self.failures.len() + self.density.len(),
                planned: self.planned,
            },
        }
    }
}

impl Measured {
    fn has_given_up(&self, id: &str) -> bool {
        self.given_up.iter().any(|one| one.id == id)
    }

    fn interrupted(&mut self) {
        self.broken_off = Some("interrupted".to_owned());
    }

    /// Notes a start that failed. A peer with whose program something is wrong must not cost the figures of all others.
    fn failed(&mut self, contestant: &dyn Contestant, error: Error, order: usize) -> Result<()> {
        let subject = contestant.subject();
        let is_first = !self.samples.iter().any(|sample| sample.subject == subject.id);
        match error {
            error if is_first && subject.kind == SubjectKind::Peer => {
                if !self.has_given_up(&subject.id) {
                    let reason = format!("its first start failed: {error}");
                    self.given_up.push(Missing { id: subject.id.clone(), reason });
                }
            }
            Error::NotReady(mut failure) if !is_first => {
                failure.order = order;
                self.failures.push(*failure);
            }
            error if subject.kind == SubjectKind::Peer => self.failures.push(Failure {
                subject: subject.id.clone(),
                order,
                message: error.to_string(),
                reached: None,
                log: vec![],
            }),
            error => return Err(error),
        }
        Ok(())
    }

    /// So many starts have failed that there is no use in going on with this one.
    fn hopeless(&mut self, contestant: &dyn Contestant, starts: usize) {
        let subject = contestant.subject();
        if subject.kind != SubjectKind::Peer {
            self.broken_off = Some(format!("{starts} starts in a row failed"));
        } else if !self.has_given_up(&subject.id) {
            let last = self.failures.iter().rev().find(|failure| failure.subject == subject.id);
            let message = last.map_or("", |failure| failure.message.as_str());
            let reason = format!("given up after {starts} failed starts in a row: {message}");
            self.given_up.push(Missing { id: subject.id.clone(), reason });
        }
    }

    /// A peer that was given up before any of its starts counted leaves nothing but its reason.
    fn forget_unmeasured(&mut self) {
        let counts = |id: &str| {
            self.samples.iter().any(|sample| sample.subject == id && sample.kind == SampleKind::Measured)
        };
        let given_up = self.given_up.iter().map(|one| one.id.clone());
        let empty: Vec<String> = given_up.filter(|id| !counts(id)).collect();
        self.samples.retain(|sample| !empty.contains(&sample.subject));
        self.failures.retain(|failure| !empty.contains(&failure.subject));
    }
}

/// A measurement to be made.
pub struct Drive<'a> {
    /// What is measured.
    pub contestants: &'a [Box<dyn Contestant>],
    /// In which order.
    pub turns: &'a [Turn],
    /// How each start is made.
    pub conditions: Conditions<'a>,
    /// Begins the names of instances.
    pub prefix: &'a str,
    /// Instances that start at once.
    pub parallel: usize,
    /// Whether caches are dropped before each turn.
    pub cache: CacheState,
    /// Largest number of instances of the density measurement; 0: none.
    pub density: usize,
}

/// Failures in a row after which there is no use in going on.
const HOPELESS: usize = 3;

impl Drive<'_> {
    /// Makes all starts. When the user interrupts it, or rkvm's own starts fail in a row, what was measured so far is returned and says so.
    /// A peer whose very first start fails, or several in a row, is given up, and the others go on.
    ///
    /// # Errors
    /// The very first start of rkvm's own fails: then there is nothing to report. Or the caches cannot be dropped.
    pub fn run(&self, watcher: &mut dyn Watcher) -> Result<Measured> {
        let planned = self.turns.len() * self.parallel + self.contestants.len() * self.density;
        let mut measured = Measured { planned, ..Measured::default() };
        self.take_turns(&mut measured, watcher)?;
        for contestant in self.contestants {
            let takes_part = !measured.has_given_up(&contestant.subject().id);
            if self.density > 0 && takes_part && measured.broken_off.is_none() {
                self.grow(contestant.as_ref(), &mut measured, watcher)?;
            }
        }
        measured.forget_unmeasured();
        Ok(measured)
    }

    fn take_turns(&self, measured: &mut Measured, watcher: &mut dyn Watcher) -> Result<()> {
        let began = Instant::now();
        let mut failed_in_a_row = vec![0; self.contestants.len()];
        for turn in self.turns {
            let contestant = self.contestants[turn.subject].as_ref();
            let id = contestant.subject().id.as_str();
            if measured.has_given_up(id) {
                continue;
            }
            if interrupt::requested() {
                measured.interrupted();
            }
            if measured.broken_off.is_some() {
                return Ok(());
            }
            if self.cache == CacheState::Cold {
                drop_caches()?;
            }
            let at_ms = began.elapsed().as_millis() as u64;
            for (slot, result) in self.turn(contestant, measured.samples.len()).into_iter().enumerate() {
                let order = measured.samples.len() + measured.failures.len();
                match result {
                    Ok(Started { ready, .. }) => {
                        failed_in_a_row[turn.subject] = 0;
                        measured.samples.push(Sample {
                            subject: id.to_owned(),
                            kind: turn.kind,
                            order,
                            round: turn.round,
                            instance: slot,
                            total_ns: ready.total_ns,
                            phases: ready.phases,
                            at_ms,
                        });
                    }
                    Err(Error::Interrupted) => measured.interrupted(),
                    Err(error) => {
                        failed_in_a_row[turn.subject] += 1;
                        measured.failed(contestant, error, order)?;
                    }
                }
                watcher.done(order + 1, measured.planned, id);
            }
            if failed_in_a_row[turn.subject] >= HOPELESS {
                measured.hopeless(contestant, failed_in_a_row[turn.subject]);
            }
        }
        if interrupt::requested() {
            measured.interrupted();
        }
        Ok(())
    }

    /// One start, or several at once.
    fn turn(&self, contestant: &dyn Contestant, number: usize) -> Vec<Result<Started>> {
        let names: Vec<String> =
            (0..self.parallel).map(|slot| format!("{}-{number}-{slot}", self.prefix)).collect();
        let one = |slot: usize, after: After<'_>| {
            let instance = Instance { name: &names[slot], slot };
            start::start(contestant, instance, &self.conditions, after)
        };
        if self.parallel == 1 {
            return vec![one(0, After::Remove)];
        }
        let (barrier, ready) = (Barrier::new(self.parallel), Barrier::new(self.parallel));
        thread::scope(|scope| {
            let threads: Vec<_> = (0..self.parallel)
                .map(|slot| {
                    let (one, barrier, ready) = (&one, &barrier, &ready);
                    scope.spawn(move || {
                        barrier.wait();
                        one(slot, After::RemoveTogether(ready))
                    })
                })
                .collect();
            let join = |thread: thread::ScopedJoinHandle<'_, _>| {
                thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
            };
            threads.into_iter().map(join).collect()
        })
    }

    /// Starts instance after instance and keeps them, measuring their memory.
    fn grow(
        &self,
        contestant: &dyn Contestant,
        measured: &mut Measured,
        watcher: &mut dyn Watcher,
    ) -> Result<()> {
        let id = contestant.subject().id.as_str();
        let names: Vec<String> =
            (0..self.density).map(|slot| format!("{}-density-{slot}", self.prefix)).collect();
        let instances = || names.iter().enumerate().map(|(slot, name)| Instance { name, slot });
        let mut kept = vec![];
        let mut result = Ok(());
        for (instance, running) in instances().zip(1..) {
            // A start that takes less than a glance of its own does not notice.
            if interrupt::requested() {
                measured.interrupted();
                break;
            }
            match start::start(contestant, instance, &self.conditions, After::Keep) {
                Ok(started) => {
                    let start_ns = started.ready.total_ns;
                    kept.push((instance, started));
                    thread::sleep(CALM);
                    let roots: Vec<i32> =
                        kept.iter().flat_map(|(instance, _)| contestant.processes(*instance)).collect();
                    measured.density.push(DensityPoint {
                        subject: id.to_owned(),
                        instances: running,
                        start_ns,
                        pss_bytes: memory::pss_of_trees(&roots),
                        available_bytes: memory::available(),
                    });
                    let done = measured.samples.len() + measured.failures.len() + measured.density.len();
                    watcher.done(done, measured.planned, id);
                }
                Err(Error::Interrupted) => {
                    measured.interrupted();
                    break;
                }
                Err(error) => {
                    let is_peer = contestant.subject().kind == SubjectKind::Peer;
                    if matches!(error, Error::NotReady(_)) && !is_peer {
                        measured.broken_off = Some(format!("instance {running} of {id} did not start"));
                    }
                    let order = measured.samples.len() + measured.failures.len();
                    result = measured.failed(contestant, error, order);
                    break;
                }
            }
        }
        for (instance, started) in kept {
            let removed = start::remove(contestant, instance, started);
            result = result.and(removed);
        }
        contestant.settle();
        result
    }
}

/// Pause before memory is measured: what a start leaves to do is done.
const CALM: Duration = Duration::from_millis(100);

/// Writes dirty pages out, then drops clean ones, dentries and inodes (proc_sys_vm(5)).
fn drop_caches() -> Result<()> {
    nix::unistd::sync();
    fs::write("/proc/sys/vm/drop_caches", "3")
        .map_err(|error| Error::file("drop caches with", "/proc/sys/vm/drop_caches", error))
}
