//! `snakepit config check`: what is wrong in a file, or what is in effect.

use std::process::ExitCode;

use serde_json::{Map, Value, json};
use snakepit::config::{ConfigError, PoolConfig, Problem, Setting};

use super::{Action, CheckArgs, ConfigCommand};
use crate::cli::{failure::Failure, output};

/// Checks and reports.
pub(crate) fn run(command: &ConfigCommand) -> Result<ExitCode, Failure> {
    let Action::Check(args) = &command.action;
    match PoolConfig::load(&args.file) {
        Ok(config) => {
            if args.json {
                output::json(&report(args, &[], pools(&config)?))?;
            } else {
                print(args, &config)?;
            }
            Ok(ExitCode::SUCCESS)
        }
        Err(ConfigError::Wrong { path, problems }) => {
            if args.json {
                output::json(&report(args, &problems, Map::new()))?;
            } else {
                for problem in &problems {
                    output::line(format_args!("{}:{problem}", path.display()))?;
                }
            }
            Ok(ExitCode::FAILURE)
        }
        Err(other) => Err(other.into()),
    }
}

fn print(args: &CheckArgs, config: &PoolConfig) -> Result<(), Failure> {
    output::line(format_args!(
        "# {} is right. What is in effect:",
        args.file.display()
    ))?;
    for name in config.names() {
        output::line(format_args!("\n[pool.{}]", key(name)))?;
        for Setting {
            key,
            value,
            default,
            is_set,
            ..
        } in config.settings(name)?
        {
            let what = default.map_or("default".to_owned(), |words| format!("default: {words}"));
            output::line(match value {
                Some(value) if is_set => format!("{key} = {value}"),
                Some(value) => format!("{key} = {value} # {what}"),
                None => format!("# {key}, {what}"),
            })?;
        }
    }
    Ok(())
}

/// A name as a key of TOML.
fn key(name: &str) -> String {
    let is_bare = |c: char| c.is_ascii_alphanumeric() || c == '_' || c == '-';
    if !name.is_empty() && name.chars().all(is_bare) {
        name.to_owned()
    } else {
        toml::Value::from(name).to_string()
    }
}

/// The settings of each pool.
fn pools(config: &PoolConfig) -> Result<Map<String, Value>, Failure> {
    let mut pools = Map::new();
    for name in config.names() {
        let mut settings = Map::new();
        for Setting { key, value, .. } in config.settings(name)? {
            let value = value.map_or(Ok(Value::Null), |value| to_json(&value))?;
            settings.insert(key.to_owned(), value);
        }
        pools.insert(name.to_owned(), settings.into());
    }
    Ok(pools)
}

fn report(args: &CheckArgs, problems: &[Problem], pools: Map<String, Value>) -> Value {
    let problems = problems.iter().map(|problem| {
        let Problem {
            line,
            column,
            key,
            message,
            ..
        } = problem;
        json!({ "line": line, "column": column, "key": key, "message": message })
    });
    json!({
        "file": args.file.display().to_string(),
        "problems": problems.collect::<Vec<_>>(),
        "pools": pools,
    })
}

/// A value of TOML in JSON.
fn to_json(text: &str) -> Result<Value, Failure> {
    let value = toml::de::ValueDeserializer::parse(text).and_then(<Value as serde::Deserialize>::deserialize);
    value.map_err(|error| Failure::Failed(error.to_string()))
}
