//! The arrows between our crates are the ones the architecture allows.

use std::{collections::BTreeMap, process::Command};

use serde_json::Value;

/// Who may depend on whom, tests and benchmarks aside. A new edge needs an ADR.
const ALLOWED: [(&str, &[&str]); 8] = [
    ("snakepit-proto", &[]),
    ("snakepit-core", &["snakepit-proto"]),
    ("snakepit-backend-port", &["snakepit-core"]),
    ("snakepit-backend-exec", &["snakepit-core"]),
    ("snakepit-backend-zygote", &["snakepit-core"]),
    ("snakepit-registry", &["snakepit-core"]),
    ("snakepit-python", &["snakepit-proto"]),
    (
        "snakepit",
        &[
            "snakepit-core",
            "snakepit-backend-port",
            "snakepit-backend-exec",
            "snakepit-backend-zygote",
            "snakepit-registry",
            "snakepit-python",
        ],
    ),
];

#[test]
fn crates_depend_on_each_other_only_along_the_allowed_arrows() {
    let output = Command::new(env!("CARGO"))
        .args([
            "metadata",
            "--no-deps",
            "--offline",
            "--locked",
            "--format-version",
            "1",
        ])
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .output()
        .unwrap();
    assert!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
    let metadata: Value = serde_json::from_slice(&output.stdout).unwrap();
    let allowed = BTreeMap::from(ALLOWED);
    let mut seen = 0;
    for package in metadata["packages"].as_array().unwrap() {
        let name = package["name"].as_str().unwrap();
        let arrows = allowed
            .get(name)
            .unwrap_or_else(|| panic!("{name} has no place in the architecture yet"));
        for dependency in package["dependencies"].as_array().unwrap() {
            let to = dependency["name"].as_str().unwrap();
            if to.starts_with("snakepit") && dependency["kind"].is_null() {
                assert!(arrows.contains(&to), "{name} must not depend on {to}");
            }
        }
        seen += 1;
    }
    assert_eq!(
        seen,
        ALLOWED.len(),
        "a crate of the architecture is missing from the workspace"
    );
}
