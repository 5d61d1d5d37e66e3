//! kubelet-images.md 15.10, rows X1 to X10, with real programs.

use std::collections::BTreeMap;
use std::os::unix::fs::PermissionsExt;

use serde_json::{Value, json};

use super::*;
use crate::images::account::tests::FakeAccounts;

const IMAGE: &str = "registry.example.com/team/app";
const V1: &str = "credentialprovider.kubelet.k8s.io/v1";

/// A directory of programs and their configuration.
struct Fixture {
    dir: tempfile::TempDir,
    providers: Vec<Value>,
    accounts: FakeAccounts,
    times: Times,
    events: Mutex<Vec<String>>,
}

/// The answer of a program, with these fields instead.
fn answer(fields: Value) -> Value {
    let mut answer = json!({"kind": "CredentialProviderResponse", "apiVersion": V1,
        "cacheKeyType": "Registry", "cacheDuration": "10m",
        "auth": {"registry.example.com": {"username": "u", "password": "p"}}});
    if let (Some(map), Value::Object(fields)) = (answer.as_object_mut(), fields) {
        map.extend(fields);
    }
    answer
}

fn account(annotations: &[(&str, &str)]) -> ServiceAccount {
    ServiceAccount {
        namespace: "ns".to_owned(),
        name: "sa".to_owned(),
        uid: "sa-uid".to_owned(),
        annotations: annotations.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect(),
    }
}

fn pod(uid: &str, account: Option<&str>) -> PodIdentity {
    PodIdentity {
        namespace: "ns".to_owned(),
        name: "pod".to_owned(),
        uid: uid.to_owned(),
        account: account.map(str::to_owned),
    }
}

fn token_attributes(more: Value) -> Value {
    let mut attributes = json!({"serviceAccountTokenAudience": "aud",
        "cacheType": "ServiceAccount", "requireServiceAccount": true});
    if let (Some(map), Value::Object(more)) = (attributes.as_object_mut(), more) {
        map.extend(more);
    }
    json!({ "tokenAttributes": attributes })
}

impl Fixture {
    fn new() -> Self {
        let dir = tempfile::tempdir().expect("tempdir");
        std::fs::create_dir(dir.path().join("bin")).expect("directory");
        let times = Times { run_max: Duration::from_secs(30), failure_kept: Duration::ZERO };
        Fixture {
            dir,
            providers: Vec::new(),
            accounts: FakeAccounts::default(),
            times,
            events: Mutex::default(),
        }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// A program that notes each run with its input, and then runs `script`.
    fn program(&self, name: &str, script: &str) {
        let path = self.dir.path().join("bin").join(name);
        let runs = self.path(&format!("{name}.runs"));
        // `echo` of the shell appends in one piece.
        let text =
            format!("#!/bin/sh\ninput=$(cat)\necho \"$input\" >> {}\n{script}\n", runs.display());
        // Written under another name: no process may hold it open for writing when it is run.
        let staged = path.with_extension("new");
        std::fs::write(&staged, text).expect("program");
        std::fs::set_permissions(&staged, PermissionsExt::from_mode(0o755)).expect("mode");
        std::fs::rename(staged, path).expect("rename");
    }

    /// A provider for `*.example.com` with a program that answers so.
    fn provider(&mut self, name: &str, answer: &Value, more: Value) {
        self.program(name, &format!("cat <<'END'\n{answer}\nEND"));
        self.configure(name, more);
    }

    fn configure(&mut self, name: &str, more: Value) {
        let mut provider = json!({"name": name, "matchImages": ["*.example.com"],
            "defaultCacheDuration": "0s", "apiVersion": V1});
        if let (Some(map), Value::Object(more)) = (provider.as_object_mut(), more) {
            map.extend(more);
        }
        self.providers.push(provider);
    }

    fn write_config(&self) {
        let config = json!({"kind": "CredentialProviderConfig",
            "apiVersion": "kubelet.config.k8s.io/v1", "providers": self.providers});
        std::fs::write(self.path("config.json"), config.to_string()).expect("config");
    }

    fn options(&self) -> ExecProviders {
        ExecProviders { config: self.path("config.json"), bin_dir: self.path("bin") }
    }

    fn open(&mut self) -> Providers {
        self.write_config();
        let accounts = Arc::new(std::mem::take(&mut self.accounts));
        Providers::with_times(self.options(), accounts, self.times).expect("providers")
    }

    async fn users(&self, providers: &Providers, image: &str, pod: Option<&PodIdentity>) -> String {
        names(&self.offers(providers, image, pod).await)
    }

    async fn offers(
        &self,
        providers: &Providers,
        image: &str,
        pod: Option<&PodIdentity>,
    ) -> Vec<Offer> {
        let emit = |event: Event| {
            let text = format!("{} {}: {}", event.event_type.as_str(), event.reason, event.message);
            self.events.lock().expect("events").push(text);
        };
        providers.offers(image, pod, &emit).await
    }

    /// Inputs of the runs so far.
    fn runs(&self, name: &str) -> Vec<Value> {
        let text = std::fs::read_to_string(self.path(&format!("{name}.runs"))).unwrap_or_default();
        text.lines().map(|line| serde_json::from_str(line).expect("JSON")).collect()
    }

    fn take_events(&self) -> Vec<String> {
        std::mem::take(&mut *self.events.lock().expect("events"))
    }
}

fn names(offers: &[Offer]) -> String {
    let names: Vec<&str> =
        offers.iter().map(|offer| offer.auth.username().unwrap_or_default()).collect();
    names.join(" ")
}

const FAILED: &str = "Warning CredentialProviderFailed: Failed getting credential from external registry credential provider: ";

/// X1, and 9.2: the text of the failure; what it repeats of a secret is masked.
#[tokio::test]
async fn x1_failing_program_gives_no_credential_and_an_event_with_its_words() {
    let mut fixture = Fixture::new();
    fixture.program("p", "echo \"no role $SECRET\" >&2; echo 'second line' >&2; exit 1");
    fixture.configure("p", json!({"env": [{"name": "SECRET", "value": "canary-value"}]}));
    let providers = fixture.open();
    assert_eq!(fixture.users(&providers, IMAGE, None).await, "");
    assert_eq!(
        fixture.take_events(),
        [format!(
            "{FAILED}error execing credential provider plugin p for image {IMAGE}: exit status 1: no role **** second line"
        )]
    );
    assert_eq!(
        fixture.runs("p"),
        [json!({"kind": "CredentialProviderRequest", "apiVersion": V1, "image": IMAGE})]
    );
}

#[tokio::test]
async fn failure_stands_for_a_while_and_is_told_to_each() {
    let mut fixture = Fixture::new();
    fixture.times.failure_kept = Duration::from_secs(3600);
    fixture.program("p", "exit 3");
    fixture.configure("p", json!({}));
    let providers = fixture.open();
    for _ in 0..2 {
        fixture.users(&providers, IMAGE, None).await;
        assert_eq!(
            fixture.take_events(),
            [format!(
                "{FAILED}error execing credential provider plugin p for image {IMAGE}: exit status 3"
            )]
        );
    }
    assert_eq!(fixture.runs("p").len(), 1);
}

/// X2 and X3, and other answers that do not count.
#[tokio::test]
async fn x2_x3_wrong_answer_gives_no_credential() {
    for (wrong, expected) in [
        (
            json!({"apiVersion": "credentialprovider.kubelet.k8s.io/v1beta1"}),
            format!(
                "apiVersion from credential plugin response did not match expected apiVersion:{V1}, actual apiVersion:credentialprovider.kubelet.k8s.io/v1beta1"
            ),
        ),
        (
            json!({"cacheKeyType": "Host"}),
            r#"credential provider plugin did not return a valid cacheKeyType: "Host""#.to_owned(),
        ),
        (
            json!({"cacheDuration": 600}),
            "error decoding credential provider plugin response from stdout".to_owned(),
        ),
    ] {
        let mut fixture = Fixture::new();
        fixture.provider("p", &answer(wrong), json!({}));
        let providers = fixture.open();
        assert_eq!(fixture.users(&providers, IMAGE, None).await, "");
        assert_eq!(fixture.take_events(), [format!("{FAILED}{expected}")]);
    }
}

/// X4 (the times are in the tests of the cache), X5, X6 and X8.
#[tokio::test]
async fn x4_x5_x6_x8_answers_are_kept_as_they_say() {
    for (fields, images, users, runs) in [
        (json!({}), ["registry.example.com/a", "registry.example.com/b"], ["u", "u"], 1), // X4
        (json!({"cacheDuration": "0s"}), [IMAGE, IMAGE], ["u", "u"], 2),                  // X5
        (json!({"cacheDuration": null}), [IMAGE, IMAGE], ["u", "u"], 2),                  // X5
        (
            json!({"cacheKeyType": "Image"}),
            ["registry.example.com/a", "registry.example.com/b"],
            ["u", "u"],
            2,
        ),
        (
            json!({"cacheKeyType": "Global"}),
            ["registry.example.com/a", "other.example.com/b"],
            ["u", ""],
            1,
        ), // X6
        (
            json!({"auth": {"other.example.com": {"username": "u", "password": "p"}}}),
            [IMAGE, IMAGE],
            ["", ""],
            1,
        ), // X8
        (json!({"auth": null}), [IMAGE, IMAGE], ["", ""], 1),
    ] {
        let mut fixture = Fixture::new();
        fixture.provider("p", &answer(fields.clone()), json!({}));
        let providers = fixture.open();
        for (image, user) in images.into_iter().zip(users) {
            assert_eq!(fixture.users(&providers, image, None).await, user, "{fields} {image}");
        }
        assert_eq!(fixture.runs("p").len(), runs, "{fields}");
        assert_eq!(fixture.take_events(), Vec::<String>::new());
    }
}

/// X7.
#[tokio::test]
async fn x7_twenty_pulls_of_one_image_share_one_run() {
    let mut fixture = Fixture::new();
    // Not kept: only the shared run can make it one. It waits until all twenty have asked.
    let go = fixture.path("go");
    rustix::fs::mknodat(rustix::fs::CWD, &go, rustix::fs::FileType::Fifo, 0o600.into(), 0)
        .expect("fifo");
    let text = answer(json!({"cacheDuration": "0s"}));
    fixture.program("p", &format!("cat {} > /dev/null; echo '{text}'", go.display()));
    fixture.configure("p", json!({}));
    let providers = fixture.open();
    let asked = join_all((0..20).map(|_| fixture.users(&providers, IMAGE, None)));
    let release = async {
        tokio::task::spawn_blocking(move || std::fs::write(go, "go")).await.expect("a thread")
    };
    let (users, written) = tokio::join!(asked, release);
    written.expect("released");
    assert_eq!(users, vec!["u"; 20]);
    assert_eq!(fixture.runs("p").len(), 1);
}

/// X9: the limit that the node sets; the next test shows that it holds.
#[test]
fn x9_program_has_a_minute() {
    let mut fixture = Fixture::new();
    fixture.provider("p", &answer(json!({})), json!({}));
    fixture.write_config();
    let accounts = Arc::new(FakeAccounts::default());
    let providers = Providers::open(fixture.options(), accounts).expect("providers");
    assert_eq!(providers.times.run_max, Duration::from_secs(60));
}

/// X9: the program and all that it started are gone.
#[tokio::test]
async fn x9_program_that_takes_too_long_is_killed_with_its_children() {
    // A busy machine may not come as far as the child in the first of these times.
    for limit in [300, 3_000, 30_000].map(Duration::from_millis) {
        let mut fixture = Fixture::new();
        fixture.times.run_max = limit;
        let pid = fixture.path("pid");
        let program = format!(
            "echo why >&2; sleep 1000 & echo $! > {0}.new; mv {0}.new {0}; wait",
            pid.display()
        );
        fixture.program("p", &program);
        fixture.configure("p", json!({}));
        let providers = fixture.open();
        assert_eq!(fixture.users(&providers, IMAGE, None).await, "");
        let Ok(pid) = std::fs::read_to_string(pid) else { continue };
        assert_eq!(
            fixture.take_events(),
            [format!(
                "{FAILED}error execing credential provider plugin p for image {IMAGE}: context deadline exceeded: why"
            )]
        );
        let is_gone = || match std::fs::read_to_string(format!("/proc/{}/stat", pid.trim())) {
            Ok(stat) => stat.contains(") Z "),
            Err(_) => true,
        };
        let wait = async {
            while !is_gone() {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        let gone = tokio::time::timeout(Duration::from_secs(20), wait).await;
        return gone.expect("the child of it is killed");
    }
    panic!("the program never came as far as its child");
}

#[tokio::test]
async fn run_that_nobody_waits_for_is_killed() {
    let mut fixture = Fixture::new();
    let pid = fixture.path("pid");
    fixture.program("p", &format!("echo $$ > {0}.new; mv {0}.new {0}; sleep 1000", pid.display()));
    fixture.configure("p", json!({}));
    let providers = fixture.open();
    let started = async {
        while !pid.exists() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::select! {
        _ = fixture.users(&providers, IMAGE, None) => panic!("it does not end"),
        () = started => {}
    }
    let pid = std::fs::read_to_string(pid).expect("pid");
    let wait = async {
        while std::fs::read_to_string(format!("/proc/{}/stat", pid.trim()))
            .is_ok_and(|stat| !stat.contains(") Z "))
        {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(20), wait).await.expect("it is killed");
}

/// X10, and 9.4.
#[tokio::test]
async fn x10_pod_without_service_account_is_served_only_if_that_is_allowed() {
    for (required, users, runs) in [(true, "", 0), (false, "u", 1)] {
        let mut fixture = Fixture::new();
        let attributes = token_attributes(json!({"requireServiceAccount": required}));
        fixture.provider("p", &answer(json!({})), attributes);
        let providers = fixture.open();
        assert_eq!(fixture.users(&providers, IMAGE, Some(&pod("1", None))).await, users);
        assert_eq!(fixture.runs("p").len(), runs);
        assert!(fixture.runs("p").iter().all(|run| run.get("serviceAccountToken").is_none()));
        assert_eq!(fixture.take_events(), Vec::<String>::new(), "skipped quietly");
    }
}

/// 9.4: what the program gets, and what the record will say.
#[tokio::test]
async fn program_gets_token_and_configured_annotations_of_the_pods_account() {
    let mut fixture = Fixture::new();
    let attributes = token_attributes(json!({
        "requiredServiceAccountAnnotationKeys": ["example.com/role"],
        "optionalServiceAccountAnnotationKeys": ["example.com/more"],
    }));
    fixture.provider("p", &answer(json!({})), attributes);
    fixture.accounts.accounts = vec![account(&[("example.com/role", "r"), ("other", "x")])];
    let providers = fixture.open();
    let offers = fixture.offers(&providers, IMAGE, Some(&pod("1", Some("sa")))).await;
    let run = fixture.runs("p").pop().expect("a run");
    assert_eq!(run["serviceAccountToken"], "token-sa-aud-1-0");
    assert_eq!(run["serviceAccountAnnotations"], json!({"example.com/role": "r"}));
    assert_eq!(offers[0].used, UsedCredential::Account(account(&[]).coordinates()));
}

/// 9.4: a missing required annotation is quiet; a refused token and a missing account are not.
#[tokio::test]
async fn provider_is_left_out_when_account_token_or_annotation_is_missing() {
    let required = json!({"requiredServiceAccountAnnotationKeys": ["example.com/role"]});
    let refusal = "audience \"aud\" not found in pod spec volume, system:node:n is not authorized to request tokens for this audience";
    for (more, accounts, refused, expected) in [
        (required, vec![account(&[])], None, None),
        (
            json!({}),
            vec![],
            None,
            Some(
                "failed to get service account ns/sa: serviceaccounts \"sa\" not found".to_owned(),
            ),
        ),
        (
            json!({}),
            vec![account(&[])],
            Some(refusal.to_owned()),
            Some(format!("error getting service account token ns/sa: {refusal}")),
        ),
    ] {
        let mut fixture = Fixture::new();
        fixture.provider("p", &answer(json!({})), token_attributes(more));
        fixture.accounts.accounts = accounts;
        fixture.accounts.refusal = refused;
        let providers = fixture.open();
        assert_eq!(fixture.users(&providers, IMAGE, Some(&pod("1", Some("sa")))).await, "");
        let expected: Vec<String> =
            expected.map(|text| format!("{FAILED}{text}")).into_iter().collect();
        assert_eq!(fixture.take_events(), expected);
        assert_eq!(fixture.runs("p").len(), 0);
    }
}

/// 9.4: kept by account, or by token, which a second pod of the account does not share.
#[tokio::test]
async fn answers_are_shared_by_account_or_kept_to_one_token() {
    for (cache_type, runs, tokens) in [("ServiceAccount", 1, 2), ("Token", 2, 2)] {
        let mut fixture = Fixture::new();
        fixture.provider(
            "p",
            &answer(json!({})),
            token_attributes(json!({"cacheType": cache_type})),
        );
        fixture.accounts.accounts = vec![account(&[])];
        let providers = fixture.open();
        for uid in ["1", "1", "2"] {
            let users = fixture.users(&providers, IMAGE, Some(&pod(uid, Some("sa")))).await;
            assert_eq!(users, "u", "{cache_type}");
        }
        assert_eq!(fixture.runs("p").len(), runs, "{cache_type}");
        let shown: BTreeMap<String, u32> =
            fixture.runs("p").iter().fold(BTreeMap::new(), |mut seen, run| {
                *seen.entry(run["serviceAccountToken"].to_string()).or_default() += 1;
                seen
            });
        assert_eq!(shown.len(), runs, "each run had another token");
        assert!(shown.len() <= tokens);
    }
}

/// 9.2.
#[tokio::test]
async fn token_that_comes_back_as_password_is_refused() {
    let mut fixture = Fixture::new();
    let text =
        answer(json!({"auth": {"registry.example.com": {"username": "u", "password": "TOKEN"}}}));
    let script =
        "token=$(echo \"$input\" | sed 's/.*serviceAccountToken\":\"\\([^\"]*\\)\".*/\\1/')";
    fixture.program("p", &format!("{script}\nsed \"s/TOKEN/$token/\" <<'END'\n{text}\nEND"));
    fixture.configure("p", token_attributes(json!({})));
    fixture.accounts.accounts = vec![account(&[])];
    let providers = fixture.open();
    assert_eq!(fixture.users(&providers, IMAGE, Some(&pod("1", Some("sa")))).await, "");
    let events = fixture.take_events();
    assert!(events[0].contains("returned the service account token as the password"), "{events:?}");
    assert!(!events[0].contains("token-sa"), "{events:?}");
}

/// 4.6: the answers of all providers are one keyring, most specific key first.
#[tokio::test]
async fn answers_of_several_providers_are_one_keyring() {
    let mut fixture = Fixture::new();
    let with =
        |key: &str, user: &str| answer(json!({"auth": {key: {"username": user, "password": "p"}}}));
    fixture.provider("a", &with("*.example.com", "wide"), json!({}));
    fixture.provider("b", &with("registry.example.com/team", "narrow"), json!({}));
    fixture.provider(
        "c",
        &with("registry.example.com", "never"),
        json!({"matchImages": ["other.example.com"]}),
    );
    let providers = fixture.open();
    assert_eq!(fixture.users(&providers, IMAGE, None).await, "narrow wide");
    assert_eq!(fixture.runs("c").len(), 0);
}

/// 9.1: environment and arguments; the configured entries win.
#[tokio::test]
async fn program_gets_arguments_and_an_environment_in_which_the_configured_entries_win() {
    let mut fixture = Fixture::new();
    let text =
        answer(json!({"auth": {"registry.example.com": {"username": "WHO", "password": "p"}}}));
    fixture.program("p", &format!("sed \"s|WHO|$*,$PATH,$LANG|\" <<'END'\n{text}\nEND"));
    fixture.configure(
        "p",
        json!({"args": ["--a", "b c"], "env": [{"name": "LANG", "value": "mine"}]}),
    );
    let path = std::env::var("PATH").expect("a path");
    let providers = fixture.open();
    assert_eq!(fixture.users(&providers, IMAGE, None).await, format!("--a b c,{path},mine"));
}

/// Better than the kubelet (kubernetes#130420): no restart.
#[tokio::test]
async fn changed_configuration_is_taken_over_and_a_broken_one_is_not() {
    let mut fixture = Fixture::new();
    fixture.provider("p", &answer(json!({})), json!({}));
    let providers = fixture.open();
    assert_eq!(fixture.users(&providers, IMAGE, None).await, "u");
    let second =
        answer(json!({"auth": {"registry.example.com": {"username": "v", "password": "p"}}}));
    fixture.provider("q", &second, json!({}));
    fixture.write_config();
    assert_eq!(fixture.users(&providers, IMAGE, None).await, "u v");
    assert_eq!(fixture.runs("p").len(), 1, "a provider that did not change keeps its answers");

    std::fs::write(fixture.path("config.json"), "{").expect("config");
    assert_eq!(fixture.users(&providers, IMAGE, None).await, "u v");
    let events = fixture.take_events();
    let text = "Warning CredentialProviderFailed: Credential provider configuration was not taken over: error decoding config";
    assert!(events[0].starts_with(text), "{events:?}");

    fixture.providers.remove(0);
    fixture.write_config();
    assert_eq!(fixture.users(&providers, IMAGE, None).await, "v");
    assert_eq!(fixture.take_events(), Vec::<String>::new());
}

/// 9.1: texts of the start.
#[test]
fn start_fails_with_the_kubelets_texts() {
    let mut fixture = Fixture::new();
    fixture.configure("p", json!({}));
    let accounts: Arc<dyn Accounts> = Arc::new(FakeAccounts::default());
    let error =
        |options: &ExecProviders| match Providers::open(options.clone(), Arc::clone(&accounts)) {
            Ok(_) => "opened".to_owned(),
            Err(error) => with_cause(&error),
        };
    let options = fixture.options();
    let config = fixture.path("config.json");
    assert_eq!(
        error(&options),
        format!("unable to access path {config:?}: No such file or directory (os error 2)")
    );
    fixture.write_config();
    let program = fixture.path("bin/p");
    assert_eq!(
        error(&options),
        format!("plugin binary executable {} did not exist", program.display())
    );
    std::fs::write(&program, "").expect("program");
    assert_eq!(
        error(&options),
        format!(
            "error inspecting binary executable {}: Permission denied (os error 13)",
            program.display()
        )
    );
    let nowhere = ExecProviders { bin_dir: fixture.path("nowhere"), ..options.clone() };
    assert_eq!(
        error(&nowhere),
        format!("plugin binary directory {} did not exist", fixture.path("nowhere").display())
    );
    let empty = ExecProviders { config: fixture.path("bin"), ..options };
    assert_eq!(
        error(&empty),
        format!("no configuration files found in directory {:?}", fixture.path("bin"))
    );
}

/// 9.1: JSON and YAML side by side, merged in order of names; others do not count.
#[tokio::test]
async fn directory_of_configurations_is_merged_in_order_of_names() {
    let mut fixture = Fixture::new();
    let with = |user: &str| {
        answer(json!({"auth": {"registry.example.com": {"username": user, "password": "p"}}}))
    };
    fixture.provider("first", &with("first"), json!({}));
    fixture.provider("second", &with("second"), json!({}));
    let config = fixture.path("config.d");
    std::fs::create_dir(&config).expect("directory");
    let write = |name: &str, text: &str| std::fs::write(config.join(name), text).expect("config");
    let json_of = |provider: &Value| {
        json!({"kind": "CredentialProviderConfig", "apiVersion": "kubelet.config.k8s.io/v1beta1",
            "providers": [provider]})
    };
    write("20.json", &json_of(&fixture.providers[1]).to_string());
    write(
        "10.yaml",
        "---\nkind: CredentialProviderConfig\napiVersion: kubelet.config.k8s.io/v1\nproviders:\n- name: first\n  matchImages: [\"*.example.com\"]\n  defaultCacheDuration: 10m\n  apiVersion: credentialprovider.kubelet.k8s.io/v1\n",
    );
    write("30.txt", "not a configuration");
    let options = ExecProviders { config: config.clone(), bin_dir: fixture.path("bin") };
    let accounts: Arc<dyn Accounts> = Arc::new(FakeAccounts::default());
    let providers = Providers::open(options.clone(), Arc::clone(&accounts)).expect("providers");
    assert_eq!(fixture.users(&providers, IMAGE, None).await, "first second");
    write("40.yml", "kind: [");
    let error = Providers::open(options, accounts).err().expect("refused").to_string();
    assert!(
        error.starts_with(&format!("error decoding config {:?}: ", config.join("40.yml"))),
        "{error}"
    );
}

/// Better than the kubelet: a token that was revoked early does not fail until it would have ended.
#[tokio::test]
async fn kept_answer_that_was_refused_is_asked_for_anew() {
    let mut fixture = Fixture::new();
    let (first, second) = (
        answer(json!({})),
        answer(json!({"auth": {"registry.example.com": {"username": "new", "password": "p"}}})),
    );
    let flag = fixture.path("flag");
    fixture.program(
        "p",
        &format!("test -e {0} && echo '{second}' || echo '{first}'; touch {0}", flag.display()),
    );
    fixture.configure("p", json!({}));
    let providers = fixture.open();
    let fresh = fixture.offers(&providers, IMAGE, None).await;
    assert_eq!(fresh[0].renewal, None, "a fresh one is not asked for again");
    let kept = fixture.offers(&providers, IMAGE, None).await;
    let Some(Renewal::Exec(answer)) = &kept[0].renewal else { panic!("{kept:?}") };
    for _ in 0..2 {
        let renewed = providers.renewed(IMAGE, None, answer, &|_| {}).await;
        assert_eq!(names(&renewed), "new");
    }
    assert_eq!(fixture.runs("p").len(), 2, "whoever was refused with the old one shares the new");
}

#[tokio::test]
async fn answer_without_end_is_cut() {
    let mut fixture = Fixture::new();
    fixture.program("p", "yes");
    fixture.configure("p", json!({}));
    let providers = fixture.open();
    assert_eq!(fixture.users(&providers, IMAGE, None).await, "");
    let events = fixture.take_events();
    assert!(events[0].ends_with("standard output is longer than 1048576 bytes"), "{events:?}");
}

/// The token is renewed at four fifths of its life.
#[tokio::test]
async fn token_is_kept_for_four_fifths_of_its_life() {
    let tokens = Tokens::new(Arc::new(FakeAccounts::default()));
    let (pod, account, now) = (pod("1", Some("sa")), account(&[]), Instant::now());
    let mut seen = Vec::new();
    for seconds in [0, 2879, 2880] {
        let at = now + Duration::from_secs(seconds);
        let token = tokens.get(&pod, &account, "aud", at).await.expect("a token");
        seen.push(token.expose().to_owned());
    }
    assert_eq!(seen, ["token-sa-aud-1-0", "token-sa-aud-1-0", "token-sa-aud-1-1"]);
}
