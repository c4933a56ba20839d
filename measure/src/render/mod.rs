//! The same report for different readers.

pub mod csv;
pub mod facts;
pub mod html;
pub mod latex;
pub mod number;
pub mod svg;
