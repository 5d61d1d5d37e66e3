//! Bytes that nobody wrote: mutations of Dockerfiles and ignore files must be parsed, planned
//! and checked, or refused, but never panic.
//!
//! Every run takes a new seed and prints it with the input when something breaks.
//! `SHIPWAY_FUZZ_SECONDS` sets the time per target, `SHIPWAY_FUZZ_SEED` repeats a run. Inputs that
//! once broke something stand in `corpus/` and are tried first.
#![allow(missing_docs, clippy::unwrap_used)]
#![expect(clippy::print_stdout, reason = "a seed is of use only where it is printed")]

mod mutate;

use std::path::Path;
use std::time::{Duration, Instant};

use dockerfile::{Dockerfile, DoubleStar, Draft, IgnoreFile, PathPattern, PlanOptions};
use mutate::Mutator;
use oci_model::Platform;

/// Seconds per target when nobody says more.
const SECONDS: u64 = 5;

const DOCKERFILES: &[&str] = &[
    "# syntax=docker/dockerfile:1\n# escape=`\nFROM base AS one\nRUN a `\n  b\n",
    "ARG V=1 B\nFROM --platform=$BUILDPLATFORM img:${V:-x} AS s\nARG V\nENV A=\"b c\" D='e' F=g\\ h\nRUN --mount=type=cache,id=x,target=/c,uid=${V} --network=none [\"a\", \"b\"]\n",
    "FROM a\nCOPY --chown=1:2 --chmod=u=rwX,go= --parents --exclude=**/x a/./b [c]* /d/\nADD --checksum=sha256:00 https://x/y.tgz /\nCOPY [\"a b\", \"/x/\"]\n",
    "FROM a\nCOPY <<EOF <<'B' <<-C /x/\n$a ${b:-c}\nEOF\nraw\nB\n\ttab\n\tC\nRUN <<EOF\n#!/bin/sh\necho\nEOF\nRUN cat <<A >x <<B\n1\nA\n2\nB\n",
    "FROM a\nHEALTHCHECK --interval=5m --retries=3 CMD x || exit 1\nONBUILD COPY --from=b /x /y\nSTOPSIGNAL SIGTERM\nSHELL [\"/bin/sh\",\"-ec\"]\nEXPOSE 80 90-92/udp $P\nVOLUME /a [\"/b\"]\nUSER u:g\nWORKDIR a/../b\nLABEL a=b \"c d\"=e\nMAINTAINER m\nCMD [\"x\"]\nENTRYPOINT x\n",
    "FROM a AS b\nFROM b\nENV A=${B#x*} C=${D%%?y} E=${F/g/h} I=${J//k\\/l/m} K=${L:?no} M=${N+${O:-${P}}}\nCOPY --from=0 $A ${C}\n",
    "\u{feff}from scratch\r\ncopy a b\r\n# check=skip=all\r\nrun x\r\n",
];
const IGNORE_FILES: &[&str] = &[
    "# c\n*\n!a/**/b?.[a-z]\n/x/\n./y/../z\n**/*.md\n!README\\ x\n",
    "a/**\n!a/b\na/b/c\n[^x]\n[\n\\\n!\n..\n",
];
/// What means something in a Dockerfile.
const WORDS: &[&str] = &[
    "FROM ",
    "RUN ",
    "COPY ",
    "ADD ",
    "ENV ",
    "ARG ",
    "ONBUILD ",
    "<<EOF",
    "<<-'E'",
    "EOF\n",
    "\\\n",
    "`\n",
    "${",
    "}",
    ":-",
    ":?",
    "##",
    "%%",
    "//",
    "--from=",
    "--mount=",
    "type=",
    "--chmod=",
    "[\"",
    "\"]",
    "'",
    "\"",
    "\n",
    "\r\n",
    "\t",
    "# escape=`\n",
    "# syntax=x\n",
    "\u{feff}",
    "\0",
    "**",
    "[^",
    "!",
    "..",
    "/./",
    "$",
    "\\",
    "65536",
    "=",
    ",",
    "ñ",
    "😀",
    "4294967296",
    "-1",
];

#[test]
fn no_bytes_make_the_frontend_panic() {
    fuzz("dockerfile", DOCKERFILES, |bytes| {
        let Ok(file) = Dockerfile::parse("Dockerfile", bytes) else { return };
        let lines = file.text().lines().count().max(1) + 1;
        for warning in file.text_warnings() {
            let line = warning.span.line as usize;
            assert!(line <= lines, "a warning at line {line} of {lines}");
        }
        let mut options = PlanOptions::for_platform(Platform::host());
        options.build_args.insert("V".into(), "2".into());
        let Ok(mut draft) = Draft::new(&file, options) else { return };
        for _ in 0..8 {
            let bases = draft.unresolved_bases();
            if bases.is_empty() {
                break;
            }
            for base in &bases {
                if draft.supply_base(base, &Default::default()).is_err() {
                    return;
                }
            }
        }
        let Ok(plan) = draft.finish() else { return };
        assert!(!format!("{plan:?}").is_empty());
    });
}

#[test]
fn no_bytes_make_ignore_files_and_patterns_panic() {
    fuzz("ignore", IGNORE_FILES, |bytes| {
        let text = String::from_utf8_lossy(bytes);
        let paths = ["a", "a/b", "a/b/c", "x/y/z.md", "README x", "ñ/[", ".hidden"];
        if let Ok(ignore) = IgnoreFile::parse(&text) {
            for path in paths {
                // A pruned directory holds nothing that is wanted.
                if ignore.prunes(path) {
                    assert!(ignore.ignores(&format!("{path}/below/deep")), "{path}");
                }
            }
        }
        for line in text.lines() {
            for stars in [DoubleStar::Plain, DoubleStar::Directories] {
                if let Ok(pattern) = PathPattern::parse(line, stars) {
                    assert!(
                        paths.iter().filter(|path| pattern.matches(path)).count() <= paths.len()
                    );
                }
            }
        }
    });
}

/// Feeds `target` the corpus and then mutations of it until the time is over.
fn fuzz(name: &str, seeds: &[&str], target: impl Fn(&[u8])) {
    let number = |name: &str| std::env::var(name).ok().and_then(|text| text.parse::<u64>().ok());
    let seed = number("SHIPWAY_FUZZ_SEED").unwrap_or_else(Mutator::new_seed);
    let limit = Duration::from_secs(number("SHIPWAY_FUZZ_SECONDS").unwrap_or(SECONDS));
    let mut corpus: Vec<Vec<u8>> = seeds.iter().map(|seed| seed.as_bytes().to_vec()).collect();
    let kept = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/it/corpus");
    for file in std::fs::read_dir(kept).unwrap() {
        corpus.push(std::fs::read(file.unwrap().path()).unwrap());
    }
    let mut mutator = Mutator::new(seed, WORDS);
    let started = Instant::now();
    let mut tried = 0u64;
    for input in corpus.clone() {
        attempt(name, seed, &input, &target);
    }
    while started.elapsed() < limit {
        let input = mutator.mutate(&corpus);
        attempt(name, seed, &input, &target);
        tried += 1;
    }
    println!("{name}: {tried} inputs from seed {seed}");
}

fn attempt(name: &str, seed: u64, input: &[u8], target: &impl Fn(&[u8])) {
    let outcome = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| target(input)));
    if let Err(panic) = outcome {
        let shown = String::from_utf8_lossy(input);
        println!("{name}: seed {seed}, input {shown:?}");
        std::panic::resume_unwind(panic);
    }
}
