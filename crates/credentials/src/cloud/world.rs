//! A world for tests: variables, files, programs and servers that answer by script.

use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::path::Path;
use std::time::{Duration, SystemTime};

use jiff::Timestamp;

use super::{Method, Performer, ProgramOutput, Request, Response, RunError, SendError};
use crate::Secret;

/// What a server says to one request.
pub(crate) type Answer = Result<Response, SendError>;

/// The scripted world. What nobody scripted is absent, refused or a failed test.
#[derive(Default)]
pub(crate) struct World {
    variables: BTreeMap<String, String>,
    allows_endpoints: bool,
    files: RefCell<BTreeMap<String, String>>,
    links: BTreeSet<String>,
    programs: BTreeMap<String, Result<ProgramOutput, RunError>>,
    servers: RefCell<BTreeMap<(String, String), VecDeque<Answer>>>,
    /// What every server says from the request with this number on.
    fault: Option<(usize, Answer)>,
    /// Every request that was sent, in order.
    pub(crate) sent: RefCell<Vec<Request>>,
    /// How long was waited, all pauses together.
    pub(crate) paused: Cell<Duration>,
    /// How often a pause was made.
    pub(crate) pauses: Cell<u32>,
}

/// The time in every world.
pub(crate) fn now() -> SystemTime {
    at("2026-11-01T00:00:00Z")
}

pub(crate) fn at(time: &str) -> SystemTime {
    time.parse::<Timestamp>().expect("a time").into()
}

pub(crate) fn answer(status: u16, body: &str) -> Answer {
    answer_with(status, &[], body)
}

pub(crate) fn answer_with(status: u16, headers: &[(&str, &str)], body: &str) -> Answer {
    let headers =
        headers.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
    Ok(Response { status, headers, body: Secret::new(body) })
}

impl World {
    pub(crate) fn new() -> Self {
        Self::default()
    }

    pub(crate) fn variable(mut self, name: &str, value: &str) -> Self {
        self.variables.insert(name.to_owned(), value.to_owned());
        self
    }

    pub(crate) fn allow_endpoints(mut self) -> Self {
        self.allows_endpoints = true;
        self
    }

    pub(crate) fn file(self, path: &str, content: &str) -> Self {
        self.write(path, content);
        self
    }

    /// A link to a file with this content.
    pub(crate) fn link(mut self, path: &str, content: &str) -> Self {
        self.links.insert(path.to_owned());
        self.file(path, content)
    }

    pub(crate) fn write(&self, path: &str, content: &str) {
        self.files.borrow_mut().insert(path.to_owned(), content.to_owned());
    }

    pub(crate) fn program(mut self, name: &str, output: Result<&str, RunError>) -> Self {
        let output =
            output.map(|stdout| ProgramOutput { succeeded: true, stdout: Secret::new(stdout) });
        self.programs.insert(name.to_owned(), output);
        self
    }

    /// The next answer to a request; the last one is given again and again.
    pub(crate) fn server(self, method: Method, url: &str, answer: Answer) -> Self {
        let key = (format!("{method:?}"), url.to_owned());
        self.servers.borrow_mut().entry(key).or_default().push_back(answer);
        self
    }

    /// Has every server say the same from a request on, however well they answer before.
    pub(crate) fn fails_from(mut self, number: usize, answer: Answer) -> Self {
        self.fault = Some((number, answer));
        self
    }

    /// Value of a header of a request that was sent.
    pub(crate) fn sent_header(&self, index: usize, name: &str) -> Option<String> {
        let sent = self.sent.borrow();
        let value = sent[index].headers.iter().find(|(known, _)| known == name);
        value.map(|(_, value)| value.expose().to_owned())
    }

    pub(crate) fn sent_body(&self, index: usize) -> String {
        self.sent.borrow()[index].body.expose().to_owned()
    }

    pub(crate) fn sent_urls(&self) -> Vec<String> {
        self.sent.borrow().iter().map(|request| request.url.clone()).collect()
    }
}

impl Performer for World {
    fn variable(&self, name: &str) -> Option<String> {
        self.variables.get(name).cloned()
    }

    fn allows_endpoints(&self) -> bool {
        self.allows_endpoints
    }

    fn read_file(&self, path: &Path, bytes_max: u64) -> std::io::Result<Secret> {
        let files = self.files.borrow();
        let content = files
            .get(&path.display().to_string())
            .ok_or_else(|| std::io::Error::from(std::io::ErrorKind::NotFound))?;
        if content.len() as u64 > bytes_max {
            return Err(std::io::ErrorKind::FileTooLarge.into());
        }
        Ok(Secret::new(content.as_str()))
    }

    fn read_file_itself(&self, path: &Path, bytes_max: u64) -> std::io::Result<Secret> {
        if self.links.contains(&path.display().to_string()) {
            return Err(std::io::Error::other("it is a link"));
        }
        self.read_file(path, bytes_max)
    }

    fn file_exists(&self, path: &Path) -> bool {
        self.files.borrow().contains_key(&path.display().to_string())
    }

    fn send(&self, request: &Request) -> Answer {
        let number = self.sent.borrow().len();
        self.sent.borrow_mut().push(request.clone());
        if let Some((first, answer)) = &self.fault
            && *first <= number
        {
            return answer.clone();
        }
        let mut servers = self.servers.borrow_mut();
        let key = (format!("{:?}", request.method), request.url.clone());
        let Some(answers) = servers.get_mut(&key) else {
            panic!("nobody answers {:?} {}", request.method, request.url);
        };
        match answers.len() {
            1 => answers[0].clone(),
            _ => answers.pop_front().expect("an answer"),
        }
    }

    fn run(
        &self,
        program: &str,
        _arguments: &[String],
        _timeout: Duration,
    ) -> Result<ProgramOutput, RunError> {
        self.programs
            .get(program)
            .cloned()
            .unwrap_or_else(|| Err(RunError::Start("no such file".to_owned())))
    }

    fn rsa_key(&self) -> Result<Secret, String> {
        // Making one takes seconds without optimisation.
        Ok(Secret::new(include_str!("test-key.pem")))
    }

    fn now(&self) -> SystemTime {
        now()
    }

    fn uptime(&self) -> Duration {
        self.paused.get()
    }

    fn pause(&self, time: Duration) {
        self.paused.set(self.paused.get() + time);
        self.pauses.set(self.pauses.get() + 1);
    }

    fn random(&self) -> u64 {
        0x0123_4567_89ab_cdef
    }
}
