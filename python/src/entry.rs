//! From `python -m snakepit` to a serving worker, and from there to the exit.

use std::{os::fd::AsRawFd as _, os::unix::net::UnixStream, sync::Arc};

use pyo3::{
    exceptions::{PyOSError, PyRuntimeError, PyValueError},
    prelude::*,
};
use tokio::sync::mpsc;

use crate::{
    call::{Engine, Glue},
    channel::Channel,
    concurrency::Concurrency,
    control_thread::{self, Endpoint},
    inherited,
    jobs::Jobs,
    listen::Listener,
    main_thread::{MainLoop, Sockets},
    native, panic, serve as http,
    shared::{EXIT_LOST, Identity, Shared},
    sys,
    tree::Keeper,
};

/// A channel that is open, before anything is served on it.
enum Opened {
    Inherited(inherited::Inherited),
    Listening(Listener, Channel),
}

/// Serves as a worker on the main thread and ends the process. Returns only when the host closed the channel
/// before it opened the gate. How many calls run at the same time is the host's to say when `threads` and `asyncio` are 0.
///
/// Raises `ValueError` for a channel that makes no sense and `OSError` for one that cannot be opened.
#[pyfunction]
pub(crate) fn serve(
    py: Python<'_>,
    channel: &str,
    adapters: Vec<String>,
    paths: Vec<String>,
    threads: u32,
    asyncio: u32,
) -> PyResult<()> {
    let channel = Channel::parse(channel).map_err(|error| PyValueError::new_err(error.to_string()))?;
    let Some(opened) = open(py, channel)? else {
        return Ok(());
    };
    panic::install();
    sys::keep_freed_memory();
    let keeper = Keeper::find();
    if keeper.is_none() {
        // Without it (no such kernel is supported) orphans of user code would go to pid 1 instead of to us.
        rustix::process::set_child_subreaper(Some(rustix::process::getpid()))
            .map_err(std::io::Error::from)?;
    }

    let inherited = matches!(opened, Opened::Inherited(_));
    let runtime = PyModule::import(py, "snakepit._runtime")?;
    let identity = Identity {
        runtime: runtime.getattr("RUNTIME")?.extract()?,
        pid: std::process::id(),
        inherited,
        keeper,
        takes_calls: matches!(&opened, Opened::Inherited(channel) if channel.calls.is_some()),
    };
    let (commands, command_queue) = mpsc::unbounded_channel();
    let shared = Arc::new(Shared::new(identity, commands));
    if let Some(concurrency) = Concurrency::told(threads, asyncio) {
        shared.settle_concurrency(concurrency);
    }
    // Where a host shakes hands, they are imported then.
    let from_command_line = if inherited {
        (adapters.clone(), paths.clone())
    } else {
        Default::default()
    };
    let glue = Glue::new(&runtime)?;
    let engine = Arc::new(Engine::new(Arc::clone(&shared), glue, from_command_line));

    let descriptors = match &opened {
        Opened::Inherited(channel) => channel.descriptors(),
        Opened::Listening(listener, _) => vec![listener.descriptor()],
    };
    if !native::publish(&shared, descriptors.clone()) {
        return Err(PyRuntimeError::new_err("this process already serves as a worker"));
    }
    let (wakeup, signals) = UnixStream::pair()?;
    signals.set_nonblocking(true)?;
    runtime
        .getattr("install")?
        .call1((signals.as_raw_fd(), inherited))?;

    let jobs = Arc::new(Jobs::default());
    let (endpoint, sockets) = match opened {
        Opened::Inherited(channel) => {
            if let Some(journal) = channel.journal {
                shared.slot.keep_journal(journal);
            }
            let sockets = Sockets {
                data: channel.data,
                calls: channel.calls,
            };
            (Endpoint::Inherited(channel.control), Some(sockets))
        }
        Opened::Listening(listener, channel) => {
            if let Channel::Unix(path) = &channel {
                listener.register(path, &shared);
            }
            // Nobody needs to shake hands here, so what the command line names is imported before anyone calls.
            if !engine.prepare(py, &adapters, &paths) {
                failed_adapters(&shared);
            }
            eprintln!("snakepit: serving on {}", listener.describe());
            (Endpoint::Listening(listener, Arc::clone(&jobs)), None)
        }
    };
    let control = control_thread::start(Arc::clone(&shared), endpoint, descriptors)?;
    let main = MainLoop {
        shared: Arc::clone(&shared),
        engine,
        jobs,
        control: control.runtime,
        commands: command_queue,
        wakeup,
        rearm: runtime.getattr("rearm")?.unbind(),
        several: runtime.getattr("several")?.unbind(),
    };
    let finish = runtime.getattr("finish")?.unbind();
    let pid = shared.identity.pid;
    let stop_hooks = || {
        Python::attach(|py| {
            // Stop hooks and exit handlers report their own failures; none of them keeps the worker from leaving.
            if let Err(error) = finish.call0(py) {
                error.write_unraisable(py, None);
            }
        });
        if std::process::id() != pid {
            // A stop hook or exit handler forked, and this is the child.
            sys::exit_now(0);
        }
    };
    if let Err(error) = py.detach(|| main.run(sockets, stop_hooks)) {
        eprintln!("snakepit: failed to serve: {error}");
        shared.leave(EXIT_LOST);
    }
    drop(signals);
    py.detach(move || {
        shared.events.close();
        shared.host_calls.close();
        shared.finished.send_replace(true);
        // The connections bound their own flush; leaving is what matters.
        let _ = control.flushed.recv_timeout(http::FLUSH_LIMIT * 3);
        shared.events.spill();
        shared.leave(shared.exit_code())
    })
}

fn open(py: Python<'_>, channel: Channel) -> PyResult<Option<Opened>> {
    match channel {
        Channel::Inherited => {
            let accepted =
                py.detach(|| inherited::accept(|| Python::attach(|py| py.check_signals()).is_err()));
            match accepted {
                Ok(accepted) => Ok(accepted.map(Opened::Inherited)),
                Err(error) => Err(PyOSError::new_err(error.to_string())),
            }
        }
        Channel::Unix(ref path) => match Listener::unix(path) {
            Ok(listener) => Ok(Some(Opened::Listening(listener, channel))),
            Err(error) => Err(PyOSError::new_err(format!(
                "failed to listen on unix:{}: {error}",
                path.display()
            ))),
        },
        Channel::Tcp(ref address) => match Listener::tcp(address) {
            Ok(listener) => Ok(Some(Opened::Listening(listener, channel))),
            Err(error) => Err(PyOSError::new_err(format!(
                "failed to listen on tcp:{address}: {error}"
            ))),
        },
    }
}

/// Says on standard error why the adapters of the command line are no good, and leaves.
fn failed_adapters(shared: &Shared) -> ! {
    let prepared = shared.prepared.borrow().clone();
    if let Some(Err(error)) = prepared.as_deref() {
        for exception in &error.exceptions {
            eprint!("{}", exception.traceback);
        }
        eprintln!("snakepit: {}", error.message);
    }
    shared.leave(1)
}
