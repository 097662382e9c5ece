//! Two futures of one task.

use std::{
    convert::Infallible,
    pin::Pin,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU8, Ordering},
    },
    task::{Context, Poll, Wake, Waker},
};

/// The first of them is to be polled.
const LEADER: u8 = 1;
/// The second one is.
const FOLLOWER: u8 = 2;
/// The task is at it, and sees what else is to be polled before it leaves.
const UNDERWAY: u8 = 4;

/// Rounds of one turn. A future that wakes itself for ever gets its next turn from the scheduler.
const ROUNDS: usize = 4;

/// A future and another one that lives on what the first has brought, in one task.
///
/// Each is polled when it is woken, and not when the other is. Where they wake each other, that is seen to in the same turn: a
/// task that is woken while it runs is put back into tokio's queue, and for that an idle thread is woken, which
/// finds nothing to do and takes a core for it.
///
/// Ends with the first one, after a last look at the second. Dropped, both are.
pub(super) struct Tandem<L, F> {
    leader: Pin<Box<L>>,
    follower: Pin<Box<F>>,
    due: Arc<Due>,
    wakers: [Waker; 2],
}

impl<L: Future, F: Future<Output = Infallible>> Tandem<L, F> {
    pub(super) fn new(leader: L, follower: F) -> Self {
        let due = Arc::new(Due {
            what: AtomicU8::new(LEADER | FOLLOWER),
            task: Mutex::new(Waker::noop().clone()),
        });
        let waker = |what| {
            let due = Arc::clone(&due);
            Waker::from(Arc::new(Part { what, due }))
        };
        Self {
            wakers: [waker(LEADER), waker(FOLLOWER)],
            leader: Box::pin(leader),
            follower: Box::pin(follower),
            due,
        }
    }
}

impl<L: Future, F: Future<Output = Infallible>> Future for Tandem<L, F> {
    type Output = L::Output;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<L::Output> {
        let this = &mut *self;
        this.due.serve(cx.waker());
        let [mut leader, mut follower] = this.wakers.each_ref().map(Context::from_waker);
        for _ in 0..ROUNDS {
            let mut due = this.due.take();
            if due & LEADER != 0 {
                let ended = this.leader.as_mut().poll(&mut leader);
                if ended.is_ready() {
                    let _never = this.follower.as_mut().poll(&mut follower);
                    return ended;
                }
                // What it has brought is seen to at once.
                due |= this.due.what.fetch_and(!FOLLOWER, Ordering::AcqRel);
            }
            if due & FOLLOWER != 0 {
                let _never = this.follower.as_mut().poll(&mut follower);
            }
            if this.due.leave() {
                return Poll::Pending;
            }
        }
        this.due.what.fetch_and(!UNDERWAY, Ordering::AcqRel);
        cx.waker().wake_by_ref();
        Poll::Pending
    }
}

/// What is to be polled.
struct Due {
    what: AtomicU8,
    task: Mutex<Waker>,
}

impl Due {
    /// Who is to be woken between turns.
    fn serve(&self, task: &Waker) {
        let mut known = self.task.lock().unwrap_or_else(PoisonError::into_inner);
        if !known.will_wake(task) {
            known.clone_from(task);
        }
    }

    /// What there is to do now. From here on a wake is for the next round.
    fn take(&self) -> u8 {
        self.what.swap(UNDERWAY, Ordering::AcqRel)
    }

    /// Whether nothing is left to do; wakes are for the task again then.
    fn leave(&self) -> bool {
        self.what
            .compare_exchange(UNDERWAY, 0, Ordering::AcqRel, Ordering::Acquire)
            .is_ok()
    }
}

/// The waker of one of the two.
struct Part {
    what: u8,
    due: Arc<Due>,
}

impl Wake for Part {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        let before = self.due.what.fetch_or(self.what, Ordering::AcqRel);
        // Where something was to be done already, the task knows.
        if before == 0 {
            let task = self.due.task.lock().unwrap_or_else(PoisonError::into_inner);
            task.wake_by_ref();
        }
    }
}

#[cfg(test)]
mod tests {
    use std::{
        future::{pending, poll_fn},
        sync::atomic::AtomicUsize,
    };

    use super::*;

    #[derive(Default)]
    struct Counted(AtomicUsize);

    impl Wake for Counted {
        fn wake(self: Arc<Self>) {
            self.0.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Counts polls, and keeps the waker of the last one.
    #[derive(Default)]
    struct Seen {
        polls: AtomicUsize,
        waker: Mutex<Option<Waker>>,
    }

    impl Seen {
        fn polled(&self, cx: &Context<'_>) -> usize {
            *self.waker.lock().unwrap() = Some(cx.waker().clone());
            self.polls.fetch_add(1, Ordering::Relaxed) + 1
        }

        fn polls(&self) -> usize {
            self.polls.load(Ordering::Relaxed)
        }

        fn wake(&self) {
            if let Some(waker) = &*self.waker.lock().unwrap() {
                waker.wake_by_ref();
            }
        }
    }

    /// Two parts that do as they are told at each poll, and how often the task was woken.
    struct Bench {
        parts: [Arc<Seen>; 2],
        task: Arc<Counted>,
        tandem: Pin<Box<dyn Future<Output = ()>>>,
    }

    impl Bench {
        fn new(
            leader: impl Fn(&[Arc<Seen>; 2], usize) -> Poll<()> + 'static,
            follower: impl Fn(&[Arc<Seen>; 2], usize) + 'static,
        ) -> Self {
            let parts = <[Arc<Seen>; 2]>::default();
            let (first, second) = (parts.clone(), parts.clone());
            let leader = poll_fn(move |cx| leader(&first, first[0].polled(cx)));
            let follower = async move {
                poll_fn::<(), _>(move |cx| {
                    follower(&second, second[1].polled(cx));
                    Poll::Pending
                })
                .await;
                pending().await
            };
            Self {
                parts,
                task: Arc::default(),
                tandem: Box::pin(Tandem::new(leader, follower)),
            }
        }

        fn turn(&mut self) -> Poll<()> {
            let waker = Waker::from(Arc::clone(&self.task));
            self.tandem.as_mut().poll(&mut Context::from_waker(&waker))
        }

        fn polls(&self) -> [usize; 2] {
            self.parts.each_ref().map(|part| part.polls())
        }

        fn woken(&self) -> usize {
            self.task.0.load(Ordering::Relaxed)
        }
    }

    #[test]
    fn what_the_leader_brings_is_seen_to_in_the_same_turn() {
        let mut bench = Bench::new(
            |parts, _| {
                parts[1].wake();
                Poll::Pending
            },
            |_, _| {},
        );
        assert!(bench.turn().is_pending());
        for turn in 2..5 {
            bench.parts[0].wake();
            assert!(bench.turn().is_pending());
            assert_eq!(bench.polls(), [turn, turn]);
            // By whoever woke the leader, and by nobody else.
            assert_eq!(bench.woken(), turn - 1);
        }
    }

    #[test]
    fn the_follower_is_left_alone_while_there_is_nothing_for_it() {
        let mut bench = Bench::new(|_, _| Poll::Pending, |_, _| {});
        assert!(bench.turn().is_pending());
        for _ in 0..3 {
            bench.parts[0].wake();
            assert!(bench.turn().is_pending());
        }
        assert_eq!(bench.polls(), [4, 1]);
        bench.parts[1].wake();
        assert!(bench.turn().is_pending());
        assert_eq!(bench.polls(), [4, 2]);
    }

    #[test]
    fn the_leader_goes_on_when_the_follower_asks_it_to() {
        let mut bench = Bench::new(
            |_, _| Poll::Pending,
            |parts, polls| {
                if polls == 2 {
                    parts[0].wake();
                }
            },
        );
        assert!(bench.turn().is_pending());
        bench.parts[1].wake();
        assert!(bench.turn().is_pending());
        assert_eq!((bench.polls(), bench.woken()), ([2, 2], 1));
    }

    #[test]
    fn one_that_never_has_enough_gets_its_turns_from_the_scheduler() {
        let mut bench = Bench::new(
            |parts, _| {
                parts[0].wake();
                Poll::Pending
            },
            |_, _| {},
        );
        assert!(bench.turn().is_pending());
        assert_eq!((bench.polls()[0], bench.woken()), (ROUNDS, 1));
        assert!(bench.turn().is_pending());
        assert_eq!((bench.polls()[0], bench.woken()), (2 * ROUNDS, 2));
    }

    #[test]
    fn the_end_of_the_leader_is_the_end_after_a_last_look_at_the_follower() {
        let ends = |_: &[Arc<Seen>; 2], polls| {
            if polls == 2 {
                Poll::Ready(())
            } else {
                Poll::Pending
            }
        };
        let mut bench = Bench::new(ends, |_, _| {});
        assert!(bench.turn().is_pending());
        bench.parts[0].wake();
        assert!(bench.turn().is_ready());
        assert_eq!(bench.polls(), [2, 2]);
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn no_wake_from_another_thread_is_lost() {
        const TIMES: usize = 20_000;
        let (sender, mut receiver) = tokio::sync::mpsc::channel(1);
        let (more, mut brought) = tokio::sync::mpsc::unbounded_channel();
        let (all, done) = tokio::sync::oneshot::channel();
        let leader = async move {
            while let Some(item) = receiver.recv().await {
                more.send(item).unwrap();
            }
            pending::<()>().await
        };
        let follower = async move {
            for expected in 0..TIMES {
                assert_eq!(brought.recv().await, Some(expected));
            }
            all.send(()).unwrap();
            pending().await
        };
        let tandem = tokio::spawn(Tandem::new(leader, follower));
        let sending = std::thread::spawn(move || {
            for number in 0..TIMES {
                sender.blocking_send(number).unwrap();
            }
        });
        tokio::time::timeout(std::time::Duration::from_secs(60), done)
            .await
            .expect("everything comes")
            .unwrap();
        tandem.abort();
        sending.join().unwrap();
    }
}
