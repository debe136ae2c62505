//! The registry against itself, against the fields of [`Tunables`], and against the documentation.

use super::*;

#[test]
fn defaults_are_in_range_and_text_goes_both_ways() {
    for tunable in ALL {
        let mut t = Tunables::default();
        let text = tunable.text(&t);
        tunable.set(&mut t, &text).unwrap_or_else(|e| panic!("{}: {e}", tunable.key));
        assert_eq!(t, Tunables::default(), "{}", tunable.key);
    }
    assert_eq!(check(&Tunables::default()), Ok(()));
}

/// The struct is taken apart here, so that a new field does not compile before it has its entry.
#[test]
fn every_field_has_one_entry_and_only_its_own() {
    macro_rules! fields {
        ($($field:ident)*) => {{
            let Tunables { $($field: _),* } = Tunables::default();
            [$(stringify!($field)),*]
        }};
    }
    let mut fields = fields!(path_timeout last_path_timeout command_timeout last_path_command_timeout
        nop_interval no_path_timeout fence_timeout shutdown_timeout fence failback queue_depth trust_identity
        shared fence_reset fence_proof fence_command watch_memory suspect_after suspect_interval check_interval
        connect_timeout login_timeout reconnect_min reconnect_max flap_penalty_max management_timeout
        alua_transition_timeout hedge_reads sticky_bytes spin);
    let mut keys: Vec<_> = ALL.iter().map(|tunable| tunable.key).collect();
    fields.sort_unstable();
    keys.sort_unstable();
    assert_eq!(keys, fields);
    // A value that is not the default shows under its own key and under no other.
    for tunable in ALL {
        let mut t = Tunables::default();
        let other = match &tunable.kind {
            Kind::Duration { max, .. } => text::duration_text(*max),
            Kind::Number { max, .. } | Kind::Size { max, .. } => max.to_string(),
            Kind::Flag { field } => (!(field.get)(&t)).to_string(),
            Kind::Choice { words, .. } => words[1].to_owned(),
            Kind::Text { .. } => "/bin/true".to_owned(),
        };
        tunable.set(&mut t, &other).unwrap();
        let changed: Vec<_> =
            ALL.iter().filter(|x| x.text(&t) != x.text(&Tunables::default())).collect();
        assert_eq!(changed.len(), 1, "{}", tunable.key);
        assert_eq!(changed[0].key, tunable.key);
        assert!(format!("{t:?}").contains(tunable.key));
    }
}

#[test]
fn keys_and_reasons_are_well_formed() {
    for (index, tunable) in ALL.iter().enumerate() {
        assert!(ALL[..index].iter().all(|other| other.key != tunable.key), "{}", tunable.key);
        assert!(fixed(tunable.key).is_none());
        assert!(!tunable.reason.ends_with('.') && !tunable.reason.contains('|'));
        match &tunable.kind {
            Kind::Duration { min, max, .. } => assert!(min < max && *max < Duration::MAX),
            Kind::Number { min, max, .. } | Kind::Size { min, max, .. } => assert!(min < max),
            Kind::Choice { words, .. } => assert!(words.len() > 1),
            Kind::Flag { .. } | Kind::Text { .. } => {}
        }
    }
    for key in STATEMENTS.iter().chain(RELATIONS.iter().flat_map(|(a, b)| [a, b])) {
        assert!(find(key).is_some(), "{key}");
    }
}

fn refused(key: &str, value: &str) -> String {
    let mut t = Tunables::default();
    let wrong = find(key).unwrap().set(&mut t, value).unwrap_err();
    assert_eq!(t, Tunables::default(), "{key} = {value} changes nothing");
    wrong.to_string()
}

#[test]
fn what_is_refused() {
    for (key, value, says) in [
        ("path_timeout", "9ms", "9ms is out of range; try: 10ms to 1h"),
        ("path_timeout", "never", "never is out of range; try: 10ms to 1h"),
        (
            "path_timeout",
            "1",
            "the duration \"1\" has no unit; try: a duration such as 250ms, 5s, 2m or never",
        ),
        (
            "path_timeout",
            "99999999999h",
            "the duration \"99999999999h\" is too long; try: 10ms to 1h",
        ),
        ("no_path_timeout", "25h", "25h is out of range; try: 0 to 24h, or never"),
        ("queue_depth", "0", "0 is out of range; try: 1 to 512"),
        ("queue_depth", "513", "513 is out of range; try: 1 to 512"),
        ("queue_depth", "-1", "\"-1\" is not a whole number; try: 1 to 512"),
        (
            "queue_depth",
            "18446744073709551616",
            "18446744073709551616 is out of range; try: 1 to 512",
        ),
        ("watch_memory", "2GiB", "2GiB is out of range; try: 0 to 1GiB"),
        (
            "watch_memory",
            "1MB",
            "\"MB\" is not a unit of size; try: a size such as 512KiB, 64MiB or 1GiB",
        ),
        ("shared", "yes", "\"yes\" is neither true nor false; try: true or false"),
        ("fence", "maybe", "\"maybe\" is not a mode of write ownership; try: overlap, strict, off"),
        ("fence", "5s", "\"5s\" is not a mode of write ownership; try: overlap, strict, off"),
        (
            "failback",
            "soon",
            "\"soon\" is not a way to fail back; try: immediate, manual, or a time up to 24h",
        ),
        ("failback", "never", "never is out of range; try: immediate, manual, or a time up to 24h"),
    ] {
        assert_eq!(refused(key, value), says, "{key}={value}");
    }
    let long = "x".repeat(4097);
    assert_eq!(
        refused("fence_command", &long),
        "a text of 4097 bytes is not usable; try: up to 4096 bytes, empty for none"
    );
}

#[test]
fn relations() {
    for (other, key) in RELATIONS {
        let mut t = Tunables::default();
        find(other).unwrap().set(&mut t, "1m").unwrap();
        find(key).unwrap().set(&mut t, "59s").unwrap();
        let broken = check(&t).unwrap_err();
        assert_eq!((broken.key, broken.other), (key, other));
        assert_eq!(
            broken.wrong.to_string(),
            format!("59s is shorter than {other} (1m); try: 1m or more")
        );
        raise(&mut t);
        assert_eq!(check(&t), Ok(()));
        assert_eq!(find(key).unwrap().text(&t), "1m");
    }
}

#[test]
fn unsafe_settings_are_named() {
    let mut t = Tunables::default();
    assert_eq!(warnings(&t), Vec::<String>::new());
    t.fence_proof = FenceProof::Reinstatement;
    assert!(warnings(&t)[0].contains("reinstatement"));
    t.fence = FenceMode::Off;
    assert!(warnings(&t)[0].contains("UNSAFE") && warnings(&t).len() == 1);
}

#[test]
fn chance_stays_in_range_and_reaches_the_ends() {
    // SplitMix64.
    let mut state = 7_u64;
    let mut random = || {
        state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = state;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    };
    let mut seen = std::collections::BTreeSet::new();
    for _ in 0..2000 {
        let t = randomise(&Tunables::default(), &mut random);
        assert_eq!(check(&t), Ok(()));
        for tunable in ALL {
            let mut again = Tunables::default();
            let text = tunable.text(&t);
            tunable.set(&mut again, &text).unwrap_or_else(|e| panic!("{}: {e}", tunable.key));
            assert_eq!(tunable.text(&again), text);
            seen.insert((tunable.key, text));
        }
    }
    let count = |key: &str| seen.iter().filter(|(k, _)| *k == key).count();
    for key in STATEMENTS {
        assert_eq!(count(key), 1, "{key} is not for chance to say");
    }
    for tunable in ALL.iter().filter(|tunable| !STATEMENTS.contains(&tunable.key)) {
        let key = tunable.key;
        assert!(count(key) > 1, "{key} never changes");
        let Kind::Duration { min, never, .. } = &tunable.kind else { continue };
        // The greater one of a relation is raised when it meets its least value.
        let least = text::duration_text(*min);
        let related = RELATIONS.iter().any(|(_, greater)| *greater == key);
        assert!(related || seen.contains(&(key, least)), "{key} never at its least");
        assert!(!never || seen.contains(&(key, "never".to_owned())), "{key} never `never`");
    }
}

/// docs/configuration.md tells the same, in the same order.
#[test]
fn the_documentation_has_this_table() {
    const DOC: &str = include_str!("../../../docs/configuration.md");
    let mut expected = String::from("| key | default | range | |\n|---|---|---|---|\n");
    for tunable in ALL {
        let default = match tunable.text(&Tunables::default()) {
            text if text.is_empty() => "none".to_owned(),
            text => format!("`{text}`"),
        };
        let (key, range, reason) = (tunable.key, tunable.range(), tunable.reason);
        expected += &format!("| `{key}` | {default} | {range} | {reason} |\n");
    }
    let section = DOC.split_once("## Tunables\n").map_or("", |(_, rest)| rest);
    let rows: String =
        section.lines().filter(|l| l.starts_with('|')).map(|l| format!("{l}\n")).collect();
    assert!(rows == expected, "docs/configuration.md, section Tunables, should read:\n{expected}");
}
