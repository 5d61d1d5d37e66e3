//! The cache by its flags: build, executor and cache, against Debian's docker-registry, which
//! knows no conditional requests.

use serde_json::Value;

use crate::machine::{DebianRegistry, Ran, run, shipway};

/// A registry, and machines that have seen nothing yet.
struct Desk {
    home: tempfile::TempDir,
    _registry: DebianRegistry,
    address: String,
}

impl Desk {
    fn new() -> Self {
        let registry = DebianRegistry::start("ada", "pw");
        let address = registry.address.clone();
        let desk =
            Self { home: tempfile::tempdir().expect("a directory"), _registry: registry, address };
        let context = desk.home.path().join("context");
        std::fs::create_dir(&context).expect("a directory");
        let dockerfile = "FROM scratch AS one\nCOPY a.txt /a\nFROM scratch\nCOPY --from=one /a /b\nCOPY b.txt /\n";
        for (name, text) in [("a.txt", "a"), ("b.txt", "b"), ("Dockerfile", dockerfile)] {
            std::fs::write(context.join(name), text).expect("a file");
        }
        run(
            desk.command("any").args(["login", "-u", "ada", "--password-stdin", &desk.address]),
            "pw",
        )
        .ok();
        desk
    }

    fn command(&self, machine: &str) -> std::process::Command {
        let mut command = shipway();
        command
            .current_dir(self.home.path())
            .env("HOME", self.home.path())
            .env("SHIPWAY_STATE_DIR", self.home.path().join(machine))
            .env_remove("DOCKER_CONFIG");
        command
    }

    /// Runs a line on a machine of its own; `REG` stands for the registry.
    fn on(&self, machine: &str, line: &str) -> Ran {
        let line = line.replace("REG", &self.address);
        run(self.command(machine).args(line.split_whitespace()), "")
    }

    /// Events of a build, by kind.
    fn events(&self, machine: &str, line: &str) -> Vec<Value> {
        let ran = self.on(machine, &format!("{line} --progress=json context"));
        assert_eq!(ran.code, 0, "{}", ran.stderr);
        ran.stderr.lines().filter_map(|line| serde_json::from_str(line).ok()).collect()
    }

    fn entries(&self, machine: &str, line: &str) -> Vec<Value> {
        serde_json::from_str(&self.on(machine, line).ok()).expect("JSON")
    }
}

fn cached(events: &[Value]) -> Vec<bool> {
    let finished = events.iter().filter(|event| event["event"] == "step-finished");
    finished.map(|event| event["cached"].as_bool().expect("a flag")).collect()
}

#[test]
fn a_cache_crosses_machines_through_a_registry_a_layout_or_the_image() {
    let desk = Desk::new();
    let first = desk.events(
        "one",
        "build -t REG/app:1 --push --cache-from REG/app:cache \
         --cache-to type=registry,ref=REG/app:cache,mode=max,ttl=24h \
         --cache-to type=local,dest=layout,tag=x --build-arg BUILDKIT_INLINE_CACHE=1",
    );
    assert_eq!(cached(&first), [false; 3]);
    let sources = [
        ("two", "type=registry,ref=REG/app:cache"),
        ("three", "type=local,src=layout,tag=x"),
        ("four", "REG/app:1"),
    ];
    for (machine, source) in sources {
        let line = format!("build -t REG/again:1 --push --cache-explain --cache-from {source}");
        let events = desk.events(machine, &line);
        assert_eq!(cached(&events), [true; 3], "{source}: {events:?}");
        let explained: Vec<&Value> =
            events.iter().filter(|event| event["event"] == "cache").collect();
        // The stage that was copied from is not looked at.
        assert_eq!(explained.len(), 2, "{events:?}");
        for one in explained {
            assert_eq!((&one["hit"], &one["key"]), (&true.into(), &"chain".into()));
            assert!(!one["from"].as_str().expect("a place").is_empty());
        }
        if machine != "three" {
            assert!(!events.iter().any(|event| event["event"] == "fetching"), "{events:?}");
        }
    }
    let bad = desk.on("one", "build --cache-to type=gha context").refused();
    assert!(bad.contains("registry, local or inline"), "{bad}");
    let fresh = desk.events("one", "build --no-cache-filter one");
    assert_eq!(cached(&fresh).iter().filter(|cached| !**cached).count(), 1);
}

#[test]
fn kanikos_cache_flags_mean_what_they_mean_there() {
    let desk = Desk::new();
    let executed = |machine: &str, flags: &str| {
        let ran = desk.on(machine, &format!("executor --context=context {flags}"));
        assert_eq!(ran.code, 0, "{}", ran.stderr);
        3 - ran.stderr.matches("Using caching version").count()
    };
    // Nothing is read, and nothing exists yet.
    assert_eq!(executed("one", "--destination=REG/k:1 --cache --no-push-cache"), 3);
    assert_eq!(executed("two", "--destination=REG/k:1 --cache"), 3, "nothing was written");
    assert_eq!(executed("three", "--destination=REG/k:1 --cache"), 0, "from REG/k/cache");
    assert_eq!(executed("three", "--destination=REG/k:1"), 3, "without --cache nothing counts");
    let listed = desk.entries("one", "cache list -o json --repository REG/k/cache");
    // What is copied from a stage is known by the stage's layers and by what was read of them.
    assert_eq!(listed.len(), 4, "{listed:?}");
    let refused = desk.on("one", "executor --context=context --no-push --cache").refused();
    let text = "if using cache with --no-push, specify cache repo with --cache-repo";
    assert!(refused.contains(text), "{refused}");
    let layout = "--no-push --cache --cache-repo=oci:cache-layout";
    assert_eq!((executed("four", layout), executed("five", layout)), (3, 0));
    assert_eq!(executed("six", &format!("{layout} --cache-copy-layers=false")), 3);
    let explained = desk.on(
        "seven",
        "executor --context=context --no-push --cache --cache-explain \
                                      --cache-repo=oci:cache-layout",
    );
    assert!(
        explained.stderr.contains("cache hit from oci:cache-layout:shipway-cache, by chain key")
    );
}

#[test]
fn caches_are_listed_summed_up_and_pruned() {
    let desk = Desk::new();
    desk.events("one", "build --cache-to type=registry,ref=REG/app:cache,mode=max");
    let entries = desk.entries("one", "cache list -o json");
    let titles: Vec<&str> = entries.iter().filter_map(|entry| entry["title"].as_str()).collect();
    assert!(titles.contains(&"COPY a.txt /a") && titles.contains(&"COPY b.txt /"), "{titles:?}");
    let sum: Value = serde_json::from_str(&desk.on("one", "cache du -o json").ok()).expect("JSON");
    assert_eq!(sum["steps"], entries.len());
    let unsaid = desk.on("one", "cache prune");
    assert_eq!(unsaid.code, 2);
    assert!(unsaid.stderr.contains("--older-than"), "{}", unsaid.stderr);
    let removed = |line: &str| -> usize {
        let pruned: Value = serde_json::from_str(&desk.on("one", line).ok()).expect("JSON");
        pruned["removed"].as_array().expect("a list").len()
    };
    assert_eq!(removed("cache prune --older-than 24h -o json"), 0);
    assert_eq!(removed("cache prune --keep-storage 1GB -o json"), 0);
    assert_eq!(removed("cache prune --all --dry-run -o json"), entries.len());
    let pruned: Value =
        serde_json::from_str(&desk.on("one", "cache prune --all -o json").ok()).expect("JSON");
    assert_ne!(pruned["freedBytes"], 0);
    assert!(desk.entries("one", "cache list -o json").is_empty());
    assert_eq!(cached(&desk.events("one", "build")), [false; 3]);
    // What is in the registry is there still, until it is pruned there.
    let remote = desk.entries("one", "cache ls -o json --repository REG/app:cache");
    assert_eq!(remote.len(), entries.len());
    assert_eq!(removed("cache prune --all -o json --repository REG/app:cache"), remote.len());
    let left = desk.entries("one", "cache ls -o json --repository REG/app:cache");
    assert!(left.is_empty(), "{left:?}");
    let none = desk.on("one", "cache ls --repository REG/none");
    assert_eq!(none.code, 4, "{}", none.stderr);
}
