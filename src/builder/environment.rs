//! The variables, devices and cores of a pool's workers, as they were asked for.

use std::{
    ffi::{OsStr, OsString},
    os::unix::ffi::OsStrExt as _,
};

use snakepit_core::worker::{Affinity, PerSlot, Template, TemplateError};

/// What a pool's workers get of their own.
#[derive(Clone, Debug, Default)]
pub(crate) struct Environment {
    pub(crate) variables: Vec<(OsString, Variable)>,
    pub(crate) devices: Vec<String>,
    pub(crate) affinity: Affinity,
}

/// The value of a variable.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Variable {
    Literal(OsString),
    Template(String),
}

impl Variable {
    fn template(&self) -> Result<Template, TemplateError> {
        match self {
            Self::Literal(text) => Ok(Template::literal(text)),
            Self::Template(text) => Template::parse(text),
        }
    }
}

impl Environment {
    pub(crate) fn sets(&self, variable: &str) -> bool {
        self.variables.iter().any(|(name, _)| name == variable)
    }

    /// Adds a sentence for everything that is wrong.
    pub(crate) fn check(&self, wrong: &mut Vec<String>) {
        for (name, value) in &self.variables {
            if !is_name(name) {
                wrong.push(format!("`{}` is not the name of a variable", name.display()));
            }
            match value.template() {
                Ok(template) if template.names_device() && self.devices.is_empty() => wrong.push(format!(
                    "the variable {} names {{device}}, and the pool has no devices",
                    name.display()
                )),
                Ok(_) => {}
                Err(error) => wrong.push(format!("the variable {}: {error}", name.display())),
            }
        }
        if self.devices.iter().any(String::is_empty) {
            wrong.push("one of the devices has no name".to_owned());
        }
        wrong.extend(self.affinity.check().err());
    }

    /// The same for the workers, once it is [checked](Self::check).
    pub(super) fn fill_in(self, per_slot: &mut PerSlot) {
        let templates = self.variables.into_iter().filter_map(|(name, value)| {
            let template = value.template().ok()?;
            Some((name, template))
        });
        per_slot.env.extend(templates);
        (per_slot.devices, per_slot.affinity) = (self.devices, self.affinity);
    }
}

fn is_name(name: &OsStr) -> bool {
    let bytes = name.as_bytes();
    !bytes.is_empty() && !bytes.iter().any(|byte| matches!(byte, b'=' | 0))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn everything_that_is_wrong_is_told_by_its_variable() {
        let template = |text: &str| Variable::Template(text.to_owned());
        let environment = Environment {
            variables: vec![
                ("PLAIN".into(), Variable::Literal("{slt}".into())),
                ("GOOD".into(), template("{slot}")),
                ("BAD".into(), template("{slt}")),
                ("GPU".into(), template("cuda:{device}")),
                ("A=B".into(), template("")),
            ],
            devices: Vec::new(),
            affinity: Affinity::Cores(Vec::new()),
        };
        let mut wrong = Vec::new();
        environment.check(&mut wrong);
        assert_eq!(
            wrong,
            [
                "the variable BAD: `{slt}` stands for nothing: there are {slot}, {slots}, {run_id}, {pool}, {device}",
                "the variable GPU names {device}, and the pool has no devices",
                "`A=B` is not the name of a variable",
                "affinity has no cores: name some, or use Affinity::None",
            ]
        );
    }
}
