//! Short texts without allocation.

use std::{
    ffi::CStr,
    fmt::{self, Write},
};

/// Room for a short NUL-terminated text, such as a path below `/proc`.
pub(crate) struct Text {
    bytes: [u8; 64],
    len: usize,
}

impl Text {
    /// `None` when it is too long.
    pub(crate) fn format(arguments: fmt::Arguments<'_>) -> Option<Self> {
        let mut text = Self {
            bytes: [0; 64],
            len: 0,
        };
        text.write_fmt(arguments).ok()?;
        Some(text)
    }

    pub(crate) fn as_c_str(&self) -> &CStr {
        CStr::from_bytes_until_nul(&self.bytes).unwrap_or_default()
    }

    pub(crate) fn as_bytes(&self) -> &[u8] {
        &self.bytes[..self.len]
    }
}

impl Write for Text {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        // One byte is for the NUL.
        let end = self.len + text.len();
        let room = self
            .bytes
            .get_mut(self.len..end)
            .filter(|_| end < 64)
            .ok_or(fmt::Error)?;
        room.copy_from_slice(text.as_bytes());
        self.len = end;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts_end_with_nul_and_have_a_limit() {
        let text = Text::format(format_args!("/proc/{}/stat", 17)).unwrap();
        assert_eq!(text.as_c_str(), c"/proc/17/stat");
        assert_eq!(text.as_bytes(), b"/proc/17/stat");
        assert!(Text::format(format_args!("{:063}", 1)).is_some());
        assert!(Text::format(format_args!("{:064}", 1)).is_none());
    }
}
