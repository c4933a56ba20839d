//! Blobs, with another attempt from where it broke off when a connection breaks.

use std::io::Read;
use std::thread;
use std::time::Duration;

use ureq::Body;
use ureq::http::Response;

use super::client::Client;
use crate::digest::Digest;
use crate::error::{Error, Result};
use crate::progress::{Progress, Step};
use crate::store::{BlobWriter, Store};

/// Attempts without a single new byte before giving up.
const ATTEMPTS: u32 = 4;
/// Pause before the second attempt; doubled before each next one.
const FIRST_PAUSE: Duration = Duration::from_millis(250);
const BUFFER_BYTES: usize = 128 * 1024;

/// Fetches blob `digest` of `size` bytes into the store. What an earlier, interrupted command has of it is used.
pub(super) fn download(
    client: &Client,
    store: &Store,
    digest: &Digest,
    size: u64,
    progress: &dyn Progress,
) -> Result<()> {
    let Some(writer) = store.blob_writer(digest, size)? else { return Ok(()) };
    let is_resumed = writer.offset() > 0;
    match fetch(client, writer, digest, size, progress) {
        // What was there may have been damaged: once more from the start.
        Err(Error::Mismatch { .. }) if is_resumed => {
            let Some(writer) = store.blob_writer(digest, size)? else { return Ok(()) };
            fetch(client, writer, digest, size, progress)
        }
        other => other,
    }
}

fn fetch(
    client: &Client,
    mut writer: BlobWriter,
    digest: &Digest,
    size: u64,
    progress: &dyn Progress,
) -> Result<()> {
    let mut failures = 0;
    while writer.offset() < size {
        let before = writer.offset();
        let result = attempt(client, &mut writer, digest, size, progress);
        if writer.offset() == size && result.is_ok() {
            break;
        }
        let error = match result {
            Ok(()) => broken_off(client),
            Err(error @ (Error::Unreachable { .. } | Error::Response { status: 408 | 429 | 500.., .. })) => {
                error
            }
            Err(error) => return Err(error),
        };
        failures = if writer.offset() > before { 1 } else { failures + 1 };
        if failures >= ATTEMPTS {
            return Err(error);
        }
        thread::sleep(FIRST_PAUSE * 2_u32.pow(failures - 1));
    }
    writer.finish()?;
    progress.report(digest, Step::Fetched);
    Ok(())
}

fn attempt(
    client: &Client,
    writer: &mut BlobWriter,
    digest: &Digest,
    size: u64,
    progress: &dyn Progress,
) -> Result<()> {
    let response = client.blob(digest, writer.offset())?;
    match response.status().as_u16() {
        206 if range_start(&response) == Some(writer.offset()) => {}
        200 => writer.restart()?,
        // Not the range that was asked for, or none at all: the next attempt asks for the whole blob.
        _ if writer.offset() > 0 => return writer.restart(),
        status => {
            let (url, message) =
                (format!("blob {digest}"), "it sends a part of what it was asked for".to_owned());
            return Err(Error::Response { status, url, message });
        }
    }
    let mut body = response.into_body().into_reader();
    let mut buffer = vec![0; BUFFER_BYTES];
    loop {
        progress.report(digest, Step::Fetching { done: writer.offset(), total: size });
        match body.read(&mut buffer) {
            Ok(0) => return Ok(()),
            Ok(length) => writer.write(&buffer[..length])?,
            Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
            Err(error) => return Err(client.http().failed(error.into())),
        }
    }
}

/// First byte of a `Content-Range: bytes 5-9/10`.
fn range_start(response: &Response<Body>) -> Option<u64> {
    let range = response.headers().get("content-range")?.to_str().ok()?;
    range.strip_prefix("bytes ")?.split('-').next()?.parse().ok()
}

fn broken_off(client: &Client) -> Error {
    client.http().failed(std::io::Error::from(std::io::ErrorKind::UnexpectedEof).into())
}
