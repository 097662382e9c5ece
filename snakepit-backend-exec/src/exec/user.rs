//! Users and groups by name.

use std::io;

use super::error::RunError;
use crate::sys;

/// A user, by name or by number.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum User {
    /// By number.
    Id(u32),
    /// By name, as getpwnam(3) finds it.
    Name(String),
}

/// A group, by name or by number.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Group {
    /// By number.
    Id(u32),
    /// By name, as getgrnam(3) finds it.
    Name(String),
}

impl From<u32> for User {
    fn from(id: u32) -> Self {
        Self::Id(id)
    }
}

impl From<&str> for User {
    fn from(name: &str) -> Self {
        Self::Name(name.to_owned())
    }
}

impl From<u32> for Group {
    fn from(id: u32) -> Self {
        Self::Id(id)
    }
}

impl From<&str> for Group {
    fn from(name: &str) -> Self {
        Self::Name(name.to_owned())
    }
}

/// The numbers of a user.
pub(super) struct Ids {
    pub(super) uid: u32,
    pub(super) gid: Option<u32>,
    pub(super) groups: Option<Vec<u32>>,
}

pub(super) fn user(user: &User) -> Result<Ids, RunError> {
    let name = match user {
        User::Id(uid) => {
            return Ok(Ids {
                uid: *uid,
                gid: None,
                groups: None,
            });
        }
        User::Name(name) => name,
    };
    let (uid, gid, groups) = look_up(name, sys::user)?.ok_or_else(|| RunError::NoSuchUser(name.clone()))?;
    Ok(Ids {
        uid,
        gid: Some(gid),
        groups: Some(groups),
    })
}

pub(super) fn group(group: &Group) -> Result<u32, RunError> {
    match group {
        Group::Id(gid) => Ok(*gid),
        Group::Name(name) => look_up(name, sys::group)?.ok_or_else(|| RunError::NoSuchGroup(name.clone())),
    }
}

fn look_up<T>(
    name: &str,
    look: impl FnOnce(&std::ffi::CStr) -> io::Result<Option<T>>,
) -> Result<Option<T>, RunError> {
    // No name has a NUL byte.
    let Ok(text) = std::ffi::CString::new(name) else {
        return Ok(None);
    };
    look(&text).map_err(|source| RunError::LookUp {
        name: name.to_owned(),
        source,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_lead_to_numbers() {
        let root = user(&"root".into()).unwrap_or_else(|error| panic!("{error}"));
        assert_eq!((root.uid, root.gid), (0, Some(0)));
        assert!(root.groups.is_some_and(|groups| groups.contains(&0)));
        assert_eq!(group(&"root".into()).ok(), Some(0));
        assert_eq!(group(&7.into()).ok(), Some(7));
    }

    #[test]
    fn a_name_that_nobody_has_is_named() {
        for name in ["no such user", "a\0b", ""] {
            let error = user(&name.into()).err().map(|error| error.to_string());
            assert_eq!(error, Some(format!("there is no user `{name}`")));
            let error = group(&name.into()).err().map(|error| error.to_string());
            assert_eq!(error, Some(format!("there is no group `{name}`")));
        }
    }
}
