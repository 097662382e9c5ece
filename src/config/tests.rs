//! What is read from text, what is told about it, and that nothing is missing: from the schema, and from the guide.

use std::{collections::BTreeMap, fmt::Debug, time::Duration};

use snakepit_core::{
    launch::LaunchLimits,
    pool::{Overflow, PoolSettings},
    worker::{Affinity, ChannelSpec, Concurrency},
};

use super::{ConfigError, PoolConfig, draft::Draft, schema};
use crate::{Pool, PoolBuilder, builder::Variable};

/// The pool `p` with these settings, in a file in `/etc/shop`.
fn pool(settings: &str) -> PoolBuilder {
    let text = format!("[pool.p]\n{settings}");
    let config = PoolConfig::parse(&text, "/etc/shop/snakepit.toml");
    config
        .unwrap_or_else(|error| panic!("{error}"))
        .pool("p")
        .unwrap()
}

/// What is told of these settings, without the file's name.
fn told(text: &str) -> Vec<String> {
    match PoolConfig::parse(text, "f").map(|config| config.names().map(str::to_owned).collect::<Vec<_>>()) {
        Err(ConfigError::Wrong { problems, .. }) => problems.iter().map(ToString::to_string).collect(),
        other => panic!("{text}: {other:?}"),
    }
}

#[test]
fn every_kind_of_value_arrives_where_it_belongs() {
    let builder = pool(
        r#"
        workers = 0x10
        concurrency.asyncio = 100
        adapters = ["a", "b"]
        paths = ["python", "/opt/lib"]
        program = ["bin/worker", "--fast"]
        channel = "unix:sockets"
        cwd = "work"
        env = { LOG = "x-{slot}", JSON = '{{"a": 1}}' }
        env_remove = ["HOME"]
        devices = ["0", "1"]
        affinity = ["0-1", "2"]
        log_level = "warning"
        metrics = false
        queue_limit = "none"
        overflow = "drop-oldest"
        function_limits = { train = 1, "m:f" = 2 }
        deadline = "1m 30s"
        run_timeout = "250ms"
        poison_limit = "none"
        max_calls = 1000
        recycle_jitter = 0
        heartbeat.interval = "1s"
        shutdown = { drain = "0s", grace = "1500ms" }

        [pool.p.limits]
        nice = -5
        memory = "512MiB"
        pids = 64
        cpu_cores = 1.5
        groups = [1, 2]
        rlimits = { nofile = 1024, core = "none", as = ["1GiB", "none"] }
        "#,
    );
    assert_eq!(builder.name, "p");
    assert_eq!(builder.pool.workers, 16);
    assert_eq!(builder.concurrency, Concurrency::Asyncio(100));
    assert_eq!(builder.adapters, ["a", "b"]);
    assert_eq!(
        builder.paths,
        ["/etc/shop/python", "/opt/lib"].map(std::path::PathBuf::from)
    );
    assert_eq!(
        builder.program,
        Some(("/etc/shop/bin/worker".into(), vec!["--fast".into()]))
    );
    assert_eq!(builder.channel, ChannelSpec::UnixIn("/etc/shop/sockets".into()));
    assert_eq!(builder.cwd, Some("/etc/shop/work".into()));
    let template = |text: &str| Variable::Template(text.to_owned());
    let variables = [
        ("JSON".into(), template(r#"{{"a": 1}}"#)),
        ("LOG".into(), template("x-{slot}")),
    ];
    assert_eq!(builder.environment.variables, variables);
    assert_eq!(builder.env_remove, ["HOME"]);
    assert_eq!(builder.environment.devices, ["0", "1"]);
    let sets = ["0-1", "2"].map(|set| set.parse().unwrap()).to_vec();
    assert_eq!(builder.environment.affinity, Affinity::Cores(sets));
    assert_eq!((builder.log_level, builder.metrics), (30, false));
    assert!(!builder.nested_namespaces);
    assert!(pool("backend = 'zygote'\nnested_namespaces = true").nested_namespaces);
    let settings = &builder.pool;
    assert_eq!(
        (settings.queue_limit, settings.overflow),
        (None, Overflow::DropOldest)
    );
    let limits = BTreeMap::from([("m:f".to_owned(), 2), ("train".to_owned(), 1)]);
    assert_eq!(settings.function_limits, limits);
    assert_eq!(settings.deadline, Some(Duration::from_secs(90)));
    assert_eq!(settings.run_timeout, Some(Duration::from_millis(250)));
    assert_eq!((settings.queue_timeout, settings.poison_limit), (None, None));
    assert_eq!(settings.max_calls, Some(1000));
    // It needs the metrics, which are off here.
    assert_eq!(pool("max_rss = \"1GiB\"").pool.max_rss, Some(1 << 30));
    assert_eq!((settings.max_age, settings.recycle_jitter), (None, 0.0));
    assert_eq!(builder.heartbeat.interval, Duration::from_secs(1));
    assert_eq!(settings.shutdown.drain, Duration::ZERO);
    assert_eq!(settings.shutdown.grace, Duration::from_millis(1500));
    let limits = &builder.limits;
    assert_eq!((limits.nice, limits.memory_bytes), (Some(-5), Some(512 << 20)));
    assert_eq!((limits.pids, limits.cpu_cores), (Some(64), Some(1.5)));
    assert_eq!(limits.groups, Some(vec![1, 2]));
    let rlimits: Vec<_> = limits
        .rlimits
        .iter()
        .map(|limit| (limit.soft, limit.hard))
        .collect();
    assert_eq!(rlimits, [(1 << 30, u64::MAX), (u64::MAX, u64::MAX), (1024, 1024)]);
}

#[test]
fn an_interpreter_is_a_path_of_the_file_or_a_name() {
    for (text, interpreter) in [
        ("venv/", "/etc/shop/venv/"),
        ("python3.12", "python3.12"),
        ("/usr/bin/python3", "/usr/bin/python3"),
    ] {
        let builder = pool(&format!("python = \"{text}\"\npackages = [\"numpy\"]"));
        let debug = format!("{:?}", builder.python);
        assert!(
            debug.contains(&format!("interpreter: Some(\"{interpreter}\")")),
            "{debug}"
        );
        assert!(debug.contains("packages: [\"numpy\"]"), "{debug}");
    }
}

#[test]
fn what_is_wrong_is_told_with_its_place() {
    for (settings, expected) in [
        // Keys.
        (
            "wrokers = 1",
            "2:1: pool.p.wrokers: there is no such setting; did you mean `workers`?",
        ),
        (
            "queue-limit = 1",
            "2:1: pool.p.queue-limit: there is no such setting; did you mean `queue_limit`?",
        ),
        ("colour = 1", "2:1: pool.p.colour: there is no such setting"),
        (
            "shutdown.gracee = \"1s\"",
            "2:10: pool.p.shutdown.gracee: there is no such setting; did you mean `grace`?",
        ),
        (
            "shutdown = \"5s\"",
            "2:12: pool.p.shutdown: expected a table, found the text \"5s\"",
        ),
        (
            "limits.rlimits.nofiles = 1",
            "2:26: pool.p.limits.rlimits: there is no limit `nofiles`; there are: as, core, cpu, data, fsize, locks, memlock, msgqueue, nice, nofile, nproc, rss, rtprio, rttime, sigpending, stack",
        ),
        // Types.
        (
            "workers = \"4\"",
            "2:11: pool.p.workers: expected a whole number, found the text \"4\"",
        ),
        (
            "workers = -1",
            "2:11: pool.p.workers: expected a whole number, found the number -1",
        ),
        (
            "workers = 1.5",
            "2:11: pool.p.workers: expected a whole number, found the number 1.5",
        ),
        (
            "metrics = \"yes\"",
            "2:11: pool.p.metrics: expected true or false, found the text \"yes\"",
        ),
        (
            "adapters = \"a\"",
            "2:12: pool.p.adapters: expected a list, each text, found the text \"a\"",
        ),
        (
            "adapters = [\"a\", 2]",
            "2:18: pool.p.adapters: expected text, found the number 2",
        ),
        (
            "env = []",
            "2:7: pool.p.env: expected a table, each text, in which {slot} and others are filled in, found a list",
        ),
        ("env.N = 1", "2:9: pool.p.env: expected text, found the number 1"),
        (
            "queue_limit = \"unlimited\"",
            "2:15: pool.p.queue_limit: expected a whole number or \"none\", found the text \"unlimited\"",
        ),
        (
            "cwd = \"\"",
            "2:7: pool.p.cwd: expected a path, found the text \"\"",
        ),
        (
            "program = []",
            "2:11: pool.p.program: expected a list of text: a path or a name in PATH, then arguments, found a list",
        ),
        (
            "limits.groups = 1",
            "2:17: pool.p.limits.groups: expected a list, each a whole number, found the number 1",
        ),
        (
            "limits.rlimits.core = [1, 2, 3]",
            "2:23: pool.p.limits.rlimits: expected a list of two: soft and hard, found a list",
        ),
        // Choices.
        (
            "overflow = \"drop\"",
            "2:12: pool.p.overflow: expected \"refuse\" or \"drop-oldest\", found the text \"drop\"",
        ),
        (
            "backend = \"ports\"",
            "2:11: pool.p.backend: expected \"port\", \"exec\", \"zygote\", \"zygote+port\" or \"zygote+exec\", found the text \"ports\"",
        ),
        (
            "affinity = \"0-3\"",
            "2:12: pool.p.affinity: expected \"none\", \"spread\" or a list, each cores as in \"0-3,8\", found the text \"0-3\"",
        ),
        (
            "affinity = [\"3-1\"]",
            "2:13: pool.p.affinity: expected cores as in \"0-3,8\", found the text \"3-1\"",
        ),
        (
            "channel = \"tcp:\"",
            "2:11: pool.p.channel: expected \"inherited\" or \"unix:DIRECTORY\", found the text \"tcp:\"",
        ),
        (
            "log_level = \"loud\"",
            "2:13: pool.p.log_level: expected \"debug\", \"info\", \"warning\", \"error\", \"critical\" or a whole number, found the text \"loud\"",
        ),
        // Units.
        (
            "cancel_grace = 5",
            "2:16: pool.p.cancel_grace: expected a time with its unit, as in \"5s\" or \"250ms\", found the number 5",
        ),
        (
            "deadline = \"5\"",
            "2:12: pool.p.deadline: expected a time with its unit, as in \"5s\" or \"250ms\" or \"none\", found \"5\": time unit needed, for example 5sec or 5ms",
        ),
        (
            "limits.memory = 512",
            "2:17: pool.p.limits.memory: expected a size as in \"512MiB\", found the number 512",
        ),
        (
            "limits.memory = \"512MB\"",
            "2:17: pool.p.limits.memory: expected a size as in \"512MiB\", found \"512MB\": the units are B, KiB, MiB and GiB",
        ),
        // What the settings themselves say.
        (
            "attempts = 3\nworkers = 0",
            "3:11: pool.p.workers: workers is 0, it must be 1 to 100000",
        ),
        (
            "heartbeat.interval = \"0s\"",
            "2:22: pool.p.heartbeat.interval: the heartbeat's interval is zero: the host would do nothing but ping",
        ),
        (
            "env.A = \"{slt}\"",
            "2:9: pool.p.env: the variable A: `{slt}` stands for nothing: there are {slot}, {slots}, {run_id}, {pool}, {device}",
        ),
        (
            "packages = [\"--index-url\"]",
            "2:12: pool.p.packages: `--index-url` is not a package: it begins with a dash, as an option does",
        ),
        (
            "max_age = \"0s\"",
            "2:11: pool.p.max_age: max_age is zero: no worker could serve; no limit is `None`, in a file \"none\"",
        ),
        (
            "program = [\"x\"]\npackages = [\"numpy\"]",
            "1:7: pool.p: program runs another program than Python, which has no use for python and packages",
        ),
    ] {
        assert_eq!(told(&format!("[pool.p]\n{settings}")), [expected], "{settings}");
    }
}

#[test]
fn all_that_is_wrong_is_told_at_once_in_the_order_of_the_file() {
    let text = "[pool.b]\nworkers = \"x\"\ncolour = 1\n[pool.a]\nattempts = 0\nqueue_limit = 0\n[pools.c]\n";
    assert_eq!(
        told(text),
        [
            "2:11: pool.b.workers: expected a whole number, found the text \"x\"",
            "3:1: pool.b.colour: there is no such setting",
            "5:12: pool.a.attempts: attempts is 0: no call could be executed; it must be at least 1",
            "7:2: pools: there is no such table; pools are tables named [pool.NAME]",
        ]
    );
}

#[test]
fn what_is_no_configuration_at_all_is_told() {
    for (text, expected) in [
        ("", "1:1: there is no pool in it: begin one with [pool.default]"),
        (
            "pool = 1",
            "1:1: pool: expected a table of pools, as in [pool.default]",
        ),
        (
            "pool.p = 1",
            "1:6: pool.p: expected a table with the settings of a pool",
        ),
        ("[pool.p]\nworkers = 1\nworkers = 2", "3:1: duplicate key"),
        (
            "[pool.p]\nworkers = ",
            "2:11: string values must be quoted, expected literal string",
        ),
    ] {
        assert_eq!(told(text), [expected], "{text}");
    }
}

#[cfg(feature = "backend-exec")]
#[test]
fn settings_of_a_backend_choose_it_and_do_not_go_with_another() {
    let builder = pool("exec.containment = \"subreaper\"");
    assert_eq!(builder.backend_name(), Some("exec"));
    let own = builder.launcher.unwrap();
    let shared = crate::Backend::Exec.launcher().unwrap();
    assert!(!std::sync::Arc::ptr_eq(&own, &shared));
    assert!(pool("backend = \"exec\"").launcher.is_none());
    assert_eq!(
        told("[pool.p]\nbackend = \"port\"\nexec.containment = \"subreaper\""),
        ["1:7: pool.p: the settings below exec belong to the exec backend, and backend is port"]
    );
}

#[cfg(not(feature = "backend-exec"))]
#[test]
fn settings_of_what_is_not_compiled_in_name_its_feature() {
    let expected = "it needs the Cargo feature `backend-exec`, which this build is without";
    assert_eq!(
        told("[pool.p]\nexec.containment = \"auto\""),
        [format!("2:20: pool.p.exec.containment: {expected}")]
    );
    let wrong = told("[pool.p]\nbackend = \"exec\"");
    assert!(
        wrong[0].contains("enable the Cargo feature `backend-exec`"),
        "{wrong:?}"
    );
}

#[test]
fn a_pool_is_found_by_its_name() {
    let config = |text| PoolConfig::parse(text, "f.toml").unwrap();
    assert_eq!(config("[pool.x]").default_name().unwrap(), "x");
    let two = config("[pool.images]\n[pool.default]\n");
    assert_eq!(two.default_name().unwrap(), "default");
    let error = two.pool("image").unwrap_err().to_string();
    assert_eq!(
        error,
        "f.toml has no pool `image`; there are: default, images; did you mean `images`?"
    );
    let error = config("[pool.a]\n[pool.b]\n")
        .default_name()
        .unwrap_err()
        .to_string();
    assert_eq!(error, "f.toml has several pools, name one of: a, b");
}

#[test]
fn what_is_in_effect_reads_back_as_the_same() {
    let text = r#"
        [pool.p]
        workers = 3
        min_workers = 1
        concurrency = { threads = 4 }
        env = { A = "{{}}", B = "{slot}" }
        affinity = ["0", "1"]
        queue_limit = "none"
        deadline = "1m 30s"
        shutdown.drain = "0s"
        max_rss = "none"
        limits = { memory = "1536MiB", cpu_cores = 2, rlimits = { nofile = [10, "none"] } }
        "#;
    let effective = |text: &str| {
        let settings = PoolConfig::parse(text, "/f").unwrap().settings("p").unwrap();
        let lines = settings
            .into_iter()
            .filter_map(|setting| Some(format!("{} = {}\n", setting.key, setting.value?)));
        lines.collect::<String>()
    };
    let once = effective(text);
    assert_eq!(effective(&format!("[pool.p]\n{once}")), once);
    assert!(once.contains("limits.memory = \"1536MiB\"\n"), "{once}");
}

/// The names of a structure's fields, from its `Debug`.
fn fields(value: &impl Debug) -> Vec<String> {
    let text = format!("{value:#?}");
    let fields = text.lines().filter_map(|line| line.strip_prefix("    "));
    let named = fields.filter_map(|line| line.split_once(": ").map(|(name, _)| name.to_owned()));
    named.filter(|name| !name.starts_with(' ')).collect()
}

/// Fails for a field that is no setting of a file, unless it is among `others`, which says what it is instead.
#[track_caller]
fn all_in_the_schema(group: &str, value: &impl Debug, others: &[(&str, &str)]) {
    let schema = schema::all();
    let found = fields(value);
    assert!(found.len() >= 2, "{found:?}");
    for field in found {
        let other = others.iter().find(|(name, _)| *name == field);
        let key = other.map_or_else(|| format!("{group}{field}"), |(_, other)| (*other).to_owned());
        let is_there = schema
            .iter()
            .any(|entry| entry.key == key || entry.key.starts_with(&format!("{key}.")));
        assert!(is_there || key.is_empty(), "{key} is not in src/config/schema.rs");
    }
}

#[test]
fn every_setting_of_a_pool_can_be_in_a_file() {
    all_in_the_schema("", &PoolSettings::default(), &[]);
    all_in_the_schema(
        "limits.",
        &LaunchLimits::default(),
        &[("memory_bytes", "limits.memory")],
    );
    let builder = Pool::builder();
    all_in_the_schema("", &builder.environment, &[("variables", "env")]);
    all_in_the_schema(
        "",
        &builder.heartbeat,
        &[
            ("interval", "heartbeat.interval"),
            ("stuck_after", "heartbeat.stuck_after"),
        ],
    );
    // Structures are looked at above; what is code stays code.
    let others = [
        "name",
        "pool",
        "environment",
        "launcher",
        "template_launcher",
        "ledger",
        "resources",
        "host_functions",
    ]
    .map(|name| (name, ""));
    all_in_the_schema("", &builder, &others);
}

#[cfg(feature = "backend-exec")]
#[test]
fn every_setting_of_the_exec_backend_can_be_in_a_file_and_has_its_default() {
    let settings = snakepit_backend_exec::ExecSettings::default();
    all_in_the_schema("exec.", &settings, &[]);
    assert_eq!(super::draft::ExecDraft::default().settings(), settings);
}

#[cfg(feature = "registry")]
#[test]
fn every_setting_of_the_registry_can_be_in_a_file_and_has_its_default() {
    let settings = snakepit_registry::Settings::new();
    all_in_the_schema("registry.", &settings, &[]);
    let base = snakepit_registry::Settings::new();
    assert_eq!(super::draft::RegistryDraft::default().settings(base), settings);
    assert!(pool("registry.enabled = false").registry.is_none());
    let builder = pool("registry = { app = \"shop\", state_dir = \"state\", policy = \"required\" }");
    let registry = builder.registry.unwrap();
    assert_eq!(registry.tag(), "shop@/etc/shop/state");
    assert_eq!(registry.policy(), snakepit_registry::Policy::Required);
    assert_eq!(
        told("[pool.p]\nregistry.app = \"..\"")[0].split(": ").nth(2),
        Some("`..` cannot be the name of an application")
    );
}

/// The guide's table of settings: a row for each, with what is expected of its value and its default.
#[test]
fn the_guide_has_a_row_for_every_setting_with_its_default() {
    let guide = include_str!("../../docs/guide/settings.md");
    let mut defaults = Draft::of(Pool::builder());
    let schema = schema::all();
    for entry in &schema {
        let default = match (entry.default, entry.show(&mut defaults)) {
            (Some(words), _) => words.to_owned(),
            (None, Some(value)) => format!("`{value}`"),
            (None, None) => panic!("{} has no default to tell", entry.key),
        };
        let row = format!("| `{}` | {} | {default} | ", entry.key, entry.words());
        let found = guide
            .lines()
            .find(|line| line.starts_with(&format!("| `{}` |", entry.key)));
        let meaning = found.and_then(|found| found.strip_prefix(&row));
        assert!(
            meaning.is_some_and(|meaning| meaning.len() > 2),
            "docs/guide/settings.md has to have a row that begins\n{row}\nand it has\n{}",
            found.unwrap_or("none")
        );
    }
    let rows = guide
        .lines()
        .filter_map(|line| line.strip_prefix("| `")?.split_once("` |"));
    for (key, _) in rows {
        assert!(
            schema.iter().any(|entry| entry.key == key),
            "there is no setting {key}"
        );
    }
}

#[test]
fn the_example_is_right() {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/examples/snakepit.toml");
    let config = PoolConfig::load(path).unwrap_or_else(|error| panic!("{error}"));
    assert_eq!(config.names().collect::<Vec<_>>(), ["default", "images"]);
}
