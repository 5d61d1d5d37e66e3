use serde_json::json;

use super::*;

fn document(providers: Value) -> ConfigDocument {
    let value = json!({"kind": "CredentialProviderConfig", "apiVersion": "kubelet.config.k8s.io/v1",
        "providers": providers});
    ConfigDocument { path: "/etc/config.yaml".to_owned(), value }
}

/// A provider that is right, with these fields instead; null takes one away.
fn provider(fields: Value) -> Value {
    let mut provider = json!({
        "name": "foobar",
        "matchImages": ["foobar.registry.io"],
        "defaultCacheDuration": "1m",
        "apiVersion": "credentialprovider.kubelet.k8s.io/v1",
    });
    if let (Some(map), Value::Object(fields)) = (provider.as_object_mut(), fields) {
        map.extend(fields);
    }
    provider
}

/// Fields of `tokenAttributes` in a provider that is right otherwise.
fn tokens(fields: Value) -> Value {
    let mut attributes = json!({"serviceAccountTokenAudience": "audience",
        "cacheType": "ServiceAccount", "requireServiceAccount": true});
    if let (Some(map), Value::Object(fields)) = (attributes.as_object_mut(), fields) {
        map.extend(fields);
    }
    provider(json!({"tokenAttributes": attributes}))
}

fn error(documents: &[ConfigDocument]) -> String {
    providers_of(documents).map_or_else(|error| error.to_string(), |_| "accepted".to_owned())
}

#[test]
fn every_field_is_read() {
    let read = providers_of(&[document(json!([provider(json!({
        "args": ["--v=5"],
        "env": [{"name": "AWS_PROFILE", "value": "x"}],
        "tokenAttributes": {
            "serviceAccountTokenAudience": "aud",
            "cacheType": "Token",
            "requireServiceAccount": true,
            "requiredServiceAccountAnnotationKeys": ["example.com/role"],
            "optionalServiceAccountAnnotationKeys": ["other"],
        },
    }))]))])
    .expect("valid");
    assert_eq!(
        read,
        [Provider {
            name: "foobar".to_owned(),
            match_images: vec!["foobar.registry.io".to_owned()],
            default_cache_duration: Duration::from_secs(60),
            api_version: "credentialprovider.kubelet.k8s.io/v1".to_owned(),
            args: vec!["--v=5".to_owned()],
            env: vec![("AWS_PROFILE".to_owned(), "x".to_owned())],
            token_attributes: Some(TokenAttributes {
                audience: "aud".to_owned(),
                cache_type: CacheType::Token,
                require_service_account: true,
                required_annotations: vec!["example.com/role".to_owned()],
                optional_annotations: vec!["other".to_owned()],
            }),
        }]
    );
    assert!(!format!("{read:?}").contains("AWS_PROFILE"), "the environment stays out of logs");
}

/// kubelet-images.md 9.1: the table of fields and texts.
#[test]
fn broken_rules_have_the_kubelets_texts() {
    let prefix = "failed to validate credential provider config: ";
    for (wrong, expected) in [
        (
            json!({"name": "foo/../bar"}),
            r#"providers.name: Invalid value: "foo/../bar": provider name cannot contain '/'"#,
        ),
        (
            json!({"name": "foo bar"}),
            r#"providers.name: Invalid value: "foo bar": provider name cannot contain spaces"#,
        ),
        (
            json!({"name": "."}),
            r#"providers.name: Invalid value: ".": provider name cannot be '.'"#,
        ),
        (
            json!({"name": ".."}),
            r#"providers.name: Invalid value: "..": provider name cannot be '..'"#,
        ),
        (
            json!({"matchImages": []}),
            "providers.matchImages: Required value: at least 1 item in matchImages is required",
        ),
        (
            json!({"matchImages": ["%invalid%"]}),
            r#"providers.matchImages: Invalid value: "%invalid%": match image is invalid: parse "https://%invalid%": invalid URL escape "%in""#,
        ),
        (json!({"defaultCacheDuration": null}), "providers.defaultCacheDuration: Required value"),
        (
            json!({"defaultCacheDuration": "-1m"}),
            r#"providers.defaultCacheDuration: Invalid value: "-1m0s": defaultCacheDuration must be greater than or equal to 0"#,
        ),
        (json!({"apiVersion": null}), "providers.apiVersion: Required value"),
        (
            json!({"apiVersion": "credentialprovider.kubelet.k8s.io/v1alpha0"}),
            r#"providers.apiVersion: Unsupported value: "credentialprovider.kubelet.k8s.io/v1alpha0": supported values: "credentialprovider.kubelet.k8s.io/v1", "credentialprovider.kubelet.k8s.io/v1alpha1", "credentialprovider.kubelet.k8s.io/v1beta1""#,
        ),
        (
            json!({"name": "a/b", "apiVersion": null}),
            r#"[providers.name: Invalid value: "a/b": provider name cannot contain '/', providers.apiVersion: Required value]"#,
        ),
    ] {
        assert_eq!(error(&[document(json!([provider(wrong)]))]), format!("{prefix}{expected}"));
    }
    assert_eq!(
        error(&[document(json!([]))]),
        format!("{prefix}providers: Required value: at least 1 item in plugins is required")
    );
}

/// kubelet-images.md 9.1 and 9.4.
#[test]
fn broken_rules_for_tokens_have_the_kubelets_texts() {
    let path = "failed to validate credential provider config: providers.tokenAttributes";
    for (wrong, expected) in [
        (
            json!({"serviceAccountTokenAudience": ""}),
            ".serviceAccountTokenAudience: Required value",
        ),
        (json!({"requireServiceAccount": null}), ".requireServiceAccount: Required value"),
        (
            json!({"cacheType": null}),
            ".cacheType: Required value: cacheType is required to be set when tokenAttributes is specified. Supported values are: ServiceAccount, Token",
        ),
        (
            json!({"cacheType": "Pod"}),
            r#".cacheType: Unsupported value: "Pod": supported values: "ServiceAccount", "Token""#,
        ),
        (
            json!({"requireServiceAccount": false, "requiredServiceAccountAnnotationKeys": ["a"]}),
            ".requiredServiceAccountAnnotationKeys: Forbidden: requireServiceAccount cannot be false when requiredServiceAccountAnnotationKeys is set",
        ),
        (
            json!({"requiredServiceAccountAnnotationKeys": ["a", "a"]}),
            r#".requiredServiceAccountAnnotationKeys: Duplicate value: "a""#,
        ),
        (
            json!({"optionalServiceAccountAnnotationKeys": ["a/"]}),
            r#".optionalServiceAccountAnnotationKeys: Invalid value: "a/": name part must be non-empty"#,
        ),
        (
            json!({"requiredServiceAccountAnnotationKeys": ["b", "a"], "optionalServiceAccountAnnotationKeys": ["a", "b"]}),
            r#": Invalid value: ["a","b"]: annotation keys cannot be both required and optional"#,
        ),
    ] {
        assert_eq!(error(&[document(json!([tokens(wrong)]))]), format!("{path}{expected}"));
    }
    let mut old = tokens(json!({}));
    old["apiVersion"] = json!("credentialprovider.kubelet.k8s.io/v1beta1");
    assert_eq!(
        error(&[document(json!([old]))]),
        format!(
            "{path}: Forbidden: tokenAttributes is only supported for credentialprovider.kubelet.k8s.io/v1 API version"
        )
    );
}

#[test]
fn decoding_is_strict() {
    let prefix = r#"error decoding config "/etc/config.yaml": "#;
    let mut extra = document(json!([provider(json!({"unknownField": 1, "env": [{"nam": "x"}]}))]));
    assert_eq!(
        error(std::slice::from_ref(&extra)),
        format!(
            r#"{prefix}strict decoding error: unknown field "providers[0].unknownField", unknown field "providers[0].env[0].nam""#
        )
    );
    extra.value["extra"] = json!(true);
    assert!(error(&[extra]).contains(r#"unknown field "extra""#));
    for (fields, expected) in [
        (
            json!({"name": 5}),
            "json: cannot unmarshal number into Go struct field CredentialProvider.providers.name of type string",
        ),
        (
            json!({"defaultCacheDuration": 600}),
            "json: cannot unmarshal number into Go value of type string",
        ),
        (json!({"defaultCacheDuration": "10"}), "time: missing unit in duration \"10\""),
        (
            json!({"matchImages": "x"}),
            "json: cannot unmarshal string into Go struct field CredentialProvider.providers.matchImages of type []",
        ),
    ] {
        assert_eq!(error(&[document(json!([provider(fields)]))]), format!("{prefix}{expected}"));
    }
}

#[test]
fn only_known_kinds_and_versions_are_read() {
    for (kind, version, expected) in [
        ("CredentialProviderConfig", "kubelet.config.k8s.io/v1", "accepted"),
        ("CredentialProviderConfig", "kubelet.config.k8s.io/v1beta1", "accepted"),
        ("CredentialProviderConfig", "kubelet.config.k8s.io/v1alpha1", "accepted"),
        (
            "WrongKind",
            "kubelet.config.k8s.io/v1",
            r#"error decoding config "/etc/config.yaml": no kind "WrongKind" is registered for version "kubelet.config.k8s.io/v1""#,
        ),
        (
            "CredentialProviderConfig",
            "foobar.config.k8s.io/v1",
            r#"error decoding config "/etc/config.yaml": no kind "CredentialProviderConfig" is registered for version "foobar.config.k8s.io/v1""#,
        ),
        (
            "",
            "kubelet.config.k8s.io/v1",
            r#"error decoding config "/etc/config.yaml": Object 'Kind' is missing"#,
        ),
        (
            "CredentialProviderConfig",
            "",
            r#"error decoding config "/etc/config.yaml": Object 'apiVersion' is missing"#,
        ),
    ] {
        let mut document = document(json!([provider(json!({}))]));
        document.value["kind"] = json!(kind);
        document.value["apiVersion"] = json!(version);
        assert_eq!(error(&[document]), expected);
    }
    let mut old = document(json!([tokens(json!({}))]));
    old.value["apiVersion"] = json!("kubelet.config.k8s.io/v1beta1");
    assert!(error(&[old]).contains(r#"unknown field "providers[0].tokenAttributes""#));
}

#[test]
fn several_files_are_merged_and_share_the_names() {
    let named = |name: &str| document(json!([provider(json!({"name": name}))]));
    let merged = providers_of(&[named("b"), named("a")]).expect("valid");
    assert_eq!(merged.iter().map(|one| one.name.as_str()).collect::<Vec<_>>(), ["b", "a"]);
    assert_eq!(
        error(&[named("a"), named("b"), named("a")]),
        r#"duplicate provider name "a" found in configuration file(s)"#
    );
    for (name, counts) in [
        ("a.yaml", true),
        ("a.yml", true),
        ("a.json", true),
        ("a.txt", false),
        ("a.yaml.swp", false),
        ("json", false),
    ] {
        assert_eq!(is_config_file(name), counts, "{name}");
    }
}
