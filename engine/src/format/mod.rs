//! What `--format` and `--filter` mean, and how the engine prints tables, sizes and times: as Docker's users know it.

mod balance;
pub mod filter;
pub mod human;
pub mod listing;
mod rewrite;
pub mod table;
pub mod template;

pub use filter::{FilterError, Filters};
pub use listing::{Column, Format, Listing, Row};
pub use template::{Template, TemplateError};
