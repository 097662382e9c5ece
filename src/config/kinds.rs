//! Settings that are written otherwise than their type is, or add to what is there.

use std::{ffi::OsString, path::PathBuf};

use rustix::process::Resource;
use snakepit_core::{launch::ResourceLimit, worker::Template};
use toml::Value;

use super::{
    forms::{self, Form},
    node::{Node, Wrong},
};
use crate::builder::Variable;

/// How a setting of type `T` is written and taken over.
pub(super) trait Kind<T> {
    fn words(&self) -> String;

    fn read(&self, place: &mut T, node: Node<'_>) -> Result<(), Wrong>;

    /// `None` for a value that is not written.
    fn show(&self, value: &T) -> Option<Value>;
}

/// As its type is.
pub(super) struct Plain;

impl<T: Form> Kind<T> for Plain {
    fn words(&self) -> String {
        T::words()
    }

    fn read(&self, place: &mut T, node: Node<'_>) -> Result<(), Wrong> {
        *place = T::read(node)?;
        Ok(())
    }

    fn show(&self, value: &T) -> Option<Value> {
        Some(value.show())
    }
}

/// One that is left out for want of a value.
pub(super) struct Unset;

impl<T: Form> Kind<Option<T>> for Unset {
    fn words(&self) -> String {
        T::words()
    }

    fn read(&self, place: &mut Option<T>, node: Node<'_>) -> Result<(), Wrong> {
        *place = Some(T::read(node)?);
        Ok(())
    }

    fn show(&self, value: &Option<T>) -> Option<Value> {
        value.as_ref().map(Form::show)
    }
}

/// A list that adds to what is there.
pub(super) struct Added;

impl<T: Form> Kind<Vec<T>> for Added {
    fn words(&self) -> String {
        Vec::<T>::words()
    }

    fn read(&self, place: &mut Vec<T>, node: Node<'_>) -> Result<(), Wrong> {
        place.extend(Vec::read(node)?);
        Ok(())
    }

    fn show(&self, value: &Vec<T>) -> Option<Value> {
        Some(value.show())
    }
}

/// Names of variables.
pub(super) struct Names;

impl Kind<Vec<OsString>> for Names {
    fn words(&self) -> String {
        Vec::<String>::words()
    }

    fn read(&self, place: &mut Vec<OsString>, node: Node<'_>) -> Result<(), Wrong> {
        place.extend(Vec::<String>::read(node)?.into_iter().map(OsString::from));
        Ok(())
    }

    fn show(&self, value: &Vec<OsString>) -> Option<Value> {
        let names: Vec<_> = value.iter().map(|name| name.display().to_string()).collect();
        Some(names.show())
    }
}

/// Variables, whose values are templates.
pub(super) struct Variables;

impl Kind<Vec<(OsString, Variable)>> for Variables {
    fn words(&self) -> String {
        "a table, each text, in which {slot} and others are filled in".to_owned()
    }

    fn read(&self, place: &mut Vec<(OsString, Variable)>, node: Node<'_>) -> Result<(), Wrong> {
        let entries = node.entries().ok_or_else(|| node.expected(&self.words()))?;
        for (name, value) in entries {
            let text = String::read(value)?;
            Template::parse(&text).map_err(|error| value.wrong(format!("the variable {name}: {error}")))?;
            place.push((name.into(), Variable::Template(text)));
        }
        Ok(())
    }

    fn show(&self, value: &Vec<(OsString, Variable)>) -> Option<Value> {
        let shown = value.iter().map(|(name, value)| {
            let value = match value {
                Variable::Template(text) => text.clone(),
                Variable::Literal(text) => text.display().to_string().replace('{', "{{").replace('}', "}}"),
            };
            (name.display().to_string(), Value::String(value))
        });
        Some(Value::Table(shown.collect()))
    }
}

/// An interpreter: a path, or a name in `PATH`.
pub(super) struct Interpreter;

impl Kind<Option<PathBuf>> for Interpreter {
    fn words(&self) -> String {
        "a path, or a name in PATH".to_owned()
    }

    fn read(&self, place: &mut Option<PathBuf>, node: Node<'_>) -> Result<(), Wrong> {
        let name = node.text().filter(|name| !name.is_empty());
        let name = name.ok_or_else(|| node.expected(&self.words()))?;
        *place = Some(forms::program(node, name));
        Ok(())
    }

    fn show(&self, value: &Option<PathBuf>) -> Option<Value> {
        value.as_ref().map(Form::show)
    }
}

/// A program and its arguments.
pub(super) struct Command;

impl Kind<Option<(PathBuf, Vec<OsString>)>> for Command {
    fn words(&self) -> String {
        "a list of text: a path or a name in PATH, then arguments".to_owned()
    }

    fn read(&self, place: &mut Option<(PathBuf, Vec<OsString>)>, node: Node<'_>) -> Result<(), Wrong> {
        let words: Option<Vec<_>> = node
            .elements()
            .and_then(|elements| elements.map(Node::text).collect());
        match words.as_deref() {
            Some([name, args @ ..]) if !name.is_empty() => {
                let args = args.iter().map(OsString::from).collect();
                *place = Some((forms::program(node, name), args));
                Ok(())
            }
            _ => Err(node.expected(&self.words())),
        }
    }

    fn show(&self, value: &Option<(PathBuf, Vec<OsString>)>) -> Option<Value> {
        let (program, args) = value.as_ref()?;
        let args = args.iter().map(|arg| Value::String(arg.display().to_string()));
        Some(Value::Array([program.show()].into_iter().chain(args).collect()))
    }
}

/// A size in memory.
pub(super) struct Size;

const UNITS: [(&str, u64); 4] = [("GiB", 1 << 30), ("MiB", 1 << 20), ("KiB", 1 << 10), ("B", 1)];

impl Size {
    const WORDS: &str = "a size as in \"512MiB\"";

    fn read(node: Node<'_>) -> Result<u64, Wrong> {
        let text = node.text().ok_or_else(|| node.expected(Self::WORDS))?;
        let (number, unit) = text.split_at(text.trim_end_matches(char::is_alphabetic).len());
        let Some((_, size)) = UNITS.into_iter().find(|(known, _)| *known == unit) else {
            return Err(node.wrong(format!(
                "expected {}, found \"{}\": the units are B, KiB, MiB and GiB",
                Self::WORDS,
                text.escape_debug()
            )));
        };
        let number = number.trim().parse::<u64>().ok();
        let bytes = number.and_then(|number| number.checked_mul(size));
        bytes.ok_or_else(|| node.expected(Self::WORDS))
    }

    fn show(bytes: u64) -> Value {
        let unit = UNITS
            .into_iter()
            .find(|(_, unit)| bytes.is_multiple_of(*unit) && bytes > 0);
        let (unit, size) = unit.unwrap_or(("B", 1));
        Value::String(format!("{}{unit}", bytes / size))
    }
}

impl Kind<Option<u64>> for Size {
    fn words(&self) -> String {
        format!("{} or \"none\"", Self::WORDS)
    }

    fn read(&self, place: &mut Option<u64>, node: Node<'_>) -> Result<(), Wrong> {
        *place = match node.text() {
            Some("none") => None,
            _ => Some(Self::read(node)?),
        };
        Ok(())
    }

    fn show(&self, value: &Option<u64>) -> Option<Value> {
        Some(value.map_or_else(|| Value::String("none".to_owned()), Self::show))
    }
}

/// A level of Python's logging.
pub(super) struct LogLevel;

const LEVELS: [(&str, u32); 5] = [
    ("debug", 10),
    ("info", 20),
    ("warning", 30),
    ("error", 40),
    ("critical", 50),
];

impl Kind<u32> for LogLevel {
    fn words(&self) -> String {
        "\"debug\", \"info\", \"warning\", \"error\", \"critical\" or a whole number".to_owned()
    }

    fn read(&self, place: &mut u32, node: Node<'_>) -> Result<(), Wrong> {
        let named = node
            .text()
            .and_then(|text| LEVELS.into_iter().find(|(name, _)| *name == text));
        *place = match named {
            Some((_, level)) => level,
            None => u32::read(node).map_err(|_| node.expected(&self.words()))?,
        };
        Ok(())
    }

    fn show(&self, value: &u32) -> Option<Value> {
        let named = LEVELS.into_iter().find(|(_, level)| level == value);
        Some(named.map_or_else(|| value.show(), |(name, _)| Value::String(name.to_owned())))
    }
}

/// The registry's policy.
pub(super) struct RegistryPolicy;

impl Kind<bool> for RegistryPolicy {
    fn words(&self) -> String {
        "\"best-effort\" or \"required\"".to_owned()
    }

    fn read(&self, place: &mut bool, node: Node<'_>) -> Result<(), Wrong> {
        *place = match node.text() {
            Some("best-effort") => false,
            Some("required") => true,
            _ => return Err(node.expected(&self.words())),
        };
        Ok(())
    }

    fn show(&self, value: &bool) -> Option<Value> {
        let name = if *value { "required" } else { "best-effort" };
        Some(Value::String(name.to_owned()))
    }
}

/// Limits of setrlimit(2) by name.
pub(super) struct ResourceLimits;

/// Their names as prlimit(1) has them.
const RESOURCES: [(&str, Resource); 16] = [
    ("as", Resource::As),
    ("core", Resource::Core),
    ("cpu", Resource::Cpu),
    ("data", Resource::Data),
    ("fsize", Resource::Fsize),
    ("locks", Resource::Locks),
    ("memlock", Resource::Memlock),
    ("msgqueue", Resource::Msgqueue),
    ("nice", Resource::Nice),
    ("nofile", Resource::Nofile),
    ("nproc", Resource::Nproc),
    ("rss", Resource::Rss),
    ("rtprio", Resource::Rtprio),
    ("rttime", Resource::Rttime),
    ("sigpending", Resource::Sigpending),
    ("stack", Resource::Stack),
];

impl ResourceLimits {
    /// A number, a size or no limit.
    fn bound(node: Node<'_>) -> Result<u64, Wrong> {
        match node.text() {
            Some("none") => Ok(u64::MAX),
            Some(_) => Size::read(node),
            None => u64::read(node).map_err(|_| node.expected("a whole number, a size or \"none\"")),
        }
    }

    fn show_bound(bound: u64) -> Value {
        if bound == u64::MAX {
            Value::String("none".to_owned())
        } else {
            bound.show()
        }
    }
}

impl Kind<Vec<ResourceLimit>> for ResourceLimits {
    fn words(&self) -> String {
        "a table, each a whole number, a size, \"none\", or a list of two: soft and hard".to_owned()
    }

    fn read(&self, place: &mut Vec<ResourceLimit>, node: Node<'_>) -> Result<(), Wrong> {
        let entries = node.entries().ok_or_else(|| node.expected(&self.words()))?;
        for (name, value) in entries {
            let Some((_, resource)) = RESOURCES.into_iter().find(|(known, _)| *known == name) else {
                let known = RESOURCES.map(|(known, _)| known);
                return Err(value.wrong(format!(
                    "there is no limit `{name}`; there are: {}",
                    known.join(", ")
                )));
            };
            let bounds = value
                .elements()
                .map(|bounds| bounds.map(Self::bound).collect::<Result<Vec<_>, _>>());
            let (soft, hard) = match bounds.transpose()?.as_deref() {
                None => {
                    let bound = Self::bound(value)?;
                    (bound, bound)
                }
                Some([soft, hard]) => (*soft, *hard),
                Some(_) => return Err(value.expected("a list of two: soft and hard")),
            };
            let resource = resource as u32;
            place.push(ResourceLimit { resource, soft, hard });
        }
        Ok(())
    }

    fn show(&self, value: &Vec<ResourceLimit>) -> Option<Value> {
        let shown = value.iter().filter_map(|limit| {
            let (name, _) = RESOURCES
                .into_iter()
                .find(|(_, known)| *known as u32 == limit.resource)?;
            let bounds = [limit.soft, limit.hard].map(Self::show_bound);
            Some((name.to_owned(), Value::Array(bounds.to_vec())))
        });
        Some(Value::Table(shown.collect()))
    }
}

/// The name of an application in the registry.
pub(super) struct App;

impl Kind<Option<String>> for App {
    fn words(&self) -> String {
        String::words()
    }

    fn read(&self, place: &mut Option<String>, node: Node<'_>) -> Result<(), Wrong> {
        let name = String::read(node)?;
        #[cfg(feature = "registry")]
        snakepit_registry::check_app(&name).map_err(|error| node.wrong(error.to_string()))?;
        *place = Some(name);
        Ok(())
    }

    fn show(&self, value: &Option<String>) -> Option<Value> {
        value.as_ref().map(Form::show)
    }
}
