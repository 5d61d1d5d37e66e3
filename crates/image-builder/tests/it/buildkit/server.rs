//! Files over HTTP on loopback.

use std::collections::BTreeMap;
use std::io::{BufRead as _, BufReader, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

/// What a path answers: a body, and `Last-Modified` if it has one.
type Answer = (Vec<u8>, Option<&'static str>);

/// A server that ends with its process; other paths are 404.
pub(crate) struct Server {
    address: SocketAddr,
    answers: Arc<Mutex<BTreeMap<String, Answer>>>,
    requests: Arc<AtomicUsize>,
}

impl Server {
    pub(crate) fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let address = listener.local_addr().expect("bound");
        let (answers, requests) = (Arc::default(), Arc::<AtomicUsize>::default());
        let server =
            Self { address, answers: Arc::clone(&answers), requests: Arc::clone(&requests) };
        std::thread::spawn(move || {
            for stream in listener.incoming().filter_map(Result::ok) {
                requests.fetch_add(1, Ordering::Relaxed);
                // A client that hangs up has all it wants.
                let _ = answer(stream, &answers);
            }
        });
        server
    }

    pub(crate) fn serve(&self, path: &str, body: &[u8], modified: Option<&'static str>) -> String {
        let answer = (body.to_vec(), modified);
        self.answers.lock().expect("answers").insert(path.to_owned(), answer);
        format!("http://{}{path}", self.address)
    }

    pub(crate) fn requests(&self) -> usize {
        self.requests.load(Ordering::Relaxed)
    }
}

fn answer(mut stream: TcpStream, answers: &Mutex<BTreeMap<String, Answer>>) -> std::io::Result<()> {
    let mut reader = BufReader::new(stream.try_clone()?);
    let mut first = String::new();
    reader.read_line(&mut first)?;
    let mut header = String::new();
    while reader.read_line(&mut header)? > 2 {
        header.clear();
    }
    let path = first.split(' ').nth(1).unwrap_or_default();
    let path = path.split('?').next().unwrap_or_default();
    let found = answers.lock().expect("answers").get(path).cloned();
    let status = if found.is_some() { "200 OK" } else { "404 Not Found" };
    let (body, modified) = found.unwrap_or_default();
    let modified = modified.map(|date| format!("Last-Modified: {date}\r\n")).unwrap_or_default();
    let length = body.len();
    let head = format!(
        "HTTP/1.1 {status}\r\nContent-Length: {length}\r\n{modified}Connection: close\r\n\r\n"
    );
    stream.write_all(head.as_bytes())?;
    stream.write_all(&body)
}
