//! `--pull`: when the registry is asked for an image.

use std::str::FromStr;

use anyhow::{Context as _, Result};
use rkvm_image::{Image, Limits, Reference, Store};

use crate::pulling::{self, Show};

/// When an image is pulled.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PullPolicy {
    /// Each time.
    Always,
    /// When it is not here.
    Missing,
    /// Never.
    Never,
}

impl FromStr for PullPolicy {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "always" => Ok(Self::Always),
            "missing" => Ok(Self::Missing),
            "never" => Ok(Self::Never),
            _ => Err(format!("{text:?} is no pull policy: there are always, missing and never")),
        }
    }
}

/// The image that `name` means, pulled as `policy` says.
///
/// # Errors
/// It is not here and must not, or cannot, be pulled.
pub fn image(store: &Store, name: &str, policy: PullPolicy, show: Show) -> Result<Image> {
    let here = || store.resolve(name);
    match (policy, here()) {
        (PullPolicy::Missing | PullPolicy::Never, Ok(image)) => return Ok(image),
        (PullPolicy::Never, Err(error)) => {
            return Err(error).context("--pull never, and the image is not here");
        }
        (PullPolicy::Missing, Err(rkvm_image::Error::NotFound { .. })) => {
            pulling::line(show, &format!("Unable to find image '{name}' locally"));
        }
        (PullPolicy::Missing, Err(error)) => return Err(error.into()),
        (PullPolicy::Always, _) => {}
    }
    let reference: Reference = name.parse()?;
    pulling::pull(store, &reference, Limits::default(), show)?;
    Ok(here()?)
}
