//! Immutable tags as clients meet them.

use registry_server::{ImmutableTags, Namespace};

use crate::{Fixture, MANIFEST, image_manifest};

async fn immutable(tags: &str) -> Fixture {
    let mut namespace = Namespace::new("team");
    let mut rule = ImmutableTags::new(tags.parse().expect("a pattern"));
    rule.except = vec!["v*-rc*".parse().expect("a pattern")];
    namespace.immutable_tags = vec![rule];
    Fixture::with(|options, _| options.namespaces = vec![namespace]).await
}

#[tokio::test]
async fn a_refusal_names_the_rule() {
    let registry = immutable("v*").await;
    let first = registry.push_image("team/app", "v1", "a").await;
    registry.push_image("team/app", "v1", "a").await;
    let other = registry.image("team/app", "b").await;
    let tag = "/v2/team/app/manifests/v1";
    let by_digest = format!("/v2/team/app/manifests/{first}");
    let refusals = [
        registry.put_manifest("team/app", "v1", MANIFEST, &other).await,
        registry.delete(tag).await,
        registry.delete(&by_digest).await,
        registry.delete("/v2/_shipway/repositories?repository=team/app").await,
    ];
    for reply in refusals {
        assert_eq!(reply.refusal(), (409, "DENIED".to_owned()));
        assert_eq!(
            reply.json()["errors"][0]["message"],
            "tag v1 is immutable: tags v* except v*-rc* are immutable in namespace team"
        );
    }
    assert_eq!(registry.head(tag).await.header("docker-content-digest"), first.to_string());
    registry.push_image("team/app", "v1-rc1", "a").await;
    registry.push_image("team/app", "v1-rc1", "b").await;
    registry.push_image("elsewhere", "v1", "a").await;
    registry.push_image("elsewhere", "v1", "b").await;
}

#[tokio::test]
async fn rules_that_are_read_again_hold_at_once() {
    let directory = tempfile::tempdir().expect("a directory");
    let mut options = crate::options(directory.path());
    let registry = Fixture::over(options.clone()).await;
    registry.push_image("team/app", "v1", "a").await;
    let other = registry.image("team/app", "b").await;
    let push = || registry.put_manifest("team/app", "v1", MANIFEST, &other);
    for (tags, expected) in [("v*", 409), ("w*", 201)] {
        let mut namespace = Namespace::new("team");
        namespace.immutable_tags = vec![ImmutableTags::new(tags.parse().expect("a pattern"))];
        options.namespaces = vec![namespace];
        registry.registry.reload(options.clone()).await.expect("new rules");
        assert_eq!(push().await.status.as_u16(), expected, "{tags} are immutable");
    }
}

// registry.md 4.7 row 13.
#[tokio::test(flavor = "multi_thread")]
async fn of_many_first_writers_exactly_one_wins() {
    let registry = immutable("v*").await;
    let layers: Vec<String> = (0..16).map(|number| format!("layer {number}")).collect();
    for layer in &layers {
        registry.image("team/app", layer).await;
    }
    let pushes = layers.iter().map(|layer| {
        let registry = &registry;
        async move {
            let manifest = image_manifest(layer);
            registry.put_manifest("team/app", "v1", MANIFEST, &manifest).await.status.as_u16()
        }
    });
    let mut pushes = futures(pushes).await;
    pushes.sort_unstable();
    assert_eq!(pushes[0], 201);
    assert_eq!(pushes[1..], [409; 15]);
    let listed = registry.get("/v2/_shipway/history?repository=team/app&tag=v1").await.json();
    assert_eq!(listed["moves"].as_array().map(Vec::len), Some(1));
}

/// Runs all of them at once.
pub(crate) async fn futures<F: Future>(all: impl Iterator<Item = F>) -> Vec<F::Output> {
    let mut all: Vec<_> = all.map(|one| (Box::pin(one), None)).collect();
    std::future::poll_fn(|context| {
        let mut is_pending = false;
        for (future, output) in &mut all {
            if output.is_none() {
                match future.as_mut().poll(context) {
                    std::task::Poll::Ready(value) => *output = Some(value),
                    std::task::Poll::Pending => is_pending = true,
                }
            }
        }
        if is_pending { std::task::Poll::Pending } else { std::task::Poll::Ready(()) }
    })
    .await;
    all.into_iter().filter_map(|(_, output)| output).collect()
}
