//! Whether a missing limit is a mistake.

/// Whether this looks like a container, where a missing limit is a mistake
/// rather than a laptop. Never true where there are no such files.
pub(crate) fn in_container() -> bool {
    let marks = [
        "/.dockerenv",
        "/run/.containerenv",
        "/var/run/secrets/kubernetes.io",
    ];
    marks.iter().any(|mark| std::path::Path::new(mark).exists())
}
