use std::sync::atomic::AtomicUsize;
use std::sync::{Arc, Mutex};

use axum::Router;
use axum::body::Bytes;
use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::post;
use jiff::Timestamp;
use k8s_openapi::api::core::v1::ObjectReference;
use tokio::sync::Barrier;

use super::super::{LANE_EVENTS_MAX, LANES, Recorder};
use super::*;

const PODS: usize = 200;
const REASONS: [&str; 6] = ["Scheduled", "Pulling", "Pulled", "Created", "Started", "Killing"];

/// An API server that takes events and is in no hurry.
struct Server {
    /// Object and reason of what was taken.
    taken: Mutex<Vec<(String, String)>>,
    /// The first requests are answered when so many are here at the same time.
    together: Barrier,
    arrived: AtomicUsize,
    /// So many requests are refused at first.
    refused: AtomicUsize,
}

async fn take(State(server): State<Arc<Server>>, body: Bytes) -> Response {
    if server
        .refused
        .fetch_update(Ordering::SeqCst, Ordering::SeqCst, |left| left.checked_sub(1))
        .is_ok()
    {
        return StatusCode::SERVICE_UNAVAILABLE.into_response();
    }
    if server.arrived.fetch_add(1, Ordering::SeqCst) < LANES {
        server.together.wait().await;
    }
    tokio::task::yield_now().await;
    let event: ApiEvent = serde_json::from_slice(&body).expect("an event");
    let object = event.involved_object.name.clone().unwrap_or_default();
    server.taken.lock().expect("taken").push((object, event.reason.unwrap_or_default()));
    (StatusCode::CREATED, [(header::CONTENT_TYPE, "application/json")], body).into_response()
}

/// A server, and a client of it.
async fn server(together: usize, refused: usize) -> (Arc<Server>, kube::Client) {
    let _ = rustls::crypto::ring::default_provider().install_default();
    let server = Arc::new(Server {
        taken: Mutex::default(),
        together: Barrier::new(together),
        arrived: AtomicUsize::new(0),
        refused: AtomicUsize::new(refused),
    });
    let routes = Router::new()
        .route("/api/v1/namespaces/{namespace}/events", post(take))
        .with_state(Arc::clone(&server));
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let address = listener.local_addr().expect("an address");
    tokio::spawn(async move { axum::serve(listener, routes).await });
    let config = kube::Config::new(format!("http://{address}").parse().expect("an address"));
    (server, kube::Client::try_from(config).expect("a client"))
}

fn note(pod: usize, reason: &str) -> Note {
    Note {
        object: ObjectReference {
            kind: Some("Pod".to_owned()),
            namespace: Some("ns".to_owned()),
            name: Some(format!("pod-{pod}")),
            uid: Some(format!("uid-{pod}")),
            ..ObjectReference::default()
        },
        warning: false,
        reason: reason.to_owned(),
        message: format!("{reason} of {pod}"),
        at: Timestamp::now(),
    }
}

/// Issue 5: 200 pods at once.
#[tokio::test]
async fn events_of_200_pods_all_arrive_in_the_order_of_each_pod() {
    // Each lane has a request under way before any is answered.
    let (server, client) = server(LANES, 0).await;
    let (recorder, lanes) = Recorder::new();
    for reason in REASONS {
        for pod in 0..PODS {
            recorder.send(note(pod, reason));
        }
    }
    drop(recorder);
    run(client, "node".to_owned(), lanes).await;
    let taken = server.taken.lock().expect("taken");
    assert_eq!(taken.len(), PODS * REASONS.len());
    for pod in 0..PODS {
        let name = format!("pod-{pod}");
        let own = taken.iter().filter(|(object, _)| *object == name);
        let reasons: Vec<&str> = own.map(|(_, reason)| reason.as_str()).collect();
        assert_eq!(reasons, REASONS, "{name}");
    }
}

#[tokio::test]
async fn event_that_the_api_server_cannot_take_now_is_sent_again() {
    let (server, client) = server(1, 2).await;
    let (recorder, lanes) = Recorder::new();
    recorder.send(note(1, "Pulled"));
    drop(recorder);
    run(client, "node".to_owned(), lanes).await;
    let taken = server.taken.lock().expect("taken").clone();
    assert_eq!(taken, [("pod-1".to_owned(), "Pulled".to_owned())]);
}

#[tokio::test]
async fn event_whose_try_gets_no_answer_is_sent_again() {
    let _ = rustls::crypto::ring::default_provider().install_default();
    let names = Arc::new(Mutex::new(Vec::new()));
    let seen = Arc::clone(&names);
    let routes = Router::new().fallback(move |body: Bytes| {
        let event: ApiEvent = serde_json::from_slice(&body).expect("an event");
        let mut seen = seen.lock().expect("names");
        seen.push(event.metadata.name.expect("a name"));
        let is_first = seen.len() == 1;
        async move {
            if is_first {
                std::future::pending::<()>().await;
            }
            (StatusCode::CREATED, [(header::CONTENT_TYPE, "application/json")], body)
        }
    });
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let address = listener.local_addr().expect("an address");
    tokio::spawn(async move { axum::serve(listener, routes).await });
    let config = kube::Config::new(format!("http://{address}").parse().expect("an address"));
    let client = kube::Client::try_from(config).expect("a client");
    let (recorder, lanes) = Recorder::new();
    recorder.send(note(1, "Pulled"));
    drop(recorder);
    let try_max = Duration::from_millis(200);
    run_with(&Sender { client, node: "node".to_owned(), try_max }, lanes).await;
    let names = names.lock().expect("names");
    assert!(1 < names.len(), "the one without an answer and another");
    assert!(names.iter().all(|name| *name == names[0]), "one event, whichever try arrived");
}

#[test]
fn full_lane_counts_what_it_drops_and_others_go_on() {
    let (recorder, mut lanes) = Recorder::new();
    for _ in 0..LANE_EVENTS_MAX + 3 {
        recorder.send(note(0, "Pulled"));
    }
    let dropped: u64 = lanes.0.iter().map(|lane| lane.dropped.load(Ordering::Relaxed)).sum();
    assert_eq!(dropped, 3);
    for pod in 1..PODS {
        recorder.send(note(pod, "Started"));
    }
    let waiting = std::iter::from_fn(|| lanes.take()).filter(|note| note.reason == "Started");
    assert!(PODS / 2 < waiting.count(), "other lanes have room");
}
