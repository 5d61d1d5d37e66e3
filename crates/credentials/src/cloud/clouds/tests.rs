use std::path::Path;
use std::time::SystemTime;

use super::super::world::{World, answer, answer_with};
use super::super::{Method, ProgramOutput, Request, Response, RunError, SendError};
use super::*;
use crate::{RegistryAuth, Secret};

const IMAGE: &str = "europe-docker.pkg.dev/project/app:1";
const METADATA: &str = "http://127.0.0.1:1/computeMetadata/v1/instance/service-accounts/default/\
                        token?scopes=https://www.googleapis.com/auth/devstorage.read_only";

/// A [`World`] for several threads, in which time passes when a test says so.
struct Shared {
    world: Mutex<World>,
    uptime: Mutex<Duration>,
    /// How far somebody set the time of day ahead.
    set_ahead: Mutex<Duration>,
}

impl Shared {
    fn new(world: World) -> Arc<Self> {
        let (uptime, set_ahead) = (Mutex::default(), Mutex::default());
        Arc::new(Self { world: Mutex::new(world), uptime, set_ahead })
    }

    fn clouds(self: &Arc<Self>) -> Clouds {
        let performer: Arc<dyn Performer + Send + Sync> = Arc::<Self>::clone(self);
        Clouds::new(performer, CloudOptions::all())
    }

    fn pass(&self, seconds: u64) {
        *locked(&self.uptime) += Duration::from_secs(seconds);
    }

    fn sent(&self) -> usize {
        locked(&self.world).sent.borrow().len()
    }
}

impl Performer for Shared {
    fn variable(&self, name: &str) -> Option<String> {
        Performer::variable(&*locked(&self.world), name)
    }
    fn read_file(&self, path: &Path, bytes_max: u64) -> std::io::Result<Secret> {
        locked(&self.world).read_file(path, bytes_max)
    }
    fn read_file_itself(&self, path: &Path, bytes_max: u64) -> std::io::Result<Secret> {
        locked(&self.world).read_file_itself(path, bytes_max)
    }
    fn file_exists(&self, path: &Path) -> bool {
        locked(&self.world).file_exists(path)
    }
    fn send(&self, request: &Request) -> Result<Response, SendError> {
        locked(&self.world).send(request)
    }
    fn run(
        &self,
        program: &str,
        arguments: &[String],
        timeout: Duration,
    ) -> Result<ProgramOutput, RunError> {
        locked(&self.world).run(program, arguments, timeout)
    }
    fn rsa_key(&self) -> Result<Secret, String> {
        locked(&self.world).rsa_key()
    }
    fn now(&self) -> SystemTime {
        super::super::world::now() + self.uptime() + *locked(&self.set_ahead)
    }
    fn uptime(&self) -> Duration {
        *locked(&self.uptime)
    }
    fn pause(&self, time: Duration) {
        locked(&self.world).pause(time);
    }
    fn random(&self) -> u64 {
        locked(&self.world).random()
    }
}

/// Google's metadata server, which gives one token after the other.
fn google(tokens: &[(&str, u64)]) -> World {
    let mut world = World::new().variable("GCE_METADATA_HOST", "127.0.0.1:1");
    for (token, seconds) in tokens {
        let body =
            format!(r#"{{"access_token":"{token}","expires_in":{seconds},"token_type":"Bearer"}}"#);
        let answer = answer_with(200, &[("metadata-flavor", "Google")], &body);
        world = world.server(Method::Get, METADATA, answer);
    }
    world
}

#[track_caller]
fn token(clouds: &Clouds) -> String {
    token_of(&given(clouds))
}

#[track_caller]
fn given(clouds: &Clouds) -> CloudCredential {
    clouds.credential(IMAGE).expect("an answer").expect("a credential")
}

fn token_of(credential: &CloudCredential) -> String {
    match &credential.auth {
        RegistryAuth::Basic { password, .. } => password.expose().to_owned(),
        other => panic!("{other:?}"),
    }
}

#[test]
fn many_who_ask_at_once_make_one_exchange() {
    // cloud-credentials.md 11; row 57 is the same between processes.
    let shared = Shared::new(google(&[("one", 3599), ("two", 3599)]));
    let clouds = shared.clouds();
    let start = std::sync::Barrier::new(20);
    let tokens: Vec<String> = std::thread::scope(|scope| {
        let callers: Vec<_> = (0..20)
            .map(|_| {
                scope.spawn(|| {
                    start.wait();
                    token(&clouds)
                })
            })
            .collect();
        callers.into_iter().map(|caller| caller.join().expect("a token")).collect()
    });
    assert_eq!(tokens, vec!["one"; 20]);
    assert_eq!(shared.sent(), 1);
}

#[test]
fn a_credential_is_renewed_at_half_of_its_life() {
    // Row 30: (3599 - 225) / 2 = 1687 s.
    let shared = Shared::new(google(&[("one", 3599), ("two", 3599)]));
    let clouds = shared.clouds();
    assert_eq!(token(&clouds), "one");
    shared.pass(1686);
    assert_eq!(token(&clouds), "one");
    shared.pass(1);
    assert_eq!(token(&clouds), "two");
    assert_eq!(shared.sent(), 2);
}

/// cloud-credentials.md 14.2, row 30.
#[test]
fn a_token_that_nobody_may_keep_is_asked_for_each_time() {
    let shared = Shared::new(google(&[("one", 20), ("two", 20)]));
    let clouds = shared.clouds();
    assert_eq!([token(&clouds), token(&clouds)], ["one", "two"]);
}

#[test]
fn what_is_still_valid_outlives_a_failed_renewal_and_what_has_ended_does_not() {
    let world = google(&[("one", 3599)]).server(Method::Get, METADATA, answer(404, ""));
    let shared = Shared::new(world);
    let clouds = shared.clouds();
    assert_eq!(token(&clouds), "one");
    shared.pass(1700);
    assert_eq!(token(&clouds), "one");
    // The failure is not asked for again at once.
    assert_eq!((token(&clouds).as_str(), shared.sent()), ("one", 2));
    shared.pass(10);
    assert_eq!((token(&clouds).as_str(), shared.sent()), ("one", 3));
    shared.pass(3599 - 1710);
    assert!(clouds.credential(IMAGE).is_err());
}

#[test]
fn a_failure_is_answered_from_memory_for_ten_seconds_at_most() {
    let shared = Shared::new(google(&[]).server(Method::Get, METADATA, answer(404, "")));
    let clouds = shared.clouds();
    let first = clouds.credential(IMAGE).expect_err("no credential");
    assert_eq!(clouds.credential(IMAGE), Err(first.clone()));
    assert_eq!(shared.sent(), 1);
    shared.pass(10);
    assert_eq!(clouds.credential(IMAGE), Err(first));
    assert_eq!(shared.sent(), 2);
}

#[test]
fn a_refused_credential_leads_to_one_fresh_exchange_however_many_were_refused() {
    let shared = Shared::new(google(&[("one", 3599), ("two", 3599), ("three", 3599)]));
    let clouds = shared.clouds();
    let refused: Vec<CloudCredential> = (0..5).map(|_| given(&clouds)).collect();
    for credential in &refused {
        clouds.invalidate(credential);
        assert_eq!(token(&clouds), "two");
    }
    assert_eq!(shared.sent(), 2);
}

#[test]
fn a_refused_credential_does_not_outlive_a_failed_renewal() {
    let world = google(&[("one", 3599)]).server(Method::Get, METADATA, answer(404, ""));
    let shared = Shared::new(world);
    let clouds = shared.clouds();
    let refused = given(&clouds);
    clouds.invalidate(&refused);
    assert!(clouds.credential(IMAGE).is_err());
}

#[test]
fn whoever_sets_the_clock_neither_ends_nor_prolongs_a_credential() {
    let shared = Shared::new(google(&[("one", 3599), ("two", 3599)]));
    let clouds = shared.clouds();
    assert_eq!(token(&clouds), "one");
    *locked(&shared.set_ahead) = Duration::from_secs(86_400);
    assert_eq!(token(&clouds), "one");
    *locked(&shared.set_ahead) = Duration::ZERO;
    shared.pass(1687);
    assert_eq!(token(&clouds), "two");
}

#[test]
fn registries_of_no_cloud_cause_no_question() {
    let shared = Shared::new(google(&[("one", 3599)]));
    let clouds = shared.clouds();
    for image in ["docker.io/library/x", "fakegcr.io/x", "gcr.io:8443/x", "localhost:5000/x", ""] {
        assert_eq!(clouds.credential(image), Ok(None), "{image}");
        assert_eq!(clouds.provider_of(image), None, "{image}");
    }
    assert_eq!(clouds.provider_of(IMAGE), Some(CloudProvider::Google));
    assert_eq!(shared.sent(), 0);
}

#[test]
fn each_host_has_a_credential_of_its_own() {
    let shared = Shared::new(google(&[("one", 3599), ("two", 3599)]));
    let clouds = shared.clouds();
    let other = clouds.credential("asia-docker.pkg.dev/p/a").expect("an answer").expect("it");
    assert_eq!((token_of(&other).as_str(), other.host.as_str()), ("one", "asia-docker.pkg.dev"));
    assert_eq!(token(&clouds), "two");
    // Forgetting one leaves the other.
    clouds.invalidate(&other);
    assert_eq!((token(&clouds).as_str(), shared.sent()), ("two", 2));
}

#[test]
fn pods_share_a_credential_with_nobody_but_themselves() {
    let identity = "https://cluster.example";
    let sts = "https://sts.googleapis.com/v1/token";
    let mut world = google(&[("node", 3599)]);
    for token in ["one", "two"] {
        let body = format!(r#"{{"access_token":"{token}","expires_in":3599}}"#);
        world = world.server(Method::Post, sts, answer(200, &body));
    }
    let shared = Shared::new(world);
    let mut options = CloudOptions::all();
    options.google.service_accounts = Some(super::super::google::ServiceAccountFlow {
        project_id: "p".to_owned(),
        identity_provider: identity.to_owned(),
    });
    let performer: Arc<dyn Performer + Send + Sync> = Arc::<Shared>::clone(&shared);
    let clouds = Clouds::new(performer, options);
    let annotations: BTreeMap<String, String> =
        [("iam.gke.io/enable-wi-image-pull".to_owned(), "true".to_owned())].into();
    let ask = |token: &str| {
        let token = Secret::new(token);
        let pod = PodIdentity { token: &token, annotations: &annotations };
        let given = clouds.credential_for(IMAGE, Some(pod)).expect("an answer").expect("it");
        token_of(&given)
    };
    assert_eq!([ask("a"), ask("b"), ask("a")], ["one", "two", "one"]);
    assert_eq!(token(&clouds), "node");
    assert_eq!(shared.sent(), 3);
}

#[test]
fn an_exchange_that_panics_leaves_nobody_waiting() {
    // Nobody answers the first question: the scripted world panics.
    let shared = Shared::new(World::new().variable("GCE_METADATA_HOST", "127.0.0.1:1"));
    let clouds = shared.clouds();
    let asked = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
        let _ = clouds.credential(IMAGE);
    }));
    assert!(asked.is_err());
    *locked(&shared.world) = google(&[("one", 3599)]);
    assert_eq!(token(&clouds), "one");
}

#[test]
fn what_clouds_print_of_themselves_holds_no_secret() {
    let shared = Shared::new(google(&[("canary", 3599)]));
    let clouds = shared.clouds();
    let credential = given(&clouds);
    assert!(!format!("{clouds:?} {credential:?}").contains("canary"));
}
