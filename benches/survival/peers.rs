//! What the peers leave behind: measured by hand, as they need another language's compiler and packages.

/// One peer's row of the table of who is left.
#[derive(Debug)]
pub(crate) struct Peer {
    pub(crate) name: &'static str,
    /// Its own host killed, its helper killed, both; as the table's cells say it.
    pub(crate) killed: [&'static str; 3],
    /// An orderly stop of ten children that obey SIGTERM.
    pub(crate) stop: &'static str,
}

/// Milliseconds of erlexec's orderly stop, which ours has to beat.
pub(crate) const ERLEXEC_STOP_MS: f64 = 10_014.0;

/// The rows.
pub(crate) const PEERS: [Peer; 2] = [
    Peer {
        name: "erlexec 2.3.4",
        killed: ["2 of 5: daemon, stopped; 10.0 s", "5 of 5", "5 of 5"],
        stop: "children 4 ms, helper 10.0 s, VM 11.0 s",
    },
    Peer {
        name: "MuonTrap 2.0.0-rc.1",
        killed: [
            "4 of 5: daemon, group, stdout, stopped; 505 ms",
            "5 of 5",
            "5 of 5",
        ],
        stop: "children and helpers 7 ms, VM 1.0 s",
    },
];
