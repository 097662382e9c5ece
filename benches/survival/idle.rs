//! A program that does nothing, and is there at once.

use std::{
    io,
    path::{Path, PathBuf},
};

use tempfile::TempDir;

/// An executable file of a few instructions, in a directory of its own. Other programs load libraries when they start, and keep a core busy
/// with it that whoever started them may be waiting for: on two cores a launch is seen to take up to twice as long then.
#[derive(Debug)]
pub(crate) struct IdleProgram {
    path: PathBuf,
    _directory: TempDir,
}

impl IdleProgram {
    /// `None` where the instructions mean nothing.
    pub(crate) fn create() -> io::Result<Option<Self>> {
        if cfg!(not(all(target_os = "linux", target_arch = "x86_64"))) {
            return Ok(None);
        }
        let directory = tempfile::tempdir()?;
        let path = directory.path().join("idle");
        let mut options = std::fs::OpenOptions::new();
        let options = std::os::unix::fs::OpenOptionsExt::mode(options.write(true).create_new(true), 0o755);
        io::Write::write_all(&mut options.open(&path)?, &executable())?;
        Ok(Some(Self {
            path,
            _directory: directory,
        }))
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }
}

/// An ELF file, elf(5), with one segment.
fn executable() -> Vec<u8> {
    const BASE: u64 = 0x40_0000;
    const HEADERS: u16 = 64 + 56;
    // mov eax, 34 (pause); syscall; again.
    const CODE: [u8; 9] = [0xb8, 34, 0, 0, 0, 0x0f, 0x05, 0xeb, 0xf7];
    let len = u64::from(HEADERS) + CODE.len() as u64;
    let mut file = b"\x7fELF\x02\x01\x01\0\0\0\0\0\0\0\0\0".to_vec();
    // An executable, for x86-64, version 1.
    file.extend([2, 0, 0x3e, 0, 1, 0, 0, 0]);
    // Where it begins, where the segment's header is, and that there are no sections.
    for number in [BASE + u64::from(HEADERS), 64, 0] {
        file.extend(number.to_le_bytes());
    }
    file.extend([0; 4]);
    for number in [64_u16, 56, 1, 0, 0, 0] {
        file.extend(number.to_le_bytes());
    }
    // To load, readable and executable: all of the file.
    file.extend([1, 0, 0, 0, 5, 0, 0, 0]);
    for number in [0, BASE, BASE, len, len, 0x1000] {
        file.extend(number.to_le_bytes());
    }
    file.extend(CODE);
    file
}
