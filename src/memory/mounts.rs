//! Which control groups the process is in, and where they are mounted.
//!
//! Read as bytes: a line about something else may hold any, and so may a group's name.

use std::ffi::OsString;
use std::os::unix::ffi::OsStringExt;
use std::path::{Path, PathBuf};

use super::level::Version;

/// A mount of a hierarchy that accounts for memory.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Mount {
    pub(super) version: Version,
    /// The group that the mount shows as its root. Seen from a namespace, it may
    /// begin with `/..`.
    pub(super) root: PathBuf,
    pub(super) point: PathBuf,
}

/// The mounts in a `mountinfo`. Of several at one point only the last can be reached.
/// Format: `man 5 proc_pid_mountinfo`.
pub(super) fn mounts(mountinfo: &[u8]) -> Vec<Mount> {
    let mut found: Vec<Mount> = Vec::new();
    for line in mountinfo.split(|&byte| byte == b'\n') {
        let mut fields = line.split(|&byte| byte == b' ');
        let (Some(root), Some(point)) = (fields.nth(3), fields.next()) else {
            continue;
        };
        let point = unescaped(point);
        found.retain(|earlier| earlier.point != point);
        let Some(version) = version_of(fields) else {
            continue;
        };
        found.push(Mount {
            version,
            root: unescaped(root),
            point,
        });
    }
    found
}

/// From the mount's options on: optional fields, a dash, type, source, options of the
/// file system, among which version 1 names its controllers.
fn version_of<'a>(fields: impl Iterator<Item = &'a [u8]>) -> Option<Version> {
    let mut fields = fields.skip_while(|&field| field != b"-").skip(1);
    let (kind, options) = (fields.next()?, fields.nth(1)?);
    match kind {
        b"cgroup2" => Some(Version::V2),
        b"cgroup" if has_memory(options) => Some(Version::V1),
        _ => None,
    }
}

fn has_memory(list: &[u8]) -> bool {
    list.split(|&byte| byte == b',').any(|one| one == b"memory")
}

/// The kernel writes space, tab, newline and backslash as `\` and three octal digits.
fn unescaped(field: &[u8]) -> PathBuf {
    let mut bytes = Vec::with_capacity(field.len());
    let mut rest = field;
    while let [first, behind @ ..] = rest {
        match octal(rest) {
            Some(byte) => {
                bytes.push(byte);
                rest = &rest[4..];
            }
            None => {
                bytes.push(*first);
                rest = behind;
            }
        }
    }
    OsString::from_vec(bytes).into()
}

fn octal(text: &[u8]) -> Option<u8> {
    let digits = text.strip_prefix(b"\\")?.get(..3)?;
    let value = digits.iter().try_fold(0_u16, |value, digit| match digit {
        b'0'..=b'7' => Some(value * 8 + u16::from(digit - b'0')),
        _ => None,
    });
    value?.try_into().ok()
}

/// The process's memory group in a hierarchy of this version, by a `/proc/…/cgroup`.
pub(super) fn group(cgroups: &[u8], version: Version) -> Option<PathBuf> {
    let lines = cgroups.split(|&byte| byte == b'\n');
    let mut groups = lines.filter_map(|line| {
        let mut fields = line.splitn(3, |&byte| byte == b':');
        let (id, controllers, path) = (fields.next()?, fields.next()?, fields.next()?);
        let is_it = match version {
            Version::V1 => has_memory(controllers),
            Version::V2 => id == b"0" && controllers.is_empty(),
        };
        is_it.then(|| OsString::from_vec(path.to_vec()).into())
    });
    groups.next()
}

/// Where a group is below a mount's root, as far as names tell: so many groups down, by names
/// that the namespace hides, and then there. `None` if the mount does not show the group.
pub(super) fn below<'a>(group: &'a Path, root: &Path) -> Option<(usize, &'a Path)> {
    let (group_up, group) = ups(group);
    let (root_up, root) = ups(root);
    let hidden = root_up.checked_sub(group_up)?;
    let rest = match hidden {
        0 => group.strip_prefix(root).ok()?,
        // Beside the namespace's root, so not above it.
        _ if root != Path::new("") => return None,
        _ => group,
    };
    Some((hidden, rest))
}

/// How often the path goes up first, and where then.
fn ups(path: &Path) -> (usize, &Path) {
    let mut path = path.strip_prefix("/").unwrap_or(path);
    let mut count = 0;
    while let Ok(rest) = path.strip_prefix("..") {
        path = rest;
        count += 1;
    }
    (count, path)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn point(field: &str) -> PathBuf {
        let line = format!("40 23 0:28 / {field} rw shared:7 master:1 - cgroup2 none rw\n");
        mounts(line.as_bytes()).remove(0).point
    }

    #[test]
    fn paths_are_unescaped() {
        assert_eq!(
            point(r"/my\040groups\011\134x"),
            Path::new("/my groups\t\\x")
        );
        // What the kernel does not write.
        assert_eq!(point(r"/a\04"), Path::new(r"/a\04"));
        assert_eq!(point(r"/a\999\777"), Path::new(r"/a\999\777"));
    }

    #[test]
    fn lines_that_are_not_understood_are_about_something_else() {
        let mut text = b"\xff\xfe\n\n1 2 3\n9 1 0:1 / /\xff rw - tmpfs \xff rw\n".to_vec();
        text.extend(b"9 1 0:1 / /x rw cgroup2 rw\n9 1 0:1 / /y rw - cgroup2\n");
        text.extend(b"9 1 0:1 / /cpu rw - cgroup cgroup rw,cpu,memory_x\n");
        assert_eq!(mounts(&text), []);
        text.extend(b"9 1 0:1 / /m\xff rw - cgroup cgroup rw,memory");
        let found = mounts(&text);
        assert_eq!((found.len(), found[0].version), (1, Version::V1));
    }

    #[test]
    fn the_last_mount_at_a_point_covers_those_before() {
        let line = |root: &str, kind: &str| format!("9 1 0:1 {root} /g rw - {kind} x rw,memory\n");
        let text = line("/a", "cgroup2") + &line("/b", "cgroup2");
        assert_eq!(mounts(text.as_bytes())[0].root, Path::new("/b"));
        let text = text + &line("/", "tmpfs");
        assert_eq!(mounts(text.as_bytes()), []);
    }

    #[test]
    fn a_namespace_hides_names_above_its_root() {
        let at = |group, root: &str| {
            let (hidden, rest) = below(Path::new(group), Path::new(root))?;
            Some((hidden, rest.to_str().unwrap()))
        };
        assert_eq!(at("/jobs/7", "/"), Some((0, "jobs/7")));
        assert_eq!(at("/jobs/7", "/jobs"), Some((0, "7")));
        assert_eq!(at("/jobs", "/other"), None);
        assert_eq!(at("/", "/../../.."), Some((3, "")));
        assert_eq!(at("/inner", "/.."), Some((1, "inner")));
        assert_eq!(at("/../other", "/../.."), Some((1, "other")));
        assert_eq!(at("/../other/x", "/../other"), Some((0, "x")));
        // Out of sight: beside what is mounted, or above.
        assert_eq!(at("/", "/../other"), None);
        assert_eq!(at("/../other", "/"), None);
    }
}
