//! The same report for different readers. Every renderer reads the model alone.

pub mod csv;
pub mod facts;
pub mod html;
pub mod latex;
pub mod markdown;
pub mod number;
pub mod svg;
pub mod text;
