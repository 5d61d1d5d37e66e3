//! The matrix of wrong credentials: what the pod really gets, and what `shipway explain` says
//! before (of the file) and after (of the pod), against our registry and Debian's.

use std::collections::BTreeSet;
use std::io::{BufRead as _, BufReader, Write as _};
use std::net::{TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::machine::{DebianRegistry, Kubectl, Machine, PASSWORD, USER, base64_encode, run};
use crate::own_registry::OwnRegistry;

/// Longest wait for the events of all pods.
const PATIENCE: Duration = Duration::from_secs(120);

/// What must never be shown.
const WRONG: &str = "canary-wrong-password";

/// Users of our registries: who fails too often there has to wait, so that each case with a wrong
/// password has its own.
const USERS: [&str; 6] =
    [USER, "wrong-password", "expired", "narrow-path", "second-works", "stale"];

/// A registry of ours beside the machine's, with these users.
fn serve(machine: &Machine, name: &str, flags: &[&str]) -> OwnRegistry {
    let users = machine.path(&format!("{name}-htpasswd"));
    let hashed = |user: &str| {
        run(std::process::Command::new("htpasswd").args(["-niB", user]), PASSWORD).ok()
    };
    let htpasswd: String = USERS.iter().map(|user| hashed(user).trim().to_owned() + "\n").collect();
    std::fs::write(&users, htpasswd).expect("a file");
    let users = ["--htpasswd", users.to_str().expect("UTF-8")];
    OwnRegistry::start(&machine.path(name), &[&users, flags].concat())
}

/// A door before a registry of ours that asks everybody for a token first, as Docker Hub does: who
/// has a credential is then judged by it, also where the image is open to everybody.
fn hub(registry: &str) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let address = listener.local_addr().expect("an address").to_string();
    let registry = registry.to_owned();
    // It lives as long as the test's process.
    std::thread::spawn(move || {
        for client in listener.incoming().map_while(Result::ok) {
            let registry = registry.clone();
            std::thread::spawn(move || pass(client, &registry));
        }
    });
    address
}

/// Serves one request; an error is a client that went away.
fn pass(mut client: TcpStream, registry: &str) -> std::io::Result<()> {
    let mut first = [0];
    client.peek(&mut first)?;
    if first != *b"G" && first != *b"H" {
        // A TLS handshake: this door speaks plain HTTP, and says so as servers do.
        return client.write_all(b"HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\n\r\n");
    }
    let mut reader = BufReader::new(client.try_clone()?);
    let mut head = String::new();
    while !head.ends_with("\r\n\r\n") {
        if reader.read_line(&mut head)? == 0 {
            return Ok(());
        }
    }
    if !head.to_ascii_lowercase().contains("\r\nauthorization:") {
        return write!(
            client,
            "HTTP/1.1 401 Unauthorized\r\nWWW-Authenticate: Bearer \
             realm=\"http://{registry}/auth/token\",service=\"shipway-registry\",\
             scope=\"repository:team/app:pull\"\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"
        );
    }
    let head = head.trim_end().to_owned() + "\r\nConnection: close\r\n\r\n";
    let mut server = TcpStream::connect(registry)?;
    server.write_all(head.as_bytes())?;
    std::io::copy(&mut server, &mut client).map(drop)
}

/// One pod with its secrets.
struct Case {
    pod: String,
    image: String,
    /// Names in imagePullSecrets.
    named: Vec<String>,
    secrets: Vec<Value>,
    /// The code that explaining gives; `pulls` if nothing is wrong.
    cause: &'static str,
}

fn secret(namespace: &str, name: &str, kind: &str, text: &str) -> Value {
    json!({
        "apiVersion": "v1", "kind": "Secret", "type": kind,
        "metadata": {"name": name, "namespace": namespace},
        "data": {".dockerconfigjson": base64_encode(text)},
    })
}

fn entry(key: &str, user: &str, password: &str) -> String {
    json!({"auths": {key: {"auth": base64_encode(&format!("{user}:{password}"))}}}).to_string()
}

/// A token whose own words say that it ended in 2001.
fn expired_token() -> String {
    let payload = base64_encode(r#"{"sub":"janedoe","exp":1000000000}"#);
    format!("canary.{}.canary", payload.trim_end_matches('='))
}

const DOCKER: &str = "kubernetes.io/dockerconfigjson";

impl Case {
    fn new(label: &str, what: &str, registry: &str, cause: &'static str) -> Self {
        Self {
            pod: format!("{label}-{what}"),
            image: format!("{registry}/team/app:v1"),
            named: Vec::new(),
            secrets: Vec::new(),
            cause,
        }
    }

    /// Names a secret of the pod's own, in that namespace and of that type.
    fn with(mut self, suffix: &str, namespace: &str, kind: &str, text: &str) -> Self {
        let name = format!("{}{suffix}", self.pod);
        self.secrets.push(secret(namespace, &name, kind, text));
        self.named.push(name);
        self
    }

    /// The usual: one docker config in a secret of its namespace.
    fn file(self, text: &str) -> Self {
        self.with("", "team", DOCKER, text)
    }

    fn manifest(&self) -> Value {
        let named: Vec<Value> = self.named.iter().map(|name| json!({"name": name})).collect();
        json!({
            "apiVersion": "v1", "kind": "Pod",
            "metadata": {"name": self.pod, "namespace": "team"},
            "spec": {
                "terminationGracePeriodSeconds": 0,
                "imagePullSecrets": named,
                "containers": [{"name": "app", "image": self.image, "imagePullPolicy": "Always"}],
            },
        })
    }
}

/// The mistakes that any registry with a password sees; `user_of` says who makes them.
fn cases(label: &str, registry: &str, user_of: fn(&'static str) -> &'static str) -> Vec<Case> {
    let case = |what: &str, cause: &'static str| Case::new(label, what, registry, cause);
    let right = entry(registry, USER, PASSWORD);
    let wrong = |what: &'static str| entry(registry, user_of(what), WRONG);
    let expired = entry(registry, user_of("expired"), &expired_token());
    let helpers = json!({"auths": {}, "credsStore": "desktop"}).to_string();
    let malformed = json!({"auths": {registry: {"auth": "pants"}}}).to_string();
    let mut missing = case("missing", "secret-missing");
    missing.named.push(format!("{label}-missing"));
    let narrow = entry(&format!("{registry}/team"), USER, PASSWORD);
    vec![
        case("wrong-password", "wrong-credential").file(&wrong("wrong-password")),
        case("expired", "credential-expired").file(&expired),
        missing,
        case("elsewhere", "secret-in-other-namespace").with("", "other", DOCKER, &right),
        case("wrong-type", "secret-wrong-type").with("", "team", "Opaque", &right),
        case("helpers", "helpers-only").file(&helpers),
        case("malformed", "pull-secret-malformed").file(&malformed),
        case("trailing-slash", "key-does-not-match").file(&entry(
            &format!("{registry}/team/app/"),
            USER,
            PASSWORD,
        )),
        case("other-path", "key-does-not-match").file(&entry(
            &format!("{registry}/other"),
            USER,
            PASSWORD,
        )),
        case("narrow-path", "pulls")
            .with("", "team", DOCKER, &wrong("narrow-path"))
            .with("-2", "team", DOCKER, &narrow),
        case("second-works", "pulls")
            .with("", "team", DOCKER, &wrong("second-works"))
            .with("-2", "team", DOCKER, &right),
    ]
}

/// Makes a robot whose life is over; its secret.
fn expired_robot(machine: &Machine, robots: &str) -> String {
    let add = ["registry", "robot", "add", "ci", "--right", "pull=team", "--robots", robots];
    let secret = machine.shipway(&add).ok();
    let text = std::fs::read_to_string(robots).expect("the robots");
    let mut known: Value = serde_json::from_str(&text).expect("JSON");
    end_all(&mut known);
    std::fs::write(robots, known.to_string()).expect("the robots");
    let listed = machine.shipway(&["registry", "robot", "list", "--robots", robots]).ok();
    assert!(listed.contains("expires 2001"), "{listed}");
    secret.trim().to_owned()
}

/// Puts every `expires` into the past, whatever its form.
fn end_all(value: &mut Value) {
    match value {
        Value::Object(fields) => {
            for (name, value) in fields {
                match value {
                    Value::String(end) if name == "expires" => {
                        *end = "2001-09-09T01:46:40Z".to_owned();
                    }
                    Value::Number(end) if name == "expires" => *end = 1_000_000_000.into(),
                    other => end_all(other),
                }
            }
        }
        Value::Array(values) => values.iter_mut().for_each(end_all),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {}
    }
}

/// What explaining says of one pod.
fn of_pod<'a>(report: &'a Value, pod: &str) -> &'a Value {
    let subjects = report["subjects"].as_array().expect("subjects");
    let found = subjects.iter().find(|subject| subject["name"] == pod);
    &found.unwrap_or_else(|| panic!("no {pod} in {report:#}"))["images"][0]
}

fn code(image: &Value) -> &str {
    image["cause"]["code"].as_str().unwrap_or("pulls")
}

/// The report of a call that is not expected to find everything in order.
#[track_caller]
fn explain(machine: &Machine, arguments: &[&str], exit_code: i32) -> Value {
    let mut all = vec!["explain", "-o", "json"];
    all.extend_from_slice(arguments);
    let ran = machine.shipway(&all);
    assert_eq!(ran.code, exit_code, "{}\n{}{}", ran.command, ran.stdout, ran.stderr);
    shows_no_secret(&ran.stdout);
    serde_json::from_str(&ran.stdout).expect("JSON")
}

#[track_caller]
fn shows_no_secret(text: &str) {
    for secret in [PASSWORD, WRONG, "canary"] {
        assert!(!text.contains(secret), "{secret} in {text}");
    }
}

#[test]
fn every_wrong_credential_is_explained_as_the_pod_will_see_it() {
    let machine = Machine::new(Kubectl::Machine);
    let debian = DebianRegistry::start(USER, PASSWORD);
    let robots = machine.path("robots.json");
    let robots = robots.to_str().expect("UTF-8").to_owned();
    let robot = expired_robot(&machine, &robots);
    let ours = serve(
        &machine,
        "ours",
        &["--auth", "token", "--anonymous", "none", "--identity-robots", &robots],
    );
    let public = serve(&machine, "public", &["--auth", "token", "--anonymous", "pull"]);
    machine.login(&ours.address, USER, PASSWORD);
    let image = format!("{}/team/app:v1", ours.address);
    machine.push_busybox(&image);
    for registry in [&debian.address, &public.address] {
        machine.login(registry, USER, PASSWORD);
        machine.shipway(&["copy", &image, &format!("{registry}/team/app:v1")]).ok();
    }
    let mut cases: Vec<Case> = cases("ours", &ours.address, |what| what);
    cases.extend(self::cases("debian", &debian.address, |_| USER));
    let robot = entry(&ours.address, "robot+ci", &robot);
    cases.push(Case::new("ours", "robot", &ours.address, "wrong-credential").file(&robot));
    let hub = hub(&public.address);
    let stale = entry(&hub, "stale", WRONG);
    cases.push(Case::new("public", "stale", &hub, "stale-credential").file(&stale));
    cases.push(Case::new("public", "open", &hub, "pulls"));

    for namespace in ["team", "other"] {
        machine.kubectl(&["create", "namespace", namespace]).ok();
    }
    let list =
        |items: Vec<Value>| json!({"apiVersion": "v1", "kind": "List", "items": items}).to_string();
    let secrets = cases.iter().flat_map(|case| case.secrets.clone()).collect();
    machine.apply(&list(secrets));
    let pods = list(cases.iter().map(Case::manifest).collect());
    let file = machine.write("pods.json", &pods);

    let before = explain(&machine, &[&file], 1);
    machine.apply(&pods);
    events_of_all(&machine, &cases, &before);
    let names: Vec<String> = cases.iter().map(|case| format!("pod/{}", case.pod)).collect();
    let mut arguments = vec!["-n", "team"];
    arguments.extend(names.iter().map(String::as_str));
    let after = explain(&machine, &arguments, 1);
    for case in &cases {
        let (before, after) = (of_pod(&before, &case.pod), of_pod(&after, &case.pod));
        assert_eq!(code(before), case.cause, "{}: {before:#}", case.pod);
        assert_eq!(code(after), case.cause, "{}: {after:#}", case.pod);
        assert_eq!(before["next"]["events"], after["next"]["events"], "{}", case.pod);
        assert_eq!(before["cause"]["command"], after["cause"]["command"], "{}", case.pod);
    }

    people_are_told_too(&machine, &arguments[2..]);
    the_fixes_fix(&machine, &cases, &after, &arguments);
}

/// The events once every pod has what was predicted for it.
fn events_of_all(machine: &Machine, cases: &[Case], report: &Value) {
    let deadline = Instant::now() + PATIENCE;
    loop {
        let events = machine.kubectl(&["get", "events", "-n", "team", "-o", "json"]).ok();
        let events: Value = serde_json::from_str(&events).expect("JSON");
        let lack = cases.iter().find_map(|case| {
            let image = of_pod(report, &case.pod);
            lacking(case, image, &events).map(|lacking| format!("{}: {lacking:#}", case.pod))
        });
        match lack {
            None => return,
            Some(lack) => assert!(Instant::now() < deadline, "{lack} is not in {events:#}"),
        }
    }
}

/// A predicted event that the pod does not have.
fn lacking<'a>(case: &Case, report: &'a Value, events: &Value) -> Option<&'a Value> {
    let of_case: Vec<&Value> = events["items"]
        .as_array()
        .expect("events")
        .iter()
        .filter(|event| event["involvedObject"]["name"] == case.pod.as_str())
        .collect();
    let predicted = report["next"]["events"].as_array().expect("events");
    assert!(!predicted.is_empty(), "{}", case.pod);
    predicted.iter().find(|predicted| {
        let text = predicted["message"].as_str().expect("a text");
        !of_case.iter().any(|event| {
            let message = event["message"].as_str().unwrap_or_default();
            let is_same = match predicted["reason"].as_str() {
                Some("Pulled") => message.starts_with(text),
                _ => message == text,
            };
            event["type"] == predicted["type"] && event["reason"] == predicted["reason"] && is_same
        })
    })
}

/// The text form, and the form of a kubectl plugin.
fn people_are_told_too(machine: &Machine, names: &[&str]) {
    machine.shell("true").ok();
    let plugin = machine.path("bin/kubectl-shipway");
    std::os::unix::fs::symlink(env!("CARGO_BIN_EXE_shipway"), &plugin).expect("a link");
    let ran = machine.shell("kubectl shipway explain pod/debian-wrong-type -n team");
    assert_eq!(ran.code, 1, "{}{}", ran.stdout, ran.stderr);
    for part in [
        "pod/debian-wrong-type in namespace team",
        "would not be pulled: secret debian-wrong-type does not count: its type is Opaque",
        "[secret-wrong-type]",
        "waits: ",
    ] {
        assert!(ran.stdout.contains(part), "{part} in\n{}", ran.stdout);
    }
    assert!(!ran.stdout.contains('\u{1b}'), "no colour outside of terminals\n{}", ran.stdout);
    // Our registries count wrong passwords, and who has too many waits: Debian's has no such limit.
    let mut arguments = vec!["explain", "-n", "team"];
    arguments.extend(names.iter().filter(|name| name.starts_with("pod/debian")));
    let ran = machine.shipway(&arguments);
    shows_no_secret(&ran.stdout);
    shows_no_secret(&ran.stderr);
}

/// Pastes the commands, with the password where they ask for one; then all is well.
fn the_fixes_fix(machine: &Machine, cases: &[Case], report: &Value, arguments: &[&str]) {
    // The robot's owner rotates it: a person's password is none of its business. Debian's registry
    // has the same commands but for the address.
    // A pod that names a secret of a wrong type must be made again with another name.
    let is_fixed = |case: &Case| {
        !["ours-robot", "ours-wrong-type"].contains(&case.pod.as_str())
            && !case.pod.starts_with("debian")
    };
    let mut script = String::from("calls=()\n");
    for case in cases.iter().filter(|case| is_fixed(case) || case.pod == "ours-wrong-type") {
        if case.cause == "pulls" {
            continue;
        }
        let command = of_pod(report, &case.pod)["cause"]["command"].as_str();
        let command = command.unwrap_or_else(|| panic!("no command for {}", case.pod));
        let user = if command.contains("'user: '") { format!("{USER}\n") } else { String::new() };
        let typed = machine.write(&format!("{}.in", case.pod), &format!("{user}{PASSWORD}\n"));
        let pasted = machine.write(&format!("{}.sh", case.pod), command);
        script.push_str(&format!("sh '{pasted}' < '{typed}' & calls+=($!)\n"));
    }
    script.push_str("for call in \"${calls[@]}\"; do wait \"$call\"; done\n");
    let is_over = AtomicBool::new(false);
    let bin = machine.path("bin").display().to_string();
    std::thread::scope(|scope| {
        let watch = scope.spawn(|| argument_lists(&bin, &is_over));
        let ran = machine.shell(&script);
        is_over.store(true, Ordering::Release);
        let seen = watch.join().expect("a watch");
        ran.ok();
        assert!(seen.iter().any(|arguments| arguments.contains("kubectl")), "{seen:?}");
        seen.iter().for_each(|arguments| shows_no_secret(arguments));
    });
    let second = json!({
        "apiVersion": "v1", "kind": "Pod", "metadata": {"name": "second", "namespace": "team"},
        "spec": {
            "imagePullSecrets": [{"name": "ours-wrong-type-registry"}],
            "containers": [{"name": "app", "image": of_pod(report, "ours-wrong-type")["image"]}],
        },
    });
    explain(machine, &[&machine.write("second.json", &second.to_string())], 0);
    let mut arguments = arguments.to_vec();
    arguments.retain(|argument| *argument != "pod/ours-robot");
    let left = explain(machine, &arguments, 1);
    for case in cases.iter().filter(|case| case.pod != "ours-robot") {
        let expected = if is_fixed(case) { "pulls" } else { case.cause };
        let image = of_pod(&left, &case.pod);
        assert_eq!(code(image), expected, "{}: {image:#}", case.pod);
    }
}

/// What the programs below a machine's shell have as arguments, until that is over.
fn argument_lists(bin: &str, is_over: &AtomicBool) -> BTreeSet<String> {
    let mut seen = BTreeSet::new();
    while !is_over.load(Ordering::Acquire) {
        for process in std::fs::read_dir("/proc").expect("/proc").map_while(Result::ok) {
            let read = |name: &str| {
                let bytes = std::fs::read(process.path().join(name)).unwrap_or_default();
                String::from_utf8_lossy(&bytes).replace('\0', " ")
            };
            if read("environ").contains(bin) {
                seen.insert(read("cmdline"));
            }
        }
    }
    seen
}
