//! What the command promises: output, errors and exit codes, with a real Python.

#![expect(
    clippy::unwrap_used,
    reason = "a test fails by panicking, also in its helpers"
)]

#[path = "cli/advice.rs"]
mod advice;
#[path = "cli/support.rs"]
mod support;
#[path = "cli/unread.rs"]
mod unread;

use std::{
    fs,
    io::{BufRead as _, BufReader, Read as _, Write as _},
    process::{Command, Stdio},
    time::Duration,
};

use support::{Home, signal, wait_for};
use tokio::time::Instant;

#[track_caller]
fn prints(args: &[&str], expected: &str) {
    let ran = Home::new().run(args);
    assert_eq!(
        (ran.stdout.trim_end(), ran.code),
        (expected, 0),
        "stderr: {}",
        ran.stderr
    );
}

/// It exits with 2, prints nothing on standard output, and tells all of `told`.
#[track_caller]
fn is_wrong_usage(args: &[&str], told: &[&str]) {
    let ran = Home::new().run(args);
    assert_eq!((ran.stdout.as_str(), ran.code), ("", 2), "stderr: {}", ran.stderr);
    for part in told {
        assert!(ran.stderr.contains(part), "{part} is not in: {}", ran.stderr);
    }
}

#[test]
fn a_call_prints_its_result_as_json() {
    prints(&["call", "math:hypot", "3", "4"], "5.0");
}

#[test]
fn negative_numbers_are_arguments() {
    let home = Home::new();
    for (number, result) in [("-3", "3.0"), ("-1.5", "1.5"), ("-3e4", "30000.0")] {
        let ran = home.run(&["call", "math:fabs", number, "--timeout", "20s"]);
        assert_eq!(
            (ran.stdout.trim_end(), ran.code),
            (result, 0),
            "stderr: {}",
            ran.stderr
        );
    }
}

#[test]
fn keyword_arguments_are_passed() {
    prints(
        &[
            "call",
            "builtins:sorted",
            "[1, 3, 2]",
            "--kwargs",
            r#"{"reverse": true}"#,
        ],
        "[3,2,1]",
    );
}

#[test]
fn values_without_json_words_travel_both_ways() {
    let home = Home::new();
    for (function, argument, result) in [
        ("builtins:bytes", r#"{"$bytes": "AAH/"}"#, r#"{"$bytes":"AAH/"}"#),
        ("builtins:set", "[1]", r#"{"$set":[1]}"#),
        ("builtins:float", "\"-inf\"", r#"{"$float":"-inf"}"#),
        ("datetime:date.fromordinal", "737822", r#"{"$date":"2021-02-01"}"#),
        ("decimal:Decimal", "\"1.10\"", r#"{"$decimal":"1.10"}"#),
        (
            "copy:copy",
            r#"{"$datetime": "2026-01-31T12:00:00+00:00"}"#,
            r#"{"$datetime":"2026-01-31T12:00:00+00:00"}"#,
        ),
        (
            "copy:copy",
            r#"{"$map": [[1, {"$complex": [1, -2]}]]}"#,
            r#"{"$map":[[1,{"$complex":[1.0,-2.0]}]]}"#,
        ),
        (
            "copy:copy",
            r#"{"z": 1, "a": [null, true, "ü"]}"#,
            r#"{"z":1,"a":[null,true,"ü"]}"#,
        ),
        ("copy:copy", "18446744073709551615", "18446744073709551615"),
    ] {
        let ran = home.run(&["call", function, argument]);
        assert_eq!(
            (ran.stdout.trim_end(), ran.code),
            (result, 0),
            "{function} {argument}: {}",
            ran.stderr
        );
    }
}

#[test]
fn a_stream_prints_each_item_as_it_arrives() {
    let home = Home::new();
    home.module(
        "slow",
        "import time\ndef two():\n    yield 'first'\n    time.sleep(30)\n    yield 'second'\n",
    );
    let mut child = home
        .command(&["call", "slow:two", "--stream", "--path", home.path()])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut line = String::new();
    BufReader::new(child.stdout.take().unwrap())
        .read_line(&mut line)
        .unwrap();
    assert_eq!(line, "\"first\"\n");
    // The reader has left: ended gracefully, and told nothing about the pipe.
    signal(child.id(), "INT");
    assert!(!child.wait().unwrap().success());
    prints(&["call", "builtins:range", "3", "--stream"], "0\n1\n2");
}

#[test]
fn a_reader_that_leaves_early_is_no_error() {
    let home = Home::new();
    let mut child = home
        .command(&["call", "itertools:count", "--stream"])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut reader = BufReader::new(child.stdout.take().unwrap());
    reader.read_line(&mut String::new()).unwrap();
    drop(reader);
    let status = wait_for(&mut child, Duration::from_secs(20));
    let mut told = String::new();
    child.stderr.take().unwrap().read_to_string(&mut told).unwrap();
    assert!(status.success() && told.is_empty(), "{status}: {told}");
}

/// Runs a command with this on its standard input.
fn fed(home: &Home, args: &[&str], input: &str) -> support::Ran {
    home.file("input", input);
    let file = fs::File::open(home.dir().join("input")).unwrap();
    support::finish(home.command(args).stdin(file))
}

#[test]
fn a_function_reads_json_lines_from_standard_input_or_a_file() {
    let home = Home::new();
    let lines = "1\n\n 2\n3";
    let ran = fed(&home, &["call", "builtins:sum", "--input", "-"], lines);
    assert_eq!((&*ran.stdout, ran.code), ("6\n", 0), "{}", ran.stderr);
    let ran = fed(&home, &["call", "builtins:sum", "10", "--input", "-"], "");
    assert_eq!((&*ran.stdout, ran.code), ("10\n", 0), "{}", ran.stderr);
    home.file("lines", "{\"$bytes\": \"AAH/\"}\n[\"ü\", null]\n");
    let lines = format!("{}/lines", home.path());
    let ran = home.run(&["call", "builtins:iter", "--stream", "--input", &lines]);
    let expected = "{\"$bytes\":\"AAH/\"}\n[\"ü\",null]\n";
    assert_eq!((&*ran.stdout, ran.code), (expected, 0), "{}", ran.stderr);
    is_wrong_usage(
        &["call", "builtins:sum", "--input", "/no/such/file"],
        &["/no/such/file"],
    );
}

#[test]
fn a_line_that_is_no_item_is_named() {
    let home = Home::new();
    let call = ["call", "builtins:iter", "--stream", "--input", "-"];
    let ran = fed(&home, &call, "1\n2\n{\"a\": [1, {\"$byte\": 1}]}\n4\n");
    assert_eq!((&*ran.stdout, ran.code), ("1\n2\n", 2), "{}", ran.stderr);
    for part in ["error: line 3 of standard input", "$bytes", "[\"a\"][1]"] {
        assert!(ran.stderr.contains(part), "{part} is not in: {}", ran.stderr);
    }
    assert!(!ran.stderr.contains("Traceback"), "{}", ran.stderr);
    let ran = fed(&home, &["call", "builtins:sum", "--input", "-"], "1\nTrue\n");
    assert_eq!((&*ran.stdout, ran.code), ("", 2));
    assert!(
        ran.stderr.contains("line 2 of standard input: not JSON"),
        "{}",
        ran.stderr
    );
    // What Python has to say of the items is its own.
    let ran = fed(&home, &["call", "builtins:sum", "--input", "-"], "1\n\"a\"\n");
    assert_eq!(ran.code, 1);
    assert!(ran.stderr.contains("TypeError"), "{}", ran.stderr);
}

#[test]
fn both_directions_go_item_by_item_until_either_side_leaves() {
    let home = Home::new();
    home.module(
        "twice",
        "def f(items):\n    for item in items:\n        yield 2 * item\n",
    );
    let call = [
        "call",
        "twice:f",
        "--stream",
        "--input",
        "-",
        "--path",
        home.path(),
    ];
    let start = || {
        let mut command = home.command(&call);
        command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        command.spawn().unwrap()
    };
    let answer = |child: &mut std::process::Child, number: u32| {
        writeln!(child.stdin.as_mut().unwrap(), "{number}").unwrap();
        let mut line = Vec::new();
        let out = child.stdout.as_mut().unwrap();
        while line.last() != Some(&b'\n') {
            let mut byte = [0];
            out.read_exact(&mut byte).unwrap();
            line.push(byte[0]);
        }
        assert_eq!(line, format!("{}\n", 2 * number).into_bytes());
    };
    // The end of the input is the end.
    let mut child = start();
    (1..4).for_each(|number| answer(&mut child, number));
    drop(child.stdin.take());
    assert!(wait_for(&mut child, Duration::from_secs(60)).success());
    // Ctrl-C, while the function waits for a line and the command reads one.
    let mut child = start();
    answer(&mut child, 1);
    signal(child.id(), "INT");
    assert_eq!(wait_for(&mut child, Duration::from_secs(60)).code(), Some(1));
    // A reader that leaves.
    let mut child = start();
    answer(&mut child, 1);
    drop(child.stdout.take());
    writeln!(child.stdin.as_mut().unwrap(), "2").unwrap();
    assert!(wait_for(&mut child, Duration::from_secs(60)).success());
}

#[test]
fn an_exception_prints_its_traceback_and_exits_1() {
    let home = Home::new();
    home.module(
        "broken",
        "def f():\n    raise ValueError('no luck') from KeyError('deep')\n",
    );
    let ran = home.run(&["call", "broken:f", "--path", home.path()]);
    assert_eq!((ran.stdout.as_str(), ran.code), ("", 1));
    for part in [
        "Traceback (most recent call last)",
        "broken.py\", line 2",
        "ValueError: no luck",
        "KeyError: 'deep'",
    ] {
        assert!(ran.stderr.contains(part), "{part} is not in: {}", ran.stderr);
    }
}

#[test]
fn what_a_function_prints_goes_to_standard_error() {
    let home = Home::new();
    home.module(
        "loud",
        "import sys\ndef f():\n    print('out')\n    print('err', file=sys.stderr)\n    return 1\n",
    );
    let ran = home.run(&["call", "loud:f", "--path", home.path()]);
    assert_eq!((ran.stdout.as_str(), ran.code), ("1\n", 0));
    assert!(
        ran.stderr.contains("out\n") && ran.stderr.contains("err\n"),
        "{}",
        ran.stderr
    );
}

#[test]
fn an_unknown_function_offers_near_names() {
    let ran = Home::new().run(&["call", "math:hypott", "3", "4"]);
    assert_eq!(ran.code, 1);
    assert!(ran.stderr.contains("hypot"), "{}", ran.stderr);
    let ran = Home::new().run(&["call", "no_such_module_at_all:f"]);
    assert_eq!(ran.code, 1);
    assert!(ran.stderr.contains("no_such_module_at_all"), "{}", ran.stderr);
}

#[test]
fn an_adapter_that_fails_to_import_shows_its_traceback() {
    let home = Home::new();
    home.module("bad", "import os\nraise RuntimeError('not today')\n");
    let began = Instant::now();
    let ran = home.run(&["call", "f", "--adapter", "bad", "--path", home.path()]);
    assert_eq!(ran.code, 1);
    assert!(
        ran.stderr.contains("bad.py\", line 2") && ran.stderr.contains("not today"),
        "{}",
        ran.stderr
    );
    assert!(began.elapsed() < Duration::from_secs(20));
}

#[test]
fn a_bare_name_is_looked_up_in_adapters() {
    let home = Home::new();
    home.module("adapter", "def twice(x):\n    return 2 * x\n");
    let ran = home.run(&[
        "call",
        "twice",
        "21",
        "--adapter",
        "adapter",
        "--path",
        home.path(),
    ]);
    assert_eq!((ran.stdout.as_str(), ran.code), ("42\n", 0), "{}", ran.stderr);
}

#[test]
fn the_working_directory_is_not_importable_by_itself() {
    let home = Home::new();
    home.module("here", "def f():\n    return 1\n");
    let mut command = home.command(&["call", "here:f"]);
    let ran = support::finish(command.current_dir(home.path()));
    assert_eq!(ran.code, 1, "{}", ran.stdout);
}

#[test]
fn a_timeout_ends_the_call() {
    let began = Instant::now();
    let ran = Home::new().run(&["call", "time:sleep", "60", "--timeout", "300ms"]);
    assert_eq!(ran.code, 1);
    assert!(
        ran.stderr.contains("300ms") && ran.stderr.contains("time:sleep"),
        "{}",
        ran.stderr
    );
    assert!(began.elapsed() < Duration::from_secs(20));
}

#[test]
fn a_worker_that_dies_is_told_with_its_signal() {
    let ran = Home::new().run(&["call", "signal:raise_signal", "9"]);
    assert_eq!(ran.code, 1);
    assert!(ran.stderr.contains("SIGKILL"), "{}", ran.stderr);
}

#[test]
fn arguments_that_are_no_json_are_wrong_usage() {
    is_wrong_usage(&["call", "math:hypot", "abc"], &["not JSON", "'\"abc\"'"]);
    is_wrong_usage(&["call", "math:hypot", "{\"$byte\": 1}"], &["$bytes"]);
    is_wrong_usage(&["call", "math:hypot", "--kwargs", "[1]"], &["object"]);
}

#[test]
fn settings_that_cannot_be_are_wrong_usage() {
    is_wrong_usage(&["call", "math:hypot", "--workers", "0"], &["at least one"]);
    is_wrong_usage(&["demo", "--workers", "0"], &["at least one"]);
    is_wrong_usage(&["bench", "--workers", "0"], &["at least one"]);
    is_wrong_usage(&["bench", "--threads", "0"], &["--threads", "1..=1000"]);
    is_wrong_usage(
        &["call", "f", "--threads", "2", "--asyncio", "2"],
        &["cannot be used with"],
    );
    is_wrong_usage(&["call", "math:hypot", "--timeout", "soon"], &["5s"]);
    is_wrong_usage(&["call", "math:hypot", "--timeout", "0s"], &["longer"]);
    is_wrong_usage(&["call", "math:hypot", "--backend", "ports"], &["ports", "port"]);
    is_wrong_usage(
        &["call", "math:hypot", "--path", "/no/such/directory"],
        &["No such file"],
    );
    is_wrong_usage(&["call", "hypot"], &["MODULE:FUNCTION"]);
    is_wrong_usage(&["call", "math:"], &["MODULE:FUNCTION"]);
    is_wrong_usage(
        &["call", "math:hypot", "--with=--index-url=x"],
        &["not a package"],
    );
    is_wrong_usage(&["bench", "--payload", "1 furlong"], &["KiB"]);
    is_wrong_usage(&[], &["Usage"]);
}

#[cfg(feature = "backend-exec")]
#[test]
fn options_that_contradict_each_other_are_wrong_usage_before_anything_is_done() {
    for command in [&["call", "math:hypot"][..], &["bench"], &["demo"]] {
        let options = [
            "--backend",
            "port",
            "--containment",
            "namespace",
            "--python",
            "/no",
        ];
        is_wrong_usage(
            &[command, &options].concat(),
            &["--containment belongs to the exec backend"],
        );
    }
}

#[test]
fn ctrl_c_ends_a_call_and_its_worker() {
    let home = Home::new();
    let pid_file = home.dir().join("pid");
    home.module(
        "sleeper",
        "import os, time\ndef f(path):\n    with open(path + '.new', 'w') as file:\n        file.write(str(os.getpid()))\n    os.rename(path + '.new', path)\n    time.sleep(60)\n",
    );
    let path = serde_json::to_string(&pid_file).unwrap();
    let mut child = home
        .command(&["call", "sleeper:f", &path, "--path", home.path()])
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let worker = support::read_when_there(&pid_file);
    signal(child.id(), "INT");
    let status = wait_for(&mut child, Duration::from_secs(20));
    assert_eq!(status.code(), Some(1));
    assert!(!fs::exists(format!("/proc/{worker}")).unwrap());
}

#[test]
fn ctrl_c_twice_ends_what_does_not_listen_at_once() {
    let home = Home::new();
    let pid_file = home.dir().join("pid");
    home.module(
        "stubborn",
        "import os, time\n\
         def f(path):\n\
         \x20   with open(path + '.new', 'w') as file:\n\
         \x20       file.write(str(os.getpid()))\n\
         \x20   os.rename(path + '.new', path)\n\
         \x20   while True:\n\
         \x20       try:\n\
         \x20           time.sleep(60)\n\
         \x20       except BaseException:\n\
         \x20           pass\n",
    );
    let path = serde_json::to_string(&pid_file).unwrap();
    let mut child = home
        .command(&["call", "stubborn:f", &path, "--path", home.path()])
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let worker = support::read_when_there(&pid_file);
    signal(child.id(), "INT");
    let mut told = BufReader::new(child.stderr.take().unwrap());
    let mut line = String::new();
    told.read_line(&mut line).unwrap();
    assert!(line.contains("again"), "{line}");
    let second = Instant::now();
    signal(child.id(), "INT");
    let status = wait_for(&mut child, Duration::from_secs(20));
    assert_eq!(status.code(), Some(1));
    assert!(
        second.elapsed() < Duration::from_secs(2),
        "{:?}",
        second.elapsed()
    );
    assert!(!fs::exists(format!("/proc/{worker}")).unwrap());
}

#[test]
fn the_demo_shows_a_crash_and_leaves_nothing() {
    for (backend, before) in [
        ("port", "2 processes before, 0 after"),
        // Keepers and the guardian are there as well.
        #[cfg(feature = "backend-exec")]
        ("exec", " processes before, 0 after"),
    ] {
        let ran = Home::new().run(&["demo", "--workers", "2", "--backend", backend]);
        assert_eq!(ran.code, 0, "{}\n{}", ran.stdout, ran.stderr);
        for part in [
            "2 workers ready",
            "919",
            "1898",
            "killed by SIGKILL",
            "starter",
            ", 0 failed",
            before,
        ] {
            assert!(ran.stdout.contains(part), "{part} is not in: {}", ran.stdout);
        }
        assert!(ran.stderr.is_empty(), "{}", ran.stderr);
    }
}

#[test]
fn bench_prints_figures_that_fit_together() {
    let ran = Home::new().run(&[
        "bench",
        "--duration",
        "300ms",
        "--concurrency",
        "4",
        "--workers",
        "2",
        "--json",
    ]);
    assert_eq!(ran.code, 0, "{}", ran.stderr);
    let figures: serde_json::Value = serde_json::from_str(&ran.stdout).unwrap();
    let number = |pointer: &str| {
        figures
            .pointer(pointer)
            .and_then(serde_json::Value::as_f64)
            .unwrap()
    };
    assert!(number("/calls") > 10.0);
    assert!(number("/latency_us/p50") <= number("/latency_us/p99"));
    assert!(number("/latency_us/p99") <= number("/latency_us/max") * 1.02);
    assert!(number("/memory_per_worker_bytes") > 1e6);
    let rate = number("/calls") / number("/duration_s");
    assert!((rate / number("/calls_per_second") - 1.0).abs() < 0.01);
    let ran = Home::new().run(&["bench", "--duration", "0.1", "--payload", "64KiB"]);
    assert_eq!(ran.code, 0, "{}", ran.stderr);
    assert!(
        ran.stdout.contains("64.0 KiB") && ran.stdout.contains("p99"),
        "{}",
        ran.stdout
    );
}

#[test]
fn bench_measures_threads_and_tasks() {
    for (option, function) in [("threads", "builtins:bytes"), ("asyncio", "asyncio:sleep")] {
        let flag = format!("--{option}");
        let ran = Home::new().run(&[
            "bench",
            "--duration",
            "0.2",
            "--concurrency",
            "8",
            &flag,
            "8",
            "--json",
        ]);
        assert_eq!(ran.code, 0, "{}", ran.stderr);
        let figures: serde_json::Value = serde_json::from_str(&ran.stdout).unwrap();
        assert_eq!(figures[option], 8);
        assert_eq!(figures["function"], function);
        assert!(figures["calls"].as_u64() > Some(8), "{figures}");
    }
}

#[test]
fn call_runs_on_a_thread_or_as_a_task_when_told_to() {
    for (options, thread) in [
        (&["--threads", "2"][..], "snakepit-call-"),
        (&["--asyncio", "2"], "snakepit-call-"),
        (&[], "MainThread"),
    ] {
        let code = "__import__('threading').current_thread().name";
        let argument = format!("{code:?}");
        let arguments = [&["call", "builtins:eval", &argument], options].concat();
        let ran = Home::new().run(&arguments);
        assert_eq!(ran.code, 0, "{}", ran.stderr);
        assert!(ran.stdout.contains(thread), "{}", ran.stdout);
    }
}

#[test]
fn doctor_says_whether_a_pool_can_run() {
    let home = Home::new();
    let ran = home.run(&["doctor", "--json"]);
    let report: serde_json::Value = serde_json::from_str(&ran.stdout).unwrap();
    assert_eq!(
        (report["can_run"].as_bool(), ran.code),
        (Some(true), 0),
        "{}",
        ran.stdout
    );
    let findings = report["findings"].as_array().unwrap();
    let named = |name: &str| findings.iter().find(|finding| finding["name"] == name);
    for name in [
        "interpreter",
        "worker package",
        "pidfd",
        "cgroup v2",
        "PID namespace",
        "open files",
        "one call",
    ] {
        assert!(named(name).is_some(), "{name}");
    }
    #[cfg(feature = "backend-exec")]
    for level in ["namespace", "cgroup", "subreaper"] {
        let finding = findings
            .iter()
            .find(|finding| finding["section"] == "Exec backend" && finding["name"] == level);
        assert!(finding.is_some(), "{level}: {findings:?}");
    }
    // Whatever is weak or missing says what would help.
    for finding in findings {
        let is_wanting = finding["state"] == "weak" || finding["state"] == "missing";
        assert_eq!(is_wanting, finding.get("remedy").is_some(), "{finding}");
    }

    let ran = home.run(&["doctor", "--python", "/no/such/python"]);
    assert_eq!(ran.code, 1);
    assert!(
        ran.stdout.contains("/no/such/python") && ran.stdout.contains("No pool can run"),
        "{}",
        ran.stdout
    );
}

#[test]
fn a_cache_on_a_noexec_mount_is_passed_over_and_named_at_once_where_there_is_no_other() {
    let home = Home::new();
    fs::create_dir(home.dir().join("noexec")).unwrap();
    let noexec = home.dir().join("noexec");
    let noexec = noexec.to_str().unwrap();
    // In a mount namespace of its own, which ends with it.
    let run = |temp: &str| {
        let script = "mount -t tmpfs -o noexec,mode=700 none \"$1\" && shift && exec \"$@\"";
        let mut command = Command::new("unshare");
        command.args(["--map-root-user", "--mount", "sh", "-c", script, "sh", noexec]);
        command.args([env!("CARGO_BIN_EXE_snakepit"), "call", "math:sqrt", "9"]);
        command
            .env("XDG_CACHE_HOME", noexec)
            .env("HOME", noexec)
            .env("TMPDIR", temp);
        command.env("XDG_STATE_HOME", home.dir().join("state"));
        support::finish(&mut command)
    };
    let ran = run(noexec);
    if ran.stderr.contains("unshare:") || ran.stderr.contains("mount:") {
        eprintln!("SKIPPED: nothing can be mounted here: {}", ran.stderr);
        return;
    }
    assert_eq!((ran.stdout.as_str(), ran.code), ("", 1), "stderr: {}", ran.stderr);
    for told in ["no usable cache directory", noexec, "noexec"] {
        assert!(ran.stderr.contains(told), "{told} is not in: {}", ran.stderr);
    }
    // One of the further places serves.
    let ran = run(home.path());
    assert_eq!(
        (ran.stdout.trim_end(), ran.code),
        ("3.0", 0),
        "stderr: {}",
        ran.stderr
    );
}

#[test]
fn without_a_python_each_candidate_is_listed_with_why_not() {
    let home = Home::new();
    home.script("bin/python3", "echo snakepit-probe; echo version 3.9.18");
    home.file("bin/python3.12", "no program");
    home.script("bin/python3.13", "echo 'I am broken' >&2; exit 3");
    let mut command = home.command(&["call", "math:hypot", "3", "4"]);
    let ran = support::finish(
        command
            .env("PATH", home.dir().join("bin"))
            .env_remove("SNAKEPIT_PYTHON")
            .env_remove("VIRTUAL_ENV"),
    );
    assert_eq!(ran.code, 1);
    for part in [
        "python3 (PATH) is Python 3.9.18, too old: 3.11",
        "python3.12 (PATH) cannot be executed: Permission denied",
        "python3.13 (PATH) does not work",
        "I am broken",
        "SNAKEPIT_PYTHON",
    ] {
        assert!(ran.stderr.contains(part), "{part} is not in: {}", ran.stderr);
    }
}
