//! Calls of host functions, by a worker that may say anything.

use std::{
    collections::BTreeSet,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use snakepit_core::{
    host::HostFunctions,
    rpc::codec,
    worker::{DownReason, StartTurn, Worker, WorkerFactory as _},
};
use snakepit_proto::{
    MAX_HOST_MESSAGE, MAX_HOST_VALUE,
    v1::{
        ArgumentBlocks, Block, HostCall, HostRequest, HostResponse, host_error::Kind, host_request::Message,
        host_response::Outcome,
    },
};
use tokio::time::timeout;

use super::{
    LIMIT, SLOT,
    fake::{Fault, HostStream, Stage, lock},
    until,
};

/// Counts the calls of a function that never ends, and those that are over.
#[derive(Clone, Default)]
struct Hangs {
    begun: Arc<AtomicUsize>,
    over: Arc<AtomicUsize>,
}

impl Hangs {
    async fn until(&self, begun: usize, over: usize) {
        until(|| {
            (
                self.begun.load(Ordering::SeqCst),
                self.over.load(Ordering::SeqCst),
            ) == (begun, over)
        })
        .await;
    }
}

struct Over(Arc<AtomicUsize>);

impl Drop for Over {
    fn drop(&mut self) {
        self.0.fetch_add(1, Ordering::SeqCst);
    }
}

struct Scene {
    worker: Arc<dyn Worker>,
    stage: Arc<Stage>,
    stream: HostStream,
    hangs: Hangs,
}

impl Scene {
    async fn open() -> Self {
        let stage = Stage::with(&[]);
        let hangs = Hangs::default();
        let counts = hangs.clone();
        let functions = HostFunctions::new()
            .with_function("double", |(n,): (u32,)| async move { Ok::<_, String>(2 * n) })
            .with_function("hang", move |(): ()| {
                counts.begun.fetch_add(1, Ordering::SeqCst);
                let over = Over(Arc::clone(&counts.over));
                async move {
                    let _over = over;
                    std::future::pending::<Result<(), String>>().await
                }
            });
        let worker = stage
            .factory(|spec| spec.host_functions = functions)
            .start(SLOT, StartTurn::now())
            .await
            .unwrap();
        until(|| lock(&stage.host).is_some()).await;
        let stream = lock(&stage.host).take().unwrap();
        Self {
            worker,
            stage,
            stream,
            hangs,
        }
    }

    fn say(&self, message: Option<Message>) {
        self.stream.requests.send(Ok(HostRequest { message })).unwrap();
    }

    fn call(&self, call: HostCall) {
        self.say(Some(Message::Call(call)));
    }

    fn hang(&self, id: u64) {
        self.call(HostCall {
            id,
            function: "hang".into(),
            ..HostCall::default()
        });
    }

    async fn answer(&mut self) -> HostResponse {
        timeout(LIMIT, self.stream.responses.message())
            .await
            .unwrap()
            .unwrap()
            .unwrap()
    }

    async fn refusal(&mut self) -> (u64, Kind, String) {
        let HostResponse { id, outcome } = self.answer().await;
        match outcome.unwrap() {
            Outcome::Error(error) => (id, error.kind(), error.message),
            Outcome::Value(_) | Outcome::InArena(_) | Outcome::Input(_) => panic!("it was answered"),
        }
    }

    /// It still answers.
    async fn doubles(&mut self) {
        self.call(double(u64::MAX));
        let HostResponse { id, outcome } = self.answer().await;
        assert_eq!(id, u64::MAX);
        assert_eq!(outcome, Some(Outcome::Value(codec::encode(&42).unwrap())));
    }

    async fn end(self) {
        self.worker.end(Duration::ZERO, Duration::ZERO).await;
    }
}

fn double(id: u64) -> HostCall {
    HostCall {
        id,
        function: "double".into(),
        args: codec::encode(&(21,)).unwrap(),
        ..HostCall::default()
    }
}

/// The same, with an argument of so many bytes in shared memory.
fn double_of(len: u64) -> HostCall {
    let block = Block {
        number: 0,
        offset: 1 << 16,
        len,
    };
    HostCall {
        args: b"\x91\xd4\x0b\x00"[..].into(),
        blocks: Some(ArgumentBlocks {
            args: vec![block],
            kwargs: Vec::new(),
        }),
        ..double(2)
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_functions_are_named_before_they_can_be_called() {
    let mut scene = Scene::open().await;
    let handshake = lock(&scene.stage.handshake).take().unwrap();
    assert_eq!(handshake.host_functions, ["double", "hang"]);
    assert_eq!(handshake.host_calls, 64);
    scene.doubles().await;
    scene.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn no_stream_is_opened_where_there_is_nothing_to_call_or_nobody_who_can() {
    let functions = HostFunctions::new().with_function("f", |(): ()| async { Ok::<_, String>(()) });
    for (faults, functions) in [(vec![], HostFunctions::new()), (vec![Fault::Hostless], functions)] {
        let stage = Stage::with(&faults);
        let worker = stage
            .factory(|spec| spec.host_functions = functions)
            .start(SLOT, StartTurn::now())
            .await
            .unwrap();
        // A stream would have been opened before Ready was asked for, and this comes after it.
        worker.client().cancel(1).await.unwrap();
        assert!(lock(&stage.host).is_none());
        worker.end(Duration::ZERO, Duration::ZERO).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_call_that_cannot_be_made_is_an_error_and_the_next_is_whole() {
    let mut scene = Scene::open().await;
    scene.call(HostCall {
        id: 1,
        function: "triple".into(),
        ..HostCall::default()
    });
    assert_eq!(scene.refusal().await.1, Kind::UnknownFunction);
    for args in [&b"\xc1"[..], b"\x91", b"\x91\xa1x", b"\x92\x01\x02", b"\x01", b""] {
        scene.call(HostCall {
            args: args.into(),
            ..double(2)
        });
        assert_eq!(scene.refusal().await.1, Kind::BadArguments, "{args:x?}");
    }
    scene.call(HostCall {
        kwargs: b"\x81\xa1n\x01"[..].into(),
        ..double(3)
    });
    let (_, kind, message) = scene.refusal().await;
    assert!(
        kind == Kind::BadArguments && message.contains("arguments: n"),
        "{message}"
    );
    // A message of a later version.
    scene.say(None);
    // A cancel of what never was, or has ended.
    scene.say(Some(Message::Cancel(3)));
    scene.doubles().await;
    scene.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cancel_drops_the_future_and_is_not_answered() {
    let mut scene = Scene::open().await;
    scene.hang(1);
    scene.hang(2);
    scene.hangs.until(2, 0).await;
    scene.say(Some(Message::Cancel(1)));
    scene.hangs.until(2, 1).await;
    scene.doubles().await;
    scene.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_deadline_drops_the_future_and_is_answered() {
    let mut scene = Scene::open().await;
    // One that has passed already starts nothing.
    for (id, deadline_us) in [(1, 0), (2, 300_000)] {
        scene.call(HostCall {
            id,
            function: "hang".into(),
            deadline_us: Some(deadline_us),
            ..HostCall::default()
        });
        let (answered, kind, _) = scene.refusal().await;
        assert_eq!((answered, kind), (id, Kind::Deadline));
    }
    scene.hangs.until(1, 1).await;
    // A deadline that no clock can hold is none.
    scene.call(HostCall {
        deadline_us: Some(u64::MAX),
        ..double(3)
    });
    assert_eq!(scene.answer().await.id, 3);
    scene.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn more_calls_than_were_agreed_on_are_refused_until_there_is_room() {
    let mut scene = Scene::open().await;
    for id in 0..70 {
        scene.hang(id);
    }
    let mut refused = BTreeSet::new();
    for _ in 64..70 {
        let (id, kind, _) = scene.refusal().await;
        assert_eq!(kind, Kind::Busy);
        refused.insert(id);
    }
    assert_eq!(refused, (64..70).collect());
    scene.hangs.until(64, 0).await;
    // A cancel makes room at once, before its future is dropped.
    scene.say(Some(Message::Cancel(0)));
    scene.doubles().await;
    scene.hangs.until(64, 1).await;
    scene.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_worker_that_breaks_the_stream_is_condemned_and_its_calls_are_over() {
    let breaks: [fn(&Scene); 5] = [
        // One id twice.
        |scene| scene.hang(1),
        |scene| {
            let status = tonic::Status::internal("confused");
            scene.stream.requests.send(Err(status)).unwrap();
        },
        |scene| {
            scene.call(HostCall {
                args: vec![0; MAX_HOST_MESSAGE].into(),
                ..double(2)
            });
        },
        // Shared memory that this worker was never sent, and more of it than a call may have.
        |scene| scene.call(double_of(1)),
        |scene| scene.call(double_of(MAX_HOST_VALUE as u64 + 1)),
    ];
    for broken in breaks {
        let scene = Scene::open().await;
        scene.hang(1);
        scene.hangs.until(1, 0).await;
        broken(&scene);
        let down = timeout(LIMIT, scene.worker.down()).await.unwrap();
        assert!(
            matches!(&down.reason, DownReason::ChannelFailed { message } if message.contains("host calls")),
            "{down}"
        );
        scene.hangs.until(1, 1).await;
        scene.end().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_worker_that_ends_the_stream_in_order_serves_on() {
    let Scene {
        worker,
        stream,
        hangs,
        ..
    } = {
        let scene = Scene::open().await;
        scene.hang(1);
        scene.hangs.until(1, 0).await;
        scene
    };
    let HostStream {
        requests,
        mut responses,
    } = stream;
    drop(requests);
    hangs.until(1, 1).await;
    assert!(
        timeout(LIMIT, responses.message())
            .await
            .unwrap()
            .unwrap()
            .is_none()
    );
    assert!(timeout(Duration::from_millis(400), worker.down()).await.is_err());
    worker.end(Duration::ZERO, Duration::ZERO).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn calls_are_over_when_the_worker_is() {
    let scene = Scene::open().await;
    scene.hang(1);
    scene.hangs.until(1, 0).await;
    scene.worker.end(Duration::ZERO, Duration::ZERO).await;
    scene.hangs.until(1, 1).await;
}
