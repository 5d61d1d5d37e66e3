//! Retention in the administration API; the rules themselves are tested beside the code.

use registry_server::{AuthScheme, Namespace, RetentionRule};
use serde_json::{Value, json};

use crate::namespaces::tenants;
use crate::{Fixture, basic};

fn keep_last(prefix: &str, count: u32) -> Namespace {
    let mut namespace = Namespace::new(prefix);
    namespace.retention = vec![RetentionRule { keep_last: Some(count), ..RetentionRule::new() }];
    namespace
}

fn dropped(document: &Value) -> Vec<&str> {
    let repositories = document["repositories"].as_array().expect("a list");
    let tags = repositories.iter().flat_map(|one| one["tags"].as_array().expect("tags"));
    tags.filter(|tag| tag["keep"] == false)
        .map(|tag| tag["name"].as_str().expect("a name"))
        .collect()
}

#[tokio::test]
async fn what_the_plan_says_is_what_goes() {
    let registry = Fixture::with(|options, _| {
        options.namespaces = vec![keep_last("team", 2)];
    })
    .await;
    for number in 0..4 {
        registry.push_image("team/app", &format!("v{number}"), &number.to_string()).await;
    }
    let signature = {
        let plan = registry.get("/v2/_shipway/retention").await.json();
        let tags = plan["repositories"][0]["tags"].as_array().expect("tags").clone();
        let gone = tags.iter().find(|tag| tag["keep"] == false).expect("a tag that goes");
        let digest = gone["digest"].as_str().expect("a digest");
        assert_eq!(gone["reason"], "not among the last 2 pushed (rule 1)");
        format!("{}.sig", digest.replace(':', "-"))
    };
    registry.push_image("team/app", &signature, "signature").await;
    registry.push_image("elsewhere", "v1", "a").await;
    let plan = registry.get("/v2/_shipway/retention").await.json();
    let before = registry.get("/v2/team/app/tags/list").await.json();
    assert_eq!(before["tags"].as_array().map(Vec::len), Some(5), "a plan changes nothing");
    let applied = registry.send(http::Method::POST, "/v2/_shipway/retention", &[], "").await.json();
    assert_eq!(dropped(&applied), dropped(&plan));
    assert_eq!(dropped(&plan).len(), 3, "two images and the signature of one: {plan}");
    let after = registry.get("/v2/team/app/tags/list").await.json();
    assert_eq!(after["tags"].as_array().map(Vec::len), Some(2));
    let removed = applied["removed"]["team/app"].as_array().map(Vec::len);
    assert_eq!(removed, Some(6), "three tags and their manifests");
    let trash = registry.get("/v2/_shipway/trash?prefix=team").await.json();
    assert!(trash["trash"].as_array().expect("a list").iter().all(|one| one["how"] == "retention"));
    let again = registry.send(http::Method::POST, "/v2/_shipway/retention", &[], "").await.json();
    assert_eq!(again["removed"], json!({}));
}

// registry.md 8.1 rows 17, 22.
#[tokio::test]
async fn a_plan_is_for_whoever_administers_the_namespace() {
    let namespaces = vec![keep_last("team", 1), keep_last("other", 1)];
    let mut registry = tenants(AuthScheme::Basic, namespaces).await;
    registry.login(basic("alice", "alice-pw"));
    for (prefix, status) in [("team", 200), ("team/app", 200), ("other", 404), ("", 404)] {
        for method in [http::Method::GET, http::Method::POST] {
            let path = format!("/v2/_shipway/retention?prefix={prefix}");
            let reply = registry.send(method, &path, &[], "").await;
            assert_eq!(reply.status.as_u16(), status, "{prefix}");
        }
    }
    let absent = registry.get("/v2/_shipway/retention?prefix=absent").await;
    let other = registry.get("/v2/_shipway/retention?prefix=other").await;
    assert_eq!(
        absent.json().to_string(),
        other.json().to_string().replace("other", "absent"),
        "what others have looks like what is not there"
    );
}
