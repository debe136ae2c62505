//! What each policy does is what reviewers have seen: `snapshots/policies.txt`. After a change that is meant,
//! `MPIO_SIM_SNAPSHOTS=rewrite cargo test --release -p mpio-sim --test policies` writes it anew.
#![allow(clippy::unwrap_used, reason = "a panic is how a test fails")]

use std::path::Path;

#[test]
fn the_table_of_policies_is_as_it_was_seen() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("snapshots/policies.txt");
    let table = mpio_sim::policies::table();
    if std::env::var_os("MPIO_SIM_SNAPSHOTS").is_some_and(|value| value == "rewrite") {
        std::fs::write(&path, &table).unwrap();
    }
    let seen = std::fs::read_to_string(&path).unwrap_or_default();
    for (now, before) in table.lines().zip(seen.lines()) {
        assert_eq!(now, before, "a policy does something else than {}", path.display());
    }
    assert_eq!(table.lines().count(), seen.lines().count(), "\n{table}");
}
