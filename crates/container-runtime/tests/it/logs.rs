//! The log file.

use std::fs;

use crate::Outcome;
use crate::fixture::{Fixture, same, text_of};

crate::tests!(
    long_lines_are_split_at_sixteen_kibibytes,
    last_line_without_end_is_kept,
    much_output_arrives_whole,
    renamed_log_continues_after_reopening,
);

fn long_lines_are_split_at_sixteen_kibibytes() -> Outcome {
    let fixture = Fixture::new()?;
    fixture.run_script("a", "head -c 40000 /dev/zero | tr '\\0' x; echo; echo short")?;
    let log = fs::read_to_string(fixture.path("a.log"))?;
    let entries: Vec<_> = log
        .lines()
        .map(|line| {
            let mut fields = line.splitn(4, ' ').skip(1);
            let (stream, tag) = (fields.next(), fields.next());
            (stream.unwrap_or(""), tag.unwrap_or(""), fields.next().unwrap_or("").len())
        })
        .collect();
    let expected = vec![
        ("stdout", "P", 16384),
        ("stdout", "P", 16384),
        ("stdout", "F", 7232),
        ("stdout", "F", 5),
    ];
    same(entries, expected)
}

fn last_line_without_end_is_kept() -> Outcome {
    let fixture = Fixture::new()?;
    same(fixture.run_script("a", "printf 'no end'")?.output.as_str(), "no end\n")
}

fn much_output_arrives_whole() -> Outcome {
    let fixture = Fixture::new()?;
    let ran = fixture.run_script("a", "seq 1 50000; seq 1 20000 >&2")?;
    same(ran.output.lines().count(), 70000)
}

fn renamed_log_continues_after_reopening() -> Outcome {
    let fixture = Fixture::new()?;
    let script = "echo one; while [ ! -e /go ]; do sleep 0.02; done; echo two";
    let container = fixture.start("a", &fixture.script("a", script)?)?;
    let (log, old) = (fixture.path("a.log"), fixture.path("a.log.1"));
    while fs::metadata(&log)?.len() == 0 {
        std::thread::yield_now();
    }
    fs::rename(&log, &old)?;
    container.reopen_log()?;
    fs::write(format!("/proc/{}/root/go", container.pid()?), "")?;
    container.wait()?;
    container.delete()?;
    same(text_of(&fs::read_to_string(&old)?).as_str(), "one\n")?;
    same(text_of(&fs::read_to_string(&log)?).as_str(), "two\n")
}
