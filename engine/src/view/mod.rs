//! Containers and volumes as the commands that show things present them: Docker's words, columns and JSON.

pub mod filter;
pub mod ports;
pub mod ps;
pub mod status;
