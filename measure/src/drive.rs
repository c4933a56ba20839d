//! The measurement itself: turn by turn.

use std::fs;
use std::sync::Barrier;
use std::thread;
use std::time::{Duration, Instant};

use crate::contestant::{Contestant, Instance};
use crate::error::{Error, Result};
use crate::interrupt;
use crate::memory;
use crate::model::{CacheState, Completion, DensityPoint, Failure, Sample};
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
    /// Makes all starts. When the user interrupts it, or starts fail in a row, what was measured so far is returned and says so.
    ///
    /// # Errors
    /// A subject's very first start fails: then there is nothing to report. Or the caches cannot be dropped.
    pub fn run(&self, watcher: &mut dyn Watcher) -> Result<Measured> {
        let planned = self.turns.len() * self.parallel + self.contestants.len() * self.density;
        let mut measured = Measured { planned, ..Measured::default() };
        let began = Instant::now();
        let mut failed_in_a_row = 0;
        for turn in self.turns {
            if self.cache == CacheState::Cold {
                drop_caches()?;
            }
            let contestant = self.contestants[turn.subject].as_ref();
            let id = contestant.subject().id.as_str();
            let at_ms = began.elapsed().as_millis() as u64;
            for (slot, result) in self.turn(contestant, measured.samples.len()).into_iter().enumerate() {
                let order = measured.samples.len() + measured.failures.len();
                match result {
                    Ok(Started { ready, .. }) => {
                        failed_in_a_row = 0;
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
                    Err(Error::NotReady(mut failure)) => {
                        failed_in_a_row += 1;
                        failure.order = order;
                        if !measured.samples.iter().any(|sample| sample.subject == id) {
                            return Err(Error::NotReady(failure));
                        }
                        measured.failures.push(*failure);
                    }
                    Err(Error::Interrupted) => measured.broken_off = Some("interrupted".to_owned()),
                    Err(error) => return Err(error),
                }
                watcher.done(order + 1, planned, id);
            }
            if failed_in_a_row >= HOPELESS {
                measured.broken_off = Some(format!("{failed_in_a_row} starts in a row failed"));
            } else if interrupt::requested() {
                measured.broken_off = Some("interrupted".to_owned());
            }
            if measured.broken_off.is_some() {
                return Ok(measured);
            }
        }
        for contestant in self.contestants {
            if self.density > 0 && measured.broken_off.is_none() {
                self.grow(contestant.as_ref(), &mut measured, watcher)?;
            }
        }
        Ok(measured)
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
                    measured.broken_off = Some("interrupted".to_owned());
                    break;
                }
                Err(Error::NotReady(failure)) => {
                    measured.broken_off = Some(format!("instance {running} of {id} did not start"));
                    measured.failures.push(*failure);
                    break;
                }
                Err(error) => {
                    result = Err(error);
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
