mod pulls;

use std::path::Path;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use credentials::PullSecret;
use oci_model::Digest;

use super::super::access::tests::sources_below;
use super::super::failure::PullFailureKind;
use super::super::notes::ImageNotes;
use super::super::progress::Meter;
use super::super::registry::Trouble;
use super::super::registry::{Arrived, Pull, PullError};
use super::*;
use tokio::sync::Semaphore;

mod tenants;

/// Answers per user name; `anonymous` without credential. `ok` succeeds, `hang` never ends.
struct FakeRegistry {
    blobs: blob_store::BlobStore,
    answers: Vec<(&'static str, &'static str)>,
    calls: Arc<Mutex<Vec<String>>>,
    knobs: Knobs,
    time: Arc<Mutex<Duration>>,
}

/// What a test decides besides the answers.
#[derive(Clone)]
struct Knobs {
    limits: PullLimits,
    verification: VerificationPolicy,
    /// A pull takes one permit and keeps it.
    gate: Option<Arc<Semaphore>>,
    /// So much time passes in a pull.
    takes: Duration,
    /// Nobody answers while this is set.
    down: Arc<AtomicBool>,
    /// Questions whether the registry is back.
    probes: Arc<AtomicUsize>,
    /// Pulls that were given up.
    dropped: Arc<AtomicUsize>,
    /// The machine's clock instead of the test's.
    real_time: bool,
    /// What a registry that limits asks for.
    patience: Duration,
}

impl Default for Knobs {
    fn default() -> Self {
        Knobs {
            // The test's clock stands still: whoever waits for it would wait for ever.
            limits: PullLimits { registry_pull_qps: 0, ..PullLimits::default() },
            verification: VerificationPolicy::default(),
            gate: None,
            takes: Duration::ZERO,
            down: Arc::default(),
            probes: Arc::default(),
            dropped: Arc::default(),
            real_time: false,
            // It never ends in a test.
            patience: Duration::from_secs(3600),
        }
    }
}

/// Counts when it is dropped before it was told not to.
struct CountDrop(Option<Arc<AtomicUsize>>);

impl Drop for CountDrop {
    fn drop(&mut self) {
        if let Some(count) = &self.0 {
            count.fetch_add(1, Ordering::SeqCst);
        }
    }
}

/// An image without layers.
fn put_image(blobs: &blob_store::BlobStore) -> Digest {
    let config = br#"{"architecture":"amd64","os":"linux","config":{},"rootfs":{"type":"layers","diff_ids":[]}}"#;
    let digest = blobs.put(config).expect("config");
    let manifest = format!(
        r#"{{"schemaVersion":2,"mediaType":"application/vnd.oci.image.manifest.v1+json","config":{{"mediaType":"application/vnd.oci.image.config.v1+json","digest":"{digest}","size":{}}},"layers":[]}}"#,
        config.len()
    );
    blobs.put(manifest.as_bytes()).expect("manifest")
}

impl Puller for FakeRegistry {
    fn pull<'a>(
        &'a self,
        reference: Reference,
        auth: Option<RegistryAuth>,
        _meter: &'a Meter,
    ) -> Pull<'a, Arrived> {
        Box::pin(async move {
            let user =
                auth.as_ref().and_then(RegistryAuth::username).unwrap_or("anonymous").to_owned();
            self.calls.lock().expect("calls").push(format!("{reference} {user}"));
            let mut count = CountDrop(Some(Arc::clone(&self.knobs.dropped)));
            if let Some(gate) = &self.knobs.gate {
                gate.acquire().await.expect("open").forget();
            }
            *self.time.lock().expect("time") += self.knobs.takes;
            if self.knobs.down.load(Ordering::SeqCst) {
                count.0 = None;
                let cause = "cannot reach registry r.example: connection refused".to_owned();
                let text = format!("failed to resolve reference \"{reference}\": {cause}");
                let kind = PullFailureKind::Unreachable;
                return Err(PullError { text, kind, trouble: Trouble::Registry(cause) });
            }
            if self.answers.contains(&(user.as_str(), "hang")) {
                std::future::pending::<()>().await;
            }
            count.0 = None;
            match self.answers.iter().find(|(name, _)| *name == user) {
                Some((_, "ok")) => Ok(Arrived { root: put_image(&self.blobs), guard: None }),
                Some((_, "429")) => Err(PullError {
                    text: "unexpected status: 429 Too Many Requests".to_owned(),
                    kind: PullFailureKind::Other,
                    trouble: Trouble::Patience(
                        "registry r.example asks for patience".to_owned(),
                        Some(self.knobs.patience),
                    ),
                }),
                Some((_, "401")) => Err(PullError {
                    text: "401".to_owned(),
                    kind: PullFailureKind::Denied,
                    trouble: Trouble::Credential,
                }),
                Some((_, error)) => Err(PullError::of_image(*error)),
                None => Err(PullError::of_image("unexpected user")),
            }
        })
    }

    fn answers(&self, _registry: String) -> Pin<Box<dyn Future<Output = bool> + Send + '_>> {
        self.knobs.probes.fetch_add(1, Ordering::SeqCst);
        Box::pin(std::future::ready(!self.knobs.down.load(Ordering::SeqCst)))
    }
}

struct Fixture {
    _dir: tempfile::TempDir,
    images: Arc<Images>,
    calls: Arc<Mutex<Vec<String>>>,
    events: Mutex<Vec<String>>,
    /// Rings with each event.
    told: tokio::sync::Notify,
    time: Arc<Mutex<Duration>>,
}

fn fixture(answers: &[(&'static str, &'static str)]) -> Fixture {
    fixture_with(answers, Knobs::default())
}

fn fixture_with(answers: &[(&'static str, &'static str)], knobs: Knobs) -> Fixture {
    fixture_changed(answers, knobs, |_, _| {})
}

fn fixture_changed(
    answers: &[(&'static str, &'static str)],
    knobs: Knobs,
    change: impl FnOnce(&mut ImagesParts, &Path),
) -> Fixture {
    let dir = tempfile::tempdir().expect("tempdir");
    let blobs = blob_store::BlobStore::open(dir.path().join("blobs")).expect("blobs");
    let layers = layers::UnpackedLayers::open(&dir.path().join("layers")).expect("layers");
    let calls = Arc::new(Mutex::new(Vec::new()));
    let time = Arc::new(Mutex::new(Duration::from_secs(1000)));
    let told = Arc::clone(&time);
    let clock: Clock = Arc::new(move || *told.lock().expect("time"));
    let mut parts = ImagesParts {
        store: ImageStore::new(blobs.clone(), layers)
            .with_notes(ImageNotes::open(dir.path().join("images.json"))),
        records: PullRecords::open(dir.path()).expect("records"),
        puller: Box::new(FakeRegistry {
            blobs,
            answers: answers.to_vec(),
            calls: Arc::clone(&calls),
            knobs: knobs.clone(),
            time: Arc::clone(&time),
        }),
        mirrors: vec![crate::options::executor_mirror()],
        verification: knobs.verification,
        credentials: sources_below(&dir.path().join("nowhere")),
        preloaded: watch::Sender::new(true).subscribe(),
        limits: knobs.limits,
        clock: if knobs.real_time { crate::images::monotonic() } else { clock },
    };
    change(&mut parts, dir.path());
    let mut images = Images::new(parts);
    images.outages.pace = outages::Pace {
        probe_first: Duration::from_millis(1),
        probe_max: Duration::from_millis(5),
        patience: Duration::from_millis(1),
        spread: Duration::from_millis(1),
    };
    Fixture {
        images: Arc::new(images),
        _dir: dir,
        calls,
        events: Mutex::default(),
        told: tokio::sync::Notify::new(),
        time,
    }
}

fn secret(user: &str) -> PullSecret {
    PullSecret {
        namespace: "ns".into(),
        name: user.into(),
        uid: format!("uid-{user}"),
        kind: "kubernetes.io/dockerconfigjson".into(),
        data: [(
            ".dockerconfigjson".to_owned(),
            format!(r#"{{"auths":{{"r.example":{{"username":"{user}","password":"p-{user}"}}}}}}"#)
                .into_bytes(),
        )]
        .into(),
    }
}

impl Fixture {
    async fn ensure(
        &self,
        image: &str,
        policy: PullPolicy,
        users: &[&str],
    ) -> Result<LocalImage, NotYet> {
        self.ensure_for("u", image, policy, users).await
    }

    /// The same for another pod.
    async fn ensure_for(
        &self,
        uid: &str,
        image: &str,
        policy: PullPolicy,
        users: &[&str],
    ) -> Result<LocalImage, NotYet> {
        let secrets = PullSecrets {
            found: users.iter().map(|user| secret(user)).collect(),
            missing: Vec::new(),
        };
        self.ensure_with(uid, image, policy, &secrets).await
    }

    /// The same with these secrets.
    async fn ensure_with(
        &self,
        uid: &str,
        image: &str,
        policy: PullPolicy,
        secrets: &PullSecrets,
    ) -> Result<LocalImage, NotYet> {
        let pod = PodIdentity { uid: uid.to_owned(), ..PodIdentity::default() };
        let request = Request { pod: &pod, image, policy, secrets };
        let emit = |event: Event| {
            let text = format!("{} {}: {}", event.event_type.as_str(), event.reason, event.message);
            self.events.lock().expect("events").push(text);
            self.told.notify_waiters();
        };
        self.images.ensure(&request, &emit).await
    }

    fn take_events(&self) -> Vec<String> {
        std::mem::take(&mut self.events.lock().expect("events"))
    }

    fn calls(&self) -> Vec<String> {
        std::mem::take(&mut self.calls.lock().expect("calls"))
    }
}

const IMAGE: &str = "r.example/app:1";

/// kubelet-images.md 15.7, rows P1, P2, P3 and P12, and 15.5, L6.
#[tokio::test]
async fn absent_image_is_pulled_and_present_one_used() {
    let fixture = fixture(&[("anonymous", "ok")]);
    let image = fixture.ensure(IMAGE, PullPolicy::IfNotPresent, &[]).await.expect("image");
    assert!(image.id.starts_with("r.example/app@sha256:"));
    let events = fixture.take_events();
    assert_eq!(events[0], format!("Normal Pulling: Pulling image \"{IMAGE}\""));
    assert!(
        events[1].starts_with(&format!("Normal Pulled: Successfully pulled image \"{IMAGE}\" in "))
    );
    assert!(events[1].ends_with(" bytes."));
    fixture.ensure(IMAGE, PullPolicy::IfNotPresent, &[]).await.expect("image");
    assert_eq!(
        fixture.take_events(),
        [format!(
            "Normal Pulled: Container image \"{IMAGE}\" already present on machine and can be accessed by the pod"
        )]
    );
    fixture.ensure(IMAGE, PullPolicy::Never, &[]).await.expect("image");
    assert_eq!(fixture.calls().len(), 1);
    fixture.ensure(IMAGE, PullPolicy::Always, &[]).await.expect("image");
    assert_eq!(fixture.calls(), [format!("{IMAGE} anonymous")], "P1: pulled although present");
}

/// kubelet-images.md 15.7, row P4.
#[tokio::test]
async fn never_with_an_absent_image_contacts_nobody() {
    let fixture = fixture(&[]);
    let refused = fixture.ensure(IMAGE, PullPolicy::Never, &[]).await.expect_err("refused");
    assert_eq!(refused.waiting.reason, "ErrImageNeverPull");
    assert_eq!(
        fixture.take_events(),
        [
            format!(
                "Warning ErrImageNeverPull: Container image \"{IMAGE}\" is not present with pull policy of Never"
            ),
            "Warning Failed: Error: ErrImageNeverPull".to_owned(),
        ]
    );
    assert_eq!(fixture.calls(), Vec::<String>::new());
}

/// kubelet-images.md 15.7, rows P7 and P8.
#[tokio::test]
async fn failed_pull_is_followed_by_back_off() {
    let fixture = fixture(&[("anonymous", "boom")]);
    let refused = fixture.ensure(IMAGE, PullPolicy::IfNotPresent, &[]).await.expect_err("refused");
    assert_eq!(
        (refused.waiting.reason.as_str(), refused.waiting.message.as_str()),
        ("ErrImagePull", "boom")
    );
    assert_eq!(
        fixture.take_events(),
        [
            format!("Normal Pulling: Pulling image \"{IMAGE}\""),
            format!("Warning Failed: Failed to pull image \"{IMAGE}\": boom"),
            "Warning Failed: Error: ErrImagePull".to_owned(),
        ]
    );
    let refused = fixture.ensure(IMAGE, PullPolicy::IfNotPresent, &[]).await.expect_err("refused");
    assert_eq!(refused.waiting.reason, "ImagePullBackOff");
    assert_eq!(
        refused.waiting.message,
        format!("Back-off pulling image \"{IMAGE}\": ErrImagePull: boom")
    );
    assert!(refused.retry_in <= Duration::from_secs(10));
    assert_eq!(
        fixture.take_events(),
        [
            format!("Normal BackOff: Back-off pulling image \"{IMAGE}\""),
            "Warning Failed: Error: ImagePullBackOff".to_owned(),
        ]
    );
    assert_eq!(fixture.calls().len(), 1, "no call inside of the window");
    fixture.images.forget_back_off("u", IMAGE);
    let refused = fixture.ensure(IMAGE, PullPolicy::IfNotPresent, &[]).await.expect_err("refused");
    assert_eq!(refused.waiting.reason, "ErrImagePull");
}

/// kubelet-images.md 15.5, rows L2, L7, L8 and L9.
#[tokio::test]
async fn credentials_are_tried_in_order_and_never_anonymously() {
    let both = fixture(&[("u1", "401"), ("u2", "ok"), ("anonymous", "ok")]);
    both.ensure(IMAGE, PullPolicy::IfNotPresent, &["u1", "u2"]).await.expect("image");
    assert_eq!(both.calls(), [format!("{IMAGE} u1"), format!("{IMAGE} u2")]);
    both.ensure(IMAGE, PullPolicy::Never, &["u2"]).await.expect("L8: the second is recorded");
    both.ensure(IMAGE, PullPolicy::Never, &["u1"]).await.expect_err("L8: and the first is not");

    let wrong = fixture(&[("u1", "denied"), ("anonymous", "ok")]);
    let refused = wrong.ensure(IMAGE, PullPolicy::IfNotPresent, &["u1"]).await.expect_err("L7");
    assert_eq!(refused.waiting.message, "denied");
    assert_eq!(wrong.calls().len(), 1);

    let two = fixture(&[("u1", "e1"), ("u2", "e2")]);
    let refused = two.ensure(IMAGE, PullPolicy::IfNotPresent, &["u1", "u2"]).await.expect_err("L9");
    assert_eq!(refused.waiting.message, "[e1, e2]");
}

/// mini-kubernetes.md 14, row 66; kubelet-images.md 15.7, row P5.
#[tokio::test]
async fn row_66_image_of_one_tenant_is_not_served_to_another() {
    let fixture = fixture(&[("a", "ok"), ("b", "denied"), ("anonymous", "unauthorized")]);
    fixture.ensure(IMAGE, PullPolicy::IfNotPresent, &["a"]).await.expect("tenant a");
    fixture.ensure(IMAGE, PullPolicy::IfNotPresent, &["a"]).await.expect("tenant a, present");
    fixture.ensure(IMAGE, PullPolicy::Never, &["a"]).await.expect("tenant a, never");
    fixture.take_events();
    let refused =
        fixture.ensure(IMAGE, PullPolicy::IfNotPresent, &[]).await.expect_err("no secret");
    assert_eq!(refused.waiting.reason, "ErrImagePull");
    fixture.take_events();
    fixture.calls();
    // To the letter what is said where the image is not: nobody learns that it is here.
    let refused = fixture.ensure(IMAGE, PullPolicy::Never, &["b"]).await.expect_err("wrong secret");
    let text = format!("Container image \"{IMAGE}\" is not present with pull policy of Never");
    assert_eq!(refused.waiting.reason, "ErrImageNeverPull");
    assert_eq!(refused.waiting.message, text);
    assert_eq!(
        fixture.take_events(),
        [
            format!("Warning ErrImageNeverPull: {text}"),
            "Warning Failed: Error: ErrImageNeverPull".to_owned(),
        ]
    );
    assert_eq!(fixture.calls(), Vec::<String>::new());
}

fn broken_secret() -> PullSecret {
    let mut broken = secret("x");
    broken.data.insert(
        ".dockerconfigjson".to_owned(),
        br#"{"auths":{"other.example":{"auth":"pants"}}}"#.to_vec(),
    );
    broken
}

const BROKEN: &str = "illegal base64 data at input byte 4";

/// kubelet-images.md 15.5, row L12, and 2.6.
#[tokio::test]
async fn broken_secret_is_the_waiting_reason_and_no_pull_happens() {
    let fixture = fixture(&[("u1", "ok"), ("anonymous", "ok")]);
    let secrets = PullSecrets { found: vec![secret("u1"), broken_secret()], missing: Vec::new() };
    for attempt in ["first", "second, without back-off"] {
        let refused = fixture.ensure_with("u", IMAGE, PullPolicy::Always, &secrets).await;
        let waiting = refused.expect_err("refused").waiting;
        assert_eq!((waiting.reason.as_str(), waiting.message.as_str()), (BROKEN, BROKEN));
        assert_eq!(
            fixture.take_events(),
            [format!("Warning Failed: Error: {BROKEN}")],
            "{attempt}"
        );
    }
    assert_eq!(fixture.calls(), Vec::<String>::new());
}

/// kubelet-images.md 8.4, step 6, and 2.2, step 3; row L12 where the image is here.
#[tokio::test]
async fn broken_secret_is_the_reason_also_where_nothing_is_pulled() {
    let fixture = fixture(&[("u1", "ok")]);
    fixture.ensure(IMAGE, PullPolicy::IfNotPresent, &["u1"]).await.expect("image");
    fixture.take_events();
    let secrets = PullSecrets { found: vec![broken_secret()], missing: Vec::new() };
    for policy in [PullPolicy::Never, PullPolicy::IfNotPresent] {
        let refused = fixture.ensure_with("other", IMAGE, policy, &secrets).await;
        assert_eq!(refused.expect_err("refused").waiting.reason, BROKEN, "{policy:?}");
        assert_eq!(fixture.take_events(), [format!("Warning Failed: Error: {BROKEN}")]);
    }
}

/// kubelet-images.md 8.4, steps 4 and 5; rows V6, V7 and V9 under Never: no credential is read
/// there, so that nobody learns from a broken one that the image is here.
#[tokio::test]
async fn broken_secret_says_nothing_of_an_image_that_is_not_for_the_pods_credentials() {
    let secrets = PullSecrets { found: vec![broken_secret()], missing: Vec::new() };
    let mapping_of_nobody = r#""r.example/app":{}"#;
    for (case, mapping, usable) in [
        ("recorded under another name", r#""r.example/other":{"nodePodsAccessible":true}"#, false),
        ("recorded for nobody", mapping_of_nobody, false),
        ("recorded for all", r#""r.example/app":{"nodePodsAccessible":true}"#, true),
    ] {
        let fixture = fixture(&[("u1", "ok")]);
        let image = fixture.ensure(IMAGE, PullPolicy::IfNotPresent, &["u1"]).await.expect("image");
        let place = fixture._dir.path().join("image_manager/pulled");
        let record = std::fs::read_dir(place).expect("records").next().expect("one").expect("it");
        let text = std::fs::read_to_string(record.path()).expect("a record");
        let mut document: serde_json::Value = serde_json::from_str(&text).expect("JSON");
        document["credentialMapping"] =
            serde_json::from_str(&format!("{{{mapping}}}")).expect("JSON");
        std::fs::write(record.path(), document.to_string()).expect("written");
        fixture.take_events();
        let asked = fixture.ensure_with("other", IMAGE, PullPolicy::Never, &secrets).await;
        match asked {
            Ok(found) => assert!(usable && found.root == image.root, "{case}"),
            Err(refused) => {
                let waiting = (refused.waiting.reason.as_str(), usable);
                assert_eq!(waiting, ("ErrImageNeverPull", false), "{case}");
            }
        }
    }
}

/// kubelet-images.md 2.2, step 5.
#[tokio::test]
async fn intent_that_cannot_be_written_is_the_waiting_reason() {
    let fixture = fixture(&[("anonymous", "ok")]);
    let pulling = fixture._dir.path().join("image_manager/pulling");
    std::fs::remove_dir(&pulling).expect("empty");
    std::fs::write(&pulling, "").expect("a file in its place");
    let refused = fixture.ensure(IMAGE, PullPolicy::IfNotPresent, &[]).await.expect_err("refused");
    let Waiting { reason, message } = refused.waiting;
    assert_eq!(fixture.take_events(), [format!("Warning Failed: Error: {reason}")]);
    let sentence = "Failed to record image pull intent for container image";
    assert_eq!(message, format!("{sentence} \"{IMAGE}\": {reason}"));
    assert_eq!(fixture.calls(), Vec::<String>::new());
}

/// kubelet-images.md 15.1, row R27, and 1.3.
#[tokio::test]
async fn name_that_does_not_parse_reaches_nobody_and_backs_off_from_nothing() {
    let fixture = fixture(&[("anonymous", "ok")]);
    for image in ["Nginx", "team/App", "FAILED_IMAGE"] {
        for policy in [PullPolicy::Always, PullPolicy::IfNotPresent, PullPolicy::Never] {
            for _ in 0..2 {
                let refused = fixture.ensure(image, policy, &[]).await.expect_err("refused");
                assert_eq!(refused.waiting.reason, "InvalidImageName", "{image}");
            }
        }
    }
    assert_eq!(fixture.calls(), Vec::<String>::new());
}

#[tokio::test]
async fn any_kaniko_executor_is_served_by_our_own_image() {
    let fixture = fixture(&[]);
    let program = fixture._dir.path().join("program");
    std::fs::write(&program, "us").expect("program");
    let ours: Reference = crate::EXECUTOR_IMAGE.parse().expect("reference");
    let record = Path::new(fixture._dir.path()).join("executor.json");
    super::super::executor::prepare(&fixture.images.store, &ours, &program, &record)
        .expect("image");
    for (image, policy) in [
        ("gcr.io/kaniko-project/executor:latest", PullPolicy::Always),
        ("gcr.io/kaniko-project/executor:v1.23.2-debug", PullPolicy::IfNotPresent),
        ("gcr.io/kaniko-project/executor", PullPolicy::Never),
        ("shipway.local/executor", PullPolicy::Always),
    ] {
        let served = fixture
            .ensure(image, policy, &[])
            .await
            .unwrap_or_else(|error| panic!("{image}: {error:?}"));
        assert!(served.id.starts_with("shipway.local/executor@"), "{image}");
    }
    assert_eq!(fixture.calls(), Vec::<String>::new());
    let events = fixture.take_events().join("\n");
    assert!(events.contains("holds no busybox"), "{events}");
}
