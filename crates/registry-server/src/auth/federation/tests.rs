use std::pin::Pin;
use std::sync::Mutex;

use jsonwebtoken::{Algorithm, EncodingKey, Header};
use serde_json::json;

use super::*;

const URL: &str = "https://issuer.example";

fn time(seconds: u64) -> SystemTime {
    UNIX_EPOCH + Duration::from_secs(1_800_000_000 + seconds)
}

/// An issuer over the network that has these documents now.
#[derive(Debug, Default)]
struct FakeNetwork {
    documents: Mutex<std::collections::BTreeMap<String, String>>,
    asked: Mutex<Vec<String>>,
    /// The requests that came with a token.
    tokens: Mutex<Vec<String>>,
    /// From now on it answers no more.
    is_silent: std::sync::atomic::AtomicBool,
}

impl FakeNetwork {
    fn publish(&self, url: &str, document: &Value) {
        self.documents.lock().expect("it").insert(url.to_owned(), document.to_string());
    }

    fn asked(&self) -> usize {
        self.asked.lock().expect("it").len()
    }
}

impl KeySource for FakeNetwork {
    fn fetch(
        &self,
        request: KeyRequest,
    ) -> Pin<Box<dyn Future<Output = Result<Vec<u8>, KeySourceError>> + Send>> {
        self.asked.lock().expect("it").push(request.url.clone());
        if request.token_file.is_some() {
            self.tokens.lock().expect("it").push(request.url.clone());
        }
        if self.is_silent.load(std::sync::atomic::Ordering::SeqCst) {
            return Box::pin(std::future::pending());
        }
        let found = self.documents.lock().expect("it").get(&request.url).cloned();
        Box::pin(async move {
            found.map(String::into_bytes).ok_or_else(|| KeySourceError("404".into()))
        })
    }
}

struct Key {
    id: &'static str,
    encoding: EncodingKey,
    public: Value,
}

fn key(id: &'static str) -> Key {
    use base64::Engine as _;
    use base64::engine::general_purpose::URL_SAFE_NO_PAD;
    let pair = rcgen::KeyPair::generate_for(&rcgen::PKCS_ECDSA_P256_SHA256).expect("a key");
    let (x, y) = pair.public_key_raw()[1..].split_at(32);
    let public = json!({
        "kty": "EC", "crv": "P-256", "kid": id, "use": "sig", "alg": "ES256",
        "x": URL_SAFE_NO_PAD.encode(x), "y": URL_SAFE_NO_PAD.encode(y),
    });
    let encoding = EncodingKey::from_ec_pem(pair.serialize_pem().as_bytes()).expect("a key");
    Key { id, encoding, public }
}

fn sign(key: &Key, claims: &Value) -> String {
    let mut header = Header::new(Algorithm::ES256);
    header.kid = Some(key.id.to_owned());
    jsonwebtoken::encode(&header, claims, &key.encoding).expect("a token")
}

fn claims() -> Value {
    json!({
        "iss": URL, "aud": ["registry", "other"], "sub": "job-7", "project": "acme/app",
        "exp": 1_800_000_300, "nbf": 1_800_000_000, "iat": 1_800_000_000,
    })
}

fn issuer() -> Issuer {
    Issuer {
        name: "ci".to_owned(),
        url: URL.to_owned(),
        audiences: vec!["registry".to_owned()],
        keys: KeyLocation::Discovery,
        ca_file: None,
        token_file: None,
        tokens: ForeignTokens::Identity(vec![ClaimRule {
            claims: [("project".to_owned(), "acme/*".to_owned())].into(),
            principal: Some("{project}".to_owned()),
            groups: vec!["builders".to_owned()],
            groups_claim: None,
        }]),
    }
}

fn network(keys: &[&Key]) -> Arc<FakeNetwork> {
    let network = Arc::new(FakeNetwork::default());
    let configuration = json!({ "issuer": URL, "jwks_uri": "https://keys.example/set" });
    network.publish("https://issuer.example/.well-known/openid-configuration", &configuration);
    publish(&network, keys);
    network
}

fn publish(network: &FakeNetwork, keys: &[&Key]) {
    let keys: Vec<_> = keys.iter().map(|key| &key.public).collect();
    network.publish("https://keys.example/set", &json!({ "keys": keys }));
}

fn federation(network: &Arc<FakeNetwork>) -> Federation {
    let source: Arc<dyn KeySource> = Arc::<FakeNetwork>::clone(network);
    Federation::new(&[issuer()], Some(&source)).expect("an issuer")
}

#[tokio::test]
async fn a_token_of_an_issuer_names_somebody() {
    let key = key("k1");
    let network = network(&[&key]);
    let federation = federation(&network);
    let foreign = federation.identify(&sign(&key, &claims()), time(1)).await.expect("somebody");
    let expected = Identity { name: "ci:acme/app".to_owned(), groups: vec!["builders".to_owned()] };
    assert_eq!((foreign.identity, foreign.until), (expected, time(300)));
    federation.identify(&sign(&key, &claims()), time(2)).await.expect("somebody");
    assert_eq!(network.asked(), 2, "its configuration and its keys, once");
}

#[tokio::test]
async fn tokens_that_are_not_for_us_are_refused() {
    let (key, stranger) = (key("k1"), key_named_alike());
    let federation = federation(&network(&[&key]));
    let mut wrong: Vec<(&str, String)> = Vec::new();
    for (name, value) in [
        ("iss", json!("https://evil.example")),
        ("iss", json!("https://issuer.example/")),
        ("iss", Value::Null),
        ("aud", json!("other")),
        ("aud", json!([])),
        ("aud", Value::Null),
        ("exp", json!(1_799_999_000)),
        ("exp", Value::Null),
        ("exp", json!("1800000300")),
        ("exp", json!(-1)),
        ("nbf", json!(1_800_000_200)),
        ("project", json!("evil/app")),
        ("project", json!("acme/app/x")),
        ("sub", json!("x".repeat(600))),
    ] {
        let mut claims = claims();
        claims[name] = value;
        wrong.push((name, sign(&key, &claims)));
    }
    wrong.push(("a stranger's key", sign(&stranger, &claims())));
    let good = sign(&key, &claims());
    let (head, _) = good.rsplit_once('.').expect("a signature");
    wrong.push(("no signature", format!("{head}.")));
    let mut header = Header::new(Algorithm::HS256);
    header.kid = Some("k1".to_owned());
    let public = key.public.to_string();
    for secret in [public.as_bytes(), key.public["x"].as_str().expect("x").as_bytes()] {
        let token = jsonwebtoken::encode(&header, &claims(), &EncodingKey::from_secret(secret));
        wrong.push(("the public key as a secret", token.expect("a token")));
    }
    let mut header = Header::new(Algorithm::ES256);
    header.kid = Some("k1".to_owned());
    header.jwk = serde_json::from_value(stranger.public.clone()).ok();
    assert!(header.jwk.is_some());
    let token = jsonwebtoken::encode(&header, &claims(), &stranger.encoding);
    wrong.push(("a key that comes along", token.expect("a token")));
    wrong.extend(["", "a.b.c", "..", "eyJ.eyJ.x"].map(|text| ("nonsense", text.to_owned())));
    for (what, token) in wrong {
        let refused = federation.identify(&token, time(10)).await.expect_err(what);
        assert!(matches!(refused, ForeignError::Invalid(_)), "{what}: {refused:?}");
    }
    assert!(federation.authorize(&good, time(10)).await.is_err(), "it says who, not what");
    assert!(federation.identify(&good, time(10)).await.is_ok());
}

/// Another key under the id of the issuer's.
fn key_named_alike() -> Key {
    key("k1")
}

#[tokio::test]
async fn new_keys_are_asked_for_but_not_at_everybodys_will() {
    let (old, new, unknown) = (key("k1"), key("k2"), key("k3"));
    let network = network(&[&old]);
    let federation = federation(&network);
    let ok = async |key: &Key, now| {
        let mut claims = claims();
        claims["exp"] = json!(1_900_000_000);
        federation.identify(&sign(key, &claims), time(now)).await.is_ok()
    };
    assert!(ok(&old, 0).await);
    publish(&network, &[&old, &new]);
    assert!(!ok(&new, 59).await, "too early to ask again");
    assert!(ok(&new, 60).await);
    let asked = network.asked();
    for now in 61..119 {
        assert!(!ok(&unknown, now).await);
    }
    assert_eq!(network.asked(), asked, "unknown keys ask once a minute");
    // A key that the issuer took back is gone within the hour.
    publish(&network, &[&new]);
    assert!(ok(&old, 3659).await);
    assert!(!ok(&old, 3660).await);
    // Without the issuer its keys count for a day.
    network.documents.lock().expect("it").clear();
    assert!(ok(&new, 50_000).await);
    assert!(!ok(&new, 100_000).await);
}

#[tokio::test]
async fn an_issuer_that_hangs_keeps_nobody_whose_key_is_known() {
    let (known, new) = (key("k1"), key("k2"));
    let network = network(&[&known]);
    let federation = Arc::new(federation(&network));
    federation.identify(&sign(&known, &claims()), time(0)).await.expect("somebody");
    network.is_silent.store(true, std::sync::atomic::Ordering::SeqCst);
    let (asked, waiting) = (network.asked(), Arc::clone(&federation));
    let token = sign(&new, &claims());
    let waits = tokio::spawn(async move { waiting.identify(&token, time(61)).await });
    while network.asked() == asked {
        tokio::task::yield_now().await;
    }
    federation.identify(&sign(&known, &claims()), time(62)).await.expect("somebody");
    assert!(!waits.is_finished());
    waits.abort();
}

#[tokio::test]
async fn the_token_for_an_issuer_goes_to_nobody_else() {
    let key = key("k1");
    for (keys, expected) in [("https://keys.example/set", 1), ("https://issuer.example/set", 2)] {
        let network = network(&[&key]);
        let configuration = json!({ "issuer": URL, "jwks_uri": keys });
        network.publish("https://issuer.example/.well-known/openid-configuration", &configuration);
        network.publish(keys, &json!({ "keys": [key.public] }));
        let source: Arc<dyn KeySource> = Arc::<FakeNetwork>::clone(&network);
        let issuer = Issuer { token_file: Some("token".into()), ..issuer() };
        let federation = Federation::new(&[issuer], Some(&source)).expect("an issuer");
        federation.identify(&sign(&key, &claims()), time(0)).await.expect("somebody");
        assert_eq!(network.tokens.lock().expect("it").len(), expected, "{keys}");
    }
}

#[tokio::test]
async fn an_issuer_that_cannot_be_asked_is_no_wrong_password() {
    let key = key("k1");
    let network = Arc::new(FakeNetwork::default());
    let federation = federation(&network);
    let refused = federation.identify(&sign(&key, &claims()), time(0)).await.expect_err("none");
    assert_eq!(refused, ForeignError::Unavailable);
    // One that says it is another, or whose keys are somewhere readable for all, is not believed.
    for (issuer, keys) in [
        ("https://another.example", "https://keys.example/set"),
        (URL, "http://keys.example/set"),
        (URL, "http://127.0.0.1/set"),
    ] {
        let network = self::network(&[&key]);
        let configuration = json!({ "issuer": issuer, "jwks_uri": keys });
        network.publish("https://issuer.example/.well-known/openid-configuration", &configuration);
        let federation = self::federation(&network);
        let refused = federation.identify(&sign(&key, &claims()), time(0)).await;
        assert_eq!(refused.expect_err("none"), ForeignError::Unavailable, "{issuer} {keys}");
        assert_eq!(network.asked(), 1);
    }
}

#[tokio::test]
async fn access_tokens_of_others_say_what_is_allowed_but_make_no_administrator() {
    let directory = tempfile::tempdir().expect("a directory");
    let (path, key) = (directory.path().join("keys.json"), key("k1"));
    std::fs::write(&path, json!({ "keys": [key.public] }).to_string()).expect("a file");
    let issuer =
        Issuer { keys: KeyLocation::File(path.clone()), tokens: ForeignTokens::Access, ..issuer() };
    let federation = Federation::new(&[issuer], None).expect("an issuer");
    let mut claims = claims();
    claims["access"] = json!([
        { "type": "repository", "name": "team/app", "actions": ["pull", "push"] },
        { "type": "repository", "name": "team/all", "actions": ["*"] },
        { "type": "repository", "name": "team/own", "actions": ["pull", "admin"] },
        { "type": "registry", "name": "admin", "actions": ["*"] },
        { "type": "registry", "name": "catalog", "actions": ["*"] },
    ]);
    let foreign = federation.authorize(&sign(&key, &claims), time(1)).await.expect("access");
    assert_eq!(foreign.identity.name, "ci:job-7");
    let access = foreign.access.expect("access");
    assert!(access.allows("team/app", Role::Push) && access.allows("team/all", Role::Delete));
    assert!(!access.allows("team/all", Role::Admin) && !access.allows("team/own", Role::Admin));
    assert!(!access.has_administration() && access.has_catalog());
    claims["access"] = json!([{ "type": 7 }]);
    assert!(federation.authorize(&sign(&key, &claims), time(1)).await.is_err());
    // The file is read again when it changes.
    let other = self::key("k2");
    let token = sign(&other, &self::claims());
    assert!(federation.authorize(&token, time(1)).await.is_err());
    std::fs::write(&path, json!({ "keys": [other.public, 7, {}] }).to_string()).expect("a file");
    assert!(federation.authorize(&token, time(1)).await.is_ok());
}

#[test]
fn issuers_that_make_no_sense_are_refused() {
    let source: Arc<dyn KeySource> = Arc::new(FakeNetwork::default());
    let check = |change: &dyn Fn(&mut Issuer)| {
        let mut issuer = issuer();
        change(&mut issuer);
        Federation::new(&[issuer], Some(&source)).map(|_| ()).map_err(|error| error.to_string())
    };
    assert_eq!(check(&|_| {}), Ok(()));
    for (change, reason) in [
        (&(|it: &mut Issuer| it.name = "A:b".to_owned()) as &dyn Fn(&mut Issuer), "its name is"),
        (&|it| it.name.clear(), "its name is"),
        (&|it| it.audiences.clear(), "no audience"),
        (&|it| it.tokens = ForeignTokens::Identity(Vec::new()), "no rule"),
        (&|it| it.url = "http://issuer.example".to_owned(), "no https URL"),
        (&|it| it.keys = KeyLocation::Url("ftp://x".to_owned()), "no https URL"),
        (&|it| it.keys = KeyLocation::File("/nowhere".into()), "/nowhere"),
        (&|it| it.name = "cert".to_owned(), "certificates"),
    ] {
        let error = check(change).expect_err(reason);
        assert!(error.contains(reason), "{error}");
    }
    let twice = Federation::new(&[issuer(), issuer()], Some(&source)).map(|_| ());
    assert!(twice.expect_err("twice").to_string().contains("twice"));
    assert!(Federation::new(&[issuer()], None).is_err(), "nobody to ask");
}
