//! From the request for a worker to the execution of its program.

use crate::{
    client::{Guardian, LEVELS, exited, shell},
    wire::{EndedBy, Event},
};

#[test]
fn a_worker_that_ends_by_itself_is_told_with_its_exact_status() {
    for level in LEVELS {
        let Some(guardian) = Guardian::welcomed(level) else {
            continue;
        };
        for (id, script, status) in [
            (1, "exit 7", exited(7)),
            (2, "kill -9 $$", 9),
            (3, "kill -15 $$", 15),
        ] {
            guardian.running(id, &shell(script));
            let (told, ended) = guardian.ended(id);
            assert_eq!(
                (told, ended.a),
                (status, EndedBy::Itself as i64),
                "{level:?} {script}"
            );
            assert!(!guardian.yard.has_leaf(id));
        }
        guardian.assert_well();
        guardian.leave();
    }
}

#[test]
fn a_worker_that_is_never_let_go_is_ended_at_its_gate() {
    for level in LEVELS {
        let Some(guardian) = Guardian::welcomed(level) else {
            continue;
        };
        let marker = tempfile::tempdir().unwrap();
        let path = marker.path().join("has run");
        guardian.held(1, &shell(&format!("echo > '{}'", path.display())));
        guardian.stop(1, 5000);
        let (status, _) = guardian.ended(1);
        assert_eq!(status, 15);
        assert!(!path.exists());
        let told = guardian.held(2, &shell("exit 0"));
        drop(told);
        guardian.stop(2, 0);
        assert_eq!(guardian.ended(2).0, 9);
        let _ = Event::Pong;
        guardian.leave();
    }
}
