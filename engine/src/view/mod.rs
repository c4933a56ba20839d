//! Containers and volumes as the commands that show things present them: Docker's words, columns and JSON.

pub mod filter;
pub mod inspect;
mod inspect_host;
pub mod ports;
pub mod ps;
pub mod status;
pub mod version;
pub mod volume;
