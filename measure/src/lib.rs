//! Trustworthy start-up figures: what is measured, how, and what may be said about it.

pub mod model;
pub mod render;
