//! The systems under comparison, by name.

use snakepit::Backend;

/// A system.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    /// This project, with the default backend.
    Snakepit,
    /// The same, by a caller that reads arrays where they are.
    InPlace,
    /// This project, with workers forked from a template that the port backend starts.
    ZygotePort,
    /// The same with a template that is there before the clock starts.
    ZygoteWarm,
    /// The same with a template that the exec backend starts.
    ZygoteExec,
    /// A synchronous grpcio server.
    Grpcio,
    /// A grpcio server on asyncio.
    GrpcioAio,
    /// `concurrent.futures.ProcessPoolExecutor` by spawn.
    Spawn,
    /// The same by fork.
    Fork,
    /// The same by fork server.
    ForkServer,
    /// loky's reusable executor.
    Loky,
    /// Processes and pipes of `multiprocessing`.
    Pipes,
    /// Ray actors.
    Ray,
    /// A bare socket loop: the floor of whatever calls over a socket.
    Floor,
    /// Copies within one process: the floor of whatever moves an array there and back.
    Copies,
    /// `python -c`: the floor of whatever starts interpreters.
    Bare,
}

impl Kind {
    /// Those that are called. How a worker was started makes no difference to a call, so one start method stands for all.
    pub(crate) const CALLED: [Self; 10] = [
        Self::Snakepit,
        Self::InPlace,
        Self::Grpcio,
        Self::GrpcioAio,
        Self::Spawn,
        Self::Loky,
        Self::Pipes,
        Self::Ray,
        Self::Floor,
        Self::Copies,
    ];

    /// Those that are started.
    pub(crate) const STARTED: [Self; 13] = [
        Self::Snakepit,
        Self::ZygotePort,
        Self::ZygoteWarm,
        Self::ZygoteExec,
        Self::Grpcio,
        Self::GrpcioAio,
        Self::Spawn,
        Self::Fork,
        Self::ForkServer,
        Self::Loky,
        Self::Pipes,
        Self::Ray,
        Self::Bare,
    ];

    /// Those of whom a worker is killed; nothing restarts the workers of the others.
    pub(crate) const KILLED: [Self; 8] = [
        Self::Snakepit,
        Self::ZygotePort,
        Self::ZygoteExec,
        Self::Spawn,
        Self::Fork,
        Self::ForkServer,
        Self::Loky,
        Self::Ray,
    ];

    /// Name in results.
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Snakepit => "snakepit",
            Self::InPlace => "snakepit, answer in place",
            Self::ZygotePort => "snakepit zygote+port",
            Self::ZygoteWarm => "snakepit zygote+port, template there",
            Self::ZygoteExec => "snakepit zygote+exec",
            Self::Grpcio => "grpcio",
            Self::GrpcioAio => "grpcio aio",
            Self::Spawn => "ProcessPoolExecutor (spawn)",
            Self::Fork => "ProcessPoolExecutor (fork)",
            Self::ForkServer => "ProcessPoolExecutor (forkserver)",
            Self::Loky => "loky",
            Self::Pipes => "multiprocessing pipes",
            Self::Ray => "Ray",
            Self::Floor => "socket floor",
            Self::Copies => "two plain copies",
            Self::Bare => "python -c",
        }
    }

    /// Name where it stands for all of its kind.
    pub(crate) const fn short(self) -> &'static str {
        match self {
            Self::Spawn | Self::Fork | Self::ForkServer => "ProcessPoolExecutor",
            other => other.name(),
        }
    }

    /// The number that chooses its colour in every plot.
    pub(crate) const fn number(self) -> usize {
        match self {
            Self::Snakepit => 0,
            // Not in the same plot.
            Self::ZygotePort | Self::InPlace => 1,
            Self::ZygoteExec => 2,
            Self::Grpcio => 3,
            Self::GrpcioAio => 4,
            Self::Spawn => 5,
            Self::Fork => 6,
            Self::ForkServer => 7,
            Self::Loky => 8,
            Self::Pipes => 9,
            Self::Ray => 10,
            Self::Floor | Self::Bare => 11,
            Self::Copies | Self::ZygoteWarm => 12,
        }
    }

    /// The backend of a system that is this project.
    pub(crate) const fn backend(self) -> Option<Backend> {
        match self {
            Self::Snakepit | Self::InPlace => Some(Backend::Port),
            Self::ZygotePort | Self::ZygoteWarm => Some(Backend::ZygotePort),
            Self::ZygoteExec => Some(Backend::ZygoteExec),
            _ => None,
        }
    }

    /// Whether it is not this project: a peer that cannot do something is left out, while we have to.
    pub(crate) const fn is_peer(self) -> bool {
        self.backend().is_none()
    }

    /// Whether services of it use a processor while nobody calls, a tenth of one or more.
    pub(crate) const fn is_never_idle(self) -> bool {
        matches!(self, Self::Ray)
    }

    /// What `driver.py` calls a peer that is used from a Python program.
    pub(crate) const fn driver(self) -> Option<&'static str> {
        match self {
            Self::Spawn => Some("spawn"),
            Self::Fork => Some("fork"),
            Self::ForkServer => Some("forkserver"),
            Self::Loky => Some("loky"),
            Self::Pipes => Some("pipes"),
            Self::Ray => Some("ray"),
            _ => None,
        }
    }
}

/// What a worker has imported before it is ready.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Library {
    /// Nothing but what the system itself needs.
    Nothing,
    /// NumPy.
    Numpy,
    /// pandas, and with it NumPy.
    Pandas,
}

impl Library {
    /// All of them.
    pub(crate) const ALL: [Self; 3] = [Self::Nothing, Self::Numpy, Self::Pandas];

    /// The module, `None` for nothing.
    pub(crate) const fn module(self) -> Option<&'static str> {
        match self {
            Self::Nothing => None,
            Self::Numpy => Some("numpy"),
            Self::Pandas => Some("pandas"),
        }
    }

    /// Name in results.
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Nothing => "nothing",
            Self::Numpy => "NumPy",
            Self::Pandas => "pandas",
        }
    }
}
