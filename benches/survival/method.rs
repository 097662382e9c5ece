//! How it is measured, for the document.

/// The title of the section, and what a reader has to know of its tables.
pub(crate) const SECTION: (&str, &str) = ("What survives, and what it costs that nothing does", METHOD);

const METHOD: &str = "\
Every host is a process of its own. The benchmark takes a pidfd of everything below it, kills it or asks it to stop,
and the time ends when the last of those pidfds says that its process has ended: workers, their grandchildren, keepers,
the guardian and the host. Rounds are interleaved, each in another order; ratios are taken within each round.

- **Host killed**: 100 workers, each with a grandchild in a session of its own. *Foreign programs* are `sleep`. *The
  kernel* is, for them, 100 PID namespaces made directly by clone(2), each an init (a fork that executes nothing), the
  same program and its grandchild, whose inits are sent SIGKILL one after the other; for Python workers it is the very
  processes of the namespace level, its keepers killed in that way while the host and the guardian are stopped.
- **Left behind**: a program that ignores SIGTERM, with a child in its group, a stopped child, a child that holds
  its standard output, and a daemon (setsid, forked twice). Somebody is killed; who lives 12 s later is left, and the time is when the
  last of the others ended, in the slowest round. At `port, Python worker` the five are started by a worker that runs the
  Snakepit runtime; the worker goes too.
- **Orderly stop**: 10 workers that obey, with 5 s of grace; from the request to the end of the last process, the host's own included.
- **Spawn**: one launch at a time from a host that has touched 1 GiB, of a program named by its path, in a task of a multi-threaded
  runtime, both as a pool does it; *launched* is the reply of `Launcher::launch`, at which an exec worker is held at its gate,
  *executed* is after the gate was opened as well. *idle* is a program that does nothing from its first instruction on, so that the
  launch is all that takes time; the promises are about it. *sleep* loads its libraries first, and keeps a core busy that the thread
  with the port backend's reply is then seen to wait for, on two cores in up to half of the launches. A guardian makes the process of the next
  worker ahead, before the last one has ended here, as between two starts of a pool; of many starts at a time only the first finds one.
- **Size**: of the guardian of 10 workers, of one keeper, and of the process that becomes the next worker, from smaps_rollup; most of what is resident is the shared program.
- **Cleanup**: the host of 100 foreign programs, each with a grandchild in a session of its own, that do not notice
  its death is killed; from the start of the command to its end.

The peers were measured by hand, each kill once, on the same machine while it was busy with other work, with the same five
processes, in a cgroup of their own, 12 s long: erlexec 2.3.4 (c170969; its C++ program built with g++ 12, its Erlang with the
`-doc` attributes taken out and `maybe_expr` switched on, for OTP 25), started as an application, with `exec:run` and its default
options (started by `exec:start` alone it stopped in 1.0 s); MuonTrap 2.0.0-rc.1 with a `MuonTrap.Daemon`
under a `Supervisor`, without a cgroup, as it wants one with a controller and the machine's cgroup v2 has none; Erlang/OTP 25.2.3 and Elixir 1.14.0 of Debian 12. *Host* is the Erlang VM, killed; *guardian* is
`exec-port`, and `muontrap`, killed while the VM goes on: both are started anew, MuonTrap's with a second tree beside
the first. For the orderly stop the VM was asked by `init:stop` (MuonTrap: after its supervisor) with ten `python3` children that obey;
an Erlang VM takes 1.0 s of that for itself.
";
