//! How a process gives its rights away.

use rustix::process::{Gid, Uid};
use rustix::thread::{CapabilitySet as Bits, CapabilitySets};

use crate::capability::CapabilitySet;
use crate::seccomp;
use crate::syscall;
use crate::wire::{Failure, Process, ResolvedUser, SeccompProfile};

/// The highest capability number that is tried; the kernel refuses the ones it lacks.
const CAPABILITY_MAX: u32 = 63;

/// Becomes the user with the capabilities and filter of a process.
///
/// The order matters: without `no_new_privs` a filter needs CAP_SYS_ADMIN, so it comes first
/// and must let everything below pass; with it the filter comes last, when nothing but the
/// start of the program is left.
pub(super) fn apply(
    process: &Process,
    user: &ResolvedUser,
    may_set_groups: bool,
) -> Result<(), Failure> {
    let held = rustix::thread::capabilities(None)
        .map_err(|error| Failure::setup("read capabilities", error))?;
    let permitted = CapabilitySet::from_bits(held.permitted.bits());
    let granted = process.capabilities.bounding.intersection(permitted);
    let filter = match process.seccomp {
        SeccompProfile::Unconfined => None,
        SeccompProfile::RuntimeDefault => Some(seccomp::runtime_default(granted)),
    };
    let install = |filter: &[libc::sock_filter]| {
        syscall::seccomp_install(filter).map_err(|error| Failure::setup("seccomp filter", error))
    };
    if let Some(filter) = filter.as_deref().filter(|_| !process.no_new_privileges) {
        install(filter)?;
    }
    narrow_bounding_set(granted)?;
    rustix::thread::set_keep_capabilities(true)
        .map_err(|error| Failure::setup("keep capabilities", error))?;
    become_user(user, may_set_groups)?;
    let ambient = process.capabilities.ambient.intersection(granted);
    set_capabilities(granted, ambient)?;
    if process.no_new_privileges {
        rustix::thread::set_no_new_privs(true)
            .map_err(|error| Failure::setup("no_new_privs", error))?;
        if let Some(filter) = &filter {
            install(filter)?;
        }
    }
    Ok(())
}

fn narrow_bounding_set(granted: CapabilitySet) -> Result<(), Failure> {
    for number in 0..=CAPABILITY_MAX {
        let one = Bits::from_bits_retain(1 << number);
        if granted.bits() & (1 << number) != 0 {
            continue;
        }
        match rustix::thread::capability_is_in_bounding_set(one) {
            Ok(true) => {}
            Ok(false) => continue,
            // The first number this kernel does not know.
            Err(_) => break,
        }
        match rustix::thread::remove_capability_from_bounding_set(one) {
            // Without CAP_SETPCAP the set stays as the caller's own container has it.
            Ok(()) | Err(rustix::io::Errno::PERM) => {}
            Err(error) => return Err(Failure::setup("narrow the bounding set", error)),
        }
    }
    Ok(())
}

fn become_user(user: &ResolvedUser, may_set_groups: bool) -> Result<(), Failure> {
    let groups: Vec<Gid> = user.groups.iter().map(|gid| Gid::from_raw(*gid)).collect();
    if may_set_groups {
        let current = rustix::process::getgroups().unwrap_or_default();
        match rustix::thread::set_thread_groups(&groups) {
            // Nothing to change is nothing to fail at (a caller without CAP_SETGID).
            Err(rustix::io::Errno::PERM) if current == groups => {}
            other => other.map_err(|error| Failure::setup("set groups", error))?,
        }
    }
    let gid = Gid::from_raw(user.gid);
    rustix::thread::set_thread_res_gid(gid, gid, gid)
        .map_err(|error| Failure::setup(format!("become group {}", user.gid), error))?;
    let uid = Uid::from_raw(user.uid);
    rustix::thread::set_thread_res_uid(uid, uid, uid)
        .map_err(|error| Failure::setup(format!("become user {}", user.uid), error))
}

fn set_capabilities(granted: CapabilitySet, ambient: CapabilitySet) -> Result<(), Failure> {
    let granted_bits = Bits::from_bits_retain(granted.bits());
    let sets = CapabilitySets {
        effective: granted_bits,
        permitted: granted_bits,
        inheritable: Bits::from_bits_retain(ambient.bits()),
    };
    rustix::thread::set_capabilities(None, sets)
        .map_err(|error| Failure::setup("set capabilities", error))?;
    // Fails only where the kernel has no ambient set, which then is empty.
    let _ = rustix::thread::clear_ambient_capability_set();
    for number in (0..=CAPABILITY_MAX).filter(|number| ambient.bits() & (1 << number) != 0) {
        let one = Bits::from_bits_retain(1 << number);
        rustix::thread::configure_capability_in_ambient_set(one, true)
            .map_err(|error| Failure::setup("set ambient capabilities", error))?;
    }
    Ok(())
}
