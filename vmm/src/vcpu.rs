//! A virtual processor and its thread.

mod control;
mod counts;
mod sys;

use std::sync::{Arc, Mutex, PoisonError};

use kvm_ioctls::{VcpuExit, VcpuFd};
use rkvm_guest_protocol::marker;

pub(crate) use control::{Control, Wanted};
pub use counts::ExitCounts;
pub(crate) use counts::{Counters, Reason};
pub(crate) use sys::{install_kick, kick};

use crate::devices::{MARKER_PORT, MmioBus, PortBus, SERIAL_PORT};
use crate::events::{End, Events};
use crate::template::Recorder;

/// Most bytes that KVM reports of a write at once.
const MMIO_BYTES: usize = 8;

/// A vCPU that is ready to run.
#[derive(Debug)]
pub struct Vcpu {
    pub(crate) fd: VcpuFd,
    pub(crate) ports: Arc<Mutex<PortBus>>,
    pub(crate) windows: MmioBus,
    pub(crate) counters: Arc<Counters>,
    pub(crate) events: Arc<Events>,
    pub(crate) control: Arc<Control>,
    /// Of the first vCPU of a machine that can be recorded.
    pub(crate) recorder: Option<Recorder>,
}

impl Vcpu {
    /// Runs until the guest ends or is stopped, and tells [`Events`] why.
    pub(crate) fn run(mut self) {
        let _kicked = sys::Kicked::register(&mut self.fd);
        #[cfg(debug_assertions)]
        rkvm_oci::timeline::delay(rkvm_oci::timeline::Phase::Sandbox);
        self.events.enter();
        let end = loop {
            // In this order: a kick after the first line ends the next KVM_RUN at once, one before it is seen in the second.
            self.fd.set_kvm_immediate_exit(0);
            if self.control.is_asked() {
                match self.control.park() {
                    Wanted::Stop => break End::Stopped,
                    // Tells a guest that uses KVM's clock that it stood still, so that its watchdogs do not bark; an error says
                    // that it uses another clock.
                    _ => drop(self.fd.kvmclock_ctrl()),
                }
                continue;
            }
            if let Some(end) = self.step() {
                break end;
            }
        };
        self.control.leave();
        self.events.end(self.explain(end));
    }

    /// What a crash was about, as far as the guest's console says it.
    fn explain(&self, end: End) -> End {
        match end {
            End::TripleFault | End::Reset => {
                let ports = self.ports.lock().unwrap_or_else(PoisonError::into_inner);
                ports.console.panic().unwrap_or(end)
            }
            other => other,
        }
    }

    fn step(&mut self) -> Option<End> {
        let counters = &self.counters;
        match self.fd.run() {
            Ok(VcpuExit::IoOut(port, data)) => {
                counters.add(port_reason(port));
                let can_be_recorded = port == MARKER_PORT && *data == [marker::TEMPLATE];
                let mut ports = self.ports.lock().unwrap_or_else(PoisonError::into_inner);
                let end = ports.write(port, data);
                drop(ports);
                if can_be_recorded && let Some(recorder) = self.recorder.take() {
                    self.stand_still(recorder);
                }
                end.unwrap_or_else(|error| Some(End::Device(error.to_string())))
            }
            Ok(VcpuExit::IoIn(port, data)) => {
                counters.add(port_reason(port));
                let mut ports = self.ports.lock().unwrap_or_else(PoisonError::into_inner);
                ports.read(port, data);
                None
            }
            Ok(VcpuExit::MmioRead(address, data)) => {
                counters.add(Reason::DeviceRead);
                self.windows.read(address, data);
                None
            }
            Ok(VcpuExit::MmioWrite(address, data)) => {
                counters.add(Reason::DeviceWrite);
                let mut bytes = [0; MMIO_BYTES];
                let length = data.len().min(MMIO_BYTES);
                bytes[..length].copy_from_slice(&data[..length]);
                self.catch_up();
                self.windows.write(address, &bytes[..length]);
                None
            }
            Ok(VcpuExit::Intr) => {
                counters.add(Reason::Interrupted);
                None
            }
            Ok(VcpuExit::Shutdown) => Some(End::TripleFault),
            Ok(VcpuExit::SystemEvent(..)) => Some(End::Reset),
            Ok(VcpuExit::InternalError) => {
                let rip = self.fd.get_regs().map_or(0, |regs| regs.rip);
                Some(End::Kvm(format!("{} at {rip:#x}", sys::internal_error(&mut self.fd))))
            }
            Ok(VcpuExit::FailEntry(reason, _)) => {
                Some(End::Kvm(format!("the processor refused to enter the guest ({reason:#x})")))
            }
            Ok(other) => Some(End::Kvm(format!(
                "KVM stopped for a reason that this machine has no use for: {other:?}"
            ))),
            // EAGAIN: a processor that waited for its start-up interrupt has got it.
            Err(error) if matches!(error.errno(), libc::EINTR | libc::EAGAIN) => {
                counters.add(Reason::Interrupted);
                None
            }
            Err(error) => Some(End::Kvm(format!("running a vCPU failed: {error}"))),
        }
    }
}

impl Vcpu {
    /// The guest says that it can be recorded.
    fn stand_still(&mut self, recorder: Recorder) {
        // The instruction that led here ends with the next entry (api.rst, KVM_EXIT_IO), which is made not to enter.
        self.fd.set_kvm_immediate_exit(1);
        let _ = self.fd.run();
        self.catch_up();
        recorder.stand_still(&self.fd);
    }

    /// Makes the writes that KVM has kept for later ([`crate::virtio::mmio::LATER`]), each before any that came after it. As many as KVM
    /// has room for, a page of them, so that a guest cannot keep us here: KVM lets the next one exit.
    fn catch_up(&mut self) {
        let windows = self.windows.clone();
        let _in_order = windows.in_order();
        while let Ok(Some(write)) = self.fd.coalesced_mmio_read() {
            let length = (write.len as usize).min(MMIO_BYTES);
            windows.write(write.phys_addr, &write.data[..length]);
        }
    }
}

fn port_reason(port: u16) -> Reason {
    match port {
        MARKER_PORT => Reason::MarkerPort,
        SERIAL_PORT..=0x3ff => Reason::SerialPort,
        _ => Reason::OtherPort,
    }
}
