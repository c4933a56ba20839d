//! What runs before everything else of the program.

/// Makes init's memory present before std sets itself up: that alone has a page fault for every page that it touches. The C library calls
/// each function of this section once, before main (System V ABI, "Initialization and Termination Functions").
#[used]
#[unsafe(link_section = ".init_array")]
static FIRST: extern "C" fn() = {
    extern "C" fn first() {
        rkvm_linux::sys::memory::prefault();
    }
    first
};
