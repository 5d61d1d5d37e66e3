use proptest::prelude::*;

use super::*;

const A: &str = "sha256:ca978112ca1bbdcafac231b39a23dc4da786eff8147c4e72b9807785afee48bb";
const B: &str = "sha256:3e23e8160039594a33894f6564e1b1348bbd7a0088d42c4acb73eeaed59c009d";

fn digest(text: &str) -> Digest {
    text.parse().expect("a digest")
}

fn set(name: &str, digests: &[&str]) -> Record {
    Record::Set {
        name: name.to_owned(),
        digests: digests.iter().map(|text| digest(text)).collect(),
    }
}

/// A log in a directory of its own, with `content`.
fn log_with(content: &[u8]) -> (tempfile::TempDir, Arc<RefLog>) {
    let directory = tempfile::tempdir().expect("a directory");
    std::fs::write(directory.path().join("node.log"), content).expect("a log");
    let log = RefLogs::new(directory.path().to_owned()).log("node");
    (directory, log)
}

fn names(log: &RefLog) -> Vec<String> {
    log.with_refs(|refs| refs.keys().cloned().collect()).expect("a readable log")
}

#[test]
fn the_format_is_the_documented_one() {
    let golden = format!(
        "set node/image {A} {B} 83ad6869ca73df5b\n\
         set node/a%20b%25 3fcfa1579a8ac4b2\n\
         del node/image 7f078dd0df3b9884\n"
    );
    let records = [
        set("node/image", &[A, B]),
        set("node/a b%", &[]),
        Record::Delete { name: "node/image".to_owned() },
    ];
    let written: String = records.iter().map(Record::encode).collect();
    assert_eq!(written, golden);
}

#[test]
fn the_last_record_of_a_name_counts() {
    let records = [
        set("node/x", &[A]),
        set("node/y", &[A]),
        set("node/x", &[B]),
        Record::Delete { name: "node/y".to_owned() },
    ];
    let content: String = records.iter().map(Record::encode).collect();
    let (_directory, log) = log_with(content.as_bytes());
    let refs = log.with_refs(Clone::clone).expect("refs");
    assert_eq!(refs, BTreeMap::from([("node/x".to_owned(), vec![digest(B)])]));
}

#[test]
fn a_torn_last_line_is_cut_off_by_the_next_writer() {
    let whole = set("node/x", &[A]).encode();
    let torn = set("node/y", &[B]).encode();
    for length in 1..torn.len() {
        let content = format!("{whole}{}", &torn[..length]);
        let (_directory, log) = log_with(content.as_bytes());
        assert_eq!(names(&log), ["node/x"]);
        log.append(&[set("node/z", &[A])]).expect("an append");
        assert_eq!(names(&log), ["node/x", "node/z"]);
    }
}

#[test]
fn a_flipped_byte_is_damage_with_its_place() {
    let first = set("node/x", &[A]).encode();
    let mut content = format!("{first}{}{}", set("node/y", &[B]).encode(), first).into_bytes();
    content[first.len() + 30] ^= 1;
    let (_directory, log) = log_with(&content);
    let error = log.with_refs(BTreeMap::len).expect_err("damage");
    assert!(
        matches!(error, RefError::Damaged { offset, .. } if offset == first.len() as u64),
        "{error}"
    );
}

#[test]
fn compaction_keeps_what_counts_and_readers_notice() {
    let record = set("node/x", &[A]).encode();
    let content = record.repeat(2 * COMPACT_BYTES_MIN as usize / record.len());
    let (_directory, log) = log_with(content.as_bytes());
    let other = RefLogs::new(log.path.parent().expect("a parent").to_owned()).log("node");
    assert_eq!(names(&other), ["node/x"]);
    other.append(&[set("node/y", &[B])]).expect("an append");
    log.compact().expect("compaction");
    assert!(std::fs::metadata(&log.path).expect("a log").len() < 1000);
    other.append(&[set("node/z", &[B])]).expect("an append");
    assert_eq!(names(&other), ["node/x", "node/y", "node/z"]);
    assert_eq!(names(&log), ["node/x", "node/y", "node/z"]);
}

proptest! {
    #[test]
    fn every_record_reads_back(name in "[^\\x00]{1,40}", count in 0usize..4, delete: bool) {
        let record = if delete {
            Record::Delete { name }
        } else {
            Record::Set { name, digests: vec![digest(A); count] }
        };
        let line = record.encode();
        prop_assert_eq!(line.matches('\n').count(), 1);
        prop_assert_eq!(Record::decode(line.trim_end_matches('\n').as_bytes()), Some(record));
    }

    #[test]
    fn arbitrary_lines_never_panic(line: Vec<u8>) {
        let _ = Record::decode(&line);
    }
}
