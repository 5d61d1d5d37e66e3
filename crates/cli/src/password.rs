//! Passwords from people and pipes, never from the command line.

use std::io::{BufRead as _, IsTerminal as _, Read as _, Write as _};

use rustix::termios::{LocalModes, OptionalActions, tcgetattr, tcsetattr};

use crate::exit::Failure;

/// Longest password read, in bytes.
const PASSWORD_BYTES_MAX: u64 = 64 * 1024;

/// Reads a password: all of standard input, or from the terminal without echo after `prompt`.
pub(crate) fn read(from_stdin: bool, prompt: &str) -> Result<String, Failure> {
    if from_stdin {
        let mut text = String::new();
        std::io::stdin().lock().take(PASSWORD_BYTES_MAX).read_to_string(&mut text)?;
        // The one line break that `echo` and editors add is not part of it.
        let text = text.strip_suffix('\n').unwrap_or(&text);
        return Ok(text.strip_suffix('\r').unwrap_or(text).to_owned());
    }
    if !std::io::stdin().is_terminal() {
        return Err(
            Failure::usage("cannot ask for a password without a terminal").hint("--password-stdin")
        );
    }
    ask(prompt)
}

fn ask(prompt: &str) -> Result<String, Failure> {
    let input = std::io::stdin();
    let before = tcgetattr(&input)?;
    let mut silent = before.clone();
    silent.local_modes.remove(LocalModes::ECHO);
    write!(std::io::stderr().lock(), "{prompt}")?;
    tcsetattr(&input, OptionalActions::Flush, &silent)?;
    let mut text = String::new();
    let read = input.lock().take(PASSWORD_BYTES_MAX).read_line(&mut text);
    tcsetattr(&input, OptionalActions::Flush, &before)?;
    writeln!(std::io::stderr().lock())?;
    read?;
    Ok(text.trim_end_matches(['\r', '\n']).to_owned())
}
