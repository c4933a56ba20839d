//! Mounts of config.json: read and checked by the runtime, made by the container's process.

pub mod cgroup;
pub mod copy;
pub mod make;
pub mod sources;
pub mod target;
