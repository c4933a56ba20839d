//! A virtual processor and its thread.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, mpsc};

use kvm_ioctls::{VcpuExit, VcpuFd};

use crate::devices::{MmioBus, PortBus};
use crate::vm::End;

/// How often a vCPU left the guest for this process, by reason.
pub type ExitCounts = BTreeMap<&'static str, u64>;

/// A vCPU that is ready to run.
#[derive(Debug)]
pub struct Vcpu {
    pub(crate) fd: VcpuFd,
    pub(crate) ports: Arc<Mutex<PortBus>>,
    pub(crate) windows: MmioBus,
    pub(crate) counts: Arc<Mutex<ExitCounts>>,
}

impl Vcpu {
    /// Runs until the guest ends or `stop` is seen after an interrupting signal; reports why to `ended`.
    pub(crate) fn run(mut self, ended: &mpsc::Sender<End>, stopping: &std::sync::atomic::AtomicBool) {
        let mut counts = ExitCounts::new();
        let end = loop {
            if stopping.load(std::sync::atomic::Ordering::Acquire) {
                break End::Stopped;
            }
            match self.step(&mut counts) {
                None => {}
                Some(end) => break end,
            }
        };
        if let Ok(mut all) = self.counts.lock() {
            for (reason, count) in counts {
                *all.entry(reason).or_default() += count;
            }
        }
        // The receiver is gone only when the VM is being dropped, which wants no report.
        let _ = ended.send(end);
    }

    fn step(&mut self, counts: &mut ExitCounts) -> Option<End> {
        let mut count = |reason| *counts.entry(reason).or_default() += 1;
        match self.fd.run() {
            Ok(VcpuExit::IoOut(port, data)) => {
                count("port write");
                let mut ports = self.ports.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
                ports.write(port, data).unwrap_or_else(|error| Some(End::Device(error.to_string())))
            }
            Ok(VcpuExit::IoIn(port, data)) => {
                count("port read");
                let mut ports = self.ports.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
                ports.read(port, data);
                None
            }
            Ok(VcpuExit::MmioRead(address, data)) => {
                count("memory-mapped read");
                self.windows.read(address, data);
                None
            }
            Ok(VcpuExit::MmioWrite(address, data)) => {
                count("memory-mapped write");
                self.windows.write(address, data);
                None
            }
            Ok(VcpuExit::Intr) => {
                count("interrupted");
                None
            }
            Ok(VcpuExit::Shutdown) => Some(End::TripleFault),
            Ok(VcpuExit::SystemEvent(..)) => Some(End::Reset),
            Ok(VcpuExit::InternalError) => {
                Some(End::Kvm("KVM cannot emulate an instruction of the guest".to_owned()))
            }
            Ok(VcpuExit::FailEntry(reason, _)) => {
                Some(End::Kvm(format!("the processor refused to enter the guest ({reason:#x})")))
            }
            Ok(other) => Some(End::Kvm(format!(
                "KVM stopped for a reason that this machine has no use for: {other:?}"
            ))),
            Err(error) if matches!(error.errno(), libc::EINTR | libc::EAGAIN) => {
                count("interrupted");
                None
            }
            Err(error) => Some(End::Kvm(format!("running a vCPU failed: {error}"))),
        }
    }
}
