//! The host against guardians that answer late, wrongly, or not at all.

use std::{
    io::{IoSlice, IoSliceMut},
    mem::MaybeUninit,
    os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd},
    process::{Command, Stdio},
    sync::Arc,
    time::Duration,
};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer, SendAncillaryMessage,
    SendFlags, recvmsg, sendmsg,
};
use snakepit_core::{
    RunId, WorkerId,
    launch::{LaunchError, LaunchLimits},
    process::{EndStep, ExitOutcome, Pidfd},
};
use tokio::time::timeout;

use super::{
    Lease,
    start::{Fresh, greet},
};
use crate::{
    cgroups::RunCgroup,
    containment::GuardianError,
    engine::Engine,
    launcher::null,
    link,
    proc::Proc,
    request::Program,
    settings::ExecSettings,
    wire::{Event, LEN, Level, MAX_FDS, Message, Request, SPAWN_CGROUP, Step, VERSION},
};

const LONG: Duration = Duration::from_secs(60);

/// A guardian that says what the test has it say. Its process only waits.
struct Fake {
    socket: OwnedFd,
}

/// It reads from a pipe that closes with this process: a runtime that is dropped leaves its guardian to the end of the
/// socket, which this one does not hear.
fn waiting() -> std::process::Child {
    let mut command = Command::new("cat");
    command
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::null());
    let mut child = command.spawn().unwrap();
    std::mem::forget(child.stdin.take());
    child
}

impl Fake {
    fn new() -> (Self, Fresh) {
        let (ours, theirs) = link::pair().unwrap();
        let child = waiting();
        let fresh = Fresh {
            child: Some(child),
            socket: Some(ours),
            cgroup: None,
        };
        (Self { socket: theirs }, fresh)
    }

    fn say(&self, event: Message<Event>, fds: &[BorrowedFd<'_>]) {
        self.say_bytes(&event.encode(), fds);
    }

    fn say_bytes(&self, bytes: &[u8], fds: &[BorrowedFd<'_>]) {
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MAX_FDS))];
        let mut control = SendAncillaryBuffer::new(&mut space);
        if !fds.is_empty() {
            assert!(control.push(SendAncillaryMessage::ScmRights(fds)));
        }
        sendmsg(
            &self.socket,
            &[IoSlice::new(bytes)],
            &mut control,
            SendFlags::NOSIGNAL,
        )
        .unwrap();
    }

    /// What the host says next; `None` at the end.
    fn hear(&self) -> Option<(Message<Request>, Vec<OwnedFd>)> {
        let mut bytes = [0; LEN + 1];
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MAX_FDS))];
        let mut control = RecvAncillaryBuffer::new(&mut space);
        let heard = recvmsg(
            &self.socket,
            &mut [IoSliceMut::new(&mut bytes)],
            &mut control,
            RecvFlags::CMSG_CLOEXEC,
        )
        .unwrap();
        let mut fds = Vec::new();
        for message in control.drain() {
            if let RecvAncillaryMessage::ScmRights(sent) = message {
                fds.extend(sent);
            }
        }
        (heard.bytes > 0).then(|| (Message::decode(&bytes[..heard.bytes]).unwrap(), fds))
    }

    /// The next thing other than a ping, which it answers.
    fn hear_answering_pings(&self) -> Option<(Message<Request>, Vec<OwnedFd>)> {
        loop {
            let (message, fds) = self.hear()?;
            if message.kind != Request::Ping {
                return Some((message, fds));
            }
            self.say(Message::new(Event::Pong, 0).with(message.a, 0, 0), &[]);
        }
    }

    fn welcome(&self) {
        let (hello, fds) = self.hear().unwrap();
        assert_eq!((hello.kind, hello.a), (Request::Hello, i64::from(VERSION)));
        // The host's pidfd is the host's.
        let host = Pidfd::from_fd(fds.into_iter().next().unwrap()).unwrap();
        assert_eq!(host.pid(), std::process::id());
        self.say(
            Message::new(Event::Welcome, 0).with(i64::from(VERSION), hello.b, 0),
            &[],
        );
    }
}

/// Greets a guardian that behaves as given, on a thread of its own.
async fn greeted(
    settings: &ExecSettings,
    act: impl FnOnce(Fake) + Send + 'static,
) -> Result<Arc<Lease>, GuardianError> {
    let (fake, fresh) = Fake::new();
    std::thread::spawn(move || act(fake));
    timeout(LONG, greet(fresh, Level::Subreaper, settings))
        .await
        .expect("no wait is unbounded")
}

fn settings() -> ExecSettings {
    ExecSettings::default()
}

fn impatient() -> ExecSettings {
    settings().with_request_deadline(Duration::from_millis(50))
}

fn program() -> Program {
    Program {
        name: "prog".into(),
        path: "/bin/prog".into(),
        argv: vec!["prog".into()],
        environment: [("A".into(), "b".into())].into(),
        cwd: None,
        limits: LaunchLimits::default(),
        run_id: RunId::current(),
        worker_id: WorkerId::next(),
    }
}

async fn spawn(settings: ExecSettings, lease: &Arc<Lease>) -> Result<Proc, LaunchError> {
    let standard = [(); 3].map(|()| Arc::new(null().unwrap()));
    let engine = Engine::with_guardian(settings, Arc::clone(lease));
    timeout(LONG, engine.spawn(program(), standard))
        .await
        .expect("no wait is unbounded")
}

/// A real process to pass off as a worker or a keeper.
struct Sleeper(std::process::Child, Pidfd);

impl Sleeper {
    fn new() -> Self {
        let child = waiting();
        let pidfd = Pidfd::open(child.id()).unwrap();
        Self(child, pidfd)
    }
}

impl Drop for Sleeper {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_guardian_that_refuses_is_believed() {
    let error = greeted(&settings(), |fake| {
        fake.hear();
        let refused = Message::new(Event::Refused, 0);
        fake.say(
            refused.with(Step::MountProc as i64, i64::from(libc::EPERM), 0),
            &[],
        );
    })
    .await
    .unwrap_err();
    assert_eq!(error.to_string(), "the guardian cannot mount a fresh /proc");
    let GuardianError::Refused { source, .. } = error else {
        panic!("{error:?}");
    };
    assert_eq!(source.raw_os_error(), Some(libc::EPERM));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_guardian_that_is_silent_or_leaves_or_talks_nonsense_is_none() {
    let silent = greeted(&impatient(), |fake| while fake.hear().is_some() {}).await;
    assert!(matches!(silent, Err(GuardianError::Silent(_))), "{silent:?}");
    let gone = greeted(&settings(), drop).await;
    assert!(matches!(gone, Err(GuardianError::Ended { .. })), "{gone:?}");
    let acts: [fn(Fake); 4] = [
        |fake| fake.say_bytes(b"hello", &[]),
        |fake| fake.say_bytes(&[7; LEN + 9], &[]),
        |fake| fake.say(Message::new(Event::Pong, 0), &[]),
        // Another version, and another level.
        |fake| fake.say(Message::new(Event::Welcome, 0).with(99, 1, 0), &[]),
    ];
    for act in acts {
        let answer = greeted(&settings(), move |fake| {
            act(Fake {
                socket: fake.socket.try_clone().unwrap(),
            });
            while fake.hear().is_some() {}
        })
        .await;
        assert!(matches!(answer, Err(GuardianError::Protocol)), "{answer:?}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_last_words_of_a_guardian_that_ends_at_once_are_told() {
    let (fake, mut fresh) = Fake::new();
    drop(Fresh {
        child: fresh.child.take(),
        socket: None,
        cgroup: None,
    });
    let mut command = Command::new("sh");
    command.args(["-c", "echo no such library >&2; exec cat"]);
    command.stdin(Stdio::piped()).stderr(Stdio::piped());
    let child = command.spawn().unwrap();
    let child = fresh.child.insert(child);
    let mut polls = [PollFd::new(child.stderr.as_ref().unwrap(), PollFlags::IN)];
    let patience = Timespec::try_from(LONG).unwrap();
    assert_eq!(poll(&mut polls, Some(&patience)).unwrap(), 1);
    drop(fake);
    let error = greet(fresh, Level::Subreaper, &settings()).await.unwrap_err();
    assert_eq!(
        error.to_string(),
        "the guardian ended before it was ready: no such library"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_launch_that_comes_too_late_leaves_no_cgroup() {
    let (fake, mut fresh) = Fake::new();
    let run = match RunCgroup::create(None, RunId::random()) {
        Ok(run) => run,
        Err(error) => return eprintln!("SKIPPED: no cgroup can be made here: {error}"),
    };
    let directory = run.directory().unwrap();
    fresh.cgroup = Some(run);
    std::thread::spawn(move || {
        fake.welcome();
        while fake.hear_answering_pings().is_some() {}
    });
    let lease = greet(fresh, Level::Cgroup, &settings()).await.unwrap();
    // It was about to leave when it was asked for one more.
    lease.tasks().closed = true;
    spawn(settings(), &lease).await.unwrap_err();
    let entries = std::fs::read_dir(format!("/proc/self/fd/{}", directory.as_raw_fd())).unwrap();
    let left = entries.filter(|entry| entry.as_ref().unwrap().file_type().unwrap().is_dir());
    assert_eq!(left.count(), 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_greeting_that_is_dropped_leaves_no_process() {
    let (fake, fresh) = Fake::new();
    let pidfd = Pidfd::open(fresh.child.as_ref().unwrap().id()).unwrap();
    let settings = settings();
    let greeting = greet(fresh, Level::Subreaper, &settings);
    let greeting = timeout(Duration::from_millis(10), greeting);
    assert!(greeting.await.is_err());
    assert!(pidfd.has_exited());
    drop(fake);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_guardian_that_stops_answering_is_killed() {
    let settings = settings()
        .with_ping_interval(Duration::from_millis(5))
        .with_stuck_after(Duration::from_millis(50));
    let lease = greeted(&settings, |fake| {
        fake.welcome();
        for _ in 0..20 {
            let (ping, _) = fake.hear().unwrap();
            assert_eq!(ping.kind, Request::Ping);
            fake.say(Message::new(Event::Pong, 0).with(ping.a, 0, 0), &[]);
        }
        while fake.hear().is_some() {}
    })
    .await
    .unwrap();
    timeout(LONG, lease.dead()).await.unwrap();
    assert!(lease.pidfd().has_exited());
    assert!(!lease.add(Arc::new(crate::task::Task::new(
        1,
        snakepit_core::process::sweep::SweepTarget::Run(RunId::random()),
        None
    ))));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_guardian_that_talks_nonsense_later_is_killed() {
    let lease = greeted(&settings(), |fake| {
        fake.welcome();
        fake.say_bytes(b"?", &[]);
        while fake.hear().is_some() {}
    })
    .await
    .unwrap();
    timeout(LONG, lease.dead()).await.unwrap();
    assert!(lease.pidfd().has_exited());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn with_the_last_lease_it_is_told_to_leave() {
    let (left, leaves) = std::sync::mpsc::channel();
    let lease = greeted(&settings(), move |fake| {
        fake.welcome();
        assert!(fake.hear_answering_pings().is_none());
        left.send(()).unwrap();
    })
    .await
    .unwrap();
    let pidfd = Arc::clone(lease.pidfd());
    assert!(leaves.try_recv().is_err());
    drop(lease);
    leaves.recv_timeout(LONG).unwrap();
    // Its process only sleeps, and does not leave.
    pidfd.signal(libc::SIGKILL).unwrap();
    timeout(LONG, pidfd.exited()).await.unwrap().unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_finds_no_room_is_sent_in_order_when_there_is() {
    const MANY: i64 = 5000;
    let (start, started) = std::sync::mpsc::channel::<()>();
    let (done, finished) = tokio::sync::oneshot::channel();
    let lease = greeted(&settings(), move |fake| {
        fake.welcome();
        started.recv().unwrap();
        let mut next = 0;
        while next < MANY {
            let (message, _) = fake.hear_answering_pings().unwrap();
            assert_eq!(message.a, next);
            next += 1;
        }
        done.send(()).unwrap();
        while fake.hear().is_some() {}
    })
    .await
    .unwrap();
    for n in 0..MANY {
        lease.post(Message::new(Request::Signal, 1).with(n, 0, 0));
    }
    start.send(()).unwrap();
    timeout(LONG, finished).await.unwrap().unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_launch_that_is_refused_says_by_what() {
    let lease = greeted(&settings(), |fake| {
        fake.welcome();
        let (spawn, fds) = fake.hear_answering_pings().unwrap();
        assert_eq!(
            (spawn.kind, spawn.a & SPAWN_CGROUP, fds.len()),
            (Request::Spawn, 0, 4)
        );
        let failed = Message::new(Event::SpawnFailed, spawn.id);
        fake.say(failed.with(Step::Nice as i64, i64::from(libc::EACCES), 0), &[]);
        while fake.hear().is_some() {}
    })
    .await
    .unwrap();
    let error = spawn(settings(), &lease).await.unwrap_err();
    assert_eq!(
        error.to_string(),
        "cannot set nice: the host is not privileged to; leave it unset or run the host as root"
    );
    let forgotten = async {
        while !lease.all_tasks().is_empty() {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    };
    timeout(LONG, forgotten).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_launch_that_takes_too_long_fails_alone() {
    let (told, stopped) = std::sync::mpsc::channel();
    let settings = impatient();
    let lease = greeted(&settings, move |fake| {
        fake.welcome();
        let (spawn, _) = fake.hear_answering_pings().unwrap();
        let (stop, _) = fake.hear_answering_pings().unwrap();
        assert_eq!((stop.kind, stop.id, stop.a), (Request::Stop, spawn.id, 0));
        told.send(()).unwrap();
        while fake.hear_answering_pings().is_some() {}
    })
    .await
    .unwrap();
    let error = spawn(settings, &lease).await.unwrap_err();
    assert!(
        matches!(&error, LaunchError::Os { source, .. } if source.kind() == std::io::ErrorKind::TimedOut),
        "{error:?}"
    );
    stopped.recv_timeout(LONG).unwrap();
    assert!(lease.is_alive());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_guardian_that_hangs_in_a_launch_is_killed_then() {
    let settings = impatient().with_stuck_after(LONG);
    let lease = greeted(&settings, move |fake| {
        fake.welcome();
        while fake.hear().is_some() {}
    })
    .await
    .unwrap();
    // The next one would be a real guardian, or an error where there is none.
    let _ = spawn(settings, &lease).await;
    assert!(!lease.is_alive() && lease.pidfd().has_exited());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn descriptors_that_did_not_arrive_fail_the_launch_and_end_the_process() {
    let (told, stopped) = std::sync::mpsc::channel();
    let lease = greeted(&settings(), move |fake| {
        fake.welcome();
        let (spawn, _) = fake.hear_answering_pings().unwrap();
        fake.say(Message::new(Event::Held, spawn.id), &[]);
        let (stop, _) = fake.hear_answering_pings().unwrap();
        told.send((stop.kind, stop.id == spawn.id)).unwrap();
        while fake.hear_answering_pings().is_some() {}
    })
    .await
    .unwrap();
    let error = spawn(settings(), &lease).await.unwrap_err();
    assert!(
        matches!(&error, LaunchError::Os { source, .. } if source.raw_os_error() == Some(libc::EMFILE)),
        "{error:?}"
    );
    assert_eq!(stopped.recv_timeout(LONG).unwrap(), (Request::Stop, true));
}

/// A guardian whose worker and keeper are sleepers, up to the open gate; then it goes on as given.
async fn started(
    settings: &ExecSettings,
    then: impl FnOnce(&Fake, u64, &mut Sleeper, &mut Sleeper) + Send + 'static,
) -> Proc {
    let lease = greeted(settings, move |fake| {
        let (mut worker, mut keeper) = (Sleeper::new(), Sleeper::new());
        fake.welcome();
        let (spawn, _) = fake.hear_answering_pings().unwrap();
        let held = Message::new(Event::Held, spawn.id);
        let kept = Message::new(Event::Kept, spawn.id);
        fake.say(kept, &[keeper.1.as_fd(), worker.1.as_fd()]);
        fake.say(held, &[]);
        let (go, _) = fake.hear_answering_pings().unwrap();
        assert_eq!((go.kind, go.id), (Request::Go, spawn.id));
        fake.say(Message::new(Event::Started, spawn.id), &[]);
        then(&fake, spawn.id, &mut worker, &mut keeper);
    })
    .await
    .unwrap();
    let proc = spawn(settings.clone(), &lease).await.unwrap();
    proc.open_gate().await.unwrap();
    proc
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_end_is_what_the_guardian_says_it_took() {
    let proc = started(&settings(), |fake, id, worker, _| {
        let (stop, _) = fake.hear_answering_pings().unwrap();
        // Rounded up: zero would be no grace at all.
        assert_eq!((stop.kind, stop.id, stop.a, stop.b), (Request::Stop, id, 1, 0));
        worker.0.kill().unwrap();
        worker.0.wait().unwrap();
        fake.say(Message::new(Event::Exited, id).with(15, 0, 0), &[]);
        fake.say(Message::new(Event::Ended, id).with(1, 2, 0), &[]);
        while fake.hear_answering_pings().is_some() {}
    })
    .await;
    let report = proc.end(Duration::from_nanos(1)).await;
    assert_eq!((report.step, report.swept), (EndStep::Term, 2));
    let outcome = ExitOutcome::Signaled {
        signal: 15,
        core_dumped: false,
    };
    assert_eq!((report.outcome, proc.try_exited()), (outcome, Some(outcome)));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_guardian_that_dies_leaves_its_processes_to_the_host() {
    // Neither the keeper nor the worker notices, as both only sleep.
    let proc = started(&settings(), |_, _, worker, keeper| {
        let reaped = [worker.0.wait().unwrap(), keeper.0.wait().unwrap()];
        assert!(reaped.iter().all(|status| !status.success()));
    })
    .await;
    let worker = proc.identity().clone();
    proc.lease().pidfd().signal(libc::SIGKILL).unwrap();
    let exited = timeout(LONG, proc.exited()).await.unwrap();
    assert!(
        matches!(
            exited,
            ExitOutcome::Signaled { signal: 9, .. } | ExitOutcome::Unknown
        ),
        "{exited}"
    );
    let report = timeout(LONG, proc.end(LONG)).await.unwrap();
    assert!(report.is_complete(), "{report:?}");
    assert_eq!(report.step, EndStep::Kill);
    assert!(!worker.is_alive().unwrap());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_guardian_that_hangs_in_an_end_is_found_out_by_its_deadline() {
    let settings = settings().with_stuck_after(LONG);
    let proc = started(&settings, |fake, _, worker, keeper| {
        let (stop, _) = fake.hear_answering_pings().unwrap();
        assert_eq!(stop.kind, Request::Stop);
        // Nothing more is said.
        worker.0.wait().unwrap();
        keeper.0.wait().unwrap();
    })
    .await;
    let report = timeout(LONG, proc.end(Duration::ZERO)).await.unwrap();
    assert!(report.is_complete(), "{report:?}");
    assert!(!proc.lease().is_alive());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_end_that_takes_too_long_names_what_is_left() {
    let (finish, finished) = std::sync::mpsc::channel::<()>();
    let proc = started(&settings(), move |fake, id, worker, _| {
        // It answers, and ends nothing.
        while finished.recv_timeout(Duration::from_millis(1)).is_err() {
            let mut ready = [PollFd::new(&fake.socket, PollFlags::IN)];
            if poll(&mut ready, Some(&Timespec::default())).unwrap() > 0 {
                let Some((message, _)) = fake.hear() else { return };
                if message.kind == Request::Ping {
                    fake.say(Message::new(Event::Pong, 0).with(message.a, 0, 0), &[]);
                }
            }
        }
        worker.0.kill().unwrap();
        worker.0.wait().unwrap();
        fake.say(Message::new(Event::Exited, id).with(9, 0, 0), &[]);
        fake.say(Message::new(Event::Ended, id).with(2, 0, 0), &[]);
        while fake.hear_answering_pings().is_some() {}
    })
    .await;
    let report = timeout(LONG, proc.end(Duration::ZERO)).await.unwrap();
    assert_eq!(report.step, EndStep::Incomplete);
    assert_eq!(report.remaining, [proc.identity().clone()]);
    // Later it has ended after all, and that is what is true from then on.
    finish.send(()).unwrap();
    let ended = async {
        while !proc.end(LONG).await.is_complete() {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    };
    timeout(LONG, ended).await.unwrap();
}
