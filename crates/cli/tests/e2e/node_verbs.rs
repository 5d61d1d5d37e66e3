//! `shipway node`: what its verbs say, change and exit with.

use serde_json::{Value, json};

use crate::cri_clients::push;
use crate::machine::{Kubectl, Machine, PASSWORD, USER};

fn images(machine: &Machine) -> Vec<Value> {
    let list = machine.shipway(&["node", "images", "-o", "json"]).ok();
    serde_json::from_str(&list).expect("JSON")
}

fn named<'a>(images: &'a [Value], name: &str) -> Option<&'a Value> {
    images
        .iter()
        .find(|image| image["tags"].as_array().is_some_and(|tags| tags.contains(&json!(name))))
}

#[test]
fn verbs_of_the_node_exit_with_what_the_registry_and_the_pods_say() {
    let machine = Machine::new(Kubectl::Machine);
    let [used, unused] =
        ["used", "unused"].map(|name| format!("{}/team/{name}:1", machine.registry));
    machine.login(&machine.registry, USER, PASSWORD);
    push(&machine, &used);
    push(&machine, &unused);
    assert!(named(&images(&machine), &used).is_none());

    let creds = machine.home().join(".docker/config.json");
    let creds = creds.to_str().expect("UTF-8").to_owned();
    let empty = machine.write("empty.json", "{\"auths\":{}}");
    let [blank, broken] = [("blank.json", ""), ("broken.json", "user:password")]
        .map(|(name, text)| machine.write(name, text));
    let missing = format!("{}/team/used:none", machine.registry);
    let typed: &[&str] = &["--username", USER, "--password-stdin"];
    let file = ["--creds-file", &creds];
    let empty = ["--creds-file", &empty];
    // The credential of the node's user does not count: the node has none for this registry.
    let rows: &[(&str, &[&str], &str, i32, &str)] = &[
        (&used, &[], "", 3, "no basic auth credentials"),
        (&used, typed, "wrong-canary", 3, "wrong user name or password"),
        (&used, &empty, "", 4, "has no credential for"),
        (&used, &["--creds-file", &blank], "", 2, "cannot read credentials from"),
        (&used, &["--creds-file", &broken], "", 2, "not a JSON object"),
        (&missing, typed, PASSWORD, 4, ": not found"),
        (&missing, &file, "", 4, ": not found"),
        ("127.0.0.1:1/team/used:1", &[], "", 5, "cannot reach registry 127.0.0.1:1"),
        ("team//used", &[], "", 2, "invalid reference format"),
        (&used, typed, PASSWORD, 0, &used),
        (&unused, &file, "", 0, &unused),
    ];
    for (image, flags, input, code, text) in rows {
        let ran = machine.shipway_with_input(&[&["node", "pull", image], *flags].concat(), input);
        let said = format!("{}{}", ran.stdout, ran.stderr);
        assert_eq!(ran.code, *code, "{image} {flags:?}: {said}");
        assert!(said.contains(text) && !said.contains("wrong-canary"), "{image} {flags:?}: {said}");
        // Nothing else runs.
        assert!(!said.contains("waiting"), "{image} {flags:?}: {said}");
    }
    for verb in ["pin", "unpin"] {
        let ran = machine.shipway(&["node", verb, &used, "nosuch"]);
        assert_eq!(ran.code, 4, "{ran:?}");
        assert!(ran.refused().contains("no image nosuch on this node"));
        let pinned = named(&images(&machine), &used).expect("listed")["pinned"].is_string();
        assert_eq!(pinned, verb == "unpin", "nothing changed");
        machine.shipway(&["node", "pin", &used]).ok();
    }
    let pulled = machine.shipway(&["node", "pull", &used, "--creds-file", &creds, "-o", "json"]);
    let pulled: Value = serde_json::from_str(&pulled.ok()).expect("JSON");
    assert_eq!(pulled["pinned"], json!(true), "since before");
    machine.shipway(&["node", "unpin", &used]).ok();
    let help = machine.shipway(&["node", "pull", "--help"]).ok();
    assert!(help.contains("needs a running `shipway up`"), "{help}");
    // Nothing runs on the state directory of the builder.
    let idle = machine.path("builder");
    let idle = idle.to_str().expect("UTF-8");
    let ran = machine.shipway(&["--state-dir", idle, "node", "pull", &used]);
    assert_eq!(ran.code, 6, "{ran:?}");
    assert!(ran.refused().contains("no node runs that could pull"));

    machine.apply(&format!(
        "apiVersion: v1\nkind: Pod\nmetadata: {{name: p}}\nspec:\n  terminationGracePeriodSeconds: 0\n  containers:\n  - {{name: c, image: '{used}', imagePullPolicy: IfNotPresent}}\n"
    ));
    machine.wait("pod/p", "default", "condition=Ready");
    let before = images(&machine);
    let shown = named(&before, &used).expect("listed");
    assert_eq!(shown["usedBy"], json!(["default/p"]));
    assert!(shown["pinned"].is_null(), "{shown}");
    assert_eq!(named(&before, &unused).expect("listed")["usedBy"], json!([]));

    let ran = machine.shipway(&["node", "rm", &used]);
    assert_eq!(ran.code, 1, "{ran:?}");
    assert!(ran.refused().contains("is in use by default/p"));
    let would = machine.shipway(&["node", "prune", "--dry-run"]).ok();
    assert_eq!(would.trim_end(), format!("Would delete: {unused}"));
    let names = |images: &[Value]| -> Vec<Value> {
        images.iter().map(|image| json!([image["id"], image["tags"], image["bytes"]])).collect()
    };
    assert_eq!(names(&images(&machine)), names(&before), "a dry run changes nothing");
    let did = machine.shipway(&["node", "prune"]).ok();
    assert!(did.starts_with(&format!("Deleted: {unused}\n")), "{did}");
    let after = images(&machine);
    assert!(named(&after, &unused).is_none() && named(&after, &used).is_some());
    let ran = machine.shipway(&["node", "rm", &unused]);
    assert_eq!(ran.code, 4, "{ran:?}");
    machine.shipway(&["node", "pull", &unused, "--creds-file", &creds]).ok();
    let ran = machine.shipway(&["node", "rm", &unused, "nosuch", "-o", "json"]);
    assert_eq!(ran.code, 4, "{ran:?}");
    let removed: Value = serde_json::from_str(&ran.stdout).expect("JSON");
    assert_eq!(removed[0]["untagged"], json!([unused]), "{ran:?}");
}
