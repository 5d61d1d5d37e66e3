use clap::{Args as _, Command, FromArgMatches as _};

use super::*;

fn problems(text: &str) -> Vec<String> {
    check::problems(text, &Config::shape()).iter().map(ToString::to_string).collect()
}

fn flags(arguments: &[&str]) -> Result<KeyFlags, clap::Error> {
    let command = KeyFlags::augment_args(Command::new("serve").no_binary_name(true));
    KeyFlags::from_arg_matches(&command.try_get_matches_from(arguments)?)
}

#[test]
fn every_mistake_is_named_with_its_line_and_what_was_meant() {
    let text = "[registry]\nadress = \"x\"\nanonymous = \"pul\"\nplain-http = 1\n\
        tls_cert = \"c\"\n[[registry.access]]\nuser = \"a\"\nrole = \"owner\"\n\
        [[registry.access]]\nprefix = \"a\"\n";
    assert_eq!(
        problems(text),
        [
            "line 2: unknown key registry.adress; did you mean address?",
            "line 3: registry.anonymous is one of none, pull, push, not \"pul\"; did you mean pull?",
            "line 4: registry.plain-http takes true or false, not integer",
            "line 5: unknown key registry.tls_cert; did you mean tls-cert?",
            "line 8: registry.access.role is one of pull, create, push, delete, admin, not \"owner\"",
            "line 9: registry.access lacks the key role",
        ]
    );
    assert_eq!(
        problems("[regstry]\n"),
        ["line 1: unknown table [regstry]; did you mean [registry]?"]
    );
    assert_eq!(problems("[build]\nanything = 1\n"), Vec::<String>::new());
    assert!(problems("[registry\n")[0].starts_with("line 1: "));
}

#[test]
fn flags_win_over_the_file_and_say_so() {
    let directory = tempfile::tempdir().expect("a directory");
    let file = directory.path().join("shipway.toml");
    std::fs::write(&file, "[registry]\naddress = \"a:1\"\nanonymous = \"none\"\n").expect("a file");
    let flags = flags(&["--address", "b:2", "--plain-http"]).expect("flags");
    let effective = Effective::gather(Some(&file), &flags).expect("settings");
    assert_eq!(effective.config.address.as_deref(), Some("b:2"));
    assert_eq!(effective.config.anonymous, Some(AnonymousArg::None));
    assert!(effective.config.plain_http);
    assert_eq!(effective.origins.get("registry.address"), Some(&Origin::Flag));
    assert_eq!(effective.origins.get("registry.anonymous"), None);
}

#[test]
fn wrong_values_of_flags_are_refused_by_name() {
    let error = flags(&["--anonymous", "all"]).expect_err("wrong").to_string();
    assert!(error.contains("--anonymous") && error.contains("none, pull, push"), "{error}");
}

#[test]
fn times_and_sizes_read_as_people_write_them() {
    use std::time::Duration;
    for (text, expected) in [
        ("0", Some(Duration::ZERO)),
        ("90s", Some(Duration::from_secs(90))),
        ("250ms", Some(Duration::from_millis(250))),
        ("24h", Some(Duration::from_secs(86400))),
        ("7d", Some(Duration::from_secs(604_800))),
        ("7", None),
        ("s", None),
        ("-1s", None),
        ("1w", None),
        ("99999999999999999999d", None),
    ] {
        assert_eq!(text.parse::<shape::Time>().ok().map(|time| time.0), expected, "{text}");
    }
    for (text, expected) in [
        ("0", Some(0)),
        ("10GiB", Some(10 << 30)),
        ("5 MB", Some(5_000_000)),
        ("1.5GiB", None),
        ("18446744073709551615KiB", None),
    ] {
        assert_eq!(text.parse::<shape::Size>().ok().map(|size| size.0), expected, "{text}");
    }
}

#[test]
fn the_document_in_docs_is_what_the_declarations_say() {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../../docs/registry-config.md");
    if std::env::var_os("SHIPWAY_UPDATE_DOCS").is_some() {
        std::fs::write(path, markdown()).expect("the document");
    }
    let stored = std::fs::read_to_string(path).expect("the document");
    assert!(
        stored == markdown(),
        "docs/registry-config.md is stale: SHIPWAY_UPDATE_DOCS=1 cargo test -p cli the_document"
    );
}

#[test]
fn every_key_is_documented_and_no_key_holds_a_secret() {
    fn walk(shape: &Shape, path: &str) {
        match shape {
            Shape::Table(keys) => {
                for key in keys {
                    let path = format!("{path}.{}", key.name);
                    assert!(!key.doc.is_empty(), "{path} has no words");
                    for word in ["password", "secret", "private-key"] {
                        let names_file = key.name.ends_with("-file");
                        assert!(!key.name.contains(word) || names_file, "{path} is no file");
                    }
                    walk(&key.shape, &path);
                }
            }
            Shape::List(inner) | Shape::Map(inner) => walk(inner, path),
            _ => {}
        }
    }
    walk(&Config::shape(), "registry");
}

#[test]
fn the_schema_refuses_what_the_checks_refuse() {
    let schema = json_schema();
    let registry = &schema["properties"]["registry"];
    assert_eq!(registry["additionalProperties"], false);
    assert_eq!(registry["properties"]["access"]["items"]["required"][0], "role");
    let words = &registry["properties"]["anonymous"]["enum"];
    assert_eq!(words, &serde_json::json!(["none", "pull", "push"]));
}
