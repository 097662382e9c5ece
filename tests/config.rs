//! What the command makes of a file with pools, on real workers.

#![expect(
    clippy::unwrap_used,
    reason = "a test fails by panicking, also in its helpers"
)]

#[path = "cli/support.rs"]
mod support;

use serde_json::Value;
use support::{Home, Ran};

const ADAPTER: &str = "
import os, snakepit

@snakepit.function
def name() -> str:
    return os.environ['NAME']

@snakepit.function
def workers() -> str:
    return os.environ['WORKERS']

@snakepit.function
def wait(seconds: float) -> None:
    import time
    time.sleep(seconds)
";

const TWO_POOLS: &str = r#"
    [pool.small]
    workers = 1
    adapters = ["shop"]
    paths = ["lib"]
    env = { NAME = "{pool}-{slot}", WORKERS = "{slots}" }
    run_timeout = "250ms"

    [pool.large]
    workers = 2
    max_rss = "16GiB"
    adapters = ["shop"]
    paths = ["lib"]
    env = { NAME = "{pool}", WORKERS = "{slots}" }
"#;

/// A home with an adapter in `lib` and a file with two pools.
fn home() -> Home {
    let home = Home::new();
    home.file("lib/shop.py", ADAPTER);
    home.file("two.toml", TWO_POOLS);
    home
}

fn call(home: &Home, function: &str, options: &[&str]) -> Ran {
    home.run(&[&["call", function], options].concat())
}

#[track_caller]
fn prints(ran: &Ran, expected: &str) {
    assert_eq!(
        (ran.stdout.as_str(), ran.code),
        (expected, 0),
        "stderr: {}",
        ran.stderr
    );
}

/// It exits with 2, prints nothing on standard output, and tells this.
#[track_caller]
fn is_wrong_usage(ran: &Ran, told: &str) {
    assert_eq!((ran.stdout.as_str(), ran.code), ("", 2), "stderr: {}", ran.stderr);
    assert!(ran.stderr.contains(told), "{told} is not in: {}", ran.stderr);
}

#[test]
fn a_call_goes_to_the_pool_that_is_named() {
    let home = home();
    let file = home.dir().join("two.toml");
    let file = file.to_str().unwrap();
    prints(
        &call(&home, "name", &["--config", file, "--pool", "small"]),
        "\"small-0\"\n",
    );
    prints(
        &call(&home, "workers", &["--config", file, "--pool", "large"]),
        "\"2\"\n",
    );
    let undecided = call(&home, "name", &["--config", file]);
    is_wrong_usage(
        &undecided,
        "two.toml has several pools, name one of: large, small",
    );
    let missing = call(&home, "name", &["--config", file, "--pool", "smal"]);
    is_wrong_usage(
        &missing,
        "two.toml has no pool `smal`; there are: large, small; did you mean `small`?",
    );
    is_wrong_usage(&call(&home, "name", &["--pool", "small"]), "--config <FILE>");
}

#[test]
fn a_pools_budgets_bound_the_call() {
    let home = home();
    let file = home.dir().join("two.toml");
    let ran = call(
        &home,
        "wait",
        &["60", "--config", file.to_str().unwrap(), "--pool", "small"],
    );
    assert_eq!((ran.stdout.as_str(), ran.code), ("", 1), "stderr: {}", ran.stderr);
    assert!(ran.stderr.contains("250ms"), "{}", ran.stderr);
}

#[test]
fn options_win_over_the_file() {
    let home = home();
    // The same module again, and the one that is named on the command line is found first.
    home.file("mine/shop.py", &ADAPTER.replace("os.environ['NAME']", "'mine'"));
    let (file, mine) = (home.dir().join("two.toml"), home.dir().join("mine"));
    let config = ["--config", file.to_str().unwrap(), "--pool", "large"];
    let with = |more: &[&str], function| call(&home, function, &[&config, more].concat());
    prints(&with(&["--workers", "3"], "workers"), "\"3\"\n");
    prints(&with(&["--path", mine.to_str().unwrap()], "name"), "\"mine\"\n");
    // What adds does not take away: the file's adapters are there, too.
    prints(&with(&["--adapter", "math"], "name"), "\"large\"\n");
    // An interpreter that is not there tells that it was the one to be used.
    let ran = with(&["--python", "/nowhere/python"], "name");
    assert_eq!(ran.code, 1);
    assert!(
        ran.stderr.contains("/nowhere/python cannot be executed"),
        "{}",
        ran.stderr
    );
}

#[cfg(feature = "backend-exec")]
#[test]
fn a_backend_that_is_named_wins_over_the_files() {
    let home = home();
    home.file("exec.toml", "[pool.p]\nexec.containment = \"subreaper\"\n");
    let file = home.dir().join("exec.toml");
    let backend = |options: &[&str]| {
        let common = [
            "bench",
            "--json",
            "--duration",
            "50ms",
            "--config",
            file.to_str().unwrap(),
        ];
        let ran = home.run(&[&common, options].concat());
        let figures: Value = serde_json::from_str(&ran.stdout).unwrap_or_else(|_| panic!("{}", ran.stderr));
        figures["backend"].as_str().unwrap().to_owned()
    };
    assert_eq!(backend(&[]), "exec");
    assert_eq!(backend(&["--backend", "port"]), "port");
}

#[test]
fn bench_measures_the_files_pool() {
    let home = home();
    let file = home.dir().join("two.toml");
    let options = ["--config", file.to_str().unwrap(), "--pool", "large"];
    let ran = home.run(&[&["bench", "--json", "--duration", "50ms"][..], &options].concat());
    assert_eq!(ran.code, 0, "{}", ran.stderr);
    let figures: Value = serde_json::from_str(&ran.stdout).unwrap();
    assert_eq!(figures["workers"], 2);
}

#[test]
fn no_file_is_read_that_is_not_named() {
    let home = home();
    home.file("snakepit.toml", "this is no TOML");
    let ran = support::finish(home.command(&["call", "math:fabs", "-1"]).current_dir(home.dir()));
    prints(&ran, "1.0\n");
}

#[test]
fn a_pool_of_another_program_has_no_use_for_a_python() {
    let home = home();
    home.file(
        "program.toml",
        "[pool.p]\nprogram = [\"sleep\", \"60\"]\nstart_deadline = \"200ms\"\nstart_timeout = \"500ms\"\n",
    );
    let file = home.dir().join("program.toml");
    let config = ["--config", file.to_str().unwrap()];
    let ran = call(&home, "m:f", &[&config[..], &["--python", "python3"]].concat());
    is_wrong_usage(&ran, "the pool runs another program than Python");
    let ran = call(&home, "m:f", &config);
    assert_eq!(ran.code, 1, "{}", ran.stderr);
    assert!(
        ran.stderr.contains("no worker of pool `p` became ready"),
        "{}",
        ran.stderr
    );
}

#[test]
fn a_file_that_is_wrong_starts_nothing_and_is_told_with_its_places() {
    let home = home();
    home.file(
        "wrong.toml",
        "[pool.default]\nworkres = 2\nworkers = \"2\"\ncancel_grace = \"5 lightyears\"\n",
    );
    let file = home.dir().join("wrong.toml");
    let file = file.to_str().unwrap();
    let problems = [
        format!("{file}:2:1: pool.default.workres: there is no such setting; did you mean `workers`?"),
        format!("{file}:3:11: pool.default.workers: expected a whole number, found the text \"2\""),
        format!(
            "{file}:4:16: pool.default.cancel_grace: expected a time with its unit, as in \"5s\" or \"250ms\", found \"5 lightyears\": "
        ),
    ];
    let ran = call(&home, "math:fabs", &["1", "--config", file]);
    is_wrong_usage(
        &ran,
        &format!("error: {}\n{}\n{}", problems[0], problems[1], problems[2]),
    );
    let ran = home.run(&["config", "check", file]);
    assert_eq!((ran.code, ran.stderr.as_str()), (1, ""));
    let lines: Vec<_> = ran.stdout.lines().collect();
    assert_eq!(lines[..2], problems[..2]);
    assert!(
        lines[2].starts_with(&problems[2]) && lines.len() == 3,
        "{lines:?}"
    );

    let ran = home.run(&["config", "check", file, "--json"]);
    let report: Value = serde_json::from_str(&ran.stdout).unwrap();
    assert_eq!(ran.code, 1);
    assert_eq!(report["pools"], serde_json::json!({}));
    let first = &report["problems"][0];
    assert_eq!((&first["line"], &first["column"]), (&2.into(), &1.into()));
    assert_eq!(first["key"], "pool.default.workres");
    assert_eq!(
        first["message"],
        "there is no such setting; did you mean `workers`?"
    );
    assert_eq!(report["problems"].as_array().unwrap().len(), 3);
}

#[test]
fn a_file_that_is_right_is_shown_with_everything_that_is_in_effect() {
    let home = home();
    let file = home.dir().join("two.toml");
    let ran = home.run(&["config", "check", file.to_str().unwrap()]);
    assert_eq!((ran.code, ran.stderr.as_str()), (0, ""));
    for line in [
        "[pool.large]",
        "workers = 2",
        "run_timeout = \"250ms\"",
        "run_timeout = \"none\" # default",
        "queue_limit = 1000 # default",
        "# cwd, default: the host's",
    ] {
        assert!(
            ran.stdout.lines().any(|found| found == line),
            "{line} is not in: {}",
            ran.stdout
        );
    }
    // What is shown is a file itself, and means the same.
    home.file("again.toml", &ran.stdout);
    let json = |name: &str| {
        let ran = home.run(&[
            "config",
            "check",
            home.dir().join(name).to_str().unwrap(),
            "--json",
        ]);
        let report: Value = serde_json::from_str(&ran.stdout).unwrap();
        report["pools"].clone()
    };
    assert_eq!(json("again.toml"), json("two.toml"));
    assert_eq!(json("two.toml")["small"]["env"]["NAME"], "{pool}-{slot}");
    assert_eq!(json("two.toml")["small"]["cwd"], Value::Null);
}

#[test]
fn check_looks_at_the_file_in_the_working_directory() {
    let home = home();
    let check = || support::finish(home.command(&["config", "check"]).current_dir(home.dir()));
    is_wrong_usage(&check(), "cannot read snakepit.toml: No such file or directory");
    home.file("snakepit.toml", "[pool.default]\n");
    assert!(check().stdout.starts_with("# snakepit.toml is right."));
}

#[test]
fn the_example_is_accepted_and_its_pool_answers() {
    let home = Home::new();
    let example = concat!(env!("CARGO_MANIFEST_DIR"), "/examples/snakepit.toml");
    let ran = home.run(&["config", "check", example]);
    assert_eq!((ran.code, ran.stderr.as_str()), (0, ""), "{}", ran.stdout);
    let ran = call(&home, "flow", &["1898", "--config", example]);
    prints(&ran, "1100\n");
}
