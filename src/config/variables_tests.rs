//! What pages say of settings is what the table says.

use super::variables::{Config, SETTINGS, Setting};

const ROOT: &str = env!("CARGO_MANIFEST_DIR");
const OUT_OF_DATE: &str = "is out of date: MEMORY_GUARD_WRITE_DOCS=1 cargo test --lib config";
const BEGIN: &str = "<!-- Made from src/config/variables.rs: MEMORY_GUARD_WRITE_DOCS=1 cargo test --lib config -->\n";

fn read(path: &str) -> String {
    std::fs::read_to_string(format!("{ROOT}/{path}")).unwrap()
}

fn with_variables() -> impl Iterator<Item = &'static Setting> {
    let settings = SETTINGS.iter();
    settings.filter(|setting| !setting.variables.is_empty())
}

/// What stands between backticks.
fn codes(text: &str) -> impl Iterator<Item = &str> {
    text.split('`').skip(1).step_by(2)
}

fn rows(indent: &str) -> String {
    let head = ["| variable | default | meaning |", "|---|---|---|"];
    let rows = with_variables().map(|setting| {
        let names: Vec<_> = setting.variables.iter().map(|n| format!("`{n}`")).collect();
        let (default, meaning) = (setting.default, setting.meaning);
        format!("| {} | {default} | {meaning} |", names.join(", "))
    });
    let all = head.into_iter().map(String::from).chain(rows);
    all.map(|row| format!("{indent}{row}\n")).collect()
}

#[test]
fn pages_list_the_variables_of_the_table() {
    for (path, indent) in [("README.md", ""), ("src/http/layer.rs", "    /// ")] {
        let page = read(path);
        let (begin, gap) = (format!("{indent}{BEGIN}"), indent.trim_end());
        let (before, rest) = page.split_once(&begin).expect(path);
        let (_, after) = rest.split_once(&format!("|\n{gap}\n")).expect(path);
        let made = format!("{before}{begin}{gap}\n{}{gap}\n{after}", rows(indent));
        if std::env::var_os("MEMORY_GUARD_WRITE_DOCS").is_some() {
            std::fs::write(format!("{ROOT}/{path}"), &made).unwrap();
        }
        assert!(read(path) == made, "{path} {OUT_OF_DATE}");
    }
}

#[test]
fn the_chinese_page_lists_them_with_their_defaults() {
    let page = read("README.zh-CN.md");
    let listed = page.lines().filter(|line| line.starts_with("| `M"));
    let listed: Vec<_> = listed.collect();
    assert_eq!(listed.len(), with_variables().count());
    for (setting, row) in with_variables().zip(listed) {
        let cells: Vec<_> = row.split('|').collect();
        let names: Vec<_> = codes(cells[1]).collect();
        assert_eq!(names, setting.variables);
        let said: Vec<_> = codes(cells[2]).collect();
        assert_eq!(said, codes(setting.default).collect::<Vec<_>>(), "{row}");
    }
}

#[test]
fn defaults_are_what_the_table_says() {
    for setting in with_variables() {
        if let [default] = codes(setting.default).collect::<Vec<_>>()[..] {
            let mut config = Config::default();
            (setting.read)(&mut config, default).unwrap();
            assert_eq!(config, Config::default(), "{:?}", setting.variables);
        }
    }
}

#[test]
fn what_cannot_be_reloaded_is_named_where_one_reloads() {
    let page = read("src/guard/handle.rs");
    let (_, rest) = page.split_once("and nothing changes.").unwrap();
    let (said, _) = rest.split_once("as they were at the start").unwrap();
    let said: Vec<_> = codes(said).map(|name| name.trim_end_matches('s')).collect();
    let fixed = SETTINGS.iter().filter(|setting| setting.is_fixed);
    let fixed: Vec<_> = fixed.map(|setting| setting.name).collect();
    assert_eq!(said.len(), fixed.len());
    for name in fixed {
        assert!(said.contains(&name), "{name}");
    }
}
