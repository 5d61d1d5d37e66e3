//! The rules that the scaled mode lives by, held against the strict bucket of these tests and
//! against moto, which somebody else wrote.

use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use bytes::Bytes;
use http::{Method, Request, StatusCode};
use http_body_util::{BodyExt as _, Full};
use hyper_util::client::legacy::Client;
use hyper_util::rt::TokioExecutor;

use crate::bucket::{Bucket, NAME};

/// A server of moto (Apache-2.0, PyPI) with one bucket.
pub(crate) struct Moto {
    child: Child,
    endpoint: String,
}

impl Moto {
    /// Starts it, installing it first if it is missing.
    pub(crate) async fn start() -> Self {
        let python = installed();
        let port = {
            let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
            listener.local_addr().expect("an address").port()
        };
        let child = Command::new(python)
            .args(["-m", "moto.server", "-H", "127.0.0.1", "-p", &port.to_string()])
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("python of the environment");
        let moto = Self { child, endpoint: format!("http://127.0.0.1:{port}") };
        while TcpStream::connect(("127.0.0.1", port)).is_err() {
            tokio::time::sleep(std::time::Duration::from_millis(20)).await;
        }
        let (status, _) = ask(&moto.endpoint, Method::PUT, "", &[], "").await;
        assert_eq!(status, 200, "a bucket in moto");
        moto
    }

    pub(crate) fn endpoint(&self) -> &str {
        &self.endpoint
    }
}

impl Drop for Moto {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The interpreter of an environment that has moto, shared by all runs of the tests.
fn installed() -> PathBuf {
    let environment = Path::new(env!("CARGO_TARGET_TMPDIR")).join("moto");
    let python = environment.join("bin/python");
    std::fs::create_dir_all(&environment).expect("a directory");
    // Test processes run at once: one installs, the others wait for it.
    let lock = std::fs::File::create(environment.join("lock")).expect("a file");
    lock.lock().expect("a lock");
    let has_moto = |python: &Path| {
        let import = Command::new(python).args(["-c", "import moto.server"]).output();
        import.is_ok_and(|output| output.status.success())
    };
    if has_moto(&python) {
        return python;
    }
    let run = |program: &Path, arguments: &[&str]| {
        let output = Command::new(program).args(arguments).output().expect("python3 with venv");
        let text = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(
            output.status.success(),
            "cannot install moto (pip install 'moto[server]') in {}: {text}",
            environment.display()
        );
    };
    let place = environment.to_str().expect("a path in UTF-8");
    run(Path::new("python3"), &["-m", "venv", place]);
    run(&python, &["-m", "pip", "install", "--quiet", "moto[server]"]);
    python
}

async fn ask(
    endpoint: &str,
    method: Method,
    path: &str,
    headers: &[(&str, &str)],
    body: impl Into<Bytes>,
) -> (u16, String) {
    // Neither checks signatures, but moto takes requests without one for those of strangers.
    let credentials = "AWS4-HMAC-SHA256 Credential=key/20260101/us-east-1/s3/aws4_request, \
                       SignedHeaders=host, Signature=0";
    let mut request = Request::builder()
        .method(method)
        .uri(format!("{endpoint}/{NAME}{path}"))
        .header(http::header::AUTHORIZATION, credentials);
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    let client = Client::builder(TokioExecutor::new()).build_http();
    let request = request.body(Full::new(body.into())).expect("a request");
    let response = client.request(request).await.expect("a response");
    let status = response.status().as_u16();
    let tag = response.headers().get("etag").map(|tag| tag.to_str().expect("text").to_owned());
    let body = response.into_body().collect().await.expect("a body").to_bytes();
    (status, tag.unwrap_or_else(|| String::from_utf8_lossy(&body).into_owned()))
}

/// What every bucket must do before many replicas may share it.
async fn keeps_the_rules(endpoint: &str) {
    let put = |condition: &'static str, value: String, body: &'static str| async move {
        let headers = [(condition, value.as_str())];
        ask(endpoint, Method::PUT, "/k", &headers[..usize::from(!condition.is_empty())], body).await
    };
    let (status, first) = put("if-none-match", "*".to_owned(), "1").await;
    assert_eq!(status, 200);
    assert_eq!(put("if-none-match", "*".to_owned(), "2").await.0, 412);
    let (status, second) = put("if-match", first.clone(), "3").await;
    assert_eq!(status, 200);
    assert_ne!(first, second);
    assert_eq!(put("if-match", first, "4").await.0, 412);
    let missing = ask(endpoint, Method::PUT, "/none", &[("if-match", &second)], "5").await;
    assert_eq!(missing.0, 404);
    assert_eq!(ask(endpoint, Method::GET, "/k", &[("range", "bytes=0-0")], "").await.0, 206);
    assert_eq!(ask(endpoint, Method::GET, "/none", &[], "").await.0, 404);

    let begun = ask(endpoint, Method::POST, "/big?uploads", &[], "").await.1;
    let attempt = begun.split("<UploadId>").nth(1).expect("an attempt");
    let attempt = attempt.split('<').next().expect("an attempt").to_owned();
    let part = |number: u32, size: usize| {
        let path = format!("/big?partNumber={number}&uploadId={attempt}");
        async move { ask(endpoint, Method::PUT, &path, &[], vec![7; size]).await }
    };
    let join = |tags: Vec<String>, headers: &'static [(&'static str, &'static str)]| {
        let path = format!("/big?uploadId={attempt}");
        let parts: String = (1..)
            .zip(tags)
            .map(|(n, tag)| format!("<Part><PartNumber>{n}</PartNumber><ETag>{tag}</ETag></Part>"))
            .collect();
        let body = format!("<CompleteMultipartUpload>{parts}</CompleteMultipartUpload>");
        async move { ask(endpoint, Method::POST, &path, headers, body).await }
    };
    let small = part(1, 3).await.1;
    let last = part(2, 3).await.1;
    assert_eq!(join(vec![small, last.clone()], &[]).await.0, 400, "a part that is too small");
    let full = part(1, 5 * 1024 * 1024).await.1;
    assert_eq!(join(vec!["\"0\"".to_owned(), last.clone()], &[]).await.0, 400, "a wrong part");
    let (status, text) = join(vec![full, last], &[("if-none-match", "*")]).await;
    assert_eq!(status, 200, "{text}");
    let (status, text) = ask(endpoint, Method::GET, "?list-type=2&prefix=b", &[], "").await;
    assert_eq!((status, text.matches("<Key>big</Key>").count()), (200, 1), "{text}");
    assert_eq!(ask(endpoint, Method::DELETE, "/big", &[], "").await.0, 204);
    assert_eq!(ask(endpoint, Method::DELETE, "/big", &[], "").await.0, 204);
    assert_eq!(StatusCode::NOT_FOUND, ask(endpoint, Method::HEAD, "/big", &[], "").await.0);
}

#[tokio::test]
async fn the_test_bucket_keeps_the_rules() {
    keeps_the_rules(&Bucket::start().endpoint()).await;
}

#[tokio::test]
async fn moto_keeps_the_rules() {
    keeps_the_rules(Moto::start().await.endpoint()).await;
}
