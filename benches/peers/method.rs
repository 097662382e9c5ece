//! How it is measured, for the document.

/// The title of the section, and what a reader has to know of its tables.
pub(crate) const SECTION: (&str, &str) = ("Beside other ways to call Python", METHOD);

const METHOD: &str = "\
Every round visits all systems, each time in another order, so that a slow minute of the machine hits all of
them. Figures are medians over rounds; ratios are taken within each round, and their quartiles are given:
read the ratios, the absolute times are facts of this one run. One Python interpreter serves all systems.

- **snakepit**: `Pool` with the port backend and default settings, called from tasks on tokio's multi-thread runtime.
- **grpcio**: a synchronous grpcio server on a Unix socket that implements the same `Worker/Call`, called
  through the same HTTP/2 connection type and generated client as the pool uses, from the same runtime. It
  answers the encoded arguments as they came, and so pays for no decoding.
- **ProcessPoolExecutor**: `concurrent.futures`, one worker, submitted to and measured inside its own Python
  program, by as many threads as there are callers.
- **socket floor**: a Python loop of `recv_into` and `sendall` on one Unix socket with length-prefixed
  messages, called from the same runtime; several callers take turns. It has two speeds: about 15 us while
  the scheduler keeps both ends on one core, as on a busy machine, and about 42 us while each end has a core
  that sleeps in between. A ratio to it says little without its quartiles.

*Ready* is the time from nothing until every worker has answered; the files are in the page cache. *Memory* is
the proportional set size, right after that. *Recovery* kills the only worker of a fresh pool and calls until
the replacement has answered. *Dispatch* is a call through queue and lease to a worker in memory that answers
at once.
";
