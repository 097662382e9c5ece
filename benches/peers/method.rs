//! How it is measured, for the document.

/// The title of the section, and what a reader has to know of its tables.
pub(crate) const SECTION: (&str, &str) = ("Beside other ways to call Python", METHOD);

const METHOD: &str = "\
Every round visits all systems, each time in another order, so that a slow minute of the machine hits all of them.
Figures are medians over rounds; ratios are taken within each round, and their quartiles are given: read the ratios,
the absolute times are facts of this one run. One Python interpreter serves all systems, and the peers' packages are
pinned in `benches/peers/packages.rs`. What a peer cannot do is listed with what it said. What is written in Rust, the
callers of grpcio and of the floor too, is compiled as one program (`[profile.bench]` of `Cargo.toml`), as a service
may be that counts microseconds; in a plain release build a short call takes about a twentieth longer.

The whole run takes about an hour and a half and wants a machine that does nothing else. `--quick` takes a few
minutes: two short rounds without 100 workers that import something and without 16 callers at 100 MB, to see that all
of it works. `--to DIR` writes document and plots elsewhere, to look at.

The systems:

- **snakepit**: `Pool` with the port backend and default settings, called from tasks on tokio's multi-thread runtime.
  Only the time that a start may take is longer than the default: a hundred imports of pandas at once need it.
- **snakepit, answer in place**: the same pool, called for a `SharedArray`, as arrays alone can be: the answer stays in the
  memory that the worker has put it into, as Ray's does in its object store, and is read there. The argument is copied once, as it is
  for Ray. *copied* in the list below is the default, an `NdArray` of the caller's own.
- **snakepit zygote+port**, **snakepit zygote+exec**: the same, with workers forked from a template that the port or
  the exec backend starts. *Template there*: it has been started, and has imported the library, before the clock starts.
  A call to such a worker is a call to any, so they are started, weighed and killed only.
- **grpcio**, **grpcio aio**: a synchronous and an asyncio grpcio server on a Unix socket that implements the same
  `Worker/Call`, called through the same HTTP/2 connection type and generated client as the pool uses, from the same
  runtime. It answers the encoded arguments as they came, and so pays for no decoding: its arrays are bytes.
- **ProcessPoolExecutor** (by spawn, fork and fork server), **loky**, **multiprocessing pipes** and **Ray** actors are
  called and measured inside a Python program, by as many threads as there are callers. How a worker was started makes
  no difference to a call, so ProcessPoolExecutor is called by spawn only. The pipes are `multiprocessing.Pipe`, one
  for each worker; whoever calls takes a free one. Ray's services use a tenth of a processor while nobody calls, so
  they run only while it is Ray's turn: it is called in every round, but not between the others' calls.
- **socket floor**: a Python loop of `recv_into` and `sendall` on one Unix socket with length-prefixed messages,
  called from the same runtime; several callers take turns. It has two speeds: about 15 us while the scheduler keeps
  both ends on one core, as on a busy machine, and about 42 us while each end has a core that sleeps in between. A
  ratio to it says little without its quartiles.
- **two plain copies**: an array copied from one place in memory to another, and from there to a third, by one
  process.

*Calls* echo bytes, and from 10 MB on arrays of float64, for as long in every cell: so there are tens of thousands of
small ones, and of the largest at least three by one caller and one by each of 16; 16 callers send 100 MB in every
second round only.

*Ready* is the time from nothing until every worker has answered; the files are in the page cache. A worker has
imported the library before it is ready; 100 workers that import one are started in every second round only. *fork*
copies a program that has imported it before the clock runs; the fork server is started by the clock, and has imported
it as its preload. A zygote's template, too, is started by the clock, but where it says *template there*. Ray's services (`ray.init`) run before the clock
does, and so do the few workers that they keep in stock. *python -c* are interpreters that import the library and end.

*Memory* is the proportional set size, right after that: of the workers alone, and with all else that is below the
calling program, such as Ray's services, a fork server or a template, shared out among the workers.

*Recovery* kills the only worker of a fresh system and calls until another has answered. Nothing restarts a grpcio
server or a process at a pipe. A ProcessPoolExecutor is broken by it: its user makes a new one, and the time is until
that one answers. Ray restarts actors that have been given `max_restarts`.

*Dispatch* is a call through queue and lease to a worker in memory that answers at once.
";
