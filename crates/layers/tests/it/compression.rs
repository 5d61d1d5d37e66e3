//! Compressed forms: same bytes on any machine, readable by everybody.

use std::io::{Read, Write};
use std::process::{Command, Stdio};

use layers::{Compression, Decoder, Encoding, LayerBlob, LayerSink};

/// Text-like bytes that are neither constant nor random.
fn sample(bytes: usize) -> Vec<u8> {
    let mut state = 1u64;
    let mut sample = Vec::with_capacity(bytes);
    while sample.len() < bytes {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        let word = format!("word{} ", (state >> 40) % 5000);
        sample.extend_from_slice(word.as_bytes());
    }
    sample.truncate(bytes);
    sample
}

fn compress(
    input: &[u8],
    compression: Compression,
    threads: usize,
    step: usize,
) -> (LayerBlob, Vec<u8>) {
    let mut sink = LayerSink::with_threads(Vec::new(), compression, threads);
    for part in input.chunks(step) {
        sink.write_all(part).unwrap();
    }
    sink.finish().unwrap()
}

const ALL: [Compression; 3] = [Compression::None, Compression::Gzip(4), Compression::Zstd(3)];

#[test]
fn bytes_do_not_depend_on_threads_or_write_sizes() {
    let input = sample(9_000_000);
    for compression in ALL {
        let reference = compress(&input, compression, 1, input.len());
        for (threads, step) in [(1, 777), (2, 65_536), (7, 1 << 20), (3, 3_000_001)] {
            assert!(compress(&input, compression, threads, step) == reference, "{compression:?}");
        }
    }
}

#[test]
fn decoder_returns_what_was_compressed() {
    for bytes in [0, 1, 511, 1 << 20, (1 << 20) + 1, 5_000_000] {
        let input = sample(bytes);
        for compression in ALL {
            let (blob, compressed) = compress(&input, compression, 2, 100_000);
            assert_eq!(blob.tar_bytes, bytes as u64);
            assert_eq!(blob.blob_bytes, compressed.len() as u64);
            assert_eq!(blob.digest, oci_model::Digest::of(&compressed));
            assert_eq!(blob.diff_id.0, oci_model::Digest::of(&input));
            let mut output = Vec::new();
            Decoder::new(&compressed[..]).unwrap().read_to_end(&mut output).unwrap();
            assert!(output == input, "{compression:?} {bytes}");
        }
    }
}

#[test]
fn encodings_are_told_apart_by_their_first_bytes() {
    let cases: [(&[u8], Encoding); 5] = [
        (&[0x1f, 0x8b, 8, 0], Encoding::Gzip),
        (&[0x28, 0xb5, 0x2f, 0xfd], Encoding::Zstd),
        (&[0x5a, 0x2a, 0x4d, 0x18], Encoding::Zstd),
        (b"", Encoding::Plain),
        (b"file", Encoding::Plain),
    ];
    for (start, encoding) in cases {
        assert_eq!(Encoding::sniff(start), encoding);
    }
}

#[test]
fn gzip_header_holds_no_time_and_no_system() {
    let (_, blob) = compress(b"x", Compression::Gzip(6), 1, 1);
    assert_eq!(&blob[..8], &[0x1f, 0x8b, 8, 0, 0, 0, 0, 0]);
    assert_eq!(blob[9], 0xff);
}

#[test]
fn system_programs_read_our_blobs() {
    let input = sample(3_000_000);
    for (compression, program) in [(Compression::Gzip(4), "gzip"), (Compression::Zstd(3), "zstd")] {
        let (_, blob) = compress(&input, compression, 2, 100_000);
        let child = Command::new(program)
            .args(["-dc"])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn();
        // zstd's program is no part of a minimal Debian; gzip's is.
        let Ok(mut child) = child else {
            assert_eq!(program, "zstd");
            continue;
        };
        let mut stdin = child.stdin.take().unwrap();
        let writer = std::thread::spawn(move || stdin.write_all(&blob));
        let output = child.wait_with_output().unwrap();
        writer.join().unwrap().unwrap();
        assert!(output.stdout == input, "{program}");
    }
}
