//! `rkvm images`: which images are here.

use std::collections::BTreeMap;
use std::time::SystemTime;

use anyhow::Result;
use rkvm_engine::format::filter::truth;
use rkvm_engine::format::{Column, Filters, Format, Listing, Row, human};
use rkvm_image::{Digest, Reference, Store, Summary};

use crate::context::Context;
use crate::output;

const LISTING: Listing = Listing {
    columns: &[
        Column { field: "Repository", header: "REPOSITORY" },
        Column { field: "Tag", header: "TAG" },
        Column { field: "Digest", header: "DIGEST" },
        Column { field: "ID", header: "IMAGE ID" },
        Column { field: "CreatedSince", header: "CREATED" },
        Column { field: "CreatedAt", header: "CREATED AT" },
        Column { field: "Size", header: "SIZE" },
    ],
    default: "{{.Repository}}\t{{.Tag}}\t{{.ID}}\t{{.CreatedSince}}\t{{.Size}}",
};
const WITH_DIGESTS: &str =
    "table {{.Repository}}\t{{.Tag}}\t{{.Digest}}\t{{.ID}}\t{{.CreatedSince}}\t{{.Size}}";
const NONE: &str = "<none>";

/// Flags of `rkvm images`.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Accepted for Docker's sake: there are no intermediate images to hide
    #[arg(short, long)]
    all: bool,
    /// Show digests
    #[arg(long)]
    digests: bool,
    /// Show those that match: dangling=BOOL, label=KEY[=VALUE], reference=PATTERN, before=IMAGE, since=IMAGE
    #[arg(short, long, value_name = "FILTER")]
    filter: Vec<String>,
    /// Print with a template, as `json` or as `table TEMPLATE`
    #[arg(long, value_name = "FORMAT")]
    format: Option<String>,
    /// Show whole ids
    #[arg(long)]
    no_trunc: bool,
    /// Print only ids
    #[arg(short, long)]
    quiet: bool,
    /// Only this repository, or only this tag of it; `*` and `?` stand for any part
    #[arg(value_name = "REPOSITORY[:TAG]")]
    repository: Option<String>,
}

/// Prints the list.
pub fn run(args: Args, context: &Context) -> Result<u8> {
    let store = Store::open(&context.lib_dir);
    let filters = Filters::parse(&args.filter, &["dangling", "label", "reference", "before", "since"])?;
    let dangling = filters.read("dangling", truth)?;
    let created_of = |key: &str| -> Result<Vec<Option<String>>> {
        Ok(filters.get(key).iter().map(|name| store.resolve(name).map(|i| i.config.created().clone())).collect::<Result<_, _>>()?)
    };
    let (before, since) = (created_of("before")?, created_of("since")?);
    let mut rows = vec![];
    let mut ids: Vec<String> = vec![];
    for image in store.images()? {
        let is_kept = (dangling.is_empty() || dangling.contains(&image.repo_tags.is_empty()))
            && before.iter().all(|limit| image.created < *limit)
            && since.iter().all(|limit| image.created > *limit)
            && (filters.get("label").is_empty() || filters.labels_match(&labels(&store, &image.id)?));
        if !is_kept {
            continue;
        }
        let patterns = filters.get("reference").iter().chain(&args.repository);
        let patterns: Vec<&str> = patterns.map(String::as_str).collect();
        for (repository, tag, digest) in lines(&image, args.digests) {
            let name = format!("{repository}:{tag}");
            if !patterns.iter().all(|pattern| matches(pattern, &repository, &name)) {
                continue;
            }
            let id = if args.no_trunc { image.id.to_string() } else { image.id.short().to_owned() };
            ids.push(id.clone());
            rows.push(row(&image, &repository, &tag, &digest, &id));
        }
    }
    if args.quiet && args.format.is_none() {
        ids.dedup();
        output::print(&ids.iter().map(|id| format!("{id}\n")).collect::<String>())?;
        return Ok(0);
    }
    let format = args.format.as_deref().or(args.digests.then_some(WITH_DIGESTS));
    output::print(&Format::parse(format, &LISTING)?.print(&LISTING, &rows)?)?;
    Ok(0)
}

fn row(image: &Summary, repository: &str, tag: &str, digest: &str, id: &str) -> Row {
    let created = image.created.as_deref().unwrap_or_default();
    let since = human::parse_time(created).map(|moment| human::ago(moment, SystemTime::now()));
    Row::default()
        .with("Repository", repository)
        .with("Tag", tag)
        .with("Digest", digest)
        .with("ID", id)
        .with("CreatedSince", since.as_deref().unwrap_or("N/A"))
        .with("CreatedAt", created)
        .with("Size", human::size(image.size))
}

/// Repository, tag and digest of each line that an image has in the list.
fn lines(image: &Summary, with_digests: bool) -> Vec<(String, String, String)> {
    let digest_of = |name: &Reference| {
        let same = image.repo_digests.iter().find(|digest| digest.name() == name.name());
        same.and_then(Reference::digest).map_or(NONE.to_owned(), Digest::to_string)
    };
    let mut lines: Vec<_> = image
        .repo_tags
        .iter()
        .map(|name| (name.familiar_name(), name.tag().unwrap_or(NONE).to_owned(), digest_of(name)))
        .collect();
    let untagged = image
        .repo_digests
        .iter()
        .filter(|digest| !image.repo_tags.iter().any(|tag| tag.name() == digest.name()))
        .filter(|_| with_digests || image.repo_tags.is_empty());
    lines.extend(untagged.map(|name| (name.familiar_name(), NONE.to_owned(), digest_of(name))));
    if lines.is_empty() {
        lines.push((NONE.to_owned(), NONE.to_owned(), NONE.to_owned()));
    }
    lines
}

/// Labels of an image.
pub fn labels(store: &Store, id: &Digest) -> Result<BTreeMap<String, String>> {
    let config = store.raw_config(id)?;
    Ok(serde_json::from_value(config["config"]["Labels"].clone()).unwrap_or_default())
}

/// Whether a pattern fits the repository or the whole name; one without `/` fits the last part too, as Docker has it.
fn matches(pattern: &str, repository: &str, name: &str) -> bool {
    let last = |text: &str| text.rsplit('/').next().unwrap_or_default().to_owned();
    let fits = |text: &str| glob(pattern.as_bytes(), text.as_bytes());
    fits(repository) || fits(name) || (pattern.contains('*') && !pattern.contains('/') && (fits(&last(repository)) || fits(&last(name))))
}

/// `*` stands for any characters but `/`, `?` for one of them.
fn glob(pattern: &[u8], text: &[u8]) -> bool {
    match (pattern.first(), text.first()) {
        (None, None) => true,
        (Some(b'*'), Some(b'/')) | (Some(b'*'), None) => glob(&pattern[1..], text),
        (Some(b'*'), Some(_)) => glob(&pattern[1..], text) || glob(pattern, &text[1..]),
        (Some(b'?'), Some(byte)) if *byte != b'/' => glob(&pattern[1..], &text[1..]),
        (Some(expected), Some(byte)) if expected == byte => glob(&pattern[1..], &text[1..]),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patterns_stop_at_slashes() {
        assert!(matches("nginx", "nginx", "nginx:latest"));
        assert!(matches("nginx:latest", "nginx", "nginx:latest"));
        assert!(!matches("nginx:1", "nginx", "nginx:latest"));
        assert!(matches("ng*:l?test", "nginx", "nginx:latest"));
        assert!(matches("localhost:5000/*", "localhost:5000/app", "localhost:5000/app:1"));
        assert!(!matches("*", "localhost:5000/a/b", "localhost:5000/a/b:1") || glob(b"*", b"b"));
        assert!(!matches("x*/b", "a/b", "a/b:1"));
    }
}
