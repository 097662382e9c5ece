//! The numbers of system calls: x86_64 has a table of its own, newer architectures share one.

use std::ffi::c_long;

macro_rules! numbers {
    ($($name:ident = $x86_64:literal, $generic:literal;)*) => {
        $(
            #[cfg(target_arch = "x86_64")]
            pub(super) const $name: c_long = $x86_64;
            #[cfg(not(target_arch = "x86_64"))]
            pub(super) const $name: c_long = $generic;
        )*
    };
}

numbers! {
    READ = 0, 63;
    WRITE = 1, 64;
    RT_SIGACTION = 13, 134;
    RT_SIGPROCMASK = 14, 135;
    GETPID = 39, 172;
    SENDMSG = 46, 211;
    RECVMSG = 47, 212;
    SOCKETPAIR = 53, 199;
    GETSOCKOPT = 55, 209;
    CLONE = 56, 220;
    EXECVE = 59, 221;
    WAIT4 = 61, 260;
    KILL = 62, 129;
    FCNTL = 72, 25;
    CHDIR = 80, 49;
    FCHDIR = 81, 50;
    GETEUID = 107, 175;
    GETEGID = 108, 177;
    GETPPID = 110, 173;
    SETSID = 112, 157;
    SETGROUPS = 116, 159;
    SETRESUID = 117, 147;
    SETRESGID = 119, 149;
    SETPRIORITY = 141, 140;
    PRCTL = 157, 167;
    CHROOT = 161, 51;
    MOUNT = 165, 40;
    GETDENTS64 = 217, 61;
    CLOCK_GETTIME = 228, 113;
    EXIT_GROUP = 231, 94;
    EPOLL_CTL = 233, 21;
    OPENAT = 257, 56;
    UNLINKAT = 263, 35;
    PPOLL = 271, 73;
    UNSHARE = 272, 97;
    EPOLL_PWAIT = 281, 22;
    SIGNALFD4 = 289, 74;
    EPOLL_CREATE1 = 291, 20;
    DUP3 = 292, 24;
    PIPE2 = 293, 59;
    PRLIMIT64 = 302, 261;
    SETNS = 308, 268;
    PIDFD_SEND_SIGNAL = 424, 424;
    PIDFD_OPEN = 434, 434;
    CLONE3 = 435, 435;
    CLOSE_RANGE = 436, 436;
}
