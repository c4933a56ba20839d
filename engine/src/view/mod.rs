//! Containers and volumes as the commands that show things present them: Docker's words, columns and JSON.

pub mod filter;
pub mod info;
pub mod inspect;
mod inspect_host;
pub mod ports;
pub mod ps;
pub mod stats;
pub mod status;
pub mod top;
pub mod version;
pub mod volume;
