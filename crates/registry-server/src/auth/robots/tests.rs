use std::time::UNIX_EPOCH;

use super::*;

fn time(seconds: u64) -> SystemTime {
    UNIX_EPOCH + Duration::from_secs(1_800_000_000 + seconds)
}

fn robot(name: &str) -> Robot {
    Robot {
        name: name.to_owned(),
        description: Some("builds".to_owned()),
        created: time(0),
        expires: Some(time(1000)),
        rights: vec![
            RobotRight { prefix: "team".to_owned(), role: Role::Push },
            RobotRight { prefix: "base".to_owned(), role: Role::Pull },
        ],
    }
}

fn file() -> (tempfile::TempDir, PathBuf) {
    let directory = tempfile::tempdir().expect("a directory");
    let path = directory.path().join("robots.json");
    (directory, path)
}

#[test]
fn a_robot_has_its_rights_until_it_expires() {
    let (_directory, path) = file();
    let robots = RobotFile::open(&path).expect("an empty file");
    let secret = add_robot(&path, &robot("ci")).expect("a robot").into_text();
    for (login, given, now, expected) in [
        ("robot+ci", secret.as_str(), 0, true),
        ("robot+ci", &secret, 999, true),
        ("robot+ci", &secret, 1000, false),
        ("robot+ci", "swr_wrong", 0, false),
        ("robot+ci", "", 0, false),
        ("ci", &secret, 0, false),
        ("robot+other", &secret, 0, false),
    ] {
        assert_eq!(robots.verify(login, given, time(now)).is_some(), expected, "{login} {now}");
    }
    assert_eq!(robots.role("robot+ci", "team/app"), Some(Role::Push));
    assert_eq!(robots.role("robot+ci", "base/os"), Some(Role::Pull));
    assert_eq!(robots.role("robot+ci", "teams/app"), None);
    assert_eq!(robots.role("ci", "team/app"), None);
    assert!(!robots.everywhere("robot+ci", Role::Pull));
    assert!(robots.credential("robot+ci", time(999)).is_some());
    assert_eq!(robots.credential("robot+ci", time(1000)), None);
}

#[test]
fn a_rotation_keeps_the_old_secret_for_a_while_only() {
    let (_directory, path) = file();
    let first = add_robot(&path, &robot("ci")).expect("a robot").into_text();
    let robots = RobotFile::open(&path).expect("the file");
    let old_credential = robots.credential("robot+ci", time(1));
    let second = rotate_robot(&path, "ci", Some(time(2000)), time(100)).expect("one").into_text();
    let shown = |secret: &str, now| robots.verify("robot+ci", secret, time(now));
    let counts = |secret: &str, now| shown(secret, now).is_some();
    let ends = |secret: &str| shown(secret, 99).and_then(|shown| shown.until);
    assert_eq!((ends(&first), ends(&second)), (Some(time(100)), None));
    assert!(counts(&first, 99) && !counts(&first, 100));
    assert!(counts(&second, 99) && counts(&second, 1999) && !counts(&second, 2000));
    assert_ne!(robots.credential("robot+ci", time(1)), old_credential);
    let third = rotate_robot(&path, "ci", None, time(0)).expect("one").into_text();
    assert!(!counts(&first, 50) && !counts(&second, 50) && counts(&third, 1_000_000_000));
    remove_robot(&path, "ci").expect("gone");
    assert!(!counts(&third, 50) && robots.role("robot+ci", "team/app").is_none());
}

#[test]
fn the_file_holds_no_secret_and_only_its_owner_reads_it() {
    use std::os::unix::fs::PermissionsExt as _;
    let (_directory, path) = file();
    let secret = add_robot(&path, &robot("ci")).expect("a robot").into_text();
    let text = std::fs::read_to_string(&path).expect("text");
    assert!(!text.contains(&secret) && text.contains(&Digest::of(secret.as_bytes()).encoded()));
    assert_eq!(std::fs::metadata(&path).expect("it").permissions().mode() & 0o777, 0o600);
    assert_eq!(list_robots(&path).expect("one"), [robot("ci")]);
}

// registry.md 8.1 row 13: nothing unknown is taken from a file; names cannot become users' or
// issuers' names.
#[test]
fn what_is_no_robot_is_refused() {
    let (_directory, path) = file();
    for name in ["", "a b", "A", "-a", "a-", "a:b", "a+b", "a/b", "ü", &"a".repeat(65)] {
        let error = add_robot(&path, &robot(name)).expect_err("no name");
        assert!(matches!(error, RobotError::Name { .. }), "{name:?}");
    }
    let none = Robot { rights: Vec::new(), ..robot("a") };
    assert!(matches!(add_robot(&path, &none), Err(RobotError::NoRights { .. })));
    add_robot(&path, &robot("a.b-c_1")).expect("a robot");
    let error = add_robot(&path, &robot("a.b-c_1")).expect_err("twice");
    assert!(matches!(error, RobotError::Exists { .. }));
    assert!(matches!(remove_robot(&path, "x"), Err(RobotError::Unknown { .. })));
    let good = std::fs::read_to_string(&path).expect("text");
    for (from, to) in [
        ("\"version\": 1", "\"version\": 2"),
        ("\"role\": \"push\"", "\"role\": \"root\""),
        ("\"name\": \"a.b-c_1\"", "\"name\": \"a:b\""),
        ("\"description\": \"builds\"", "\"admin\": true"),
    ] {
        assert!(good.contains(from), "{from}");
        assert!(on_disk::parse(&good.replace(from, to)).is_err(), "{to}");
    }
}

#[test]
fn robots_added_at_the_same_time_are_all_there() {
    let (_directory, path) = file();
    std::thread::scope(|scope| {
        for n in 0..8 {
            let path = &path;
            scope.spawn(move || add_robot(path, &robot(&format!("r{n}"))).expect("a robot"));
        }
    });
    assert_eq!(list_robots(&path).expect("robots").len(), 8);
}
