//! What cannot be launched is told by its kind, and nothing is left of it.

use std::{io::ErrorKind, os::unix::fs::PermissionsExt, sync::Arc};

use crate::{
    conformance::{
        evidence::{Finding, ensure},
        ground::Ground,
    },
    launch::{LaunchError, LaunchSpec},
};

/// Launches what cannot be launched. A backend that holds a process at a gate knows what execve(2) answers only when it
/// opens that.
async fn refused(
    ground: &Ground,
    spec: LaunchSpec,
    what: &str,
    is_right: impl Fn(&LaunchError) -> bool,
) -> Finding {
    let answer = match ground.launcher.launch(&spec).await {
        Ok(process) => {
            let opened = process.open_gate().await;
            if let Err(error) = &opened {
                let again = process.open_gate().await;
                let is_same = again
                    .as_ref()
                    .is_err_and(|again| again.to_string() == error.to_string());
                ensure!(
                    is_same,
                    "{what} is answered with {error:?} first, and then with {again:?}"
                );
            }
            process.end(std::time::Duration::ZERO).await;
            opened
        }
        Err(error) => Err(error),
    };
    match answer {
        Ok(()) => ensure!(false, "{what} was launched"),
        Err(error) => ensure!(is_right(&error), "{what} is answered with {error:?}"),
    }
    ground.leaves_no_worker(&spec, what).await?;
    ground.becomes_empty(what).await
}

fn is_exec(error: &LaunchError, program: &std::path::Path, kind: ErrorKind) -> bool {
    matches!(error, LaunchError::Exec { program: named, source } if named == program && source.kind() == kind)
}

pub(super) async fn missing_program(ground: Arc<Ground>) -> Finding {
    let missing = ground.marks.path("no-such-program");
    for name in [&missing.to_string_lossy(), "no-such-program-anywhere", ""] {
        let spec = Ground::plain(name, &[]);
        let program = spec.program.clone();
        let is_right = |error: &_| is_exec(error, &program, ErrorKind::NotFound);
        refused(&ground, spec, &format!("the missing program `{name}`"), is_right).await?;
    }
    // The file is there, its interpreter is not.
    let script = ground
        .marks
        .write("bad-interpreter", "#!/no/such/interpreter\n")?;
    std::fs::set_permissions(&script, std::fs::Permissions::from_mode(0o755))?;
    let is_right = |error: &_| is_exec(error, &script, ErrorKind::NotFound);
    let spec = Ground::plain(&script.to_string_lossy(), &[]);
    refused(&ground, spec, "a script without its interpreter", is_right).await
}

pub(super) async fn not_executable(ground: Arc<Ground>) -> Finding {
    let file = ground.marks.write("not-executable", "#!/bin/sh\n")?;
    std::fs::set_permissions(&file, std::fs::Permissions::from_mode(0o644))?;
    for path in [file, ground.marks.path("")] {
        let is_right = |error: &_| is_exec(error, &path, ErrorKind::PermissionDenied);
        let spec = Ground::plain(&path.to_string_lossy(), &[]);
        refused(&ground, spec, &format!("`{}`", path.display()), is_right).await?;
    }
    let text = ground
        .marks
        .write("no-program", "neither a binary nor a script\n")?;
    std::fs::set_permissions(&text, std::fs::Permissions::from_mode(0o755))?;
    let is_right = |error: &_| matches!(error, LaunchError::Exec { .. });
    let spec = Ground::plain(&text.to_string_lossy(), &[]);
    refused(&ground, spec, "an executable that is no program", is_right).await
}

pub(super) async fn missing_directory(ground: Arc<Ground>) -> Finding {
    let (missing, file) = (
        ground.marks.path("no-such-directory"),
        ground.marks.path("worker"),
    );
    for (path, kind) in [(missing, ErrorKind::NotFound), (file, ErrorKind::NotADirectory)] {
        let mut spec = ground.spec(&ground.staying(""));
        spec.cwd = Some(path.clone());
        let is_right = |error: &_| matches!(error, LaunchError::Cwd { path: named, source } if *named == path && source.kind() == kind);
        refused(
            &ground,
            spec,
            &format!("the directory `{}`", path.display()),
            is_right,
        )
        .await?;
    }
    Ok(())
}

pub(super) async fn bad_argument(ground: Arc<Ground>) -> Finding {
    let mut spec = ground.spec(&ground.staying(""));
    spec.args.push("a\0b".into());
    let program = spec.program.clone();
    let is_right = |error: &_| is_exec(error, &program, ErrorKind::InvalidInput);
    refused(&ground, spec, "an argument with a NUL", is_right).await
}

pub(super) async fn bad_variable(ground: Arc<Ground>) -> Finding {
    for (name, value) in [("", "x"), ("a=b", "x"), ("a\0", "x"), ("a", "x\0")] {
        let mut spec = ground.spec(&ground.staying(""));
        spec.env = vec![(name.into(), value.into())];
        let what = format!("the variable {name:?} with {value:?}");
        refused(&ground, spec, &what, |_| true).await?;
    }
    Ok(())
}
