//! `rkvm-vmm`, the process of one microVM. It is started by the microVM backend, never by hand.

fn main() {
    rkvm_vmm::process::main()
}
