//! Names in archives, as bytes: no encoding is promised.

use crate::error::EntryProblem;

/// A name relative to the layer's root, without `.` and double slashes.
pub(super) fn clean(path: &[u8]) -> Result<Vec<u8>, EntryProblem> {
    if path.starts_with(b"/") {
        return Err(EntryProblem::Escapes("it is absolute"));
    }
    if path.contains(&0) {
        return Err(EntryProblem::Escapes("it has a zero byte in it"));
    }
    let mut clean = Vec::with_capacity(path.len());
    for component in path.split(|byte| *byte == b'/') {
        match component {
            b"" | b"." => {}
            b".." => return Err(EntryProblem::Escapes("it has `..` in it")),
            name => {
                if !clean.is_empty() {
                    clean.push(b'/');
                }
                clean.extend_from_slice(name);
            }
        }
    }
    Ok(clean)
}

/// Folder and last component of a clean path.
pub(super) fn split(path: &[u8]) -> (&[u8], &[u8]) {
    match path.iter().rposition(|byte| *byte == b'/') {
        Some(at) => (&path[..at], &path[at + 1..]),
        None => (b"", path),
    }
}

/// The reverse of [`split`].
pub(super) fn join(parent: &[u8], name: &[u8]) -> Vec<u8> {
    match parent {
        b"" => name.to_vec(),
        _ => [parent, b"/", name].concat(),
    }
}
