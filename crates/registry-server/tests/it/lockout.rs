//! Guessing passwords: registry.md 8.2, rate limits of failures.

use http::Method;
use registry_server::AuthScheme;

use crate::tokens::{TestClock, with_alice};
use crate::{Fixture, basic};

async fn registry(proxies: &[&str]) -> (Fixture, TestClock) {
    let clock = TestClock::new();
    let registry = Fixture::with(|options, directory| {
        with_alice(options, directory, &clock);
        options.scheme = AuthScheme::Basic;
        options.identity.trusted_proxies =
            proxies.iter().map(|proxy| proxy.parse().expect("a network")).collect();
    });
    (registry.await, clock)
}

/// Status, and the wait that a 429 asks for.
async fn attempt(registry: &Fixture, path: &str, user: &str, from: &str) -> (u16, String) {
    let (name, password) = user.split_once(':').expect("user:password");
    let credentials = basic(name, password).expect("a header");
    let headers = [("authorization", credentials.as_str()), ("x-forwarded-for", from)];
    let reply = registry.send(Method::GET, path, &headers, "").await;
    (reply.status.as_u16(), reply.header("retry-after").to_owned())
}

#[tokio::test]
async fn guesses_are_slowed_down_then_refused_at_every_door() {
    let (registry, clock) = registry(&[]).await;
    for _ in 0..5 {
        let (status, _) = attempt(&registry, "/v2/", "alice:guess", "").await;
        assert_eq!(status, 401);
    }
    // The right password does not help now, and the token endpoint is no way around.
    for path in ["/v2/", "/auth/token"] {
        let refused = attempt(&registry, path, "alice:alice-pw", "").await;
        assert_eq!(refused, (429, "1".to_owned()), "{path}");
    }
    clock.advance(1);
    for wait in [2, 4, 8, 16, 900] {
        assert_eq!(attempt(&registry, "/auth/token", "alice:guess", "").await.0, 401);
        let refused = attempt(&registry, "/v2/", "alice:alice-pw", "").await;
        assert_eq!(refused, (429, wait.to_string()));
        clock.advance(wait);
    }
    assert_eq!(attempt(&registry, "/v2/", "alice:alice-pw", "").await.0, 200);
    assert_eq!(attempt(&registry, "/v2/", "alice:guess", "").await.0, 401, "a fresh start");
    assert_eq!(attempt(&registry, "/v2/", "alice:alice-pw", "").await.0, 200);
}

#[tokio::test]
async fn a_locked_pair_is_one_user_from_one_network() {
    let (registry, _) = registry(&["127.0.0.0/8"]).await;
    for _ in 0..5 {
        attempt(&registry, "/v2/", "alice:guess", "192.0.2.66").await;
    }
    for (from, expected) in [
        ("192.0.2.66", 429),
        // What the client wrote before the proxy added the truth.
        ("198.51.100.1, 192.0.2.66", 429),
        ("192.0.2.1", 200),
        ("", 200),
    ] {
        let (status, _) = attempt(&registry, "/v2/", "alice:alice-pw", from).await;
        assert_eq!(status, expected, "{from}");
    }
    // Whether a user exists cannot be told from the lock.
    for _ in 0..5 {
        assert_eq!(attempt(&registry, "/v2/", "nobody:x", "192.0.2.66").await.0, 401);
    }
    assert_eq!(attempt(&registry, "/v2/", "nobody:x", "192.0.2.66").await.0, 429);
}

#[tokio::test]
async fn strangers_do_not_say_where_they_are() {
    let (registry, _) = registry(&["10.0.0.0/8"]).await;
    for n in 0..6 {
        let from = format!("192.0.2.{n}");
        let (status, _) = attempt(&registry, "/v2/", "alice:guess", &from).await;
        assert_eq!(status, if n < 5 { 401 } else { 429 }, "{from}");
    }
}

#[tokio::test]
async fn guesses_at_the_same_time_are_counted_one_by_one() {
    let (registry, _) = registry(&[]).await;
    let guess = async |n: usize| attempt(&registry, "/v2/", &format!("alice:{n}"), "").await.0;
    let guesses = futures_util::future::join_all((0..24).map(guess)).await;
    let tried = guesses.iter().filter(|status| **status == 401).count();
    assert!(tried <= 6, "{guesses:?}: two are hashed at once, five are free");
    assert_eq!(guesses.iter().filter(|status| **status == 429).count(), 24 - tried);
}

#[tokio::test]
async fn a_client_that_knows_the_password_may_ask_as_often_as_it_likes() {
    let (registry, _) = registry(&[]).await;
    let ask = async |_| attempt(&registry, "/v2/", "alice:alice-pw", "").await.0;
    let asked = futures_util::future::join_all((0..64).map(ask)).await;
    assert!(asked.iter().all(|status| *status == 200), "{asked:?}");
}
