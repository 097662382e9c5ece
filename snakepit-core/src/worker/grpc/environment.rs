//! What differs from slot to slot: variables that are filled in for it, its device, the cores it runs on.

use std::{
    ffi::OsString,
    fmt::{self, Write as _},
};

use super::affinity::Affinity;
use crate::id::{RunId, SlotId};

/// What differs from slot to slot of a pool. A slot keeps its number, and so all of this, over all of its workers.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct PerSlot {
    /// How many slots the pool has: what `{slots}` stands for and what [`Affinity::Spread`] shares the cores out among.
    pub slots: usize,
    /// Variables to set, after those that all workers have in common; of two with one name the later wins.
    pub env: Vec<(OsString, Template)>,
    /// Devices that the slots take in turn: slot 0 the first, and so around. A worker's is what `{device}` stands for, and the
    /// value of `CUDA_VISIBLE_DEVICES` unless [`env`](Self::env) has that. Default: none.
    pub devices: Vec<String>,
    /// The cores. Default: those of the host.
    pub affinity: Affinity,
}

impl Default for PerSlot {
    fn default() -> Self {
        Self {
            slots: 1,
            env: Vec::new(),
            devices: Vec::new(),
            affinity: Affinity::default(),
        }
    }
}

/// The variable by which CUDA programs are told their devices.
const CUDA_DEVICES: &str = "CUDA_VISIBLE_DEVICES";

impl PerSlot {
    /// The variables of a worker in this slot.
    pub(super) fn variables(&self, slot: SlotId, run_id: RunId, pool: &str) -> Vec<(OsString, OsString)> {
        let index = usize::try_from(slot.0).unwrap_or(usize::MAX);
        let device = index
            .checked_rem(self.devices.len())
            .map(|turn| &self.devices[turn]);
        let fill = |name| match name {
            Name::Slot => slot.0.to_string(),
            Name::Slots => self.slots.to_string(),
            Name::RunId => run_id.to_string(),
            Name::Pool => pool.to_owned(),
            Name::Device => device.cloned().unwrap_or_default(),
        };
        let cuda = device.map(|device| (CUDA_DEVICES.into(), device.into()));
        let set = self
            .env
            .iter()
            .map(|(name, value)| (name.clone(), value.fill(&fill)));
        cuda.into_iter().chain(set).collect()
    }
}

/// A value with places that are filled in for each worker: `/var/log/model-{slot}.log`.
///
/// `{slot}` is the number of its slot, from 0; `{slots}` how many the pool has; `{run_id}` the run; `{pool}` the pool's name;
/// `{device}` its device, see [`PerSlot::devices`]. A brace itself is written twice.
///
/// ```
/// use snakepit_core::worker::Template;
///
/// assert!(Template::parse("{pool}/{slot} of {slots}").is_ok());
/// assert!(Template::parse(r#"{{"a": 1}}"#).is_ok());
/// let error = Template::parse("{slt}").unwrap_err().to_string();
/// assert_eq!(error, "`{slt}` stands for nothing: there are {slot}, {slots}, {run_id}, {pool}, {device}");
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Template(Vec<Part>);

#[derive(Clone, Debug, PartialEq, Eq)]
enum Part {
    Text(OsString),
    Place(Name),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Name {
    Slot,
    Slots,
    RunId,
    Pool,
    Device,
}

impl Name {
    const ALL: [Self; 5] = [Self::Slot, Self::Slots, Self::RunId, Self::Pool, Self::Device];

    const fn text(self) -> &'static str {
        match self {
            Self::Slot => "slot",
            Self::Slots => "slots",
            Self::RunId => "run_id",
            Self::Pool => "pool",
            Self::Device => "device",
        }
    }
}

/// Text that is no [`Template`].
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum TemplateError {
    /// Nothing goes by this name.
    #[error("`{{{name}}}` stands for nothing: there are {}", Names)]
    Unknown {
        /// The name.
        name: String,
    },
    /// A brace without its other half.
    #[error("the `{brace}` after {} characters has no other half; a brace itself is written twice, `{brace}{brace}`", .before)]
    Lone {
        /// The brace.
        brace: char,
        /// How many characters stand before it.
        before: usize,
    },
}

/// The names there are, for people.
struct Names;

impl fmt::Display for Names {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, name) in Name::ALL.into_iter().enumerate() {
            f.write_str(if index == 0 { "{" } else { ", {" })?;
            f.write_str(name.text())?;
            f.write_char('}')?;
        }
        Ok(())
    }
}

impl Template {
    /// Text as it is, whatever is in it.
    pub fn literal(text: impl Into<OsString>) -> Self {
        Self(vec![Part::Text(text.into())])
    }

    /// Reads a template.
    ///
    /// # Errors
    /// For a name that stands for nothing, and a brace without its other half.
    pub fn parse(text: &str) -> Result<Self, TemplateError> {
        let mut parts = Vec::new();
        let mut literal = String::new();
        let mut rest = text;
        while let Some(at) = rest.find(['{', '}']) {
            literal.push_str(&rest[..at]);
            let lone = |brace| TemplateError::Lone {
                brace,
                before: text[..text.len() - rest.len() + at].chars().count(),
            };
            let (brace, after) = (&rest[at..=at], &rest[at + 1..]);
            if let Some(after) = after.strip_prefix(brace) {
                literal.push_str(brace);
                rest = after;
                continue;
            }
            if brace == "}" {
                return Err(lone('}'));
            }
            let (name, after) = after.split_once('}').ok_or_else(|| lone('{'))?;
            let known = Name::ALL.into_iter().find(|known| known.text() == name);
            let unknown = || TemplateError::Unknown {
                name: name.to_owned(),
            };
            parts.extend(text_part(&mut literal));
            parts.push(Part::Place(known.ok_or_else(unknown)?));
            rest = after;
        }
        literal.push_str(rest);
        parts.extend(text_part(&mut literal));
        Ok(Self(parts))
    }

    /// Whether it needs [devices](PerSlot::devices).
    pub fn names_device(&self) -> bool {
        self.0.contains(&Part::Place(Name::Device))
    }

    fn fill(&self, fill: &impl Fn(Name) -> String) -> OsString {
        let mut filled = OsString::new();
        for part in &self.0 {
            match part {
                Part::Text(text) => filled.push(text),
                Part::Place(name) => filled.push(fill(*name)),
            }
        }
        filled
    }
}

fn text_part(literal: &mut String) -> Option<Part> {
    (!literal.is_empty()).then(|| Part::Text(std::mem::take(literal).into()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn filled(text: &str) -> String {
        let slot = PerSlot {
            slots: 8,
            env: vec![("X".into(), Template::parse(text).unwrap())],
            devices: vec!["gpu0".into(), "gpu1".into()],
            ..PerSlot::default()
        };
        let run_id = "0123456789abcdef0123456789abcdef".parse().unwrap();
        let variables = slot.variables(SlotId(3), run_id, "images");
        let (name, value) = variables.last().unwrap();
        assert_eq!(name, "X");
        value.to_str().unwrap().to_owned()
    }

    #[test]
    fn places_are_filled_and_doubled_braces_are_braces() {
        for (text, expected) in [
            ("", ""),
            ("plain", "plain"),
            ("{slot}", "3"),
            ("{slot}/{slots}", "3/8"),
            ("a{pool}b{slot}c", "aimagesb3c"),
            ("{run_id}", "0123456789abcdef0123456789abcdef"),
            ("cuda:{device}", "cuda:gpu1"),
            ("{{slot}}", "{slot}"),
            ("{{{slot}}}", "{3}"),
            (r#"{{"größe": {{"n": {slot}}}}}"#, r#"{"größe": {"n": 3}}"#),
            ("}}{{", "}{"),
        ] {
            assert_eq!(filled(text), expected, "{text}");
        }
    }

    #[test]
    fn text_that_is_no_template_is_told_what_would_be_one() {
        const THERE_ARE: &str = "stands for nothing: there are {slot}, {slots}, {run_id}, {pool}, {device}";
        for (text, expected) in [
            ("{slt}", format!("`{{slt}}` {THERE_ARE}")),
            ("{}", format!("`{{}}` {THERE_ARE}")),
            ("{ slot }", format!("`{{ slot }}` {THERE_ARE}")),
            (
                "größe {slot",
                "the `{` after 6 characters has no other half; a brace itself is written twice, `{{`"
                    .to_owned(),
            ),
            (
                "slot}",
                "the `}` after 4 characters has no other half; a brace itself is written twice, `}}`"
                    .to_owned(),
            ),
            (
                "{slot}}",
                "the `}` after 6 characters has no other half; a brace itself is written twice, `}}`"
                    .to_owned(),
            ),
        ] {
            assert_eq!(Template::parse(text).unwrap_err().to_string(), expected, "{text}");
        }
    }

    #[test]
    fn slots_take_the_devices_in_turn_and_a_variable_of_the_users_own_wins() {
        let mut per_slot = PerSlot {
            devices: vec!["0".into(), "1,2".into()],
            ..PerSlot::default()
        };
        let of = |per_slot: &PerSlot, slot| {
            let variables = per_slot.variables(SlotId(slot), RunId::random(), "p");
            let mut values = variables.into_iter().filter(|(name, _)| name == CUDA_DEVICES);
            values.next_back().map(|(_, value)| value)
        };
        for (slot, device) in [(0, "0"), (1, "1,2"), (2, "0"), (5, "1,2")] {
            assert_eq!(of(&per_slot, slot).unwrap(), device);
        }
        let own = Template::parse("{device},9").unwrap();
        assert!(own.names_device());
        per_slot.env.push((CUDA_DEVICES.into(), own));
        assert_eq!(of(&per_slot, 1).unwrap(), "1,2,9");
        assert_eq!(of(&PerSlot::default(), 1), None);
    }
}
