//! How values of each type are written in a file.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
    time::Duration,
};

use snakepit_core::{
    pool::Overflow,
    process::ContainmentLevel,
    worker::{Affinity, ChannelSpec, Concurrency, CoreSet},
};
use toml::{Value, de::DeValue};

use super::node::{Node, Wrong};
use crate::Backend;

/// A type with one way of being written.
pub(super) trait Form: Sized {
    /// What is expected, for people.
    fn words() -> String;

    fn read(node: Node<'_>) -> Result<Self, Wrong>;

    /// What reads back as the same.
    fn show(&self) -> Value;
}

impl Form for bool {
    fn words() -> String {
        "true or false".to_owned()
    }

    fn read(node: Node<'_>) -> Result<Self, Wrong> {
        node.get().as_bool().ok_or_else(|| node.expected(&Self::words()))
    }

    fn show(&self) -> Value {
        Value::Boolean(*self)
    }
}

macro_rules! whole_numbers {
    ($($number:ty: $words:literal),*) => {$(
        impl Form for $number {
            fn words() -> String {
                $words.to_owned()
            }

            fn read(node: Node<'_>) -> Result<Self, Wrong> {
                let number = node.get().as_integer();
                let number = number.and_then(|number| Self::from_str_radix(number.as_str(), number.radix()).ok());
                number.ok_or_else(|| node.expected(&Self::words()))
            }

            fn show(&self) -> Value {
                // TOML has no larger ones, so none was read.
                Value::Integer(i64::try_from(*self).unwrap_or(i64::MAX))
            }
        }
    )*};
}

whole_numbers!(
    u32: "a whole number",
    u64: "a whole number",
    usize: "a whole number",
    i32: "a whole number, which may be negative"
);

impl Form for f64 {
    fn words() -> String {
        "a number".to_owned()
    }

    fn read(node: Node<'_>) -> Result<Self, Wrong> {
        let text = match node.get() {
            DeValue::Integer(number) if number.radix() == 10 => number.as_str(),
            DeValue::Float(number) => number.as_str(),
            _ => return Err(node.expected(&Self::words())),
        };
        let number = text.parse().ok().filter(|number: &Self| number.is_finite());
        number.ok_or_else(|| node.expected(&Self::words()))
    }

    fn show(&self) -> Value {
        Value::Float(*self)
    }
}

impl Form for String {
    fn words() -> String {
        "text".to_owned()
    }

    fn read(node: Node<'_>) -> Result<Self, Wrong> {
        let text = node.text().ok_or_else(|| node.expected(&Self::words()))?;
        Ok(text.to_owned())
    }

    fn show(&self) -> Value {
        Value::String(self.clone())
    }
}

impl Form for PathBuf {
    fn words() -> String {
        "a path".to_owned()
    }

    fn read(node: Node<'_>) -> Result<Self, Wrong> {
        match node.text() {
            Some(path) if !path.is_empty() => Ok(node.directory.join(path)),
            _ => Err(node.expected(&Self::words())),
        }
    }

    fn show(&self) -> Value {
        Value::String(self.display().to_string())
    }
}

/// A name in `PATH`, or a path where it has a slash.
pub(super) fn program(node: Node<'_>, name: &str) -> PathBuf {
    if name.contains('/') {
        node.directory.join(name)
    } else {
        name.into()
    }
}

impl Form for Duration {
    fn words() -> String {
        "a time".to_owned()
    }

    fn read(node: Node<'_>) -> Result<Self, Wrong> {
        const AS_IN: &str = "a time with its unit, as in \"5s\" or \"250ms\"";
        let text = node.text().ok_or_else(|| node.expected(AS_IN))?;
        humantime::parse_duration(text).map_err(|error| {
            node.wrong(format!(
                "expected {AS_IN}, found \"{}\": {error}",
                text.escape_debug()
            ))
        })
    }

    fn show(&self) -> Value {
        Value::String(humantime::format_duration(*self).to_string())
    }
}

/// None where the file says so, which is without a bound wherever that is a choice.
impl<T: Form> Form for Option<T> {
    fn words() -> String {
        format!("{} or \"none\"", T::words())
    }

    fn read(node: Node<'_>) -> Result<Self, Wrong> {
        if node.text() == Some("none") {
            return Ok(None);
        }
        T::read(node).map(Some).map_err(|wrong| Wrong {
            message: wrong.message.replacen(", found ", " or \"none\", found ", 1),
            ..wrong
        })
    }

    fn show(&self) -> Value {
        self.as_ref()
            .map_or_else(|| Value::String("none".to_owned()), Form::show)
    }
}

impl<T: Form> Form for Vec<T> {
    fn words() -> String {
        format!("a list, each {}", T::words())
    }

    fn read(node: Node<'_>) -> Result<Self, Wrong> {
        let elements = node.elements().ok_or_else(|| node.expected(&Self::words()))?;
        elements.map(T::read).collect()
    }

    fn show(&self) -> Value {
        Value::Array(self.iter().map(Form::show).collect())
    }
}

impl<T: Form> Form for BTreeMap<String, T> {
    fn words() -> String {
        format!("a table, each {}", T::words())
    }

    fn read(node: Node<'_>) -> Result<Self, Wrong> {
        let entries = node.entries().ok_or_else(|| node.expected(&Self::words()))?;
        entries
            .map(|(key, value)| Ok((key.to_owned(), T::read(value)?)))
            .collect()
    }

    fn show(&self) -> Value {
        Value::Table(
            self.iter()
                .map(|(key, value)| (key.clone(), value.show()))
                .collect(),
        )
    }
}

impl Form for Backend {
    fn words() -> String {
        alternatives(Self::ALL.map(Self::name))
    }

    fn read(node: Node<'_>) -> Result<Self, Wrong> {
        let text = node.text().ok_or_else(|| node.expected(&Self::words()))?;
        let backend: Self = text.parse().map_err(|_| node.expected(&Self::words()))?;
        if Self::compiled_in().all(|there| there != backend) {
            return Err(node.wrong(crate::BackendError::Absent { backend }.to_string()));
        }
        Ok(backend)
    }

    fn show(&self) -> Value {
        Value::String(self.name().to_owned())
    }
}

/// A type whose values have names.
trait Named: Copy + PartialEq + 'static {
    const NAMES: &'static [(&'static str, Self)];
}

impl<T: Named> Form for T {
    fn words() -> String {
        alternatives(T::NAMES.iter().map(|(name, _)| *name))
    }

    fn read(node: Node<'_>) -> Result<Self, Wrong> {
        let named = |text: &str| T::NAMES.iter().find(|(name, _)| *name == text);
        let found = node.text().and_then(named);
        found
            .map(|(_, value)| *value)
            .ok_or_else(|| node.expected(&Self::words()))
    }

    fn show(&self) -> Value {
        let name = T::NAMES.iter().find(|(_, value)| value == self);
        Value::String(name.map(|(name, _)| (*name).to_owned()).unwrap_or_default())
    }
}

impl Named for Overflow {
    const NAMES: &'static [(&'static str, Self)] =
        &[("refuse", Self::Refuse), ("drop-oldest", Self::DropOldest)];
}

impl Named for Option<ContainmentLevel> {
    const NAMES: &'static [(&'static str, Self)] = &[
        ("auto", None),
        ("namespace", Some(ContainmentLevel::Namespace)),
        ("cgroup", Some(ContainmentLevel::Cgroup)),
        ("subreaper", Some(ContainmentLevel::Subreaper)),
    ];
}

fn alternatives(names: impl IntoIterator<Item = &'static str>) -> String {
    let names: Vec<_> = names.into_iter().map(|name| format!("\"{name}\"")).collect();
    match &names[..] {
        [first @ .., last] if !first.is_empty() => format!("{} or {last}", first.join(", ")),
        _ => names.concat(),
    }
}

impl Form for CoreSet {
    fn words() -> String {
        "cores as in \"0-3,8\"".to_owned()
    }

    fn read(node: Node<'_>) -> Result<Self, Wrong> {
        let text = node.text().ok_or_else(|| node.expected(&Self::words()))?;
        text.parse().map_err(|_| node.expected(&Self::words()))
    }

    fn show(&self) -> Value {
        Value::String(self.to_string())
    }
}

impl Form for Affinity {
    fn words() -> String {
        format!("\"none\", \"spread\" or {}", Vec::<CoreSet>::words())
    }

    fn read(node: Node<'_>) -> Result<Self, Wrong> {
        match node.text() {
            Some("none") => Ok(Self::None),
            Some("spread") => Ok(Self::Spread),
            None if node.get().is_array() => Ok(Self::Cores(Vec::read(node)?)),
            _ => Err(node.expected(&Self::words())),
        }
    }

    fn show(&self) -> Value {
        match self {
            Self::Spread => Value::String("spread".to_owned()),
            Self::Cores(sets) => sets.show(),
            _ => Value::String("none".to_owned()),
        }
    }
}

impl Form for Concurrency {
    fn words() -> String {
        "\"one\", { threads = N } or { asyncio = N }".to_owned()
    }

    fn read(node: Node<'_>) -> Result<Self, Wrong> {
        if node.text() == Some("one") {
            return Ok(Self::One);
        }
        let entries: Vec<_> = node.entries().into_iter().flatten().collect();
        match entries[..] {
            [("threads", count)] => Ok(Self::Threads(u32::read(count)?)),
            [("asyncio", count)] => Ok(Self::Asyncio(u32::read(count)?)),
            _ => Err(node.expected(&Self::words())),
        }
    }

    fn show(&self) -> Value {
        let table =
            |name: &str, count: u32| Value::Table([(name.to_owned(), count.show())].into_iter().collect());
        match self {
            Self::Threads(count) => table("threads", *count),
            Self::Asyncio(count) => table("asyncio", *count),
            _ => Value::String("one".to_owned()),
        }
    }
}

impl Form for ChannelSpec {
    fn words() -> String {
        "\"inherited\" or \"unix:DIRECTORY\"".to_owned()
    }

    fn read(node: Node<'_>) -> Result<Self, Wrong> {
        match node.text() {
            Some("inherited") => Ok(Self::Inherited),
            Some(text) if text.len() > 5 && text.starts_with("unix:") => {
                Ok(Self::UnixIn(node.directory.join(&text[5..])))
            }
            _ => Err(node.expected(&Self::words())),
        }
    }

    fn show(&self) -> Value {
        let unix = |directory: &Path| format!("unix:{}", directory.display());
        Value::String(match self {
            Self::UnixIn(directory) => unix(directory),
            _ => "inherited".to_owned(),
        })
    }
}
