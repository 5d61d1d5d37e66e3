//! [core]: who commands run as, and where.

use super::case;
use crate::tests;

tests![
    users_are_names_or_numbers_with_or_without_groups,
    supplementary_groups_depend_on_the_form_of_user,
    commands_know_the_name_of_their_machine,
    an_unknown_user_is_named,
    an_entrypoint_has_no_part_in_run,
];

/// BuildKit User.
fn users_are_names_or_numbers_with_or_without_groups() {
    for (user, expected) in [
        ("root", "0 0"),
        ("app", "1000 1001"),
        ("1000", "1000 1001"),
        ("app:extra", "1000 50"),
        ("app:1234", "1000 1234"),
        ("4000", "4000 0"),
        ("4000:extra", "4000 50"),
        ("0", "0 0"),
    ] {
        let text = format!(
            "FROM base\nRUN chmod 777 /tmp\nUSER {user}\nRUN echo $(id -u) $(id -g); touch /tmp/f; stat -c '%u %g' /tmp/f\n"
        );
        assert_eq!(case(&text).printed(), format!("{expected}\n{expected}\n"), "{user}");
        assert_eq!(case(&text).config().user, user);
    }
}

/// BuildKit UserAdditionalGids.
fn supplementary_groups_depend_on_the_form_of_user() {
    for (user, expected) in [
        ("app", "1001 50"),
        ("1000", "1001 50"),
        ("app:app", "1001"),
        ("1000:7", "7"),
        ("4000", "0"),
    ] {
        let text = format!("FROM base\nUSER {user}\nRUN id -G\n");
        assert_eq!(case(&text).printed(), format!("{expected}\n"), "{user}");
    }
}

/// BuildKit DockerfileCheckHostname.
fn commands_know_the_name_of_their_machine() {
    let text = "FROM base\nRUN hostname; grep -c buildkitsandbox /etc/hosts; echo $HOSTNAME\n";
    let printed = case(text).printed();
    assert!(printed.starts_with("buildkitsandbox\n1\n"), "{printed}");
    let text = "FROM base\nRUN hostname; grep -c testtest /etc/hosts\n";
    let printed = case(text).arg("BUILDKIT_SANDBOX_HOSTNAME", "testtest").printed();
    assert_eq!(printed, "testtest\n1\n");
}

fn an_unknown_user_is_named() {
    let error = case("FROM base\nUSER nobody-here\nRUN true\n").error();
    assert!(error.contains("unable to find user nobody-here"), "{error}");
}

/// BuildKit IgnoreEntrypoint.
fn an_entrypoint_has_no_part_in_run() {
    let text =
        "FROM base\nENTRYPOINT [\"/nosuchcmd\"]\nRUN [\"ls\", \"/etc/keep\"]\nRUN ls /etc/gone\n";
    assert_eq!(case(text).printed(), "/etc/keep\n/etc/gone\n");
}
