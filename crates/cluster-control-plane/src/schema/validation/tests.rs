use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::json;

use super::*;
use crate::resources::{
    CONFIG_MAPS, DEPLOYMENTS, JOBS, NAMESPACES, PERSISTENT_VOLUME_CLAIMS, PODS, SECRETS,
};
use crate::schema;

/// The refusals of an object as its creator gets them.
fn created(resource: &'static Resource, object: Value) -> Vec<String> {
    let object = complete(resource, object);
    texts(&validate(resource, &object, None))
}

fn updated(resource: &'static Resource, old: Value, change: Value) -> Vec<String> {
    let old = complete(resource, old);
    let mut new = old.clone();
    json_patch::merge(&mut new, &change);
    schema::default(resource, &mut new);
    texts(&validate(resource, &new, Some(&old)))
}

fn complete(resource: &'static Resource, object: Value) -> Value {
    let mut object = object;
    if object::name(&object).is_empty() {
        object::set(&mut object, &["metadata", "name"], "x");
    }
    object::set(&mut object, &["metadata", "uid"], "u");
    schema::default(resource, &mut object);
    schema::prepare_create(resource, &mut object);
    schema::default(resource, &mut object);
    object
}

fn texts(errors: &[FieldError]) -> Vec<String> {
    errors.iter().map(FieldError::to_string).collect()
}

fn pod(spec: Value) -> Value {
    let mut pod = json!({"spec": {"containers": [{"name": "c", "image": "i"}]}});
    json_patch::merge(&mut pod["spec"], &spec);
    pod
}

fn secret(kind: &str, data: Value) -> Value {
    let mut secret = json!({"type": kind, "data": {}});
    for (key, value) in data.as_object().into_iter().flatten() {
        let value = value.as_str().unwrap_or_default();
        object::set(&mut secret, &["data", key], STANDARD.encode(value));
    }
    secret
}

// kubelet-images.md 15.8, S1, S2, S3 and S4; mini-kubernetes.md 14, row 15.
#[test]
fn secrets_of_each_type_need_their_keys() {
    let json = "kubernetes.io/dockerconfigjson";
    let config = |text: &str| secret(json, json!({".dockerconfigjson": text}));
    let redacted = "data[.dockerconfigjson]: Invalid value: \"<secret contents redacted>\":";
    let map = "into Go value of type map[string]interface {}";
    let rows = [
        (secret(json, json!({})), vec!["data[.dockerconfigjson]: Required value".to_owned()]),
        (
            secret("kubernetes.io/dockercfg", json!({})),
            vec!["data[.dockercfg]: Required value".to_owned()],
        ),
        (config(""), vec![format!("{redacted} unexpected end of JSON input")]),
        (config("[]"), vec![format!("{redacted} json: cannot unmarshal array {map}")]),
        (config("\"x\""), vec![format!("{redacted} json: cannot unmarshal string {map}")]),
        (
            config("RnVu"),
            vec![format!("{redacted} invalid character 'R' looking for beginning of value")],
        ),
        (config("null"), vec![]),
        (config("{}"), vec![]),
        (config("{\"auths\":[]}"), vec![]),
        (
            secret("kubernetes.io/tls", json!({"tls.crt": ""})),
            vec!["data[tls.key]: Required value".to_owned()],
        ),
        (
            secret("kubernetes.io/basic-auth", json!({})),
            vec![
                "data[username]: Required value".to_owned(),
                "data[password]: Required value".to_owned(),
            ],
        ),
        (
            secret("kubernetes.io/ssh-auth", json!({"ssh-privatekey": ""})),
            vec!["data[ssh-privatekey]: Required value".to_owned()],
        ),
        (secret("Opaque", json!({"a": "b".repeat(1_048_576)})), vec![]),
        (
            secret("Opaque", json!({"a": "b".repeat(1_048_577)})),
            vec!["data: Too long: may not be more than 1048576 bytes".to_owned()],
        ),
    ];
    for (object, expected) in rows {
        assert_eq!(created(&SECRETS, object), expected);
    }
}

// kubelet-images.md 15.8, S5.
#[test]
fn secret_type_and_frozen_data_stay() {
    let old = secret("a/b", json!({"k": "v"}));
    assert_eq!(
        updated(&SECRETS, old, json!({"type": "Opaque"})),
        ["type: Invalid value: \"Opaque\": field is immutable"]
    );
    let mut frozen = secret("Opaque", json!({"k": "v"}));
    frozen["immutable"] = json!(true);
    let text = "Forbidden: field is immutable when `immutable` is set";
    assert_eq!(
        updated(&SECRETS, frozen.clone(), json!({"data": {"k": "Zg=="}})),
        [format!("data: {text}")]
    );
    assert_eq!(
        updated(&SECRETS, frozen.clone(), json!({"immutable": null})),
        [format!("immutable: {text}")]
    );
    assert!(updated(&SECRETS, frozen, json!({"metadata": {"labels": {"a": "b"}}})).is_empty());
    let mut map = json!({"data": {"k": "v"}, "immutable": true});
    assert_eq!(
        updated(&CONFIG_MAPS, map.clone(), json!({"data": {"k": "w"}})),
        [format!("data: {text}")]
    );
    map["binaryData"] = json!({"k": "dg=="});
    assert_eq!(
        created(&CONFIG_MAPS, map),
        ["data[k]: Invalid value: \"k\": duplicate of key present in binaryData"]
    );
}

// mini-kubernetes.md 14, row 20.
#[test]
fn names_and_labels_follow_their_grammar() {
    let bad = created(&CONFIG_MAPS, json!({"metadata": {"name": "Bad_Name"}}));
    assert!(bad[0].starts_with(
        "metadata.name: Invalid value: \"Bad_Name\": a lowercase RFC 1123 subdomain must consist of"
    ));
    assert!(
        created(&NAMESPACES, json!({"metadata": {"name": "a.b"}}))[0].contains("RFC 1123 label")
    );
    assert!(created(&CONFIG_MAPS, json!({"metadata": {"name": "a.b"}})).is_empty());
    let labelled =
        created(&CONFIG_MAPS, json!({"metadata": {"name": "a", "labels": {"a": "b c"}}}));
    assert!(
        labelled[0].starts_with("metadata.labels: Invalid value: \"b c\": a valid label must be")
    );
    let huge = "x".repeat(256 * 1024);
    assert_eq!(
        created(&CONFIG_MAPS, json!({"metadata": {"name": "a", "annotations": {"a": huge}}})),
        ["metadata.annotations: Too long: may not be more than 262144 bytes"]
    );
}

// mini-kubernetes.md 6.2, validation highlights.
#[test]
fn pods_are_refused_with_path_and_reason() {
    let container = |change: Value| {
        let mut container = json!({"name": "c", "image": "i"});
        json_patch::merge(&mut container, &change);
        pod(json!({"containers": [container]}))
    };
    let c = "spec.containers[0]";
    let rows = [
        (pod(json!({"containers": []})), "spec.containers: Required value".to_owned()),
        (container(json!({"image": null})), format!("{c}.image: Required value")),
        (
            pod(json!({"initContainers": [{"name": "c", "image": "i"}]})),
            "spec.initContainers[0].name: Duplicate value: \"c\"".to_owned(),
        ),
        (
            container(json!({"imagePullPolicy": "Foo"})),
            format!("{c}.imagePullPolicy: Unsupported value: \"Foo\": supported values: \"Always\", \"IfNotPresent\", \"Never\""),
        ),
        (
            container(json!({"volumeMounts": [{"name": "v", "mountPath": "/v"}]})),
            format!("{c}.volumeMounts[0].name: Not found: \"v\""),
        ),
        (
            pod(json!({"restartPolicy": "Sometimes"})),
            "spec.restartPolicy: Unsupported value: \"Sometimes\": supported values: \"Always\", \"Never\", \"OnFailure\"".to_owned(),
        ),
        (
            container(json!({"livenessProbe": {}})),
            format!("{c}.livenessProbe: Required value: must specify a handler type"),
        ),
        (
            container(json!({"livenessProbe": {"exec": {"command": ["a"]}, "successThreshold": 2}})),
            format!("{c}.livenessProbe.successThreshold: Invalid value: 2: must be 1"),
        ),
        (
            container(json!({"resources": {"limits": {"cpu": "1"}, "requests": {"cpu": "2"}}})),
            format!("{c}.resources.requests: Invalid value: \"2\": must be less than or equal to cpu limit of 1"),
        ),
        (
            container(json!({"env": [{"name": "E", "valueFrom": {}}]})),
            format!("{c}.env[0].valueFrom: Invalid value: \"\": must specify one of: `fieldRef`, `resourceFieldRef`, `configMapKeyRef` or `secretKeyRef`"),
        ),
        (
            container(json!({"ports": [{"containerPort": 70000}]})),
            format!("{c}.ports[0].containerPort: Invalid value: 70000: must be between 1 and 65535, inclusive"),
        ),
        (
            pod(json!({"volumes": [{"name": "v", "emptyDir": {}, "secret": {"secretName": "s"}}]})),
            "spec.volumes[0].secret: Forbidden: may not specify more than 1 volume type".to_owned(),
        ),
    ];
    for (object, expected) in rows {
        assert_eq!(created(&PODS, object), [expected]);
    }
    assert!(created(&PODS, pod(json!({}))).is_empty());
    let mount = |sub: &str| {
        let mount = json!({"name": "v", "mountPath": "/v", "subPath": sub});
        let container = json!({"name": "c", "image": "i", "volumeMounts": [mount]});
        created(&PODS, pod(json!({"volumes": [{"name": "v"}], "containers": [container]})))
    };
    assert!(mount("a/b").is_empty());
    assert!(mount("/a")[0].ends_with("must be a relative path"));
    assert!(mount("a/../..")[0].ends_with("must not contain '..'"));
}

// kubelet-images.md 1.3 and 2.1.
#[test]
fn images_of_volumes_are_required_in_pods_and_not_in_templates() {
    let volume = |image: Value| json!([{"name": "v", "image": image}]);
    let of_pod = |image: Value| created(&PODS, pod(json!({"volumes": volume(image)})));
    assert_eq!(
        of_pod(json!({"reference": ""})),
        ["spec.volumes[0].image.reference: Required value"]
    );
    assert_eq!(of_pod(json!({})), ["spec.volumes[0].image.reference: Required value"]);
    assert_eq!(of_pod(json!({"reference": "r.example/a:1"})), Vec::<String>::new());
    assert_eq!(
        of_pod(json!({"reference": "r.example/a:1", "pullPolicy": "Foo"})),
        [
            "spec.volumes[0].image.pullPolicy: Unsupported value: \"Foo\": supported values: \"Always\", \"IfNotPresent\", \"Never\""
        ]
    );
    for (reference, policy) in [("a", "Always"), ("a:latest", "Always"), ("a:1", "IfNotPresent")] {
        let found =
            complete(&PODS, pod(json!({"volumes": volume(json!({"reference": reference}))})));
        let stored = object::text(&found["spec"]["volumes"][0], &["image", "pullPolicy"]);
        assert_eq!(stored, policy, "{reference}");
    }
    let job = |template: Value| {
        let mut spec =
            json!({"restartPolicy": "Never", "containers": [{"name": "c", "image": "i"}]});
        json_patch::merge(&mut spec, &template);
        let job = json!({"metadata": {"name": "j"}, "spec": {"template": {"spec": spec}}});
        created(&JOBS, job)
    };
    assert_eq!(job(json!({"volumes": volume(json!({"reference": ""}))})), Vec::<String>::new());
    let blanks = json!([{"name": "c", "image": " "}, {"name": "d", "image": " nginx"}]);
    assert_eq!(job(json!({"containers": blanks})), Vec::<String>::new());
    assert_eq!(
        created(&PODS, pod(json!({"containers": [{"name": "c", "image": " nginx"}]}))),
        [
            "spec.containers[0].image: Invalid value: \" nginx\": must not have leading or trailing whitespace"
        ]
    );
}

// kubelet-images.md 2.1 and 15.1, the policies of R1, R2 and R3 as they are stored.
#[test]
fn every_container_gets_the_policy_of_its_image_unless_it_has_one() {
    let lists = ["containers", "initContainers", "ephemeralContainers"];
    for (image, written, expected) in [
        ("a", "", "Always"),         // R1
        ("a:1", "", "IfNotPresent"), // R2
        ("a:latest", "", "Always"),  // R3
        ("a:1", "Always", "Always"),
        ("a:latest", "Never", "Never"),
        ("a", "IfNotPresent", "IfNotPresent"),
    ] {
        for list in lists {
            let mut container = json!({"name": "d", "image": image});
            if !written.is_empty() {
                object::set(&mut container, &["imagePullPolicy"], written);
            }
            let mut stored = pod(json!({list: [container]}));
            schema::default(&PODS, &mut stored);
            let found = object::text(&stored["spec"][list][0], &["imagePullPolicy"]);
            assert_eq!(found, expected, "{image} with {written:?} in {list}");
        }
    }
}

// mini-kubernetes.md 14, row 58.
#[test]
fn pod_update_may_change_images_and_little_else() {
    let base = || pod(json!({"activeDeadlineSeconds": 50}));
    let image = json!({"spec": {"containers": [{"name": "c", "image": "j"}]}});
    let mut full = complete(&PODS, base());
    let old = full.clone();
    object::set(&mut full["spec"]["containers"][0], &["image"], "j");
    assert!(texts(&validate(&PODS, &full, Some(&old))).is_empty());
    drop(image);
    assert!(updated(&PODS, base(), json!({"spec": {"activeDeadlineSeconds": 40}})).is_empty());
    assert_eq!(
        updated(&PODS, base(), json!({"spec": {"activeDeadlineSeconds": 60}})),
        [
            "spec.activeDeadlineSeconds: Invalid value: 60: must be less than or equal to previous value 50"
        ]
    );
    let refused = updated(&PODS, base(), json!({"spec": {"imagePullSecrets": [{"name": "s"}]}}));
    assert!(refused[0].starts_with(
        "spec: Forbidden: pod updates may not change fields other than `spec.containers[*].image`"
    ));
    assert!(refused[0].contains("+ spec.imagePullSecrets"));
}

// mini-kubernetes.md 14, row 62.
#[test]
fn job_must_not_restart_always_and_keeps_its_template() {
    let job = |policy: Value| {
        let mut template = pod(json!({}));
        template["spec"]["restartPolicy"] = policy;
        json!({"spec": {"template": template}})
    };
    let text =
        "spec.template.spec.restartPolicy: Required value: valid values: \"OnFailure\", \"Never\"";
    assert_eq!(created(&JOBS, job(json!("Always"))), [text]);
    assert_eq!(created(&JOBS, job(Value::Null)), [text]);
    assert!(created(&JOBS, job(json!("Never"))).is_empty());
    let hostname = json!({"spec": {"template": {"spec": {"hostname": "h"}}}});
    let refused = updated(&JOBS, job(json!("Never")), hostname);
    assert!(refused[0].starts_with("spec.template: Invalid value:"));
    assert!(refused[0].ends_with(": field is immutable"));
    assert!(updated(&JOBS, job(json!("Never")), json!({"spec": {"parallelism": 3}})).is_empty());
    assert_eq!(
        updated(&JOBS, job(json!("Never")), json!({"spec": {"completions": 3}})),
        ["spec.completions: Invalid value: 3: field is immutable"]
    );
}

#[test]
fn deployment_selector_must_match_its_template() {
    let deployment = |selector: Value, labels: Value| {
        let mut template = pod(json!({}));
        template["metadata"] = json!({"labels": labels});
        json!({"spec": {"selector": selector, "template": template}})
    };
    let good = deployment(json!({"matchLabels": {"a": "b"}}), json!({"a": "b"}));
    assert!(created(&DEPLOYMENTS, good.clone()).is_empty());
    assert_eq!(
        created(&DEPLOYMENTS, deployment(json!({"matchLabels": {"a": "b"}}), json!({"a": "c"}))),
        [
            "spec.template.metadata.labels: Invalid value: map[string]string{\"a\":\"c\"}: `selector` does \
          not match template `labels`"
        ]
    );
    assert_eq!(
        created(&DEPLOYMENTS, deployment(Value::Null, json!({"a": "c"}))),
        ["spec.selector: Required value"]
    );
    let change = json!({"spec": {"selector": {"matchLabels": {"a": "b", "c": "d"}},
        "template": {"metadata": {"labels": {"c": "d"}}}}});
    assert!(updated(&DEPLOYMENTS, good, change)[0].ends_with("field is immutable"));
}

#[test]
fn claim_needs_modes_and_size_and_is_then_fixed() {
    let claim = json!({"spec": {
        "accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "1Gi"}},
        "storageClassName": "local-path",
    }});
    let resource = &PERSISTENT_VOLUME_CLAIMS;
    assert!(created(resource, claim.clone()).is_empty());
    assert_eq!(
        created(resource, json!({"spec": {}})),
        [
            "spec.accessModes: Required value: at least 1 access mode is required",
            "spec.resources[storage]: Required value"
        ]
    );
    assert!(updated(resource, claim.clone(), json!({"spec": {"volumeName": "v"}})).is_empty());
    let refused = updated(resource, claim, json!({"spec": {"storageClassName": "other"}}));
    assert!(refused[0].starts_with("spec: Forbidden: spec is immutable after creation except"));
}

#[test]
fn finalizers_and_owners_are_checked() {
    let object = |metadata: Value| {
        let mut object = json!({"metadata": {"name": "a"}});
        json_patch::merge(&mut object["metadata"], &metadata);
        created(&CONFIG_MAPS, object)
    };
    assert!(object(json!({"finalizers": ["example.com/x", "orphan"]})).is_empty());
    assert_eq!(
        object(json!({"finalizers": ["x"]})),
        [
            "metadata.finalizers: Invalid value: \"x\": name is neither a standard finalizer name nor is \
          it fully qualified"
        ]
    );
    let owner = |name: &str| json!({"apiVersion": "v1", "kind": "Pod", "name": name, "uid": "u", "controller": true});
    let two = object(json!({"ownerReferences": [owner("a"), owner("b")]}));
    assert!(two[0].contains("Found \"true\" in references for a and b"));
}
