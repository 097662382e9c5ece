//! Many cycles cost no descriptor and no zombie. Alone in its file: it counts what the whole program has.

mod common;

use common::{LONG, launch};

fn descriptors() -> usize {
    std::fs::read_dir("/proc/self/fd").expect("/proc").count()
}

fn children() -> String {
    let mut all = String::new();
    for task in std::fs::read_dir("/proc/self/task").expect("/proc") {
        let path = task.expect("/proc").path().join("children");
        all.push_str(&std::fs::read_to_string(path).unwrap_or_default());
    }
    all
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_hundred_cycles_leave_no_descriptor_and_no_zombie() {
    launch("exits_fast.py 0").await.process().end(LONG).await;
    let before = descriptors();
    for n in 0..200 {
        let line = [
            "exits_fast.py 0",
            "waits.py",
            "setsid_daemon.py",
            "signals_itself.py 9",
        ][n % 4];
        let mut launched = launch(line).await;
        match n % 3 {
            0 => drop(launched.process().end(LONG).await),
            1 => {
                launched.process().signal(9).unwrap();
                launched.process().exited().await;
                launched.process().end(LONG).await;
            }
            _ => drop(launched.process.take()),
        }
    }
    // The tasks of dropped handles finish in the background.
    common::eventually("all is given back", || {
        descriptors() <= before && children().is_empty()
    })
    .await;
}
