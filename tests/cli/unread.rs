//! Output that nobody reads holds up nothing else.

use std::{
    io::{BufRead as _, BufReader, Read as _},
    process::{Child, Stdio},
    thread,
    time::Duration,
};

use crate::support::{Home, signal, wait_for};

const LIMIT: Duration = Duration::from_secs(60);
/// A pipe is full by then.
const FULL: Duration = Duration::from_millis(500);

fn start(home: &Home, args: &[&str]) -> Child {
    let mut command = home.command(args);
    command.stdout(Stdio::piped()).stderr(Stdio::piped());
    command.spawn().unwrap()
}

/// Waits for the first of what will be too much.
fn until_it_comes<R: std::io::Read>(from: R) -> impl std::io::Read + use<R> {
    let mut reader = BufReader::with_capacity(16, from);
    reader.read_line(&mut String::new()).unwrap();
    thread::sleep(FULL);
    reader
}

fn told(child: &mut Child) -> String {
    let mut told = String::new();
    child.stderr.take().unwrap().read_to_string(&mut told).unwrap();
    told
}

#[test]
fn a_stream_that_nobody_reads_can_be_interrupted() {
    let home = Home::new();
    for name in ["INT", "TERM"] {
        let mut child = start(&home, &["call", "itertools:count", "--stream"]);
        let _unread = until_it_comes(child.stdout.take().unwrap());
        signal(child.id(), name);
        assert_eq!(wait_for(&mut child, LIMIT).code(), Some(1));
        let told = told(&mut child);
        assert!(
            told.contains("ending gracefully") && told.contains("error: interrupted"),
            "{told}"
        );
    }
}

#[test]
fn a_stream_that_nobody_reads_has_its_deadline() {
    let home = Home::new();
    let call = ["call", "itertools:count", "--stream", "--timeout", "1s"];
    let mut child = start(&home, &call);
    let _unread = until_it_comes(child.stdout.take().unwrap());
    assert_eq!(wait_for(&mut child, LIMIT).code(), Some(1));
    let told = told(&mut child);
    assert!(
        told.contains("deadline of 1s for itertools:count passed"),
        "{told}"
    );
}

/// A worker that writes to standard error for ever, to somebody who does not read.
fn noisy(home: &Home, timeout: &str) -> (Child, impl std::io::Read + Send + use<>) {
    home.module(
        "noisy",
        "import os\ndef spam():\n    while True:\n        os.write(2, b'noise ' * 20 + b'\\n')\n",
    );
    let call = ["call", "noisy:spam", "--path", home.path(), "--timeout", timeout];
    let mut child = start(home, &call);
    let unread = until_it_comes(child.stderr.take().unwrap());
    (child, unread)
}

#[test]
fn a_worker_whose_words_nobody_reads_can_be_interrupted() {
    let home = Home::new();
    let (mut child, _unread) = noisy(&home, "1h");
    signal(child.id(), "INT");
    assert_eq!(wait_for(&mut child, LIMIT).code(), Some(1));
}

#[test]
fn a_worker_whose_words_nobody_reads_has_its_deadline_and_that_is_told_when_somebody_does() {
    let home = Home::new();
    let (mut child, mut late) = noisy(&home, "1s");
    thread::sleep(Duration::from_secs(2));
    let reading = thread::spawn(move || {
        let mut text = Vec::new();
        late.read_to_end(&mut text).map(|_| text)
    });
    assert_eq!(wait_for(&mut child, LIMIT).code(), Some(1));
    let text = reading.join().unwrap().unwrap();
    let text = String::from_utf8_lossy(&text);
    for told in ["the deadline of 1s", "lines are left out here"] {
        assert!(text.contains(told), "{told} is not among {} bytes", text.len());
    }
}
