//! [history]: what an image says about its making.

use super::case;
use crate::tests;

tests![
    every_instruction_leaves_an_entry,
    repeated_arguments_appear_once_with_their_last_value,
    labels_of_file_and_caller_are_merged,
];

/// BuildKit ExportedHistory.
fn every_instruction_leaves_an_entry() {
    let text = "FROM base\nENV foo=bar\nCOPY --chown=7 --chmod=640 foo foo2\nLABEL lbl=val\n\
                RUN ls /foo2\nWORKDIR /new\nUSER app\nEXPOSE 80\nVOLUME /v\nCMD [\"a\", \"b\"]\nADD foo /d/\n";
    let (inherited, added, layers) = case(text).files(&["foo"]).build(|_, outcome| {
        let history = outcome.image.history.clone();
        let filled = history.iter().filter(|entry| !entry.empty_layer).count();
        assert_eq!(filled, outcome.image.rootfs.diff_ids.len());
        assert!(history.iter().all(|entry| entry.created.is_some()));
        let added: Vec<(String, bool)> = history
            .iter()
            .skip(history.len() - 10)
            .map(|entry| (entry.created_by.clone().unwrap_or_default(), entry.empty_layer))
            .collect();
        (history.len() - added.len(), added, filled)
    });
    assert!(inherited > 0 && layers > 3);
    assert_eq!(
        added,
        [
            ("ENV foo=bar".to_owned(), true),
            ("COPY --chown=7 --chmod=640 foo foo2 # buildkit".to_owned(), false),
            ("LABEL lbl=val".to_owned(), true),
            ("RUN /bin/sh -c ls /foo2 # buildkit".to_owned(), true),
            ("WORKDIR /new".to_owned(), false),
            ("USER app".to_owned(), true),
            ("EXPOSE [80/tcp]".to_owned(), true),
            ("VOLUME [/v]".to_owned(), true),
            ("CMD [\"a\" \"b\"]".to_owned(), true),
            ("ADD foo /d/ # buildkit".to_owned(), false),
        ]
    );
}

/// BuildKit ExportedHistoryFlattenArgs.
fn repeated_arguments_appear_once_with_their_last_value() {
    let text = "FROM base\nARG foo=bar\nARG bar=123\nARG foo=bar2\nRUN echo $foo$bar > /x\n";
    let last = case(text).build(|_, outcome| {
        outcome.image.history.last().and_then(|entry| entry.created_by.clone())
    });
    let expected = "RUN |2 foo=bar2 bar=123 /bin/sh -c echo $foo$bar > /x # buildkit";
    assert_eq!(last.as_deref(), Some(expected));
}

/// BuildKit Labels.
fn labels_of_file_and_caller_are_merged() {
    let built =
        case("FROM scratch\nLABEL foo=bar \"quoted key\"='quoted value'\n").with(|options, _| {
            options.labels = vec![("bar".into(), "baz".into()), ("foo".into(), "caller".into())];
        });
    let labels = built.config().labels;
    assert_eq!(labels["foo"], "caller");
    assert_eq!((labels["bar"].as_str(), labels["quoted key"].as_str()), ("baz", "quoted value"));
}
