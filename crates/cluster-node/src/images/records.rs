//! Pull intents and pull records on disk (kubelet-images.md 8.2 and 8.3).

use std::collections::HashMap;
use std::fs;
use std::io;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};

use image_policy::verification::{
    Freshness, Provenance, PulledRecord, UsedCredential, mapping_name, record_file_name,
};
use jiff::Timestamp;

use super::notes::Origin;
use crate::directories::write_durably;

/// Which credentials opened which image, kept below `<node>/image_manager`.
#[derive(Debug)]
pub(crate) struct PullRecords {
    pulling: PathBuf,
    pulled: PathBuf,
    /// Pulls under way, by image text.
    intents: Mutex<HashMap<String, u32>>,
}

impl PullRecords {
    /// Opens the records below a directory of the node.
    ///
    /// # Errors
    /// The directories cannot be made.
    pub(crate) fn open(directory: &Path) -> io::Result<Self> {
        let at = |name: &str| directory.join("image_manager").join(name);
        let records =
            PullRecords { pulling: at("pulling"), pulled: at("pulled"), intents: Mutex::default() };
        for path in [&records.pulling, &records.pulled] {
            fs::DirBuilder::new().recursive(true).mode(0o700).create(path)?;
        }
        records.rewrite_old();
        Ok(records)
    }

    /// Writes records of an older version anew, and removes what was never finished.
    fn rewrite_old(&self) {
        for entry in fs::read_dir(&self.pulled).into_iter().flatten().flatten() {
            let path = entry.path();
            if path.extension().is_some_and(|extension| extension == "tmp") {
                let _ = fs::remove_file(&path);
                continue;
            }
            let Ok(bytes) = fs::read(&path) else { continue };
            let result = match parse(&bytes) {
                Ok((record, Freshness::Old)) => self.store(&record).map_err(|e| e.to_string()),
                Ok((_, Freshness::Current)) => Ok(()),
                Err(error) => Err(error),
            };
            if let Err(error) = result {
                tracing::warn!(path = %path.display(), error, "pull record skipped");
            }
        }
    }

    fn intents(&self) -> MutexGuard<'_, HashMap<String, u32>> {
        // The map stays whole whatever a panicking holder did: it only counts.
        self.intents.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Notes that a pull of `image` begins.
    ///
    /// # Errors
    /// The intent cannot be written.
    pub(crate) fn begin(&self, image: &str) -> io::Result<()> {
        let mut intents = self.intents();
        let document = serde_json::json!({
            "kind": "ImagePullIntent", "apiVersion": "kubelet.config.k8s.io/v1beta1", "image": image});
        write_durably(
            &self.pulling.join(record_file_name(image)),
            document.to_string().as_bytes(),
        )?;
        *intents.entry(image.to_owned()).or_default() += 1;
        Ok(())
    }

    /// Notes that a pull of `image` ended without success, or after its record was written.
    pub(crate) fn end(&self, image: &str) {
        let mut intents = self.intents();
        let left = intents.get_mut(image).map_or(0, |count| {
            *count = count.saturating_sub(1);
            *count
        });
        if left == 0 {
            intents.remove(image);
            let _ = fs::remove_file(self.pulling.join(record_file_name(image)));
        }
    }

    /// Notes that `used` opened the image of identity `image_ref` under each of its names: the one
    /// of the spec, and the one that a mirror made of it.
    ///
    /// # Errors
    /// The record cannot be written; the intent then has to stay.
    pub(crate) fn note(
        &self,
        image_ref: &str,
        names: &[&str],
        used: &UsedCredential,
        now: Timestamp,
    ) -> io::Result<()> {
        let _order = self.intents();
        let mut record = self.record_or_new(image_ref, now);
        for name in names {
            record.note(name, used.clone(), now.to_string());
        }
        self.store(&record)
    }

    fn store(&self, record: &PulledRecord) -> io::Result<()> {
        let bytes = serde_json::to_vec(record).map_err(io::Error::other)?;
        write_durably(&self.pulled.join(record_file_name(&record.image_ref)), &bytes)
    }

    fn record(&self, image_ref: &str) -> Known {
        let bytes = match fs::read(self.pulled.join(record_file_name(image_ref))) {
            Ok(bytes) => bytes,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Known::Nothing,
            Err(error) => {
                tracing::warn!(image_ref, %error, "pull record cannot be read");
                return Known::Unreadable;
            }
        };
        match parse(&bytes) {
            Ok((record, _)) => Known::Record(record),
            Err(error) => {
                tracing::warn!(image_ref, %error, "pull record is not readable");
                Known::Unreadable
            }
        }
    }

    /// The record to write to: what cannot be read allows nobody.
    fn record_or_new(&self, image_ref: &str, now: Timestamp) -> PulledRecord {
        match self.record(image_ref) {
            Known::Record(record) => record,
            Known::Nothing | Known::Unreadable => {
                PulledRecord::new(image_ref.to_owned(), now.to_string())
            }
        }
    }

    /// Whether there is a record of this identity.
    pub(crate) fn knows(&self, image_ref: &str) -> bool {
        !matches!(self.record(image_ref), Known::Nothing)
    }

    /// How an image got here that is present as `effective`, the name that `image` has after the
    /// mirrors of the node.
    ///
    /// A record that knows neither name says that the same content was pulled under another one,
    /// which grants nothing here (kubelet-images.md 8.4, step 4). Only a name that was given to it
    /// on this machine counts as preloaded all the same (kubernetes#138175: the kubelet then takes
    /// the image away from its owner). A record that cannot be read, and none at all for what a
    /// pod's pull brought, say that it was pulled, and not by whom (8.4, step 1).
    pub(crate) fn provenance(
        &self,
        image_ref: &str,
        image: &str,
        effective: &str,
        origin: Origin,
    ) -> Provenance {
        let known = self.record(image_ref);
        if let Known::Record(record) = &known
            && [image, effective]
                .iter()
                .any(|name| record.credential_mapping.contains_key(&mapping_name(name)))
        {
            return Provenance::Pulled(record.clone());
        }
        let is_pulling = self.intents().contains_key(image)
            || self.pulling.join(record_file_name(image)).exists();
        match (known, origin) {
            (Known::Unreadable, _) => Provenance::IntentOnly,
            _ if is_pulling => Provenance::IntentOnly,
            (_, Origin::Given) => Provenance::Preloaded,
            (Known::Record(record), Origin::Pod) => Provenance::Pulled(record),
            (Known::Nothing, Origin::Pod) => Provenance::IntentOnly,
        }
    }

    /// Deletes the records of images that are gone and that were last updated before `began`
    /// (kubelet-images.md 8.3).
    pub(crate) fn forget_absent(&self, is_here: impl Fn(&str) -> bool, began: Timestamp) {
        let _order = self.intents();
        let Ok(entries) = fs::read_dir(&self.pulled) else { return };
        for entry in entries.flatten() {
            // One that cannot be read keeps its image from everybody: it stays.
            let parsed = fs::read(entry.path()).ok().and_then(|bytes| parse(&bytes).ok());
            let Some((record, _)) = parsed else { continue };
            let is_older =
                record.last_updated_time.parse::<Timestamp>().is_ok_and(|updated| updated < began);
            if is_older && !is_here(&record.image_ref) {
                let _ = fs::remove_file(entry.path());
            }
        }
    }

    /// After a restart: pulls that were under way and whose image is here count as pulled, for
    /// nobody. `find` gives the identity of a local image.
    pub(crate) fn settle(&self, find: impl Fn(&str) -> Option<String>, now: Timestamp) {
        let Ok(entries) = fs::read_dir(&self.pulling) else { return };
        for entry in entries.flatten() {
            let image = fs::read(entry.path())
                .ok()
                .and_then(|bytes| serde_json::from_slice::<serde_json::Value>(&bytes).ok())
                .and_then(|document| document.get("image")?.as_str().map(str::to_owned));
            if let Some(image) = image
                && let Some(image_ref) = find(&image)
            {
                let mut record = self.record_or_new(&image_ref, now);
                // Known under this name, and open to nobody.
                record.credential_mapping.entry(mapping_name(&image)).or_default();
                if let Err(error) = self.store(&record) {
                    // The intent stays: nobody gets the image without a pull.
                    tracing::warn!(%error, "pull record not written");
                    continue;
                }
            }
            let _ = fs::remove_file(entry.path());
        }
    }
}

/// Reads a record strictly: with a field that nobody knows it may mean something else.
fn parse(bytes: &[u8]) -> Result<(PulledRecord, Freshness), String> {
    let record: PulledRecord = serde_json::from_slice(bytes).map_err(|error| error.to_string())?;
    record.checked().map_err(|error| error.to_string())
}

/// What is on disk about an identity.
enum Known {
    Record(PulledRecord),
    Nothing,
    Unreadable,
}

#[cfg(test)]
mod tests {
    use image_policy::verification::{
        PodCredentials, SecretCoordinates, Verdict, VerificationPolicy, must_pull,
    };

    use super::*;

    fn secret(name: &str, hash: &str) -> SecretCoordinates {
        SecretCoordinates {
            namespace: "ns".into(),
            name: name.into(),
            uid: format!("uid-{name}"),
            credential_hash: hash.into(),
        }
    }

    /// Records that know one image, opened by one secret, under this name.
    fn recorded(name: &str) -> (tempfile::TempDir, PullRecords) {
        let dir = tempfile::tempdir().expect("tempdir");
        let records = PullRecords::open(dir.path()).expect("records");
        let used = UsedCredential::Secret(secret("a", "h1"));
        records.note("sha256:1", &[name], &used, Timestamp::UNIX_EPOCH).expect("record");
        (dir, records)
    }

    fn verdict(records: &PullRecords, shown: &[SecretCoordinates]) -> Verdict {
        let pod = PodCredentials { secrets: shown.to_vec(), account: None };
        let provenance =
            records.provenance("sha256:1", "r.example/app:1", "r.example/app:1", Origin::Given);
        must_pull(&VerificationPolicy::default(), "r.example/app:1", &provenance, &pod)
    }

    /// kubelet-images.md 15.9, rows V1, V2, V4 and V8 through the disk.
    #[test]
    fn image_of_one_tenant_is_refused_to_another() {
        let dir = tempfile::tempdir().expect("tempdir");
        let records = PullRecords::open(dir.path()).expect("records");
        assert_eq!(verdict(&records, &[]), Verdict::Usable, "preloaded");
        records.begin("r.example/app:1").expect("intent");
        assert_eq!(verdict(&records, &[]), Verdict::MustPull, "intent only");
        let used = UsedCredential::Secret(secret("a", "h1"));
        records
            .note("sha256:1", &["r.example/app:1"], &used, Timestamp::UNIX_EPOCH)
            .expect("record");
        records.end("r.example/app:1");
        assert_eq!(verdict(&records, &[secret("a", "h1")]), Verdict::Usable);
        assert_eq!(verdict(&records, &[]), Verdict::MustPull);
        assert_eq!(verdict(&records, &[secret("b", "h2")]), Verdict::MustPull);
        let again = PullRecords::open(dir.path()).expect("records");
        assert_eq!(verdict(&again, &[]), Verdict::MustPull, "after a restart");
    }

    /// kubelet-images.md 15.9, V15.
    #[test]
    fn interrupted_pull_grants_nobody_after_a_restart() {
        let dir = tempfile::tempdir().expect("tempdir");
        PullRecords::open(dir.path()).expect("records").begin("r.example/app:1").expect("intent");
        let records = PullRecords::open(dir.path()).expect("records");
        records.settle(|_| Some("sha256:1".to_owned()), Timestamp::UNIX_EPOCH);
        assert_eq!(fs::read_dir(&records.pulling).expect("directory").count(), 0);
        assert_eq!(verdict(&records, &[secret("a", "h1")]), Verdict::MustPull);
    }

    /// kubelet-images.md 8.2: old records are written anew; 8.4, step 1: what cannot be read, or
    /// says more than is known, is nobody's.
    #[test]
    fn records_are_read_strictly_and_old_ones_written_anew() {
        let (dir, records) = recorded("r.example/app:1");
        let path = records.pulled.join(record_file_name("sha256:1"));
        let text = fs::read_to_string(&path).expect("a record");
        assert!(text.contains("kubelet.config.k8s.io/v1beta1"), "{text}");
        let with = |changed: String| {
            fs::write(&path, changed).expect("written");
            let records = PullRecords::open(dir.path()).expect("records");
            (verdict(&records, &[secret("a", "h1")]), fs::read_to_string(&path).expect("a record"))
        };
        let old = text.replace("/v1beta1", "/v1alpha1");
        assert_eq!(with(old), (Verdict::Usable, text.clone()));
        for damaged in [
            text.replace("/v1beta1", "/v2"),
            text.replace("ImagePulledRecord", "Other"),
            text.replace(r#""uid":"#, r#""more":1,"uid":"#),
            text.replace(r#""imageRef":"#, r#""more":1,"imageRef":"#),
            text[..text.len() - 2].to_owned(),
            String::new(),
        ] {
            let (verdict, left) = with(damaged.clone());
            assert_eq!((verdict, left), (Verdict::MustPull, damaged.clone()), "{damaged}");
        }
    }

    /// kubelet-images.md 15.9, V15, when the power failed between pull and record.
    #[test]
    fn unfinished_record_is_removed() {
        let dir = tempfile::tempdir().expect("tempdir");
        let records = PullRecords::open(dir.path()).expect("records");
        let staged = records.pulled.join("sha256-x.tmp");
        fs::write(&staged, "{").expect("written");
        PullRecords::open(dir.path()).expect("records");
        assert!(!staged.exists());
    }

    #[test]
    fn name_given_on_this_machine_stays_usable_when_the_content_was_pulled_under_another() {
        let (_dir, records) = recorded("r.example/other:1");
        assert_eq!(verdict(&records, &[]), Verdict::Usable);
    }

    /// kubelet-images.md 15.9, V6 and V7, through the disk; and no record at all.
    #[test]
    fn name_that_a_pod_brought_and_no_record_knows_is_for_nobody() {
        let (_dir, records) = recorded("r.example/other:1");
        let empty = PulledRecord::new("sha256:2".to_owned(), String::new());
        records.store(&empty).expect("record");
        let name = "r.example/app:1";
        let pod = PodCredentials { secrets: vec![secret("a", "h1")], account: None };
        for (row, image_ref) in [("V6", "sha256:1"), ("V7", "sha256:2"), ("none", "sha256:3")] {
            let ask = |origin| {
                let provenance = records.provenance(image_ref, name, name, origin);
                must_pull(&VerificationPolicy::default(), name, &provenance, &pod)
            };
            assert_eq!(ask(Origin::Pod), Verdict::MustPull, "{row}");
            assert_eq!(ask(Origin::Given), Verdict::Usable, "{row}, given here");
        }
    }

    /// kubelet-images.md 8.3, "after a space-driven GC".
    #[test]
    fn records_of_vanished_images_go_unless_they_are_new() {
        let dir = tempfile::tempdir().expect("tempdir");
        let records = PullRecords::open(dir.path()).expect("records");
        let at = |second| Timestamp::from_second(second).expect("in range");
        for (image_ref, second) in [("sha256:gone", 1), ("sha256:here", 1), ("sha256:new", 9)] {
            records
                .note(image_ref, &["r.example/app:1"], &UsedCredential::Node, at(second))
                .expect("it");
        }
        records.forget_absent(|image_ref| image_ref == "sha256:here", at(5));
        let left = |image_ref: &str| records.knows(image_ref);
        assert_eq!(["sha256:gone", "sha256:here", "sha256:new"].map(left), [false, true, true]);
    }

    #[test]
    fn intent_ends_with_the_last_of_several_pulls() {
        let dir = tempfile::tempdir().expect("tempdir");
        let records = PullRecords::open(dir.path()).expect("records");
        records.begin("i").expect("first");
        records.begin("i").expect("second");
        records.end("i");
        assert_eq!(records.provenance("none", "i", "i", Origin::Given), Provenance::IntentOnly);
        records.end("i");
        assert_eq!(records.provenance("none", "i", "i", Origin::Given), Provenance::Preloaded);
    }
}
