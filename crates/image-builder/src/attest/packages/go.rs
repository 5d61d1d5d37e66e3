//! Go programs: the module list that the linker puts into every binary (Go, debug/buildinfo,
//! format of 1.18 and later).

use std::io::{self, Read};
use std::path::Path;

use super::{Kind, Package};

/// What the block begins with; it is aligned to 16 bytes.
const MAGIC: &[u8] = b"\xff Go buildinf:";
/// Bytes of the header in front of the two strings.
const HEADER_BYTES: usize = 32;
/// Flag of the header: the strings follow in place.
const INLINE: u8 = 2;
/// Largest module list read, in bytes (4 MiB).
const LIST_BYTES_MAX: usize = 4 << 20;
/// Bytes looked through at a time.
const WINDOW_BYTES: usize = 256 * 1024;

/// Smallest and largest program looked at, in bytes: Go makes none below a mebibyte.
pub(in crate::attest) const PROGRAM_BYTES: std::ops::Range<u64> = (512 << 10)..(2 << 30);

/// The modules of a program; empty for anything that is no Go program.
pub(in crate::attest) fn modules(
    program: &mut dyn Read,
    location: &Path,
) -> io::Result<Vec<Package>> {
    let Some(list) = module_list(program)? else { return Ok(Vec::new()) };
    Ok(parse(&list, location))
}

/// Finds the block without holding the program in memory.
fn module_list(program: &mut dyn Read) -> io::Result<Option<Vec<u8>>> {
    let mut window = Vec::with_capacity(2 * WINDOW_BYTES);
    if !fill(program, &mut window, WINDOW_BYTES)? || !window.starts_with(b"\x7fELF") {
        return Ok(None);
    }
    loop {
        if let Some(at) = find(&window) {
            window.drain(..at);
            fill(program, &mut window, HEADER_BYTES + LIST_BYTES_MAX)?;
            return Ok(strings(&window));
        }
        // The magic may lie across two windows; the rest keeps its alignment.
        let keep = window.len().min(16);
        let drop = (window.len() - keep) / 16 * 16;
        window.drain(..drop);
        let before = window.len();
        fill(program, &mut window, before + WINDOW_BYTES)?;
        if window.len() == before {
            return Ok(None);
        }
    }
}

/// Reads until there are `wanted` bytes; false when there is nothing at all.
fn fill(program: &mut dyn Read, window: &mut Vec<u8>, wanted: usize) -> io::Result<bool> {
    let missing = wanted.saturating_sub(window.len()) as u64;
    program.take(missing).read_to_end(window)?;
    Ok(!window.is_empty())
}

fn find(window: &[u8]) -> Option<usize> {
    (0..window.len()).step_by(16).find(|at| window[*at..].starts_with(MAGIC))
}

/// The second of the two strings behind the header: version of Go, module list.
fn strings(block: &[u8]) -> Option<Vec<u8>> {
    if block.get(15)? & INLINE == 0 {
        return None;
    }
    let mut rest = block.get(HEADER_BYTES..)?;
    let _version = string(&mut rest)?;
    string(&mut rest).map(<[u8]>::to_vec)
}

fn string<'a>(rest: &mut &'a [u8]) -> Option<&'a [u8]> {
    let (mut length, mut shift) = (0_usize, 0);
    loop {
        let (first, tail) = rest.split_first()?;
        *rest = tail;
        length |= usize::from(first & 0x7f).checked_shl(shift)?;
        if first & 0x80 == 0 {
            break;
        }
        shift += 7;
        if 28 < shift {
            return None;
        }
    }
    if LIST_BYTES_MAX < length || rest.len() < length {
        return None;
    }
    let (value, tail) = rest.split_at(length);
    *rest = tail;
    Some(value)
}

/// Lines `mod PATH VERSION SUM` and `dep PATH VERSION SUM`; `=>` replaces the line before.
fn parse(list: &[u8], location: &Path) -> Vec<Package> {
    // Sixteen bytes on either side mark the list for debuggers.
    let list = list.get(16..list.len().saturating_sub(16)).unwrap_or_default();
    let content = String::from_utf8_lossy(list);
    let mut packages: Vec<Package> = Vec::new();
    for line in content.lines() {
        let mut fields = line.split('\t');
        let kind = fields.next();
        let (Some(path), Some(version)) = (fields.next(), fields.next()) else { continue };
        let module = match kind {
            Some("mod" | "dep") => Package::new(Kind::Golang, path, version, location),
            Some("=>") => {
                packages.pop();
                Package::new(Kind::Golang, path, version, location)
            }
            _ => None,
        };
        packages.extend(module);
    }
    packages
}

#[cfg(test)]
mod tests {
    use super::*;

    fn program(before: usize, list: &str) -> Vec<u8> {
        let mut bytes = b"\x7fELF".to_vec();
        bytes.resize(before / 16 * 16, 0);
        bytes.extend_from_slice(MAGIC);
        bytes.extend_from_slice(&[8, INLINE]);
        bytes.resize(before / 16 * 16 + HEADER_BYTES, 0);
        let marked = format!("{}{list}{}", "m".repeat(16), "m".repeat(16));
        for text in ["go1.22.1", &marked] {
            let mut length = text.len();
            while 0x7f < length {
                bytes.push((length & 0x7f) as u8 | 0x80);
                length >>= 7;
            }
            bytes.push(length as u8);
            bytes.extend_from_slice(text.as_bytes());
        }
        bytes.extend_from_slice(&[0; 100]);
        bytes
    }

    const LIST: &str = "path\tcommand\nmod\texample.com/own\t(devel)\t\n\
        dep\tgithub.com/a/b\tv1.2.3\th1:x=\ndep\tgithub.com/c/d\tv0.1.0\n\
        =>\tgithub.com/fork/d\tv0.2.0\th1:y=\nbuild\t-compiler=gc\n";

    #[test]
    fn modules_are_found_wherever_the_block_lies() {
        for before in [16, 4096, WINDOW_BYTES - 16, WINDOW_BYTES, 3 * WINDOW_BYTES + 48] {
            let bytes = program(before, LIST);
            let found = modules(&mut &bytes[..], Path::new("bin/x")).expect("memory");
            let names: Vec<_> = found.iter().map(|p| format!("{}@{}", p.name, p.version)).collect();
            let expected =
                ["example.com/own@(devel)", "github.com/a/b@v1.2.3", "github.com/fork/d@v0.2.0"];
            assert_eq!(names, expected, "{before}");
        }
    }

    #[test]
    fn other_programs_have_none() {
        let none =
            |bytes: &[u8]| modules(&mut &bytes[..], Path::new("x")).expect("memory").is_empty();
        assert!(none(b""));
        assert!(none(b"#!/bin/sh\n"));
        assert!(none(&[b"\x7fELF".to_vec(), vec![0; 600_000]].concat()));
        let cut = program(32, LIST);
        for end in 0..cut.len() - 100 {
            modules(&mut &cut[..end], Path::new("x")).expect("memory");
        }
    }
}
