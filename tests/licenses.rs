//! Holds the licences of everything that is linked in, and lists crates that are there twice. `deny.toml`
//! says the same to those who use cargo-deny.

use serde_json::Value;
use std::collections::BTreeMap;
use std::process::Command;

/// Licences that may be in the tree. A crate must offer at least one expression made of these.
const ALLOWED: &[&str] = &[
    "MIT",
    "Apache-2.0",
    "Apache-2.0 WITH LLVM-exception",
    "BSD-2-Clause",
    "BSD-3-Clause",
    "ISC",
    "Unicode-3.0",
    "Zlib",
    "0BSD",
    "CC0-1.0",
    "Unlicense",
];

/// Whether an SPDX expression can be met with allowed licences: OR needs one side, AND both.
fn acceptable(expression: &str) -> bool {
    let expression = expression.replace('/', " OR ");
    let expression = expression.replace(['(', ')'], " ");
    expression.split(" AND ").all(|all| all.split(" OR ").any(|one| ALLOWED.contains(&one.trim())))
}

fn packages() -> Vec<Value> {
    let output = Command::new(env!("CARGO"))
        .args(["metadata", "--format-version", "1", "--locked"])
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .output()
        .expect("cargo runs");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let metadata: Value = serde_json::from_slice(&output.stdout).expect("cargo metadata is JSON");
    metadata["packages"].as_array().expect("packages is a list").clone()
}

#[test]
fn every_licence_is_allowed() {
    let packages = packages();
    assert!(packages.len() > 30, "the whole tree is looked at, not only {}", packages.len());
    let mut refused = Vec::new();
    for package in &packages {
        let licence = package["license"].as_str().unwrap_or("none stated");
        if !acceptable(licence) {
            refused.push(format!("{} {}: {licence}", package["name"], package["version"]));
        }
    }
    assert!(refused.is_empty(), "licences that are not allowed:\n{}", refused.join("\n"));
}

#[test]
fn duplicates_are_listed() {
    let mut versions: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for package in packages() {
        let text = |key: &str| package[key].as_str().unwrap_or_default().to_owned();
        versions.entry(text("name")).or_default().push(text("version"));
    }
    let twice: Vec<_> = versions.iter().filter(|(_, v)| v.len() > 1).collect();
    for (name, versions) in &twice {
        println!("twice in the tree: {name} {}", versions.join(", "));
    }
    assert!(twice.len() <= 25, "{} crates are in the tree more than once", twice.len());
}

#[test]
fn copyleft_is_refused() {
    for bad in ["GPL-3.0", "AGPL-3.0-only", "MIT AND GPL-2.0", "LGPL-2.1", "none stated"] {
        assert!(!acceptable(bad), "{bad} must be refused");
    }
    for good in ["MIT/Apache-2.0", "GPL-2.0 OR MIT", "(MIT OR Apache-2.0) AND Unicode-3.0"] {
        assert!(acceptable(good), "{good} must be accepted");
    }
}
