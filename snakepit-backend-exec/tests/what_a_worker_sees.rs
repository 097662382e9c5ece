//! Environment, descriptors, directory and group of a worker.

mod common;

use std::{io::Write, path::Path};

use common::{LONG, environment, launch, launch_spec, spec, values};
use snakepit_core::{
    launch::{ChannelForm, LaunchSpec, Launcher},
    process::ExitOutcome,
};

at_every_level!();

#[tokio::test]
async fn the_environment_is_the_hosts_with_changes_and_tags() {
    let base = spec("lists_environment.py");
    let launched = launch_spec(&LaunchSpec {
        env: vec![
            ("ADDED".into(), "1".into()),
            ("SNAKEPIT_WORKER_ID".into(), "forged".into()),
        ],
        env_remove: vec!["CARGO_MANIFEST_DIR".into()],
        ..base.clone()
    })
    .await;
    let seen = environment(&launched.lines);
    assert_eq!(seen["ADDED"], "1");
    assert_eq!(seen["PATH"], std::env::var("PATH").unwrap());
    assert!(!seen.contains_key("CARGO_MANIFEST_DIR"));
    assert_eq!(seen["SNAKEPIT_RUN_ID"], base.run_id.to_string());
    assert_eq!(seen["SNAKEPIT_WORKER_ID"], base.worker_id.0.to_string());
    assert_eq!(seen["SNAKEPIT_CHANNEL"], "fd:0");
}

#[tokio::test]
async fn the_working_directory_is_the_one_asked_for() {
    let launched = launch_spec(&LaunchSpec {
        cwd: Some("/usr".into()),
        ..spec("lists_environment.py")
    })
    .await;
    assert_eq!(values(&launched.lines, "cwd"), ["/usr"]);
}

#[tokio::test]
async fn it_leads_a_session_and_a_group_of_its_own() {
    let launched = launch("lists_environment.py").await;
    let ids: Vec<u32> = values(&launched.lines, "ids")[0]
        .split(' ')
        .map(|id| id.parse().unwrap())
        .collect();
    // Its own number, by which the host knows it only where there is no namespace between them.
    let own = ids[0];
    assert_eq!(ids, [own; 3]);
    assert!(own > 1, "it is no init");
    let identity = launched.process().identity();
    assert_eq!(identity.pgid, identity.pid);
    assert_eq!(own == identity.pid, !common::level_has_namespace());
}

#[tokio::test(flavor = "multi_thread")]
async fn it_has_three_descriptors_and_no_other_of_ours() {
    // Others are launched meanwhile, so that their pipes and channels are around to be leaked.
    let crowd: Vec<_> = (0..8).map(|_| tokio::spawn(launch("waits.py"))).collect();
    for _ in 0..4 {
        let launched = launch("lists_fds.py").await;
        let fds = values(&launched.lines, "fd");
        let others = fds.iter().filter_map(|line| line.split(' ').next()?.parse().ok());
        let others: Vec<u32> = others.filter(|fd| *fd > 2).collect();
        assert!(others.is_empty(), "{fds:?}");
        assert!(fds[0].starts_with("0 socket:"), "{fds:?}");
        assert!(
            fds[1].starts_with("1 pipe:") && fds[2].starts_with("2 pipe:"),
            "{fds:?}"
        );
    }
    for one in crowd {
        one.await.unwrap().process().end(LONG).await;
    }
}

#[tokio::test]
async fn other_forms_of_channel_leave_standard_input_empty() {
    let launched = launch_spec(&LaunchSpec {
        channel: ChannelForm::Unix("/run/x.sock".into()),
        ..spec("lists_fds.py")
    })
    .await;
    assert!(launched.io.channel.is_none());
    assert_eq!(values(&launched.lines, "fd")[0], "0 /dev/null");
}

#[tokio::test]
async fn the_channel_ends_when_the_host_drops_it() {
    let mut launched = launch("waits.py").await;
    let mut channel = launched.io.channel.take().unwrap();
    channel.write_all(b"still there").unwrap();
    assert_eq!(launched.process().try_exited(), None);
    drop(channel);
    assert_eq!(launched.process().exited().await, ExitOutcome::Exited(0));
    // The descriptors are handed out once.
    assert!(launched.process().take_io().channel.is_none());
}

#[tokio::test]
async fn a_relative_program_is_the_hosts_also_with_a_directory() {
    // Tests run in the directory of their crate.
    let program = Path::new("../tests/fixtures/waits.py");
    let launcher = snakepit_backend_exec::ExecLauncher::new(common::settings());
    let spec = LaunchSpec {
        program: program.into(),
        cwd: Some("/".into()),
        ..spec("waits.py")
    };
    let process = launcher.launch(&spec).await.unwrap();
    let error = process.open_gate().await.unwrap_err();
    process.end(LONG).await;
    // It is found, and is no executable file.
    let text = format!("{error:?}");
    assert!(text.contains("PermissionDenied"), "{text}");
}
