//! What is done to a pool, at random.

use std::{fmt, time::Duration};

use proptest::{collection::vec, prelude::*};
use snakepit_core::{pool::Overflow, testing::FakeStart};

/// How a pool is set up.
#[derive(Clone, Debug)]
pub(crate) struct Setup {
    pub(crate) min: usize,
    pub(crate) max: usize,
    pub(crate) concurrency: usize,
    pub(crate) queue_limit: Option<usize>,
    pub(crate) overflow: Overflow,
    /// How many calls of the limited function may run.
    pub(crate) limited: usize,
    pub(crate) attempts: u32,
    pub(crate) max_calls: Option<u64>,
    /// How long a worker takes to end.
    pub(crate) end_takes: Duration,
}

/// A call, as its caller makes it.
#[derive(Clone, Debug)]
pub(crate) struct Spec {
    pub(crate) stream: bool,
    pub(crate) priority: i32,
    pub(crate) deadline: Option<Duration>,
    pub(crate) queue_timeout: Option<Duration>,
    pub(crate) run_timeout: Option<Duration>,
    pub(crate) idempotent: bool,
    /// It calls the limited function.
    pub(crate) limited: bool,
    /// It goes on when it is cancelled.
    pub(crate) deaf: bool,
    /// Items that a stream's producer may be ahead.
    pub(crate) credit: u32,
}

/// Chooses among those that there are, by its remainder.
pub(crate) type Pick = u8;

/// What is done.
#[derive(Clone, Debug)]
pub(crate) enum Op {
    Call(Spec),
    /// A stream's caller wants so many items more, or its end.
    Take(Pick, u8),
    /// A caller leaves.
    Leave(Pick),
    /// A running call is answered; of a stream, that is its end.
    Answer(Pick),
    /// A running call raises.
    Fail(Pick),
    /// A running call turns out to have come to a worker that is leaving.
    Refuse(Pick),
    /// The connection of a running call fails, and its worker lives on.
    Break(Pick),
    /// A running stream yields so many items.
    Yield(Pick, u8),
    Kill(Pick),
    Condemn(Pick),
    NextStarts(Vec<FakeStart>),
    Pause,
    Resume,
    Drain,
    Resize(usize, usize),
    Restart,
    Pass(Duration),
}

/// How it ends.
#[derive(Clone, Copy, Debug)]
pub(crate) enum End {
    /// All that was accepted is served first.
    InOrder,
    Shutdown,
    Kill,
}

fn ms(range: std::ops::Range<u64>) -> impl Strategy<Value = Duration> {
    range.prop_map(Duration::from_millis)
}

fn setup() -> impl Strategy<Value = Setup> {
    let size = (0..=3_usize, 1..=3_usize, any::<bool>());
    let queue = (
        prop_oneof![1 => Just(None), 4 => (0..=4_usize).prop_map(Some)],
        prop_oneof![2 => Just(Overflow::Refuse), 1 => Just(Overflow::DropOldest)],
    );
    let rest = (
        prop_oneof![2 => Just(1_usize), 1 => Just(2)],
        1..=2_usize,
        1..=3_u32,
        prop_oneof![3 => Just(None), 1 => (1..=3_u64).prop_map(Some)],
        prop_oneof![Just(Duration::ZERO), Just(Duration::from_millis(40))],
    );
    (size, queue, rest).prop_map(|((min, max, fixed), (queue_limit, overflow), rest)| {
        let (concurrency, limited, attempts, max_calls, end_takes) = rest;
        Setup {
            min: if fixed { max } else { min.min(max) },
            max,
            concurrency,
            queue_limit,
            overflow,
            limited,
            attempts,
            max_calls,
            end_takes,
        }
    })
}

fn spec() -> impl Strategy<Value = Spec> {
    let budget =
        || prop_oneof![4 => Just(None), 1 => ms(1..100).prop_map(Some), 1 => ms(100..5_000).prop_map(Some)];
    let waits = prop_oneof![9 => budget(), 1 => Just(Some(Duration::ZERO))];
    let flags = (
        prop::bool::weighted(0.2),
        prop::bool::weighted(0.3),
        prop::bool::weighted(0.2),
        prop::bool::weighted(0.15),
    );
    (-1..=1_i32, waits.clone(), waits, budget(), flags, 1..4_u32).prop_map(
        |(priority, deadline, queue_timeout, run_timeout, flags, credit)| {
            let (stream, idempotent, limited, deaf) = flags;
            Spec {
                stream,
                priority,
                deadline,
                queue_timeout,
                run_timeout,
                idempotent,
                limited,
                deaf: deaf && !stream,
                credit,
            }
        },
    )
}

fn start() -> impl Strategy<Value = FakeStart> {
    prop_oneof![
        1 => ms(0..500).prop_map(FakeStart::Ready),
        2 => ms(0..300).prop_map(|after| FakeStart::Fails(after, "no".to_owned())),
    ]
}

fn op() -> impl Strategy<Value = Op> {
    let pick = any::<Pick>;
    let few = || 1..5_u8;
    prop_oneof![
        12 => spec().prop_map(Op::Call),
        3 => (pick(), few()).prop_map(|(pick, few)| Op::Take(pick, few)),
        3 => pick().prop_map(Op::Leave),
        8 => pick().prop_map(Op::Answer),
        2 => pick().prop_map(Op::Fail),
        1 => pick().prop_map(Op::Refuse),
        1 => pick().prop_map(Op::Break),
        3 => (pick(), few()).prop_map(|(pick, few)| Op::Yield(pick, few)),
        3 => pick().prop_map(Op::Kill),
        1 => pick().prop_map(Op::Condemn),
        1 => vec(start(), 1..6).prop_map(Op::NextStarts),
        1 => Just(Op::Pause),
        2 => Just(Op::Resume),
        1 => Just(Op::Drain),
        1 => (0..=3_usize, 1..=3_usize).prop_map(|(min, max)| Op::Resize(min.min(max), max)),
        1 => Just(Op::Restart),
        4 => prop_oneof![3 => ms(1..100), 2 => ms(100..5_000), 1 => ms(5_000..120_000)].prop_map(Op::Pass),
    ]
}

/// A play: how the pool is set up, what is done to it, and how it ends.
#[derive(Clone)]
pub(crate) struct Play {
    pub(crate) setup: Setup,
    pub(crate) ops: Vec<Op>,
    pub(crate) end: End,
}

impl fmt::Debug for Play {
    /// A line for each operation.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{:?}", self.setup)?;
        for op in &self.ops {
            writeln!(f, "    {op:?}")?;
        }
        write!(f, "    end: {:?}", self.end)
    }
}

pub(crate) fn play() -> impl Strategy<Value = Play> {
    let end = prop_oneof![2 => Just(End::InOrder), 1 => Just(End::Shutdown), 1 => Just(End::Kill)];
    let play = (setup(), vec(op(), 1..80), end);
    play.prop_map(|(setup, ops, end)| Play { setup, ops, end })
}
