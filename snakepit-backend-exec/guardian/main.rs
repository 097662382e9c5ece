//! The guardian of Snakepit's exec backend: a small process beside the host that starts its workers, holds each tree
//! together and ends it, and ends them all when the host is gone.
//!
//! It has one thread, and allocates only where a worker is started. It forks one keeper per worker; see `keeper`. The
//! host's side of the protocol is in `src/wire.rs`, and the reasons for this shape in `docs/adr/0007`.

#![deny(unsafe_code)]

mod cgroup;
mod close;
mod ending;
mod failure;
mod guardian;
mod hello;
mod isolate;
mod keeper;
mod namespace;
mod outbox;
mod packet;
mod proc;
mod shared;
mod sweep;
mod sys;
mod table;
mod text;
mod ward;
#[allow(dead_code, reason = "the host's half of it is used by the host")]
#[path = "../src/wire.rs"]
mod wire;
mod worker;

use std::{
    env,
    io::{self, Write},
    process::ExitCode,
};

use guardian::Guardian;
use hello::{Hello, NoHello};

/// The exit code of a guardian that could not begin.
const REFUSED: u8 = 2;

fn main() -> ExitCode {
    if env::args_os()
        .nth(1)
        .is_some_and(|argument| argument == "--version")
    {
        println!(
            "snakepit-guardian {}, protocol {}",
            option_env!("CARGO_PKG_VERSION").unwrap_or("unknown"),
            wire::VERSION
        );
        return ExitCode::SUCCESS;
    }
    match begin() {
        Ok(guardian) => {
            guardian.run();
            ExitCode::SUCCESS
        }
        Err(NoHello::Gone) => ExitCode::SUCCESS,
        Err(NoHello::NoHost) => {
            eprintln!(
                "snakepit-guardian: started by hand? It is started by a Snakepit host, which talks to it over its \
                 standard input"
            );
            ExitCode::from(REFUSED)
        }
        Err(NoHello::Refused(failure)) => {
            let (step, errno) = failure.numbers();
            let message = wire::Message::new(wire::Event::Refused, 0).with(step, errno, 0);
            // Where the host is gone, nobody needs to know.
            let _ = packet::send::<_, 0>(sys::standard(0), &message, []);
            let _ = writeln!(
                io::stderr(),
                "snakepit-guardian: refuses to run: {:?}, errno {errno}",
                failure.step
            );
            ExitCode::from(REFUSED)
        }
    }
}

fn begin() -> Result<Guardian, NoHello> {
    // Ctrl-C and the like are meant for the host. What the host ignores is not to be ignored by workers.
    sys::block_signals();
    sys::reset_signals();
    sys::set_name(c"snakepit-guard");
    let hello = hello::receive()?;
    isolate(hello).map_err(NoHello::Refused)
}

fn isolate(hello: Hello) -> Result<Guardian, failure::Failure> {
    let level = hello.level;
    isolate::leave_session()?;
    let descriptors = isolate::raise_descriptors()?;
    isolate::prove(level)?;
    let guardian = Guardian::new(hello, descriptors)?;
    let message = wire::Message::new(wire::Event::Welcome, 0);
    // When the host does not take it, it is gone, which is noticed next.
    let _ = packet::send::<_, 0>(
        sys::standard(0),
        &message.with(i64::from(wire::VERSION), level as i64, 0),
        [],
    );
    Ok(guardian)
}
