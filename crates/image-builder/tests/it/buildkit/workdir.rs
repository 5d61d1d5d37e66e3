//! [workdir]: what WORKDIR creates and for whom.

use container_runtime::Mode;

use super::case;
use crate::tests;

tests![
    a_working_directory_exists_without_any_command,
    a_new_working_directory_belongs_to_the_user,
    an_existing_working_directory_keeps_its_owner,
    clamped_working_directories_are_reproducible,
];

/// BuildKit WorkdirCreatesDir.
fn a_working_directory_exists_without_any_command() {
    let built = case("FROM scratch\nWORKDIR /foo\nWORKDIR bar/../baz/\nWORKDIR /\n");
    assert_eq!(built.in_mode(Mode::None).tree(), ["foo/ 755 0:0", "foo/baz/ 755 0:0"]);
}

/// BuildKit WorkdirUser.
fn a_new_working_directory_belongs_to_the_user() {
    let text = "FROM base\nUSER app\nWORKDIR /mydir/sub\nRUN test $(stat -c %U /mydir) = app && \
                touch made && stat -c %u:%g:%a /mydir /mydir/sub made\n";
    assert_eq!(case(text).printed(), "1000:1001:755\n1000:1001:755\n1000:1001:644\n");
}

/// BuildKit WorkdirExists.
fn an_existing_working_directory_keeps_its_owner() {
    let text = "FROM base\nRUN mkdir -m 700 /mydir && chown 7:8 /mydir\nUSER app\n\
                WORKDIR /mydir\nUSER root\nRUN stat -c %u:%g:%a /mydir\n";
    assert_eq!(case(text).printed(), "7:8:700\n");
}

/// BuildKit WorkdirSourceDateEpochReproducible.
fn clamped_working_directories_are_reproducible() {
    let built = case("FROM scratch\nWORKDIR /mydir/deep\n").in_mode(Mode::None);
    let built = built.with(|_, request| request.epoch = Some(1_700_000_000));
    let digest = || built.build(|_, outcome| outcome.manifest.digest().to_string());
    let first = digest();
    // The clock of a second build is another one.
    assert_eq!(first, digest());
}
