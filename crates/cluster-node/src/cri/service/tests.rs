//! Calls over a real socket, by field numbers, as a client makes them (kubelet-images.md 11).

use bytes::{BufMut, Bytes, BytesMut};
use http_body_util::{BodyExt, Full};
use hyper_util::rt::{TokioExecutor, TokioIo};
use prost::Message;

use super::*;
use crate::cri::fixture::{Fixture, Refused, TestImage, image};
use crate::cri::message::{AuthConfig, ImageFilter, PodSandboxConfig, PodSandboxMetadata};
use crate::images::failure::PullFailureKind::{Denied, Other, Unreachable};
use crate::tasks::Tasks;

/// Status code, text and messages of an answer.
type Answer<A> = Result<Vec<A>, (u32, String)>;

/// A client of a served fixture.
struct Client {
    fixture: Fixture,
    socket: std::path::PathBuf,
    _tasks: Tasks,
}

impl Client {
    fn new(fixture: Fixture) -> Self {
        let socket = fixture.dir.path().join("cri.sock");
        let listener = crate::cri::bind(&socket).expect("a socket");
        let service = Service::new(Arc::clone(&fixture.images), Arc::clone(&fixture.inventory));
        let mut tasks = Tasks::new();
        tasks.spawn_stoppable(|stop| crate::cri::run(listener, service, stop));
        Client { fixture, socket, _tasks: tasks }
    }

    async fn call<A: Message + Default>(&self, path: &str, message: &impl Message) -> Answer<A> {
        let mut body = BytesMut::new();
        body.put_u8(0);
        body.put_u32(u32::try_from(message.encoded_len()).expect("short"));
        message.encode(&mut body).expect("encoded");
        let stream = tokio::net::UnixStream::connect(&self.socket).await.expect("connected");
        let io = TokioIo::new(stream);
        let (mut sender, connection) =
            hyper::client::conn::http2::handshake(TokioExecutor::new(), io).await.expect("http/2");
        let connection = tokio::spawn(connection);
        let request = http::Request::post(format!("http://localhost/runtime.v1.{path}"))
            .header("content-type", "application/grpc")
            .header("te", "trailers")
            .body(Full::new(body.freeze()))
            .expect("a request");
        let response = sender.send_request(request).await.expect("a response");
        assert_eq!(response.headers()["content-type"], "application/grpc");
        let early = response.headers().clone();
        let body = response.into_body().collect().await.expect("a body");
        let status = body.trailers().unwrap_or(&early).clone();
        connection.abort();
        let code: u32 = status["grpc-status"].to_str().expect("text").parse().expect("a number");
        if code != 0 {
            let text = status["grpc-message"].to_str().expect("text").replace("%25", "%");
            return Err((code, text));
        }
        Ok(messages(body.to_bytes()))
    }

    async fn one<A: Message + Default>(&self, path: &str, message: &impl Message) -> A {
        let mut answers = self.call(path, message).await.expect("an answer");
        assert_eq!(answers.len(), 1);
        answers.remove(0)
    }

    async fn status(&self, image: &str) -> Option<Image> {
        let request = ImageStatusRequest { image: Some(spec(image)), verbose: false };
        let answer: ImageStatusResponse = self.one("ImageService/ImageStatus", &request).await;
        assert!(answer.info.is_empty());
        answer.image
    }

    async fn pull(&self, image: &str, auth: Option<AuthConfig>) -> Result<String, (u32, String)> {
        let request = PullImageRequest { image: Some(spec(image)), auth, sandbox_config: None };
        let answers = self.call::<PullImageResponse>("ImageService/PullImage", &request).await?;
        Ok(answers[0].image_ref.clone())
    }

    async fn remove(&self, image: &str) {
        let request = RemoveImageRequest { image: Some(spec(image)) };
        let Empty {} = self.one("ImageService/RemoveImage", &request).await;
    }

    fn calls(&self) -> Vec<String> {
        std::mem::take(&mut *self.fixture.calls.lock().expect("calls"))
    }
}

fn messages<A: Message + Default>(mut bytes: Bytes) -> Vec<A> {
    let mut answers = Vec::new();
    while !bytes.is_empty() {
        let length = u32::from_be_bytes(bytes[1..5].try_into().expect("four bytes")) as usize;
        let _prefix = bytes.split_to(5);
        answers.push(A::decode(bytes.split_to(length)).expect("a message"));
    }
    answers
}

fn spec(image: &str) -> ImageSpec {
    ImageSpec { image: image.to_owned(), ..ImageSpec::default() }
}

fn registry(rows: &[(&str, Result<&TestImage, Refused>)]) -> Fixture {
    let rows = rows.iter().map(|(call, answer)| ((*call).to_owned(), (*answer).cloned()));
    Fixture::with_registry(rows.collect())
}

#[tokio::test]
async fn absent_image_is_an_answer_without_image() {
    let client = Client::new(Fixture::new());
    assert_eq!(client.status("r.example/app:1").await, None);
    assert_eq!(client.status("not a name").await, None);
    let error = client
        .call::<ImageStatusResponse>("ImageService/ImageStatus", &ImageStatusRequest::default())
        .await
        .expect_err("refused");
    assert_eq!(error, (3, "the image is not specified".to_owned()));
}

/// Since 1.36 the reference that a pull returns is the id of the image.
#[tokio::test]
async fn pull_answers_with_the_id_that_the_image_has() {
    let app = image("app", "1000:1000");
    let client = Client::new(registry(&[("r.example/app:latest anonymous", Ok(&app))]));
    let pulled = client.pull("r.example/app", None).await.expect("pulled");
    assert_eq!(pulled, app.id());
    let status = client.status("r.example/app:latest").await.expect("an image");
    assert_eq!(status.id, pulled);
    assert_eq!(status.repo_tags, ["r.example/app:latest"]);
    assert_eq!(status.repo_digests, [format!("r.example/app@{}", app.root())]);
    assert_eq!(status.uid.map(|uid| uid.value), Some(1000));
    assert!(0 < status.size);
    assert_eq!(client.status(&pulled).await, Some(status));
    assert_eq!(client.pull("r.example/app", None).await, Ok(pulled), "again");
    let calls = client.calls();
    assert_eq!(calls, ["r.example/app:latest anonymous"; 2], "the name may mean another image");
}

#[tokio::test]
async fn pull_shows_the_credential_of_the_call() {
    let app = image("app", "");
    let client = Client::new(registry(&[
        ("r.example/app:1 ada", Ok(&app)),
        ("r.example/app:1 identity-token", Ok(&app)),
        ("r.example/app:1 anonymous", Err((Denied, "401 Unauthorized"))),
    ]));
    let auth = |change: fn(&mut AuthConfig)| {
        let mut auth = AuthConfig::default();
        change(&mut auth);
        Some(auth)
    };
    let named = auth(|auth| auth.username = "ada".to_owned());
    client.pull("r.example/app:1", named).await.expect("pulled");
    let token = auth(|auth| auth.identity_token = "t".to_owned());
    client.pull("r.example/app:1", token).await.expect("pulled");
    let encoded = auth(|auth| auth.auth = "YWRhOnB3".to_owned());
    client.pull("r.example/app:1", encoded).await.expect("pulled");
    let elsewhere = auth(|auth| {
        auth.username = "ada".to_owned();
        auth.server_address = "https://other.example".to_owned();
    });
    let error = client.pull("r.example/app:1", elsewhere).await.expect_err("as nobody");
    assert_eq!(error, (2, "401 Unauthorized".to_owned()));
    let unreadable = auth(|auth| auth.auth = "pants".to_owned());
    let error = client.pull("r.example/app:1", unreadable).await.expect_err("refused");
    assert_eq!(error, (3, "illegal base64 data in auth".to_owned()));
    let asked: Vec<String> =
        client.calls().iter().map(|call| call.replace("r.example/app:1 ", "")).collect();
    assert_eq!(asked, ["ada", "identity-token", "ada", "anonymous"]);
}

/// kubelet-images.md 2.5: the kubelet reads the beginning of the text, and only `Unknown` is cut.
#[tokio::test]
async fn failures_have_the_codes_and_beginnings_that_the_kubelet_reads() {
    let client = Client::new(registry(&[
        (
            "r.example/app:1 anonymous",
            Err((Unreachable, "cannot reach registry r.example: connection refused")),
        ),
        ("r.example/app:2 anonymous", Err((Other, "SignatureValidationFailed: no signature"))),
    ]));
    let rows = [
        (
            "r.example/app:1",
            2,
            "RegistryUnavailable: cannot reach registry r.example: connection refused",
        ),
        ("r.example/app:2", 2, "SignatureValidationFailed: no signature"),
        ("r.example/app:3", 5, "r.example/app:3: not found"),
        (
            "r.example//app",
            3,
            "failed to parse image reference \"r.example//app\": invalid reference format",
        ),
    ];
    for (image, code, text) in rows {
        let error = client.pull(image, None).await.expect_err("refused");
        assert_eq!(error, (code, text.to_owned()), "{image}");
    }
}

/// The kubelet sends the annotations of the pod and its sandbox; nobody may trip over them.
#[tokio::test]
async fn sandbox_and_annotations_of_the_pod_are_accepted() {
    let app = image("app", "");
    let client = Client::new(registry(&[("r.example/app:1 anonymous", Ok(&app))]));
    let request = PullImageRequest {
        image: Some(ImageSpec {
            image: "r.example/app:1".to_owned(),
            annotations: HashMap::from([("a".to_owned(), "b".to_owned())]),
            user_specified_image: "app:1".to_owned(),
            runtime_handler: "runc".to_owned(),
            image_ref: String::new(),
        }),
        auth: None,
        sandbox_config: Some(PodSandboxConfig {
            metadata: Some(PodSandboxMetadata {
                name: "p".to_owned(),
                uid: "u".to_owned(),
                namespace: "ns".to_owned(),
            }),
        }),
    };
    let answer: PullImageResponse = client.one("ImageService/PullImage", &request).await;
    assert_eq!(answer.image_ref, app.id());
}

#[tokio::test]
async fn removal_takes_all_names_and_is_no_error_twice() {
    let (app, other) = (image("app", ""), image("other", ""));
    let client = Client::new(Fixture::new());
    for name in ["r.example/app:1", "r.example/app:2", "mirror.example/app:1"] {
        client.fixture.put(name, &app);
    }
    client.fixture.put("r.example/other:1", &other);
    client.remove("r.example/app:1").await;
    for name in ["r.example/app:1", "r.example/app:2", "mirror.example/app:1"] {
        assert_eq!(client.status(name).await, None, "{name}");
    }
    client.remove("r.example/app:1").await;
    client.remove(&app.id()).await;
    assert!(client.status("r.example/other:1").await.is_some());
    client.remove(&other.id()).await;
    assert_eq!(client.status("r.example/other:1").await, None);
}

#[tokio::test]
async fn list_is_whole_filtered_or_in_parts() {
    let client = Client::new(Fixture::new());
    for number in 0..70 {
        client.fixture.put(&format!("r.example/app:{number}"), &image(&number.to_string(), ""));
    }
    let all = ListImagesRequest::default();
    let list: ListImagesResponse = client.one("ImageService/ListImages", &all).await;
    assert_eq!(list.images.len(), 70);
    let parts = client
        .call::<ListImagesResponse>("ImageService/StreamImages", &all)
        .await
        .expect("a stream");
    assert!(parts.iter().all(|part| !part.images.is_empty()));
    assert!(1 < parts.len());
    let streamed: Vec<Image> = parts.into_iter().flat_map(|part| part.images).collect();
    assert_eq!(streamed, list.images);
    let filter = ImageFilter { image: Some(spec("r.example/app:7")) };
    let filtered = ListImagesRequest { filter: Some(filter) };
    let list: ListImagesResponse = client.one("ImageService/ListImages", &filtered).await;
    assert_eq!(list.images[0].repo_tags, ["r.example/app:7"]);
    assert_eq!(list.images.len(), 1);
}

#[tokio::test]
async fn stream_of_nothing_has_no_message() {
    let client = Client::new(Fixture::new());
    let parts = client
        .call::<ListImagesResponse>("ImageService/StreamImages", &ListImagesRequest::default())
        .await;
    assert_eq!(parts, Ok(Vec::new()));
}

#[tokio::test]
async fn verbose_status_shows_the_config() {
    let client = Client::new(Fixture::new());
    client.fixture.put("r.example/app:1", &image("app", "app"));
    let request = ImageStatusRequest { image: Some(spec("r.example/app:1")), verbose: true };
    let answer: ImageStatusResponse = client.one("ImageService/ImageStatus", &request).await;
    let info: serde_json::Value = serde_json::from_str(&answer.info["info"]).expect("JSON");
    assert_eq!(info["imageSpec"]["config"]["User"], "app");
    assert_eq!(answer.image.map(|image| image.username).as_deref(), Some("app"));
}

#[tokio::test]
async fn file_system_is_told_with_what_images_take() {
    let client = Client::new(Fixture::new());
    client.fixture.put("r.example/app:1", &image("app", ""));
    let answer: ImageFsInfoResponse = client.one("ImageService/ImageFsInfo", &Empty {}).await;
    let [filesystem] = &answer.image_filesystems[..] else { panic!("one file system") };
    let mountpoint = filesystem.fs_id.as_ref().map(|id| id.mountpoint.clone());
    assert_eq!(mountpoint, Some(client.fixture.dir.path().join("blobs").display().to_string()));
    assert!(0 < filesystem.timestamp);
    assert!(filesystem.used_bytes.is_some_and(|bytes| 0 < bytes.value));
    assert!(filesystem.inodes_used.is_some_and(|inodes| 0 < inodes.value));
    assert_eq!(answer.container_filesystems, answer.image_filesystems);
}

#[tokio::test]
async fn runtime_calls_tell_who_answers_and_that_containers_are_elsewhere() {
    let client = Client::new(Fixture::new());
    let version: VersionResponse = client.one("RuntimeService/Version", &Empty {}).await;
    assert_eq!(version.runtime_name, "shipway");
    assert_eq!(version.runtime_api_version, "v1");
    let status: StatusResponse = client.one("RuntimeService/Status", &Empty {}).await;
    let conditions = status.status.expect("a status").conditions;
    assert!(conditions.iter().all(|condition| !condition.status));
    let rows = [
        (
            "RuntimeService/RunPodSandbox",
            "method RunPodSandbox of runtime.v1.RuntimeService is not served here: this socket \
             has images only",
        ),
        ("ImageService/Nothing", "unknown method Nothing for service runtime.v1.ImageService"),
        ("Other/List", "unknown service runtime.v1.Other"),
    ];
    for (path, text) in rows {
        let error = client.call::<Empty>(path, &Empty {}).await.expect_err("refused");
        assert_eq!(error, (12, text.to_owned()), "{path}");
    }
}
