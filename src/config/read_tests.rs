use super::{Config, MemoryGuardBuilder, Policy, Settings};

fn read(vars: &[(&str, &str)]) -> Settings {
    Settings::from_vars(vars.iter().map(|(n, v)| (n.to_string(), v.to_string())))
}

fn config(vars: &[(&str, &str)]) -> Config {
    read(vars).check().expect("good settings").0
}

#[test]
fn a_share_is_a_fraction_up_to_one_and_a_percentage_above() {
    for text in ["0.75", "75", "75%", "75 %"] {
        assert_eq!(
            config(&[("MEMORY_GUARD_MAX_PERCENT", text)]).high_fraction,
            Some(0.75)
        );
    }
    let everything = config(&[
        ("MEMORY_GUARD_CRITICAL_PERCENT", "1"),
        ("MEMORY_GUARD_MAX_PERCENT", "0.9"),
    ]);
    assert_eq!(everything.critical_fraction, Some(1.0));
    assert_eq!(config(&[("MEMORY_GUARD_SHARE", "1%")]).share_fraction, 0.01);
}

#[test]
fn sizes_take_bytes_and_binary_units() {
    let limit = |text| config(&[("MEMORY_GUARD_MEMORY_LIMIT", text)]).memory_limit_bytes;
    assert_eq!(limit("536870912"), Some(512 << 20));
    assert_eq!(limit("512M"), Some(512 << 20));
    assert_eq!(limit("512MB"), Some(512 << 20));
    assert_eq!(limit("0.5GiB"), Some(512 << 20));
    assert_eq!(limit("512 Mi"), Some(512 << 20));
    let prior = config(&[("MEMORY_GUARD_ESTIMATED_MEM_PER_REQ_MB", "1.5")]);
    assert_eq!(prior.estimated_bytes_per_request, 3 << 19);
}

#[test]
fn the_prefixed_name_wins_over_the_short_one() {
    let both = [
        ("MEMORY_GUARD_MAX_CONCURRENT", "7"),
        ("MAX_CONCURRENT", "3"),
    ];
    assert_eq!(config(&both).max_concurrent, Some(7));
    assert_eq!(config(&[("MAX_CONCURRENT", "3")]).max_concurrent, Some(3));
    assert_eq!(
        config(&[("MAX_RESULT_SIZE", "10")]).max_result_size_bytes,
        10
    );
}

#[test]
fn empty_values_count_as_unset() {
    let empty = [("MEMORY_GUARD_MAX_PERCENT", ""), ("MAX_CONCURRENT", " ")];
    assert_eq!(config(&empty), config(&[]));
}

#[test]
fn what_is_learned_is_kept_in_a_file() {
    let state = |path| config(&[("MEMORY_GUARD_STATE", path)]).state;
    assert_eq!(state(" "), None);
    assert_eq!(state("/data/my guard"), Some("/data/my guard".into()));
    assert_eq!(state("guard.state"), Some("guard.state".into()));
    for bad in ["/", "..", "data/", "not\u{fffd}text"] {
        let error = read(&[("MEMORY_GUARD_STATE", bad)]).check().unwrap_err();
        assert!(error.to_string().contains("the path of a file"), "{error}");
    }
    let builder = || MemoryGuardBuilder::default().state("a.state");
    assert_eq!(
        builder().build_config().unwrap().state,
        Some("a.state".into())
    );
    assert_eq!(builder().state("").build_config().unwrap().state, None);
    let error = builder().state("a/").build_config().unwrap_err();
    assert_eq!(error.problems().len(), 1);
    let config = || builder().build_config().unwrap();
    assert_eq!(config().checked(&config()).unwrap(), config());
}

#[test]
fn every_bad_variable_is_listed_with_its_value() {
    let bad = [
        ("MEMORY_GUARD_MAX_PERCENT", "NaN"),
        ("MEMORY_GUARD_CRITICAL_PERCENT", "-5"),
        ("MEMORY_GUARD_WARNING_PERCENT", "101%"),
        ("MEMORY_GUARD_CHECK_INTERVAL_SEC", "0"),
        ("MEMORY_GUARD_WAIT_TIMEOUT_SEC", "1e300"),
        ("MEMORY_GUARD_ESTIMATED_MEM_PER_REQ_MB", "inf"),
        ("MAX_CONCURRENT", "99999999999999999999"),
        ("MEMORY_GUARD_MAX_WAITING", "-1"),
        ("MEMORY_GUARD_MEMORY_LIMIT", "lots"),
        ("MEMORY_GUARD_MAX_RESULT_SIZE", "99999999T"),
        ("MEMORY_GUARD_ENABLED", "maybe"),
        ("MEMORY_GUARD_SOURCE", "numa"),
        ("MEMORY_GUARD_POLICY", "best"),
        ("MEMORY_GUARD_CANCEL", "sometimes"),
        ("MEMORY_GUARD_STATE", "data/service/"),
    ];
    let error = read(&bad).check().unwrap_err();
    let text = error.to_string();
    assert_eq!(error.problems().len(), bad.len(), "{text}");
    for (name, value) in bad {
        assert!(
            text.contains(&format!("{name} = {value:?}: expected ")),
            "{text}"
        );
    }
}

#[test]
fn auto_is_the_ladder_as_soon_as_one_of_its_settings_is_given() {
    let policy = |vars: &[(&str, &str)]| config(vars).decided_policy();
    assert_eq!(policy(&[]), Policy::Predictive);
    assert_eq!(
        policy(&[("MEMORY_GUARD_MAX_WAITING", "5")]),
        Policy::Predictive
    );
    for name in [
        "MAX_CONCURRENT",
        "MEMORY_GUARD_MAX_CONCURRENT",
        "MEMORY_GUARD_MAX_PERCENT",
        "MEMORY_GUARD_WARNING_PERCENT",
    ] {
        let value = if name.ends_with("CONCURRENT") {
            "5"
        } else {
            "75"
        };
        assert_eq!(policy(&[(name, value)]), Policy::Ladder, "{name}");
        let said = [(name, value), ("MEMORY_GUARD_POLICY", "predictive")];
        assert_eq!(policy(&said), Policy::Predictive, "{name}");
    }
}

#[test]
fn each_policy_has_thresholds_of_its_own_and_explicit_ones_win() {
    let critical = |vars: &[(&str, &str)]| config(vars).thresholds()[2];
    let predictive = ("MEMORY_GUARD_POLICY", "predictive");
    assert_eq!(critical(&[]), 0.98);
    assert_eq!(critical(&[("MEMORY_GUARD_POLICY", "ladder")]), 0.85);
    assert_eq!(
        critical(&[predictive, ("MEMORY_GUARD_MAX_PERCENT", "82")]),
        0.98
    );
    assert_eq!(
        config(&[predictive, ("MEMORY_GUARD_MAX_PERCENT", "82")]).thresholds()[1],
        0.82
    );
    assert_eq!(
        critical(&[predictive, ("MEMORY_GUARD_CRITICAL_PERCENT", "90")]),
        0.90
    );
}

#[test]
fn thresholds_must_rise() {
    let error = read(&[("MEMORY_GUARD_WARNING_PERCENT", "0.9")])
        .check()
        .unwrap_err();
    let problem = &error.problems()[0];
    assert!(
        problem
            .setting()
            .starts_with("MEMORY_GUARD_WARNING_PERCENT, ")
    );
    assert_eq!(problem.value(), "0.9, 0.8, 0.85");
    assert!(problem.expected().starts_with("rising thresholds"));
    assert!(error.to_string().ends_with(&problem.to_string()), "{error}");
}

#[test]
fn what_is_beside_a_value_that_cannot_be_read_is_not_blamed() {
    let problems = |vars: &[(&str, &str)]| -> Vec<String> {
        let error = read(vars).check().unwrap_err();
        let all = error.problems().iter();
        all.map(|one| one.setting.clone()).collect()
    };
    const WARNING: &str = "MEMORY_GUARD_WARNING_PERCENT";
    const MAX: &str = "MEMORY_GUARD_MAX_PERCENT";
    const POLICY: &str = "MEMORY_GUARD_POLICY";
    // Whether these rise depends on what was meant.
    assert_eq!(problems(&[(WARNING, "90"), (MAX, "most")]), [MAX]);
    assert_eq!(problems(&[(WARNING, "90"), (POLICY, "best")]), [POLICY]);
    let found = problems(&[
        ("MEMORY_GUARD_SOURCE", "process"),
        ("MEMORY_GUARD_MEMORY_LIMIT", "lots"),
    ]);
    assert_eq!(found, ["MEMORY_GUARD_MEMORY_LIMIT"]);
}

#[test]
fn a_typo_is_named_with_the_nearest_variable_and_what_kubernetes_injects_is_not() {
    let settings = read(&[
        ("MEMORY_GUARD_MAX_PERCENTAGE", "80"),
        ("MEMORY_GUARD_PORT_8080_TCP_ADDR", "10.0.0.1"),
        ("MEMORY_GUARD_SERVICE_HOST", "10.0.0.1"),
    ]);
    let (_, warnings) = settings.check().unwrap();
    assert_eq!(
        warnings,
        [
            "MEMORY_GUARD_MAX_PERCENTAGE is not a setting of the memory guard; \
          did you mean MEMORY_GUARD_MAX_PERCENT?"
        ]
    );
}

#[test]
fn the_process_source_needs_a_limit() {
    let error = read(&[("MEMORY_GUARD_SOURCE", "process")])
        .check()
        .unwrap_err();
    assert!(
        error.to_string().contains("MEMORY_GUARD_MEMORY_LIMIT"),
        "{error}"
    );
}

/// `NAME=value` in the blocks of shell in a page, block by block.
fn presets(page: &str) -> Vec<Vec<(&str, &str)>> {
    let blocks = page.split("```sh\n").skip(1);
    let blocks = blocks.filter_map(|rest| rest.split("```").next());
    blocks
        .map(|block| {
            block
                .lines()
                .filter_map(|line| line.split_once('='))
                .collect()
        })
        .collect()
}

#[test]
fn the_presets_of_the_tuning_guide_are_what_they_are_called() {
    let presets = presets(include_str!("../../docs/tuning.md"));
    let policies: Vec<Policy> = presets
        .iter()
        .map(|vars| {
            let settings = read(vars);
            assert!(settings.warnings.is_empty(), "{:?}", settings.warnings);
            settings.check().unwrap().0.decided_policy()
        })
        .collect();
    assert_eq!(
        policies,
        [Policy::Ladder, Policy::Ladder, Policy::Predictive]
    );
}

#[test]
fn every_variable_that_a_page_names_exists() {
    let pages = [
        include_str!("../../docs/tuning.md"),
        include_str!("../../docs/troubleshooting.md"),
        include_str!("../../docs/choosing-a-policy.md"),
        include_str!("../../docs/faq.md"),
    ];
    for page in pages {
        let words = page.split(|c: char| !(c.is_ascii_uppercase() || c == '_'));
        let names = words.filter(|word| {
            word.starts_with("MEMORY_GUARD_") && *word != "MEMORY_GUARD_MAX_PERCENTAGE"
        });
        for name in names {
            let warnings = read(&[(name, "1")]).warnings;
            assert!(warnings.is_empty(), "{warnings:?}");
        }
    }
}

#[test]
fn no_time_at_all_means_that_nobody_is_paused() {
    let pause = |text| config(&[("MEMORY_GUARD_MAX_PAUSE_SEC", text)]).max_pause;
    assert!(pause("0").is_zero() && pause("0.0").is_zero());
    assert_eq!(pause("2.5").as_millis(), 2500);
    assert!(
        read(&[("MEMORY_GUARD_MAX_PAUSE_SEC", "-1")])
            .check()
            .is_err()
    );
}

#[test]
fn what_counts_from_code_is_what_was_said_last() {
    let builder = || MemoryGuardBuilder::default().share(7.0);
    let error = builder().max_pause(std::time::Duration::from_nanos(1));
    let error = error.build_config().unwrap_err();
    let wrong: Vec<_> = error.problems().iter().map(|one| one.setting()).collect();
    assert_eq!(wrong, ["share", "max_pause"]);
    assert_eq!(
        builder().share(0.5).build_config().unwrap().share_fraction,
        0.5
    );
}
