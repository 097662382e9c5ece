//! What is wrong is told with what would be right.

use crate::{
    is_wrong_usage,
    support::{Home, finish},
};

#[test]
fn times_and_numbers_say_what_they_have_to_be() {
    for (option, value, told) in [
        ("--duration", "1e400", "longer than a clock can count"),
        ("--duration", "nan", "a number of seconds"),
        ("--duration", "-1", "longer than nothing"),
        ("--duration", "0", "longer than nothing"),
        ("--concurrency", "-1", "a whole number from 1 on"),
        ("--payload", "-1", "a whole number of bytes"),
    ] {
        is_wrong_usage(&["bench", option, value], &[value, told]);
    }
    is_wrong_usage(
        &["call", "math:hypot", "3", "4", "--timeout", "-1s"],
        &["'-1s'", "as in 5s"],
    );
}

#[test]
fn settings_that_cannot_be_are_wrong_usage() {
    is_wrong_usage(
        &["call", "math:hypot", "3", "4", "--workers", "99999999999"],
        &["workers"],
    );
    is_wrong_usage(
        &["call", "math:hypot", "3", "4", "--preload", "json"],
        &["zygote"],
    );
    is_wrong_usage(
        &["call", "math:hypot", "3", "4", "--nested-namespaces"],
        &["zygote"],
    );
}

#[test]
fn a_module_beside_the_caller_needs_its_directory() {
    let home = Home::new();
    home.module("words", "def score(): return 1\n");
    home.file("package/__init__.py", "");
    for name in ["words", "package"] {
        let mut command = home.command(&["call", "score", "--adapter", name]);
        let ran = finish(command.current_dir(home.dir()));
        assert!(
            ran.code == 1 && ran.stderr.contains("not on sys.path"),
            "{}",
            ran.stderr
        );
        assert!(!ran.stderr.contains("did you mean"), "{}", ran.stderr);
    }
    let ran = home.run(&["call", "words.py:score", "--path", home.path()]);
    assert!(ran.stderr.contains("give the module's name"), "{}", ran.stderr);
    assert!(!ran.stderr.contains("did you mean"), "{}", ran.stderr);
    home.module("nothing", "");
    let ran = home.run(&["call", "score", "--adapter", "nothing", "--path", home.path()]);
    assert!(
        ran.stderr
            .contains("none of the adapters nothing offers any function"),
        "{}",
        ran.stderr
    );
}

#[test]
fn a_function_that_is_called_the_wrong_way_is_told_the_right_one() {
    let home = Home::new();
    for call in [
        &["call", "builtins:iter", "[1]"][..],
        &["call", "math:hypot", "3", "4", "--stream"],
    ] {
        let ran = home.run(call);
        assert!(ran.code == 1 && ran.stderr.contains("--stream"), "{}", ran.stderr);
    }
}

#[test]
fn a_crash_is_told_with_what_crashed() {
    let home = Home::new();
    home.module("bad", "import ctypes\ndef segv(): ctypes.string_at(0)\n");
    let ran = home.run(&["call", "bad:segv", "--path", home.path()]);
    let told = ran.stderr.lines().last().unwrap_or_default();
    assert!(
        told.contains("it said last: Fatal Python error: Segmentation fault, File "),
        "{told}"
    );
}

#[test]
fn an_adapter_that_ends_the_process_is_not_tried_for_a_minute() {
    let home = Home::new();
    home.module("leaves", "import os\nos._exit(7)\n");
    let began = tokio::time::Instant::now();
    let ran = home.run(&["call", "f", "--adapter", "leaves", "--path", home.path()]);
    assert!(
        ran.code == 1 && ran.stderr.contains("exited with code 7"),
        "{}",
        ran.stderr
    );
    assert!(began.elapsed().as_secs() < 30, "{:?}", began.elapsed());
}
