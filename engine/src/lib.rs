//! The engine's library: container records, OCI configuration from images and flags, volumes, operations.

pub mod volume;
