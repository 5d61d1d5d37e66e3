//! [core], [cache]: what a build leaves on the machine, and what it reads again.

use super::case;
use crate::tests;

tests![a_repeated_build_takes_no_more_room, nothing_is_held_after_a_build,];

/// BuildKit NoSnapshotLeak.
fn a_repeated_build_takes_no_more_room() {
    let built = case("FROM base\nCOPY foo /\nRUN cp foo bar\n").cached().files(&["foo"]);
    let used = || {
        built.build(|machine, _| {
            let mut lines = Vec::new();
            super::list(&machine.root.path().join("state"), std::path::Path::new(""), &mut lines);
            lines.into_iter().filter(|line| !line.contains("/work/")).collect::<Vec<_>>()
        })
    };
    used();
    assert_eq!(used().len(), used().len());
}

/// BuildKit CacheReleased.
fn nothing_is_held_after_a_build() {
    let built = case("FROM base\nRUN echo x > /x\n").cached();
    let work = built.build(|machine, _| machine.root.path().join("state/build/work"));
    assert_eq!(std::fs::read_dir(work).expect("a directory").count(), 0);
}
