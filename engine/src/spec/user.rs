//! `USER[:GROUP]` as Docker reads it: names are looked up in the container's own /etc/passwd and /etc/group.

use std::io::{BufRead, BufReader, Read};
use std::path::Path;

use oci_spec::runtime::User;

use crate::error::{Error, Result};
use crate::layers::RootView;

/// Most bytes that are read of a container's passwd or group: the file is the image's, and may be anything.
const MAX_BYTES: u64 = 16 << 20;

/// Ids and home of a user in a container.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Found {
    /// Its ids.
    pub user: User,
    /// Its home; `/` when passwd does not know it.
    pub home: String,
}

struct Entry {
    name: String,
    id: u32,
    rest: Vec<String>,
}

/// Looks up `wanted` and `further` groups in the root filesystem `root`.
///
/// # Errors
/// A name is not there, or a number is too large.
pub fn lookup(root: &RootView, wanted: &str, further: &[String]) -> Result<Found> {
    let users = read(root, "etc/passwd");
    // /etc/group is only needed for names and memberships.
    let groups = read(root, "etc/group");
    let (name, group) = match wanted.split_once(':') {
        Some((name, group)) => (name, Some(group).filter(|group| !group.is_empty())),
        None => (wanted, None),
    };
    let name = if name.is_empty() { "0" } else { name };
    let number = parse_id(name);
    let entry = users.iter().find(|entry| entry.name == name || Some(entry.id) == number);
    let uid = entry.map(|entry| entry.id).or(number).ok_or_else(|| Error::Invalid {
        what: "user",
        value: name.to_owned(),
        reason: "the container's /etc/passwd has no such name; a number works without an entry".to_owned(),
    })?;
    let find_group = |name: &str| {
        let number = parse_id(name);
        let entry = groups.iter().find(|entry| entry.name == name || Some(entry.id) == number);
        entry.map(|entry| entry.id).or(number).ok_or_else(|| Error::Invalid {
            what: "group",
            value: name.to_owned(),
            reason: "the container's /etc/group has no such name; a number works without an entry".to_owned(),
        })
    };
    let gid = match group {
        Some(group) => find_group(group)?,
        None => entry.and_then(|entry| entry.rest.first()?.parse().ok()).unwrap_or(0),
    };
    // The primary group is listed too: a process that can leave a group out of its list gains what is denied to
    // that group (CVE-2022-36109).
    let mut additional = vec![gid];
    if group.is_none()
        && let Some(entry) = entry
    {
        let member = |group: &&Entry| {
            group.rest.first().is_some_and(|list| list.split(',').any(|member| member == entry.name))
        };
        additional.extend(groups.iter().filter(member).map(|group| group.id));
    }
    for group in further {
        additional.push(find_group(group)?);
    }
    let mut seen = std::collections::HashSet::new();
    additional.retain(|group| seen.insert(*group));
    let mut user = User::default();
    user.set_uid(uid);
    user.set_gid(gid);
    user.set_additional_gids(Some(additional));
    let home = entry.and_then(|entry| entry.rest.get(2)).filter(|home| !home.is_empty());
    Ok(Found { user, home: home.map_or("/", String::as_str).to_owned() })
}

/// A number that is a valid id.
fn parse_id(text: &str) -> Option<u32> {
    text.parse().ok().filter(|id| *id <= i32::MAX as u32)
}

/// Entries `name:x:id:rest...` of a file in the container; none when there is no such file.
fn read(root: &RootView, file: &str) -> Vec<Entry> {
    let Some(file) = root.open(Path::new(file)) else { return vec![] };
    BufReader::new(file.take(MAX_BYTES))
        .lines()
        .map_while(|line| line.ok())
        .filter_map(|line| {
            let mut fields = line.split(':').map(str::to_owned);
            let name = fields.next().filter(|name| !name.is_empty() && !name.starts_with('#'))?;
            let id = fields.nth(1)?.parse().ok()?;
            Some(Entry { name, id, rest: fields.collect() })
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn root() -> tempfile::TempDir {
        let root = tempfile::tempdir().unwrap();
        std::fs::create_dir(root.path().join("etc")).unwrap();
        std::fs::write(
            root.path().join("etc/passwd"),
            "root:x:0:0:root:/root:/bin/sh\n# no\nweb:x:33:34:w:/var/www:/bin/false\n",
        )
        .unwrap();
        std::fs::write(root.path().join("etc/group"), "root:x:0:\nweb:x:34:\nlog:x:40:web,x\nshadow:x:42:\n")
            .unwrap();
        root
    }

    #[test]
    fn names_numbers_groups_and_homes() {
        let root = root();
        let view = RootView::Mounted(root.path().to_owned());
        let found = |text: &str| lookup(&view, text, &[]).unwrap();
        let ids = |text: &str| {
            let user = found(text).user;
            (user.uid(), user.gid(), user.additional_gids().clone())
        };
        assert_eq!(ids(""), (0, 0, Some(vec![0])));
        assert_eq!(ids("web"), (33, 34, Some(vec![34, 40])));
        assert_eq!(ids("33"), (33, 34, Some(vec![34, 40])));
        assert_eq!(ids("web:shadow"), (33, 42, Some(vec![42])));
        assert_eq!(ids("1234"), (1234, 0, Some(vec![0])));
        assert_eq!(ids("1234:77"), (1234, 77, Some(vec![77])));
        assert_eq!(found("web").home, "/var/www");
        assert_eq!(found("1234").home, "/");
        let more = lookup(&view, "0", &["shadow".to_owned(), "9".to_owned()]).unwrap();
        assert_eq!(more.user.additional_gids().clone().unwrap(), [0, 42, 9]);
    }

    #[test]
    fn unknown_names_are_errors_and_links_do_not_leave_the_root() {
        let root = root();
        let view = RootView::Mounted(root.path().to_owned());
        for text in ["nobody-here", "web:nobody-here", "4294967295"] {
            assert!(lookup(&view, text, &[]).is_err(), "{text}");
        }
        let outside = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(outside.path(), "evil:x:7:7::/:\n").unwrap();
        std::fs::remove_file(root.path().join("etc/passwd")).unwrap();
        std::os::unix::fs::symlink(outside.path(), root.path().join("etc/passwd")).unwrap();
        assert!(lookup(&view, "evil", &[]).is_err());
    }
}
