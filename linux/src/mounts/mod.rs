//! Mounts of config.json: their options, and bind mounts before they are attached.

pub mod bind;
pub mod options;
mod submounts;
