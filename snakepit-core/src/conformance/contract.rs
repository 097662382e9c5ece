//! The rules that every backend keeps, as cases.

mod crowd;
mod ends;
mod exits;
mod leaves_nothing;
mod program;
mod refuses;
mod who;

use std::{pin::Pin, sync::Arc};

use super::{evidence::Finding, ground::Ground};

type Running = Pin<Box<dyn Future<Output = Finding> + Send>>;

/// A rule of the contract, and how it is tried.
pub(super) struct Rule {
    pub(super) when: &'static str,
    pub(super) what: &'static str,
    pub(super) run: Box<dyn Fn(Arc<Ground>) -> Running + Send + Sync>,
}

/// Rules of one area, each with the function that tries it.
macro_rules! rules {
    ($when:literal: $($what:literal => $run:path,)+) => {
        [$($crate::conformance::contract::Rule {
            when: $when,
            what: $what,
            run: Box::new(|ground| Box::pin($run(ground))),
        }),+]
    };
}

/// All of them, in the order in which a process comes and goes.
pub(super) fn rules() -> Vec<Rule> {
    let mut all = Vec::new();
    all.extend(rules!("what a program is started with":
        "its environment is exactly what `launch::environment` makes of the spec" => program::environment_is_exact,
        "its arguments are passed as they are, without a shell" => program::arguments,
        "a name without a slash is looked up in the host's PATH, whatever PATH the spec sets" => program::look_up,
        "a name with a slash is the host's, whatever directory the spec sets" => program::relative,
        "its working directory is the one asked for" => program::directory,
        "its working directory is the host's unless one is asked for" => program::same_directory,
        "its process group is not the host's" => program::group,
        "no signal is blocked, and none ignored that the host does not ignore; SIGPIPE never" => program::signals,
        "standard output and error are the host's to read, each apart" => program::output,
        "it has no descriptor above 2 that the host did not mean to hand on" => program::descriptors,
    ));
    all.extend(rules!("how host and worker reach each other":
        "an inherited channel is a stream on standard input, both ways" => program::channel,
        "a channel that the host drops is end-of-file" => program::channel_ends,
        "with another form there is no channel, and standard input is /dev/null" => program::other_channels,
        "the descriptors are handed out once" => program::handed_out_once,
    ));
    all.extend(rules!("who it is":
        "its identity is that of the program itself, as /proc has it" => who::identity,
        "what `containment` says of it is so" => who::containment,
    ));
    all.extend(rules!("how it exits":
        "every exit code is told exactly" => exits::codes,
        "every signal that ends it is told" => exits::signals,
        "waits agree, at the same time and again" => exits::waits_agree,
        "an exit is told at once, and not when somebody looks" => exits::told_at_once,
        "an exit is told also while a child of it lives on" => exits::told_before_the_tree_is_empty,
        "one that has exited is reaped, also when nobody asks" => exits::reaped,
        "closing all its descriptors is no exit" => exits::no_descriptors,
        "a signal reaches the process itself" => exits::signal_arrives,
        "a signal to a process that has ended is no error" => exits::signal_after_the_end,
    ));
    all.extend(rules!("how it is ended":
        "SIGTERM is enough for a group that obeys" => ends::obeys,
        "the grace is the worker's to use" => ends::uses_its_grace,
        "an endless grace is no overflow" => ends::endless,
        "SIGKILL ends one that ignores SIGTERM, after the grace" => ends::ignores,
        "without grace there is no SIGTERM" => ends::no_grace,
        "a stopped one gets its SIGTERM" => ends::stopped,
        "a member of its group does not outlive a leader that left" => ends::member_outlives_leader,
        "a child in a session of its own is ended with it" => ends::session,
        "an orphaned daemon is asked, and ended with it" => ends::daemon,
        "children and daemons that ignore every signal are ended with it" => ends::family,
        "fifty daemons are all ended with it" => ends::fifty_daemons,
        "a chain of forks that runs away is caught" => ends::chain,
        "what a worker that was killed has left is ended afterwards" => ends::after_a_crash,
        "nothing is sent when nothing is left" => ends::already_gone,
        "ends agree, at the same time and again, and the shortest grace wins" => ends::agree,
        "an end goes on when nobody waits for it" => ends::goes_on,
        "one that is held at its gate is ended" => ends::at_the_gate,
    ));
    all.extend(rules!("what is dropped":
        "dropping the last handle kills the tree, and not sooner" => leaves_nothing::last_handle,
        "a launch that is dropped after any number of polls leaves nothing" => leaves_nothing::dropped_launch,
    ));
    all.extend(rules!("what cannot be launched":
        "a missing program is an `Exec` error" => refuses::missing_program,
        "a file that is not executable is an `Exec` error" => refuses::not_executable,
        "a missing directory is a `Cwd` error" => refuses::missing_directory,
        "an argument that cannot be is an `Exec` error" => refuses::bad_argument,
        "a variable that cannot be is an error" => refuses::bad_variable,
    ));
    all.extend(rules!("many of them":
        "fifty launched at once are fifty, and end at once" => crowd::fifty,
        "many lives leave no descriptor and no zombie" => crowd::no_growth,
    ));
    all
}
