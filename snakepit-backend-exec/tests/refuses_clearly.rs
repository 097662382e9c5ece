//! What cannot be launched is refused with what was wrong, and leaves nothing.

mod common;

use std::{io::ErrorKind, os::unix::fs::PermissionsExt, path::Path};

use common::spec;
use snakepit_backend_exec::ExecLauncher;
use snakepit_core::launch::{LaunchError, LaunchSpec, Launcher};

at_every_level!();

/// The error of a launch, or of the open gate; nothing is left then.
async fn refused(spec: &LaunchSpec) -> LaunchError {
    let launcher = ExecLauncher::new(common::settings());
    let process = match launcher.launch(spec).await {
        Ok(process) => process,
        Err(error) => return error,
    };
    let error = process.open_gate().await.expect_err("it is refused");
    let again = process.open_gate().await.expect_err("it still is");
    assert_eq!(again.to_string(), error.to_string());
    let report = process.end(common::LONG).await;
    assert!(report.is_complete(), "{report:?}");
    error
}

#[tokio::test]
async fn a_missing_program_is_named() {
    for program in ["no-such-program-anywhere", "/no/such/program", ""] {
        let error = refused(&LaunchSpec {
            program: program.into(),
            ..spec("waits.py")
        })
        .await;
        let LaunchError::Exec {
            program: named,
            source,
        } = &error
        else {
            panic!("{error:?}");
        };
        assert_eq!(named, Path::new(program));
        assert_eq!(source.kind(), ErrorKind::NotFound);
    }
}

#[tokio::test]
async fn a_program_that_cannot_be_executed_is_named() {
    let dir = tempfile::tempdir().unwrap();
    let text = dir.path().join("text");
    std::fs::write(&text, "not a program").unwrap();
    let error = refused(&LaunchSpec {
        program: text.clone(),
        ..spec("waits.py")
    })
    .await;
    assert!(
        matches!(&error, LaunchError::Exec { source, .. } if source.kind() == ErrorKind::PermissionDenied)
    );

    std::fs::set_permissions(&text, PermissionsExt::from_mode(0o755)).unwrap();
    let error = refused(&LaunchSpec {
        program: text,
        ..spec("waits.py")
    })
    .await;
    // ENOEXEC: no shell is tried.
    assert!(
        matches!(&error, LaunchError::Exec { source, .. } if source.raw_os_error() == Some(8)),
        "{error:?}"
    );
}

#[tokio::test]
async fn an_unusable_working_directory_is_named() {
    for (path, kind) in [
        ("/no/such/directory", ErrorKind::NotFound),
        ("/proc/version", ErrorKind::NotADirectory),
    ] {
        let error = refused(&LaunchSpec {
            cwd: Some(path.into()),
            ..spec("waits.py")
        })
        .await;
        let LaunchError::Cwd { path: named, source } = &error else {
            panic!("{error:?}");
        };
        assert_eq!((named.as_path(), source.kind()), (Path::new(path), kind));
    }
}

#[tokio::test]
async fn text_that_no_program_can_be_given_is_refused() {
    let error = refused(&LaunchSpec {
        args: vec!["a\0b".into()],
        ..spec("waits.py")
    })
    .await;
    assert!(matches!(&error, LaunchError::Exec { source, .. } if source.kind() == ErrorKind::InvalidInput));
    for name in ["", "A=B", "A\0B"] {
        let error = refused(&LaunchSpec {
            env: vec![(name.into(), "x".into())],
            ..spec("waits.py")
        })
        .await;
        assert!(
            matches!(
                &error,
                LaunchError::Os {
                    step: "set the environment",
                    ..
                }
            ),
            "{name:?}: {error:?}"
        );
    }
}
