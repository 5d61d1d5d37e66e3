//! The system call filter of containers, as a program for the kernel's packet filter machine.
//!
//! Written here rather than with a library, because the profile needs three answers in one
//! filter (EPERM, ENOSYS for what is newer than the table, and per-call conditions) and a
//! second set of numbers for 32-bit programs.

mod table;

use libc::sock_filter;

use self::table::{
    ALWAYS, CLONE, CLONE3, NO, NUMBER_MAX, PERSONALITY, Row, SOCKET, WITH_CAPABILITY,
};
use crate::capability::CapabilitySet;

/// Offsets in `struct seccomp_data`.
const NUMBER: u32 = 0;
const ARCHITECTURE: u32 = 4;
const FIRST_ARGUMENT_LOW: u32 = 16;

const ALLOW: u32 = libc::SECCOMP_RET_ALLOW;
const KILL: u32 = libc::SECCOMP_RET_KILL_PROCESS;
const EPERM: u32 = libc::SECCOMP_RET_ERRNO | libc::EPERM.cast_unsigned();
const ENOSYS: u32 = libc::SECCOMP_RET_ERRNO | libc::ENOSYS.cast_unsigned();

/// `CLONE_NEW*` but time, which is a flag of clone3 only.
const CLONE_NAMESPACES: u32 = 0x7e02_0000;

/// Execution domains that programs use: Linux, 32-bit uname, without address randomisation,
/// and the question what it is.
const PERSONALITIES: [u32; 5] = [0, 8, 0x2_0000, 0x2_0008, u32::MAX];

/// Virtual machine sockets reach the hypervisor past every network policy.
const AF_VSOCK: u32 = 40;

/// One architecture as the kernel tells it, and its column of the table.
struct Architecture {
    audit: u32,
    number: fn(&Row) -> i16,
}

#[cfg(target_arch = "x86_64")]
const ARCHITECTURES: [Architecture; 2] = [
    Architecture { audit: 0xc000_003e, number: |row| row.1 },
    Architecture { audit: 0x4000_0003, number: |row| row.2 },
];

#[cfg(target_arch = "aarch64")]
const ARCHITECTURES: [Architecture; 1] = [Architecture { audit: 0xc000_00b7, number: |row| row.3 }];

/// The default filter of docker and containerd for a process with these capabilities.
pub(crate) fn runtime_default(capabilities: CapabilitySet) -> Vec<sock_filter> {
    let mut program = vec![load(ARCHITECTURE)];
    for architecture in &ARCHITECTURES {
        let section = section(architecture, capabilities);
        // A conditional jump reaches 255 instructions, an unconditional one any number.
        program.push(jump(libc::BPF_JEQ, architecture.audit, 1, 0));
        program.push(jump_always(section.len()));
        program.extend(section);
    }
    program.push(answer(KILL));
    program
}

/// The part for one architecture; every path through it ends in an answer.
fn section(architecture: &Architecture, capabilities: CapabilitySet) -> Vec<sock_filter> {
    let number = |row: &Row| {
        let number = (architecture.number)(row);
        (number != NO).then(|| u32::from(number.cast_unsigned()))
    };
    let mut section = vec![load(NUMBER)];
    let mut condition = |row: &Row, body: Vec<sock_filter>| {
        if let Some(number) = number(row) {
            section.push(jump(libc::BPF_JEQ, number, 0, body.len()));
            section.extend(body);
        }
    };
    if !capabilities.contains(CapabilitySet::SYS_ADMIN) {
        // The C library asks for clone3 first and takes clone when it is missing; only the
        // flags of clone can be seen from here.
        condition(&CLONE3, vec![answer(ENOSYS)]);
        condition(
            &CLONE,
            vec![
                load(FIRST_ARGUMENT_LOW),
                jump(libc::BPF_JSET, CLONE_NAMESPACES, 0, 1),
                answer(EPERM),
                answer(ALLOW),
            ],
        );
    }
    let mut personality = vec![load(FIRST_ARGUMENT_LOW)];
    for known in PERSONALITIES {
        personality.extend([jump(libc::BPF_JEQ, known, 0, 1), answer(ALLOW)]);
    }
    personality.push(answer(EPERM));
    condition(&PERSONALITY, personality);
    condition(
        &SOCKET,
        vec![
            load(FIRST_ARGUMENT_LOW),
            jump(libc::BPF_JEQ, AF_VSOCK, 0, 1),
            answer(EPERM),
            answer(ALLOW),
        ],
    );

    let mut allowed: Vec<u32> = ALWAYS.iter().filter_map(number).collect();
    for (needed, rows) in WITH_CAPABILITY {
        if capabilities.contains(*needed) {
            allowed.extend(rows.iter().filter_map(number));
        }
    }
    if capabilities.contains(CapabilitySet::SYS_ADMIN) {
        allowed.extend(number(&CLONE));
    }
    for (first, last) in ranges(allowed) {
        section.extend([
            jump(libc::BPF_JGT, last, 2, 0),
            jump(libc::BPF_JGE, first, 0, 1),
            answer(ALLOW),
        ]);
    }
    section.extend([jump(libc::BPF_JGT, NUMBER_MAX, 0, 1), answer(ENOSYS), answer(EPERM)]);
    section
}

/// Sorted numbers as inclusive ranges, which keeps the program short.
fn ranges(mut numbers: Vec<u32>) -> Vec<(u32, u32)> {
    numbers.sort_unstable();
    numbers.dedup();
    let mut ranges: Vec<(u32, u32)> = Vec::new();
    for number in numbers {
        match ranges.last_mut() {
            Some((_, last)) if *last + 1 == number => *last = number,
            _ => ranges.push((number, number)),
        }
    }
    ranges
}

fn instruction(code: u32, k: u32, jt: u8, jf: u8) -> sock_filter {
    // Codes are at most 0xff.
    sock_filter { code: code as u16, jt, jf, k }
}

/// Loads a word of `struct seccomp_data`.
fn load(offset: u32) -> sock_filter {
    instruction(libc::BPF_LD | libc::BPF_W | libc::BPF_ABS, offset, 0, 0)
}

/// Compares with a constant and skips instructions; both distances are below 256 by
/// construction: no body is longer than the personalities.
fn jump(operation: u32, k: u32, if_true: usize, if_false: usize) -> sock_filter {
    let code = libc::BPF_JMP | operation | libc::BPF_K;
    instruction(code, k, if_true as u8, if_false as u8)
}

fn jump_always(distance: usize) -> sock_filter {
    instruction(libc::BPF_JMP | libc::BPF_JA, distance as u32, 0, 0)
}

fn answer(action: u32) -> sock_filter {
    instruction(libc::BPF_RET | libc::BPF_K, action, 0, 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Runs a filter as the kernel would.
    fn run(filter: &[sock_filter], architecture: u32, number: u32, argument: u32) -> u32 {
        let (mut at, mut accumulator) = (0, 0);
        loop {
            let i = filter[at];
            let operation = u32::from(i.code) & 0xf0;
            at += 1;
            match u32::from(i.code) & 0x07 {
                libc::BPF_LD => {
                    accumulator = match i.k {
                        NUMBER => number,
                        ARCHITECTURE => architecture,
                        _ => argument,
                    }
                }
                libc::BPF_RET => return i.k,
                _ if operation == libc::BPF_JA => at += i.k as usize,
                _ => {
                    let holds = match operation {
                        libc::BPF_JEQ => accumulator == i.k,
                        libc::BPF_JGT => accumulator > i.k,
                        libc::BPF_JGE => accumulator >= i.k,
                        _ => accumulator & i.k != 0,
                    };
                    at += usize::from(if holds { i.jt } else { i.jf });
                }
            }
        }
    }

    const NATIVE: u32 = ARCHITECTURES[0].audit;

    #[track_caller]
    fn check(capabilities: CapabilitySet, number: libc::c_long, argument: u32, expected: u32) {
        let filter = runtime_default(capabilities);
        let number = u32::try_from(number).expect("numbers are small");
        assert_eq!(run(&filter, NATIVE, number, argument), expected);
    }

    fn with(name: &str) -> CapabilitySet {
        CapabilitySet::DEFAULT.with(name.parse().expect("a capability"))
    }

    #[test]
    fn everyday_calls_pass() {
        for number in [libc::SYS_read, libc::SYS_openat2, libc::SYS_execve, libc::SYS_ptrace] {
            check(CapabilitySet::DEFAULT, number, 0, ALLOW);
        }
    }

    #[test]
    fn mounting_needs_sys_admin() {
        for number in [libc::SYS_mount, libc::SYS_umount2, libc::SYS_unshare, libc::SYS_setns] {
            check(CapabilitySet::DEFAULT, number, 0, EPERM);
            check(with("SYS_ADMIN"), number, 0, ALLOW);
        }
        check(with("SYS_ADMIN"), libc::SYS_pivot_root, 0, EPERM);
    }

    #[test]
    fn clone_passes_without_namespaces_only() {
        let new_user = 0x1000_0000;
        check(CapabilitySet::DEFAULT, libc::SYS_clone, 17, ALLOW);
        check(CapabilitySet::DEFAULT, libc::SYS_clone, new_user | 17, EPERM);
        check(with("SYS_ADMIN"), libc::SYS_clone, new_user | 17, ALLOW);
        check(CapabilitySet::DEFAULT, libc::SYS_clone3, 0, ENOSYS);
        check(with("SYS_ADMIN"), libc::SYS_clone3, 0, ALLOW);
    }

    #[test]
    fn chroot_and_settime_follow_their_capabilities() {
        check(CapabilitySet::DEFAULT, libc::SYS_chroot, 0, ALLOW);
        check(CapabilitySet::EMPTY, libc::SYS_chroot, 0, EPERM);
        check(CapabilitySet::DEFAULT, libc::SYS_settimeofday, 0, EPERM);
        check(with("SYS_TIME"), libc::SYS_settimeofday, 0, ALLOW);
    }

    #[test]
    fn arguments_decide_personality_and_socket() {
        check(CapabilitySet::DEFAULT, libc::SYS_personality, u32::MAX, ALLOW);
        check(CapabilitySet::DEFAULT, libc::SYS_personality, 0x40_0000, EPERM);
        check(CapabilitySet::DEFAULT, libc::SYS_socket, 2, ALLOW);
        check(CapabilitySet::DEFAULT, libc::SYS_socket, AF_VSOCK, EPERM);
    }

    #[test]
    fn calls_newer_than_the_table_are_missing() {
        check(CapabilitySet::DEFAULT, 9999, 0, ENOSYS);
        check(CapabilitySet::DEFAULT, libc::SYS_io_uring_setup, 0, EPERM);
    }

    #[test]
    #[cfg(target_arch = "x86_64")]
    fn thirty_two_bit_programs_have_numbers_of_their_own() {
        let filter = runtime_default(CapabilitySet::DEFAULT);
        let i386 = ARCHITECTURES[1].audit;
        assert_eq!(run(&filter, i386, 11, 0), ALLOW, "execve");
        assert_eq!(run(&filter, i386, 21, 0), EPERM, "mount");
        assert_eq!(run(&filter, i386, 120, 0x1000_0000), EPERM, "clone with a namespace");
        assert_eq!(run(&filter, NATIVE, 0x4000_0000, 0), ENOSYS, "x32");
        assert_eq!(run(&filter, 0xc000_0015, 1, 0), KILL, "an architecture of others");
    }

    #[test]
    fn program_fits_into_the_kernel() {
        assert!(runtime_default(CapabilitySet::ALL).len() <= 4096);
    }
}
