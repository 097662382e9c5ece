//! Who a process is, beyond its pid.

/// The pidfs file handle of a process (Linux 6.14 and later): unique for one boot, never reused.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct PidfsHandle {
    /// Handle type as given by name_to_handle_at(2).
    pub handle_type: i32,
    /// Handle bytes.
    pub bytes: Vec<u8>,
}

/// Who a process is. A bare pid names whoever has that number now; this names one process.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct ProcessIdentity {
    /// The pid in our PID namespace.
    pub pid: u32,
    /// Its process group when it was started.
    pub pgid: u32,
    /// Start time in clock ticks since boot, field 22 of proc_pid_stat(5).
    pub start_ticks: u64,
    /// The pidfs handle, where the kernel has it.
    pub handle: Option<PidfsHandle>,
    /// `/proc/sys/kernel/random/boot_id` when it was taken.
    pub boot_id: String,
    /// Inode of the PID namespace that `pid` and `handle` are valid in.
    pub pid_namespace: u64,
}
