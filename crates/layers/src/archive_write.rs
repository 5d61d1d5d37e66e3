//! Writes tar archives whose bytes depend on nothing but the entries.
//!
//! Plain ustar wherever it suffices, PAX records where it does not (long or non-ASCII names,
//! large numbers, extended attributes). No user names, no access times, zero device numbers
//! except on devices, whole seconds: what BuildKit and Docker write, so that equal trees give
//! equal digests.

use std::io::{self, Write};
use std::os::unix::ffi::OsStrExt;

use crate::archive_read::BLOCK;
use crate::entry::{Entry, EntryKind};

/// Largest value of an 8-byte octal field.
const OCTAL_7_MAX: u64 = 0o7_777_777;
/// Largest value of a 12-byte octal field (8 GiB − 1).
const OCTAL_11_MAX: u64 = 0o77_777_777_777;

/// Writes the header blocks of `entry`; the caller writes content and [`padding`].
pub(crate) fn write_header(out: &mut impl Write, entry: &Entry) -> io::Result<()> {
    let mut name = entry.path.as_os_str().as_bytes().to_vec();
    if name.is_empty() {
        name.extend_from_slice(b"./");
    } else if entry.is_directory() {
        name.push(b'/');
    }
    let (kind, link, size, device) = match &entry.kind {
        EntryKind::File { size } => (b'0', &b""[..], *size, None),
        EntryKind::Hardlink { target } => (b'1', target.as_os_str().as_bytes(), 0, None),
        EntryKind::Symlink { target } => (b'2', target.as_os_str().as_bytes(), 0, None),
        EntryKind::CharDevice { major, minor } => (b'3', &b""[..], 0, Some((*major, *minor))),
        EntryKind::BlockDevice { major, minor } => (b'4', &b""[..], 0, Some((*major, *minor))),
        EntryKind::Directory => (b'5', &b""[..], 0, None),
        EntryKind::Fifo => (b'6', &b""[..], 0, None),
    };
    let mut pax = Vec::new();
    let mut block = [0; BLOCK];

    match split_name(&name) {
        Some((prefix, rest)) => {
            block[..rest.len()].copy_from_slice(rest);
            block[345..345 + prefix.len()].copy_from_slice(prefix);
        }
        None => {
            pax_record(&mut pax, b"path", &name);
            let kept = name.len().min(100);
            block[..kept].copy_from_slice(&ascii(&name[..kept]));
        }
    }
    if 100 < link.len() || !link.is_ascii() {
        pax_record(&mut pax, b"linkpath", link);
    }
    let kept = link.len().min(100);
    block[157..157 + kept].copy_from_slice(&ascii(&link[..kept]));

    octal(&mut block[100..108], u64::from(entry.mode & 0o7777));
    large_octal(&mut block[108..116], u64::from(entry.uid), OCTAL_7_MAX, b"uid", &mut pax);
    large_octal(&mut block[116..124], u64::from(entry.gid), OCTAL_7_MAX, b"gid", &mut pax);
    large_octal(&mut block[124..136], size, OCTAL_11_MAX, b"size", &mut pax);
    match u64::try_from(entry.mtime.seconds) {
        Ok(seconds) if seconds <= OCTAL_11_MAX => octal(&mut block[136..148], seconds),
        _ => {
            pax_record(&mut pax, b"mtime", entry.mtime.seconds.to_string().as_bytes());
            octal(&mut block[136..148], 0);
        }
    }
    for (key, value) in &entry.xattrs {
        pax_record(&mut pax, &[b"SCHILY.xattr.", key.as_bytes()].concat(), value);
    }
    let (major, minor) = device.unwrap_or_default();
    large_octal(&mut block[329..337], u64::from(major), OCTAL_7_MAX, b"SCHILY.devmajor", &mut pax);
    large_octal(&mut block[337..345], u64::from(minor), OCTAL_7_MAX, b"SCHILY.devminor", &mut pax);

    if !pax.is_empty() {
        write_pax(out, &name, &pax)?;
    }
    seal(&mut block, kind);
    out.write_all(&block)
}

/// Zeros that follow `bytes` of content.
pub(crate) fn padding(bytes: u64) -> &'static [u8] {
    const ZEROS: [u8; BLOCK] = [0; BLOCK];
    &ZEROS[..(bytes.next_multiple_of(BLOCK as u64) - bytes) as usize]
}

/// The marker that ends an archive.
pub(crate) fn write_end(out: &mut impl Write) -> io::Result<()> {
    out.write_all(&[0; 2 * BLOCK])
}

fn write_pax(out: &mut impl Write, name: &[u8], records: &[u8]) -> io::Result<()> {
    let mut block = [0; BLOCK];
    let base = name.strip_suffix(b"/").unwrap_or(name);
    let base = base.rsplit(|byte| *byte == b'/').next().unwrap_or(base);
    let shown = [b"PaxHeaders.0/", &base[..base.len().min(80)]].concat();
    block[..shown.len()].copy_from_slice(&ascii(&shown));
    octal(&mut block[100..108], 0o644);
    octal(&mut block[108..116], 0);
    octal(&mut block[116..124], 0);
    octal(&mut block[124..136], records.len() as u64);
    octal(&mut block[136..148], 0);
    octal(&mut block[329..337], 0);
    octal(&mut block[337..345], 0);
    seal(&mut block, b'x');
    out.write_all(&block)?;
    out.write_all(records)?;
    out.write_all(padding(records.len() as u64))
}

fn seal(block: &mut [u8; BLOCK], kind: u8) {
    block[156] = kind;
    block[257..263].copy_from_slice(b"ustar\0");
    block[263..265].copy_from_slice(b"00");
    block[148..156].copy_from_slice(b"        ");
    let sum: u64 = block.iter().map(|byte| u64::from(*byte)).sum();
    octal(&mut block[148..155], sum);
    block[155] = b' ';
}

/// Splits a name into ustar's prefix and name fields; nothing when it does not fit or is not
/// ASCII.
fn split_name(name: &[u8]) -> Option<(&[u8], &[u8])> {
    if !name.is_ascii() {
        return None;
    }
    if name.len() <= 100 {
        return Some((b"", name));
    }
    // The longest prefix wins; the slash between the fields is not stored, and the name field
    // may not be empty.
    let end = name.len().min(156).min(name.len() - 1);
    let slash = name[..end].iter().rposition(|byte| *byte == b'/')?;
    let (prefix, rest) = (&name[..slash], &name[slash + 1..]);
    (!prefix.is_empty() && !rest.is_empty() && rest.len() <= 100).then_some((prefix, rest))
}

fn ascii(text: &[u8]) -> Vec<u8> {
    text.iter().map(|byte| if byte.is_ascii() { *byte } else { b'_' }).collect()
}

/// Octal digits with leading zeros and a closing NUL.
fn octal(field: &mut [u8], mut value: u64) {
    let digits = field.len() - 1;
    for digit in field[..digits].iter_mut().rev() {
        *digit = b'0' + (value & 7) as u8;
        value >>= 3;
    }
    field[digits] = 0;
}

fn large_octal(field: &mut [u8], value: u64, max: u64, key: &[u8], pax: &mut Vec<u8>) {
    if max < value {
        pax_record(pax, key, value.to_string().as_bytes());
        octal(field, 0);
    } else {
        octal(field, value);
    }
}

/// Appends `<length> <key>=<value>\n`, where the length counts its own digits.
fn pax_record(records: &mut Vec<u8>, key: &[u8], value: &[u8]) {
    let body = key.len() + value.len() + 3;
    let mut length = body + body.to_string().len();
    if length.to_string().len() + body != length {
        length = body + length.to_string().len();
    }
    records.extend_from_slice(length.to_string().as_bytes());
    records.push(b' ');
    records.extend_from_slice(key);
    records.push(b'=');
    records.extend_from_slice(value);
    records.push(b'\n');
}
