//! System calls that rustix does not offer, or offers only as unsafe; all `unsafe` of the
//! product is in this file.

use std::convert::Infallible;
use std::ffi::{CStr, CString};
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};

use rustix::event::{PollFd, PollFlags};

use crate::Signal;

/// `linux/sched.h`; the constant of libc has too narrow a type.
const CLONE_INTO_CGROUP: u64 = 0x2_0000_0000;

/// A child made by [`clone_child`], as its parent sees it.
#[derive(Debug)]
pub(crate) struct Child {
    /// Its number in the parent's PID namespace.
    pub(crate) pid: u32,
    /// Refers to it beyond reuse of the number; readable when it has ended.
    pub(crate) pidfd: OwnedFd,
}

/// Which side of [`clone_child`] this is.
pub(crate) enum Cloned {
    Parent(Child),
    Child,
}

/// Forks, with new namespaces (`CLONE_NEW*`) and `CLONE_PARENT` as the flags say.
///
/// The caller must be a helper process with one thread: after a fork of a process with several,
/// the child may find a lock of the allocator held for ever.
pub(crate) fn clone_child(
    flags: libc::c_int,
    cgroup: Option<BorrowedFd<'_>>,
) -> io::Result<Cloned> {
    let mut pidfd: RawFd = -1;
    let pid = match cgroup {
        Some(cgroup) => clone_into_cgroup(flags, cgroup, &mut pidfd),
        // Not clone3, which seccomp RuntimeDefault answers with ENOSYS.
        //
        // SAFETY: without CLONE_VM and without a stack the call is a fork: the child continues
        // on its own copy of this stack. The process has one thread (contract above), so no
        // lock is held by a thread that the child lacks. `pidfd` lives across the call.
        None => unsafe {
            libc::syscall(
                libc::SYS_clone,
                libc::c_long::from(flags | libc::CLONE_PIDFD | libc::SIGCHLD),
                0,
                &raw mut pidfd,
                0,
                0,
            )
        },
    };
    match pid {
        -1 => Err(io::Error::last_os_error()),
        0 => Ok(Cloned::Child),
        pid => {
            // SAFETY: the kernel stored a new descriptor here that nobody else knows.
            let pidfd = unsafe { OwnedFd::from_raw_fd(pidfd) };
            Ok(Cloned::Parent(Child { pid: u32::try_from(pid).unwrap_or(0), pidfd }))
        }
    }
}

/// The child begins in the group: moving it later waits for a grace period of the kernel.
fn clone_into_cgroup(
    flags: libc::c_int,
    cgroup: BorrowedFd<'_>,
    pidfd: &mut RawFd,
) -> libc::c_long {
    // SAFETY: all fields of `clone_args` are integers, for which zero is valid and means unused.
    let mut arguments: libc::clone_args = unsafe { std::mem::zeroed() };
    arguments.flags = u64::from((flags | libc::CLONE_PIDFD).cast_unsigned()) | CLONE_INTO_CGROUP;
    arguments.pidfd = std::ptr::from_mut(pidfd).addr() as u64;
    arguments.exit_signal = u64::from(libc::SIGCHLD.cast_unsigned());
    arguments.cgroup = u64::from(cgroup.as_raw_fd().cast_unsigned());
    // SAFETY: a fork as in `clone_child`; `arguments` and `pidfd` live across the call.
    unsafe { libc::syscall(libc::SYS_clone3, &raw mut arguments, size_of::<libc::clone_args>()) }
}

/// Changes a resource limit of this process (`setrlimit(2)`).
pub(crate) fn set_limit(resource: u32, soft: u64, hard: u64) -> io::Result<()> {
    let limit = libc::rlimit { rlim_cur: soft, rlim_max: hard };
    // SAFETY: the kernel reads the limit, which lives across the call, and refuses resources
    // it does not know.
    match unsafe { libc::setrlimit(resource as libc::__rlimit_resource_t, &raw const limit) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

/// Soft and hard limit of this process (`getrlimit(2)`).
pub(crate) fn limit(resource: u32) -> io::Result<(u64, u64)> {
    let mut limit = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    // SAFETY: the kernel writes the limit, which lives across the call.
    match unsafe { libc::getrlimit(resource as libc::__rlimit_resource_t, &raw mut limit) } {
        0 => Ok((limit.rlim_cur, limit.rlim_max)),
        _ => Err(io::Error::last_os_error()),
    }
}

/// Ends this process without running exit handlers, as a forked child must.
pub(crate) fn exit_now(code: u8) -> ! {
    // SAFETY: `_exit` takes any integer and does not return.
    unsafe { libc::_exit(code.into()) }
}

/// Replaces this process by another program; returns only on failure.
pub(crate) fn execve(program: &CStr, args: &[CString], env: &[CString]) -> io::Result<Infallible> {
    let pointers = |texts: &[CString]| -> Vec<*const libc::c_char> {
        texts.iter().map(|text| text.as_ptr()).chain([std::ptr::null()]).collect()
    };
    let (args, env) = (pointers(args), pointers(env));
    // SAFETY: both arrays end with null and point to strings that live until the call returns.
    unsafe { libc::execve(program.as_ptr(), args.as_ptr(), env.as_ptr()) };
    Err(io::Error::last_os_error())
}

/// What `mount_setattr(2)` changes.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct MountChange {
    /// `MOUNT_ATTR_*` to set.
    pub(crate) set: u64,
    /// `MOUNT_ATTR_*` to clear.
    pub(crate) clear: u64,
    /// `MS_PRIVATE`, `MS_SLAVE`, `MS_SHARED` or 0.
    pub(crate) propagation: u64,
    /// Whether everything mounted below changes too.
    pub(crate) recursive: bool,
}

/// Changes attributes of the mount that `mount` is the root of.
pub(crate) fn mount_setattr(mount: impl AsFd, change: MountChange) -> io::Result<()> {
    let attributes = libc::mount_attr {
        attr_set: change.set,
        attr_clr: change.clear,
        propagation: change.propagation,
        userns_fd: 0,
    };
    let recursive = if change.recursive { libc::AT_RECURSIVE } else { 0 };
    // SAFETY: the path is empty and null-terminated, the attributes live across the call and
    // their size is given.
    let result = unsafe {
        libc::syscall(
            libc::SYS_mount_setattr,
            mount.as_fd().as_raw_fd(),
            c"".as_ptr(),
            libc::AT_EMPTY_PATH | recursive,
            &raw const attributes,
            size_of::<libc::mount_attr>(),
        )
    };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// Installs a system call filter on this thread and what it will start.
///
/// Needs CAP_SYS_ADMIN or `no_new_privs`.
pub(crate) fn seccomp_install(filter: &[libc::sock_filter]) -> io::Result<()> {
    let length = u16::try_from(filter.len()).map_err(|_| io::ErrorKind::InvalidInput)?;
    let program = libc::sock_fprog { len: length, filter: filter.as_ptr().cast_mut() };
    // SAFETY: the kernel copies `len` instructions from `filter`, which lives across the call,
    // writes nothing, and verifies the program.
    let result = unsafe {
        libc::syscall(
            libc::SYS_seccomp,
            libc::SECCOMP_SET_MODE_FILTER,
            libc::SECCOMP_FILTER_FLAG_SPEC_ALLOW,
            &raw const program,
        )
    };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// Sends a signal; `false` if the process is gone.
pub(crate) fn pidfd_send_signal(process: impl AsFd, signal: Signal) -> io::Result<bool> {
    // SAFETY: the siginfo pointer may be null; the other arguments are integers. rustix has no
    // safe way to name real-time signals, which images use (SIGRTMIN+3).
    let result = unsafe {
        libc::syscall(
            libc::SYS_pidfd_send_signal,
            process.as_fd().as_raw_fd(),
            signal.number(),
            std::ptr::null::<libc::siginfo_t>(),
            0,
        )
    };
    if result == 0 {
        return Ok(true);
    }
    match io::Error::last_os_error() {
        error if error.raw_os_error() == Some(libc::ESRCH) => Ok(false),
        error => Err(error),
    }
}

/// Blocks SIGCHLD, SIGTERM, SIGINT and SIGHUP and returns a descriptor that is readable when
/// one is pending.
pub(crate) fn signalfd() -> io::Result<OwnedFd> {
    // SAFETY: `sigemptyset` initialises the zeroed set; `sigaddset` gets valid numbers; the
    // process has one thread, so `sigprocmask` is defined. The new descriptor has no owner yet.
    unsafe {
        let mut signals: libc::sigset_t = std::mem::zeroed();
        libc::sigemptyset(&raw mut signals);
        for signal in [libc::SIGCHLD, libc::SIGTERM, libc::SIGINT, libc::SIGHUP] {
            libc::sigaddset(&raw mut signals, signal);
        }
        if libc::sigprocmask(libc::SIG_BLOCK, &raw const signals, std::ptr::null_mut()) != 0 {
            return Err(io::Error::last_os_error());
        }
        let flags = libc::SFD_CLOEXEC | libc::SFD_NONBLOCK;
        match libc::signalfd(-1, &raw const signals, flags) {
            -1 => Err(io::Error::last_os_error()),
            fd => Ok(OwnedFd::from_raw_fd(fd)),
        }
    }
}

/// Gives every signal its default action and unblocks all, as a new program expects: Rust
/// ignores SIGPIPE, and the helpers block SIGCHLD.
pub(crate) fn reset_signals() {
    /// `struct sigaction` of the kernel: handler, flags, restorer, mask; all zero is SIG_DFL.
    const DEFAULT: [usize; 4] = [0; 4];
    /// Size of the kernel's signal mask in bytes.
    const MASK_BYTES: usize = 8;
    // SAFETY: the kernel reads the constant and writes nothing; numbers that cannot be set
    // (KILL, STOP) are refused without effect. It is asked directly, because libc hides signals
    // 32 and 33, which its own posix_spawn leaves ignored. The set is initialised before use.
    unsafe {
        for signal in 1..=64 {
            let unused = std::ptr::null_mut::<usize>();
            libc::syscall(libc::SYS_rt_sigaction, signal, DEFAULT.as_ptr(), unused, MASK_BYTES);
        }
        let mut none: libc::sigset_t = std::mem::zeroed();
        libc::sigemptyset(&raw mut none);
        libc::sigprocmask(libc::SIG_SETMASK, &raw const none, std::ptr::null_mut());
    }
}

/// Marks every descriptor from `first` on to be closed when another program starts.
pub(crate) fn close_on_exec_from(first: u32) {
    const CLOSE_RANGE_CLOEXEC: u32 = 4;
    // SAFETY: changes a flag of descriptors, no ownership.
    unsafe { libc::syscall(libc::SYS_close_range, first, u32::MAX, CLOSE_RANGE_CLOEXEC) };
}

/// Enables the loopback interface of the current network namespace.
pub(crate) fn loopback_up() -> io::Result<()> {
    let socket = rustix::net::socket(
        rustix::net::AddressFamily::INET,
        rustix::net::SocketType::DGRAM,
        None,
    )?;
    // SAFETY: `ifreq` is made of integers and bytes, for which zero is valid.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    for (target, byte) in request.ifr_name.iter_mut().zip(b"lo") {
        *target = byte.cast_signed();
    }
    request.ifr_ifru.ifru_flags = (libc::IFF_UP | libc::IFF_RUNNING) as libc::c_short;
    // SAFETY: SIOCSIFFLAGS reads a name and flags from the request, which lives across the call.
    let result = unsafe { libc::ioctl(socket.as_raw_fd(), libc::SIOCSIFFLAGS, &raw const request) };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// Takes the terminal as this session's controlling one.
pub(crate) fn take_terminal(terminal: impl AsFd) -> io::Result<()> {
    Ok(rustix::process::ioctl_tiocsctty(terminal)?)
}

/// The number of a mount namespace that is never given out again (Linux 6.8 and newer).
pub(crate) fn mount_namespace_id(namespace: impl AsFd) -> io::Result<u64> {
    /// `_IOR(0xb7, 5, __u64)` of `linux/nsfs.h`.
    const NS_GET_MNTNS_ID: libc::c_ulong = 0x8008_b705;
    let mut id = 0u64;
    let fd = namespace.as_fd().as_raw_fd();
    // SAFETY: the request writes one u64, which lives across the call.
    match unsafe { libc::ioctl(fd, NS_GET_MNTNS_ID as libc::Ioctl, &raw mut id) } {
        0 => Ok(id),
        _ => Err(io::Error::last_os_error()),
    }
}

/// Leaves some of the caller's namespaces for new ones (`CLONE_NEW*`).
pub(crate) fn unshare(flags: rustix::thread::UnshareFlags) -> io::Result<()> {
    // SAFETY: what is unsafe is unsharing the descriptor table behind the back of other
    // threads; callers are helpers with one thread and never pass that flag.
    Ok(unsafe { rustix::thread::unshare_unsafe(flags) }?)
}

/// Whether a read would not wait: for a pidfd, whether the process has ended.
pub(crate) fn is_readable(fd: impl AsFd) -> bool {
    let mut polled = [PollFd::new(&fd, PollFlags::IN)];
    matches!(rustix::event::poll(&mut polled, Some(&rustix::time::Timespec::default())), Ok(1..))
}

/// Waits until `fd` is readable.
pub(crate) fn wait_readable(fd: impl AsFd) -> io::Result<()> {
    let mut polled = [PollFd::new(&fd, PollFlags::IN)];
    loop {
        match rustix::event::poll(&mut polled, None) {
            Err(rustix::io::Errno::INTR) => {}
            Err(error) => return Err(error.into()),
            Ok(_) => return Ok(()),
        }
    }
}
