//! Forked workers whose template has a cgroup: each has one below it, by which its end is exact.

use std::{path::PathBuf, sync::Arc};

use snakepit::{
    backend_exec::{ExecLauncher, ExecSettings},
    core::process::{ContainmentLevel, Pidfd, cgroup::Cgroup},
};
use snakepit_backend_zygote::ZygoteLauncher;

use crate::{
    common::{Undertaker, builder, is_gone, until},
    support::{pids, settings},
};

/// Launches below a guardian that has a cgroup for each process; `None`, and loudly, where no cgroup can be made.
async fn in_cgroups() -> Option<ExecLauncher> {
    let settings = ExecSettings::default().with_containment(ContainmentLevel::Cgroup);
    let launcher = ExecLauncher::new(settings);
    match launcher.ready().await {
        Ok(_) => Some(launcher),
        Err(error) => {
            eprintln!("SKIPPED: {error}");
            None
        }
    }
}

fn cgroup_of(pid: u32) -> PathBuf {
    Cgroup::of(pid).unwrap().unwrap().path().to_owned()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_workers_end_is_that_of_all_it_has_started_and_of_nobody_else() {
    let Some(exec) = in_cgroups().await else {
        return;
    };
    let launcher = ZygoteLauncher::new(Arc::new(exec), settings(&[]));
    let pool = builder()
        .workers(2)
        .launcher(Arc::new(launcher))
        .start()
        .await
        .unwrap();
    let mut undertaker = Undertaker::default();
    let before = pids(&pool).await;
    let cgroups: Vec<_> = before.iter().map(|pid| cgroup_of(*pid)).collect();
    let [first, second] = &cgroups[..] else {
        panic!("{cgroups:?}")
    };
    let template = first.parent().unwrap().to_owned();
    assert!(
        first != second && second.parent() == Some(&template),
        "{cgroups:?}"
    );

    // Without a variable, a group or a parent of its worker's.
    let (worker, hidden): (u32, u32) = pool.call("disguises:hide_child_of", ()).await.unwrap();
    undertaker.add(hidden);
    let its_own = cgroup_of(worker);
    assert_eq!(cgroup_of(hidden), its_own);
    Pidfd::open(worker).unwrap().signal(libc::SIGKILL).unwrap();
    until("the hidden child is ended", async || is_gone(hidden)).await;
    until("its cgroup is removed", async || !its_own.exists()).await;
    let mut after = before.clone();
    until("there is another worker", async || {
        after = pids(&pool).await;
        after.len() == 2 && !after.contains(&worker)
    })
    .await;
    assert_eq!(after.intersection(&before).count(), 1, "{before:?} {after:?}");
    pool.shutdown().await;
    until("the template's cgroup is removed", async || !template.exists()).await;
}
