use super::*;

const IMAGE: &str = "registry.example.com/team/app";

fn provider(cache_type: Option<CacheType>) -> Provider {
    Provider {
        name: "p".to_owned(),
        match_images: vec!["registry.example.com".to_owned()],
        default_cache_duration: Duration::from_secs(7),
        api_version: "credentialprovider.kubelet.k8s.io/v1".to_owned(),
        args: Vec::new(),
        env: Vec::new(),
        token_attributes: cache_type.map(|cache_type| TokenAttributes {
            audience: "aud".to_owned(),
            cache_type,
            require_service_account: true,
            required_annotations: vec!["role".to_owned()],
            optional_annotations: vec!["more".to_owned()],
        }),
    }
}

fn claim(token: &str) -> AccountClaim {
    AccountClaim { token: Secret::new(token), annotations: BTreeMap::new() }
}

/// A response with these fields instead; null takes one away.
fn response(fields: Value) -> String {
    let mut response = json!({
        "kind": "CredentialProviderResponse",
        "apiVersion": "credentialprovider.kubelet.k8s.io/v1",
        "cacheKeyType": "Registry",
        "cacheDuration": "6h",
        "auth": {"registry.example.com": {"username": "u", "password": "p"}},
    });
    if let (Some(map), Value::Object(fields)) = (response.as_object_mut(), fields) {
        map.extend(fields);
    }
    response.to_string()
}

fn parse(text: &str) -> Result<Answer, String> {
    Answer::parse(&provider(None), IMAGE, None, text.as_bytes()).map_err(|error| error.to_string())
}

#[test]
fn request_holds_token_and_annotations_only_with_a_claim() {
    let plain = request(&provider(None), IMAGE, None);
    assert_eq!(
        serde_json::from_str::<Value>(plain.expose()).expect("JSON"),
        json!({"kind": "CredentialProviderRequest",
            "apiVersion": "credentialprovider.kubelet.k8s.io/v1", "image": IMAGE})
    );
    let mut claim = claim("jwt");
    claim.annotations.insert("role".to_owned(), "r".to_owned());
    let with = request(&provider(Some(CacheType::Token)), IMAGE, Some(&claim));
    let with: Value = serde_json::from_str(with.expose()).expect("JSON");
    assert_eq!(with["serviceAccountToken"], "jwt");
    assert_eq!(with["serviceAccountAnnotations"], json!({"role": "r"}));
    assert!(!format!("{claim:?}").contains("jwt"));
}

#[test]
fn only_configured_annotations_are_handed_on() {
    let provider = provider(Some(CacheType::Token));
    let attributes = provider.token_attributes.as_ref().expect("attributes");
    let map = |keys: &[&str]| keys.iter().map(|k| ((*k).to_owned(), "v".to_owned())).collect();
    assert_eq!(claimed_annotations(attributes, &map(&["role", "x"])), Ok(map(&["role"])));
    assert_eq!(
        claimed_annotations(attributes, &map(&["role", "more"])),
        Ok(map(&["role", "more"]))
    );
    let missing = claimed_annotations(attributes, &map(&["more"])).expect_err("skipped");
    assert_eq!(missing.to_string(), "required annotation role not found");
}

#[test]
fn durations_are_texts_and_null_means_the_default() {
    let keep = |value: Value| parse(&response(json!({"cacheDuration": value}))).map(|a| a.keep_for);
    assert_eq!(keep(json!("6h")), Ok(Duration::from_secs(21600)));
    assert_eq!(keep(Value::Null), Ok(Duration::from_secs(7)));
    assert_eq!(keep(json!("0s")), Ok(Duration::ZERO)); // X5
    assert_eq!(keep(json!("-5m")), Ok(Duration::ZERO));
    // cloud-provider-aws#348: seconds converted as nanoseconds.
    assert_eq!(keep(json!("21.6\u{b5}s")), Ok(Duration::from_nanos(21600)));
    let decode = "error decoding credential provider plugin response from stdout";
    assert_eq!(keep(json!(21600)), Err(decode.to_owned()));
}

#[test]
fn answer_without_credentials_is_an_answer() {
    for auth in [Value::Null, json!({})] {
        let answer = parse(&response(json!({"auth": auth}))).expect("an answer");
        assert_eq!((answer.entries.len(), answer.keep_for), (0, Duration::from_secs(21600)));
    }
}

/// kubelet-images.md 9.2, and 15.10, X2 and X3.
#[test]
fn bad_answers_have_the_kubelets_texts_and_nothing_of_the_answer() {
    let decode = "error decoding credential provider plugin response from stdout";
    for (text, expected) in [
        (
            response(json!({"apiVersion": "credentialprovider.kubelet.k8s.io/v1beta1"})),
            "apiVersion from credential plugin response did not match expected apiVersion:credentialprovider.kubelet.k8s.io/v1, actual apiVersion:credentialprovider.kubelet.k8s.io/v1beta1",
        ),
        (
            response(json!({"cacheKeyType": "Host"})),
            r#"credential provider plugin did not return a valid cacheKeyType: "Host""#,
        ),
        (
            response(json!({"cacheKeyType": null})),
            r#"credential provider plugin did not return a valid cacheKeyType: """#,
        ),
        (response(json!({"kind": "Other"})), decode),
        (response(json!({"more": "canary"})), decode),
        (response(json!({"auth": {"r": {"password": 5}}})), decode),
        (response(json!({"auth": {"r": {"username": "u", "password": "canary", "x": 1}}})), decode),
        (response(json!({"auth": ["canary"]})), decode),
        (
            String::new(),
            "error reading GVK from response: couldn't get version/kind; json parse error: unexpected end of JSON input",
        ),
        (
            "canary".to_owned(),
            "error reading GVK from response: couldn't get version/kind; json parse error: not JSON",
        ),
        (
            "[]".to_owned(),
            "apiVersion from credential plugin response did not match expected apiVersion:credentialprovider.kubelet.k8s.io/v1, actual apiVersion:",
        ),
    ] {
        let error = parse(&text).expect_err(expected);
        assert_eq!(error, expected);
        assert!(!error.contains("canary"));
    }
}

/// kubelet-images.md 9.2.
#[test]
fn token_as_password_is_refused_unless_answers_are_kept_by_token() {
    let text = response(json!({"auth": {"r": {"username": "u", "password": "jwt"}}}));
    let answer = |cache_type| {
        Answer::parse(&provider(Some(cache_type)), IMAGE, Some(&claim("jwt")), text.as_bytes())
    };
    assert!(answer(CacheType::Token).is_ok());
    let error = answer(CacheType::ServiceAccount).expect_err("refused").to_string();
    assert_eq!(
        error,
        format!(
            "credential provider plugin returned the service account token as the password for image {IMAGE:?}, which is not allowed when service account cache type is not set to 'Token'"
        )
    );
}
