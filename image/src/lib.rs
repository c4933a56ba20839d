//! Image references, registry client, content store, layer unpacking and snapshots.
//!
//! [`Store`] is the way in: [`Store::resolve`] finds an image and its layers, [`Store::hold`] keeps it while a container
//! uses it, and the rest adds images and removes them.

pub mod digest;
pub mod error;
pub mod layer;
pub mod limits;
mod manifest;
pub mod progress;
pub mod reference;
pub mod registry;
pub mod store;
pub mod transfer;

pub use digest::Digest;
pub use error::{Error, Result};
pub use layer::unpack;
pub use limits::Limits;
pub use progress::{Progress, Silent, Step};
pub use reference::Reference;
pub use registry::{News, Pulled, pull};
pub use store::{Image, PruneScope, Pruned, Removal, RemoveMode, Store, Summary, Usage};
pub use transfer::{Loaded, Options, Saved};
