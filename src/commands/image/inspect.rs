//! `rkvm image inspect`.

use anyhow::Result;
use rkvm_engine::format::Template;
use rkvm_image::{Image, Reference, Store};
use serde_json::{Value, json};

use crate::commands::EXIT_FAILURE;
use crate::context::Context;
use crate::output;

/// Flags of `rkvm image inspect`.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Print with a template, or as `json` on one line
    #[arg(short, long, value_name = "FORMAT")]
    format: Option<String>,
    /// Images, by name or id
    #[arg(required = true, value_name = "IMAGE")]
    images: Vec<String>,
}

/// Prints all that is known of each image; one that is not here does not keep the others.
pub fn run(args: Args, context: &Context) -> Result<u8> {
    let store = Store::open(&context.lib_dir);
    let mut code = 0;
    let mut found = vec![];
    for name in &args.images {
        match store.resolve(name).and_then(|image| describe(&store, &image)) {
            Ok(description) => found.push(description),
            Err(error) => {
                output::complain(format_args!("rkvm: {:#}", anyhow::Error::from(error)));
                code = EXIT_FAILURE;
            }
        }
    }
    match args.format.as_deref() {
        None => output::line(serde_json::to_string_pretty(&found)?)?,
        Some("json") => output::line(serde_json::to_string(&found)?)?,
        Some(text) => {
            let template = Template::parse(text)?;
            for description in &found {
                output::line(template.render_serializable(description)?)?;
            }
        }
    }
    Ok(code)
}

/// The image as `docker image inspect` describes it.
///
/// # Errors
/// The image's configuration cannot be read.
pub fn describe(store: &Store, image: &Image) -> rkvm_image::Result<Value> {
    let raw = store.raw_config(&image.id)?;
    let names = |names: &[Reference]| names.iter().map(Reference::familiar).collect::<Vec<_>>();
    let text = |key: &str| raw[key].as_str().unwrap_or_default().to_owned();
    Ok(json!({
        "Id": image.id,
        "RepoTags": names(&image.repo_tags),
        "RepoDigests": names(&image.repo_digests),
        "Digest": image.manifest,
        "Created": raw["created"],
        "Author": text("author"),
        "Comment": raw["comment"].as_str().unwrap_or_default(),
        "Architecture": text("architecture"),
        "Variant": text("variant"),
        "Os": text("os"),
        "Size": image.size,
        "Config": raw["config"],
        "RootFS": { "Type": "layers", "Layers": raw["rootfs"]["diff_ids"] },
        "History": raw["history"],
        "GraphDriver": { "Name": "overlay", "Data": { "Layers": image.layers } },
    }))
}
