//! Every setting that a pool can have in a file. One that is added here has its row in the guide's `settings.md`, or a test fails.

use toml::Value;

use super::{
    draft::Draft,
    kinds::{
        Added, App, Command, Interpreter, Kind, LogLevel, Names, Plain, RegistryPolicy, ResourceLimits, Size,
        Unset, Variables,
    },
    node::{Node, Wrong},
};

/// One setting.
pub(super) struct Entry {
    /// Its name, after those of the tables it is in: `shutdown.grace`.
    pub(super) key: &'static str,
    /// What its default is where the value says little about that: one that the machine decides, or none.
    pub(super) default: Option<&'static str>,
    /// The Cargo feature it belongs to, and whether that is there.
    feature: Option<(&'static str, bool)>,
    place: Box<dyn Place>,
}

/// Where a setting is kept, and how it is written.
trait Place {
    #[cfg(test)]
    fn words(&self) -> String;

    fn read(&self, draft: &mut Draft, node: Node<'_>) -> Result<(), Wrong>;

    fn show(&self, draft: &mut Draft) -> Option<Value>;
}

struct At<T, K> {
    kind: K,
    get: fn(&mut Draft) -> &mut T,
}

impl<T, K: Kind<T>> Place for At<T, K> {
    #[cfg(test)]
    fn words(&self) -> String {
        self.kind.words()
    }

    fn read(&self, draft: &mut Draft, node: Node<'_>) -> Result<(), Wrong> {
        self.kind.read((self.get)(draft), node)
    }

    fn show(&self, draft: &mut Draft) -> Option<Value> {
        self.kind.show((self.get)(draft))
    }
}

fn entry<T: 'static, K: Kind<T> + 'static>(
    key: &'static str,
    kind: K,
    get: fn(&mut Draft) -> &mut T,
) -> Entry {
    Entry {
        key,
        default: None,
        feature: None,
        place: Box::new(At { kind, get }),
    }
}

impl Entry {
    fn default(self, default: &'static str) -> Self {
        Self {
            default: Some(default),
            ..self
        }
    }

    /// What is expected of its value.
    #[cfg(test)]
    pub(super) fn words(&self) -> String {
        self.place.words()
    }

    pub(super) fn is_compiled_in(&self) -> bool {
        self.feature.is_none_or(|(_, compiled_in)| compiled_in)
    }

    pub(super) fn read(&self, draft: &mut Draft, node: Node<'_>) -> Result<(), Wrong> {
        match self.feature {
            Some((feature, false)) => Err(node.wrong(format!(
                "it needs the Cargo feature `{feature}`, which this build is without"
            ))),
            _ => {
                draft.set.push(self.key);
                self.place.read(draft, node)
            }
        }
    }

    pub(super) fn show(&self, draft: &mut Draft) -> Option<Value> {
        self.place.show(draft)
    }
}

/// All of them, in the order of the guide.
pub(super) fn all() -> Vec<Entry> {
    let registry = ("registry", cfg!(feature = "registry"));
    let exec = ("backend-exec", cfg!(feature = "backend-exec"));
    let of = |feature, entries: Vec<Entry>| {
        entries.into_iter().map(move |entry| Entry {
            feature: Some(feature),
            ..entry
        })
    };
    let mut all = vec![
        // What the workers are.
        entry("workers", Plain, |d| &mut d.builder.pool.workers).default("the CPUs this process may use"),
        entry("min_workers", Unset, |d| &mut d.builder.pool.min_workers).default("as many as `workers`"),
        entry("spare_workers", Plain, |d| &mut d.builder.pool.spare_workers),
        entry("idle_timeout", Plain, |d| &mut d.builder.pool.idle_timeout),
        entry("concurrency", Plain, |d| &mut d.builder.concurrency),
        entry("adapters", Added, |d| &mut d.builder.adapters),
        entry("preload", Added, |d| &mut d.builder.preload),
        entry("nested_namespaces", Plain, |d| &mut d.builder.nested_namespaces),
        entry("paths", Added, |d| &mut d.builder.paths),
        entry("python", Interpreter, |d| &mut d.python.interpreter).default("the first that serves"),
        entry("packages", Plain, |d| &mut d.python.packages),
        entry("program", Command, |d| &mut d.builder.program).default("Python"),
        entry("channel", Plain, |d| &mut d.builder.channel),
        entry("cwd", Unset, |d| &mut d.builder.cwd).default("the host's"),
        entry("env", Variables, |d| &mut d.builder.environment.variables),
        entry("env_remove", Names, |d| &mut d.builder.env_remove),
        entry("devices", Plain, |d| &mut d.builder.environment.devices),
        entry("affinity", Plain, |d| &mut d.builder.environment.affinity),
        entry("log_level", LogLevel, |d| &mut d.builder.log_level),
        entry("arena", Size, |d| &mut d.builder.arena),
        entry("metrics", Plain, |d| &mut d.builder.metrics),
        // How calls wait, run and fail.
        entry("queue_limit", Plain, |d| &mut d.builder.pool.queue_limit),
        entry("overflow", Plain, |d| &mut d.builder.pool.overflow),
        entry("function_limits", Plain, |d| &mut d.builder.pool.function_limits),
        entry("deadline", Plain, |d| &mut d.builder.pool.deadline),
        entry("queue_timeout", Plain, |d| &mut d.builder.pool.queue_timeout),
        entry("run_timeout", Plain, |d| &mut d.builder.pool.run_timeout),
        entry("attempts", Plain, |d| &mut d.builder.pool.attempts),
        entry("poison_limit", Plain, |d| &mut d.builder.pool.poison_limit),
        entry("cancel_grace", Plain, |d| &mut d.builder.pool.cancel_grace),
        // Start, health and end.
        entry("start_timeout", Plain, |d| &mut d.builder.pool.start_timeout),
        entry("start_deadline", Plain, |d| &mut d.builder.start_deadline),
        entry("heartbeat.interval", Plain, |d| &mut d.builder.heartbeat.interval),
        entry("heartbeat.stuck_after", Plain, |d| {
            &mut d.builder.heartbeat.stuck_after
        }),
        entry("health_interval", Plain, |d| &mut d.builder.pool.health_interval),
        entry("health_timeout", Plain, |d| &mut d.builder.pool.health_timeout),
        entry("max_age", Plain, |d| &mut d.builder.pool.max_age),
        entry("max_calls", Plain, |d| &mut d.builder.pool.max_calls),
        entry("max_rss", Size, |d| &mut d.builder.pool.max_rss),
        entry("recycle_jitter", Plain, |d| &mut d.builder.pool.recycle_jitter),
        entry("replacements", Plain, |d| &mut d.builder.pool.replacements),
        entry("drain_timeout", Plain, |d| &mut d.builder.pool.drain_timeout),
        entry("shutdown.drain", Plain, |d| &mut d.builder.pool.shutdown.drain),
        entry("shutdown.grace", Plain, |d| &mut d.builder.pool.shutdown.grace),
        // What starts and bounds the processes.
        entry("backend", Unset, |d| &mut d.builder.backend).default("the first that is compiled in"),
        entry("limits.uid", Unset, |d| &mut d.builder.limits.uid).default("the host's"),
        entry("limits.gid", Unset, |d| &mut d.builder.limits.gid).default("the host's"),
        entry("limits.groups", Unset, |d| &mut d.builder.limits.groups)
            .default("none with a `uid`, else the host's"),
        entry("limits.nice", Unset, |d| &mut d.builder.limits.nice).default("the host's"),
        entry("limits.rlimits", ResourceLimits, |d| {
            &mut d.builder.limits.rlimits
        }),
        entry("limits.oom_score_adj", Unset, |d| {
            &mut d.builder.limits.oom_score_adj
        })
        .default("the host's"),
        entry("limits.memory", Size, |d| &mut d.builder.limits.memory_bytes),
        entry("limits.pids", Unset, |d| &mut d.builder.limits.pids).default("no limit"),
        entry("limits.cpu_cores", Unset, |d| &mut d.builder.limits.cpu_cores).default("no limit"),
    ];
    all.extend(of(
        exec,
        vec![
            entry("exec.containment", Plain, |d| &mut d.exec.containment),
            entry("exec.shared_namespace", Plain, |d| &mut d.exec.shared_namespace),
            entry("exec.cgroup_parent", Unset, |d| &mut d.exec.cgroup_parent).default("the host's cgroup"),
            entry("exec.host_death_grace", Plain, |d| &mut d.exec.host_death_grace),
            entry("exec.ping_interval", Plain, |d| &mut d.exec.ping_interval),
            entry("exec.stuck_after", Plain, |d| &mut d.exec.stuck_after),
            entry("exec.request_deadline", Plain, |d| &mut d.exec.request_deadline),
        ],
    ));
    all.extend(of(
        registry,
        vec![
            entry("registry.enabled", Plain, |d| &mut d.registry.enabled),
            entry("registry.app", App, |d| &mut d.registry.app).default("the executable's name"),
            entry("registry.state_dir", Unset, |d| &mut d.registry.state_dir)
                .default("the user's state directory"),
            entry("registry.policy", RegistryPolicy, |d| &mut d.registry.required),
            entry("registry.cleanup_bound", Plain, |d| &mut d.registry.cleanup_bound),
            entry("registry.write_bound", Plain, |d| &mut d.registry.write_bound),
        ],
    ));
    all
}
