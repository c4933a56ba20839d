//! Trustworthy start-up figures: what is measured, how, and what may be said about it.

pub mod budget;
pub mod contestant;
pub mod drive;
pub mod error;
pub mod fairness;
pub mod file;
pub mod interrupt;
pub mod memory;
pub mod model;
pub mod observe;
pub mod peers;
pub mod plan;
pub mod probe;
pub mod process;
pub mod provenance;
pub mod render;
pub mod rkvm;
mod sentence;
pub mod session;
pub mod start;
pub mod stats;
pub mod summary;
pub mod versus;

pub use error::{Error, Result};
