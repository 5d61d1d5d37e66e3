//! Mutations of archives: read, indexed and unpacked, or refused, but nothing outside of the root
//! changes and nothing panics. Written and unpacked again, what was unpacked is the same.
//!
//! Every run takes a new seed and prints it with the place of the input when something breaks.
//! `SHIPWAY_FUZZ_SECONDS` sets the time, `SHIPWAY_FUZZ_SEED` repeats a run.

#![expect(clippy::print_stdout, reason = "a seed is of use only where it is printed")]

use std::fs;
use std::io::{Read, Write};
use std::path::Path;
use std::time::{Duration, Instant};

use layers::{ApplyOptions, ArchiveReader, Compression, Inventory, LayerSink, TarIndex, Whiteouts};

use crate::describe::{apply, archive, options, tar_builder, tree};
use crate::round_trip::pack;

/// Seconds when nobody says more.
const SECONDS: u64 = 8;
/// What a mutated archive may unpack to; sizes in headers are easily turned into gigabytes.
const TAR_BYTES_MAX: u64 = 1 << 20;

#[test]
fn no_archive_leaves_its_root_or_makes_the_reader_panic() {
    let number = |name: &str| std::env::var(name).ok().and_then(|text| text.parse::<u64>().ok());
    let seed = number("SHIPWAY_FUZZ_SEED").unwrap_or_else(|| fastrand::u64(..));
    let limit = Duration::from_secs(number("SHIPWAY_FUZZ_SECONDS").unwrap_or(SECONDS));
    let mut random = fastrand::Rng::with_seed(seed);
    let corpus = corpus();
    let place = tempfile::tempdir().unwrap();
    fs::create_dir(place.path().join("victims")).unwrap();
    fs::write(place.path().join("victims/file"), "safe").unwrap();
    fs::write(place.path().join("victim"), "safe").unwrap();
    let (mut tried, mut applied) = (0u64, 0u64);
    let started = Instant::now();
    while started.elapsed() < limit {
        let input = mutate(&mut random, &corpus);
        let outcome = std::panic::catch_unwind(|| attempt(place.path(), &input));
        match outcome {
            Ok(unpacked) => applied += u64::from(unpacked),
            Err(panic) => {
                let kept = std::env::temp_dir().join(format!("shipway-fuzz-{seed}.tar"));
                fs::write(&kept, &input).unwrap();
                println!("seed {seed}, input {tried} in {}", kept.display());
                std::panic::resume_unwind(panic);
            }
        }
        tried += 1;
    }
    println!("layers: {tried} archives, {applied} unpacked, seed {seed}");
}

/// Reads, indexes and unpacks; tells whether unpacking succeeded.
fn attempt(place: &Path, input: &[u8]) -> bool {
    let mut reader = ArchiveReader::new(input);
    while let Ok(Some(entry)) = reader.next_entry() {
        assert!(!entry.path.is_absolute(), "{:?}", entry.path);
        assert!(!entry.path.iter().any(|part| part == ".."), "{:?}", entry.path);
        let mut content = Vec::new();
        let _ = reader.content().take(1 << 16).read_to_end(&mut content);
    }
    let indexed = TarIndex::read(input, &[Path::new("a")]);
    let root = place.join("root");
    fs::create_dir(&root).unwrap();
    let limits = ApplyOptions {
        tar_bytes_max: TAR_BYTES_MAX,
        entries_max: 10_000,
        ..options(Whiteouts::Remove)
    };
    let result = layers::apply(input, &root, &limits);
    let beside = fs::read_dir(place).unwrap().count();
    assert_eq!(beside, 3, "something was made beside the root");
    assert_eq!(fs::read_to_string(place.join("victim")).unwrap(), "safe");
    assert_eq!(fs::read_to_string(place.join("victims/file")).unwrap(), "safe");
    assert_eq!(fs::read_dir(place.join("victims")).unwrap().count(), 1);
    if let Ok(applied) = &result {
        // Whoever unpacks also reads the headers, and both saw the same bytes.
        let indexed = indexed.expect("an archive that unpacks has readable headers");
        assert_eq!(indexed.diff_id, applied.diff_id);
        repack(place, &root);
    }
    fs::remove_dir_all(&root).unwrap();
    result.is_ok()
}

/// Packs a tree and unpacks it beside: equal trees.
fn repack(place: &Path, root: &Path) {
    let copy = place.join("copy");
    fs::create_dir(&copy).unwrap();
    let (_, layer) = pack(&Inventory::default(), root);
    apply(&layer, &copy, Whiteouts::Remove);
    assert_eq!(tree(&copy), tree(root));
    fs::remove_dir_all(&copy).unwrap();
}

fn corpus() -> Vec<Vec<u8>> {
    let mut corpus = vec![
        archive("dir d/ 755 0:0\nfile d/a 644 1:2 'hello'\nlink l 777 0:0 d\nhard h 644 0:0 d/a"),
        archive("link up 777 0:0 ..\nfile up/victim 644 0:0 'x'\nfile up/victims/file 644 0:0 'x'"),
        archive("link l 777 0:0 /\nhard l/x 644 0:0 l/victim\nfile l/.wh.victim 0 0:0"),
        archive("dir d/ 755 0:0\nfile d/.wh..wh..opq 0 0:0\nfile d/.wh.x 0 0:0\nfifo d/p 644 0:0"),
        archive("file a 644 0:0 'one'\ndir a/ 700 0:0\nfile a/b 644 0:0 'two'\nfile a 600 0:0 'x'"),
        archive("link a 777 0:0 b\nlink b 777 0:0 a\ndir c/ 1777 0:0\nchar c/d 600 0:0"),
    ];
    for records in [
        "30 mtime=1000000000.25000000\n16 path=long/er\n",
        "27 SCHILY.xattr.user.n=xyz\n",
        "12 size=3\n",
        "14 uid=70000\n",
    ] {
        let mut tar = tar_builder();
        tar.header(b'x', b"pax", b"", 0o644, (0, 0), records.len() as u64);
        tar.content(records.as_bytes());
        tar.header(b'0', b"f", b"", 0o644, (0, 0), 3);
        tar.content(b"abc");
        tar.header(b'L', b"././@LongLink", b"", 0o644, (0, 0), 6);
        tar.content(b"lo/ng\0");
        tar.header(b'5', b"lo", b"", 0o755, (0, 0), 0);
        corpus.push(tar.finish());
    }
    for compression in [Compression::GZIP_DEFAULT, Compression::Zstd(3)] {
        let mut sink = LayerSink::new(Vec::new(), compression);
        sink.write_all(&corpus[0]).unwrap();
        corpus.push(sink.finish().unwrap().1);
    }
    corpus
}

/// A changed copy of an archive; most keep their checksums right, so that what follows the
/// header check is reached.
fn mutate(random: &mut fastrand::Rng, corpus: &[Vec<u8>]) -> Vec<u8> {
    const WORDS: &[&[u8]] = &[
        b"../",
        b"/",
        b"..",
        b".wh.",
        b".wh..wh..opq",
        b"victim",
        b"\0",
        b"\xff",
        b"7777777",
        b"\x80\xff",
        b"-1",
        b"//",
        b"./",
        b" ",
        b"path=../victim\n",
        b"linkpath=/",
        b"GNU.sparse.",
        b"99999999999",
        b"d",
        b"up",
        b"l",
    ];
    let mut bytes = corpus[random.usize(..corpus.len())].clone();
    for _ in 0..=random.usize(..5) {
        let blocks = bytes.len() / 512;
        match random.usize(..8) {
            0 => bytes.truncate(random.usize(..=bytes.len())),
            // Blocks of another archive, where blocks begin.
            1 | 2 => {
                let other = &corpus[random.usize(..corpus.len())];
                let from = random.usize(..=other.len() / 512) * 512;
                let to = (from + random.usize(..4) * 512).min(other.len());
                let at = random.usize(..=blocks) * 512;
                drop(bytes.splice(at..at, other[from.min(to)..to].to_vec()));
            }
            3 if 0 < blocks => {
                // The type of an entry.
                let at = random.usize(..blocks) * 512 + 156;
                bytes[at] = *random.choice(b"01234567xgLKSX\0").unwrap();
            }
            4 if !bytes.is_empty() => {
                let at = random.usize(..bytes.len());
                bytes[at] ^= 1 << random.u32(..8);
            }
            _ if 0 < blocks => {
                // Into a field: name, mode, owner, size, time, link, prefix.
                let field = *random.choice(&[0, 0, 100, 108, 124, 136, 157, 157, 345]).unwrap();
                let at = random.usize(..blocks) * 512 + field + random.usize(..6);
                let word = *random.choice(WORDS).unwrap();
                bytes[at..at + word.len()].copy_from_slice(word);
            }
            _ => {}
        }
    }
    if random.u32(..8) != 0 {
        mend_checksums(&mut bytes);
    }
    bytes
}

fn mend_checksums(bytes: &mut [u8]) {
    for block in bytes.chunks_exact_mut(512) {
        if block[257..262] == *b"ustar" {
            block[148..156].fill(b' ');
            let sum: u64 = block.iter().map(|byte| u64::from(*byte)).sum();
            block[148..155].copy_from_slice(format!("{sum:06o}\0").as_bytes());
        }
    }
}
