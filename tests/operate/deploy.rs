//! What is in `deploy/`: checked by the tools that read it, and against the code.

use std::path::{Path, PathBuf};
use std::process::Command;

use crate::support::tools::tool;

const ROOT: &str = env!("CARGO_MANIFEST_DIR");

fn files(folder: &Path, found: &mut Vec<PathBuf>) {
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        match path.is_dir() {
            true => files(&path, found),
            false => found.push(path),
        }
    }
}

/// Every word that begins with `prefix`, as far as it is a name.
fn names(text: &str, prefix: &str) -> Vec<String> {
    let is_name = |c: char| c.is_ascii_alphanumeric() || c == '_';
    let starts = text.match_indices(prefix).map(|(at, _)| at);
    // Not within another name, such as a recording rule's.
    let starts = starts.filter(|&at| !text[..at].ends_with(|c| is_name(c) || c == ':'));
    starts
        .map(|at| text[at..].split(|c| !is_name(c)).next().unwrap().to_owned())
        .collect()
}

#[test]
fn promtool_accepts_the_rules_and_their_tests() {
    let Some(promtool) = tool("promtool") else {
        return;
    };
    for arguments in [
        ["check", "rules", "rules.yml"],
        ["test", "rules", "rules_test.yml"],
        ["check", "config", "prometheus.yml"],
    ] {
        let output = Command::new(&promtool)
            .args(arguments)
            .current_dir(Path::new(ROOT).join("deploy/prometheus"))
            .output()
            .unwrap();
        let said = String::from_utf8_lossy(&output.stdout);
        let complained = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{arguments:?}: {said}{complained}");
    }
}

#[test]
fn every_metric_and_variable_named_there_exists() {
    let metrics = std::fs::read_to_string(Path::new(ROOT).join("docs/metrics.md")).unwrap();
    let variables = std::fs::read_to_string(Path::new(ROOT).join("docs/settings.md")).unwrap();
    let mut found = Vec::new();
    files(&Path::new(ROOT).join("deploy"), &mut found);
    assert!(found.len() >= 9, "{found:?}");
    for file in found {
        let text = std::fs::read_to_string(&file).unwrap();
        for name in names(&text, "memory_guard_") {
            let plain = ["_bucket", "_sum", "_count"]
                .iter()
                .fold(&*name, |name, end| name.strip_suffix(end).unwrap_or(name));
            let known = metrics.contains(&format!("`{plain}`"));
            assert!(known, "{}: {name} is no metric", file.display());
        }
        for name in names(&text, "MEMORY_GUARD_") {
            // What Kubernetes would set, in a comment.
            let known = variables.contains(&format!("`{name}`")) || name == "MEMORY_GUARD_API_PORT";
            assert!(known, "{}: {name} is no setting", file.display());
        }
    }
}

#[test]
fn every_alert_has_its_section_in_the_runbook() {
    let rules = std::fs::read_to_string(Path::new(ROOT).join("deploy/prometheus/rules.yml"));
    let runbook = std::fs::read_to_string(Path::new(ROOT).join("docs/runbook.md")).unwrap();
    let rules = rules.unwrap();
    let alerts: Vec<_> = rules
        .lines()
        .filter_map(|line| line.trim().strip_prefix("- alert: "))
        .collect();
    assert!(alerts.contains(&"HighMemoryPressure"), "{alerts:?}");
    for alert in alerts {
        assert!(runbook.contains(&format!("\n## {alert}\n")), "{alert}");
        let link = format!("docs/runbook.md#{}\n", alert.to_lowercase());
        assert!(rules.contains(&link), "{link}");
    }
}
