//! `rkvm`, the engine: Docker's words.

fn main() {}
