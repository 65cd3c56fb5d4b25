//! What pages say of settings is what the table says.

use super::variables::{Config, SETTINGS, Setting};

const ROOT: &str = env!("CARGO_MANIFEST_DIR");

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

/// The settings that have variables, each with the cells of its row on the page.
fn listed(page: &str) -> Vec<(&'static Setting, Vec<&str>)> {
    let rows = page.lines().filter(|line| line.starts_with("| `M"));
    let rows: Vec<Vec<_>> = rows.map(|row| row.split('|').collect()).collect();
    assert_eq!(rows.len(), with_variables().count());
    with_variables().zip(rows).collect()
}

#[test]
fn pages_list_the_variables_of_the_table() {
    for path in ["docs/settings.md", "README.md", "README.zh-CN.md"] {
        for (setting, row) in listed(&read(path)) {
            let names: Vec<_> = codes(row[1]).collect();
            assert_eq!(names, setting.variables, "{path}");
        }
    }
}

#[test]
fn defaults_are_what_the_page_says() {
    for (setting, row) in listed(&read("docs/settings.md")) {
        if let [default] = codes(row[2]).collect::<Vec<_>>()[..] {
            let mut config = Config::default();
            (setting.read)(&mut config, default).unwrap();
            assert_eq!(config, Config::default(), "{:?}", setting.variables);
        }
    }
}

#[test]
fn the_readmes_say_what_the_page_says() {
    let (page, chinese) = (read("docs/settings.md"), read("README.zh-CN.md"));
    let (table, _) = page.split_once("\n\n").unwrap();
    assert!(read("README.md").contains(&format!("\n{table}\n\n")));
    for ((_, row), (_, chinese)) in listed(&page).into_iter().zip(listed(&chinese)) {
        let defaults = |row: &[&str]| codes(row[2]).map(String::from).collect::<Vec<_>>();
        assert_eq!(defaults(&row), defaults(&chinese), "{chinese:?}");
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
