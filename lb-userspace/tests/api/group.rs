//! What the API says of the group.

use lb_userspace::api::group::{Done, Readiness};
use serde_json::Value;

use super::Served;

#[tokio::test]
async fn a_node_that_is_not_ready_says_so_by_its_status_too() {
    let served = Served::start();
    let (status, json) = served.http("GET /v1/ready", b"").await;
    assert_eq!(
        (status, &json["ready"], &json["why"]),
        (503, &false.into(), &"leaving".into())
    );
    let client = served.client();
    let readiness: Readiness = client.get_either("/v1/ready").await.expect("an answer");
    assert!(!readiness.ready);
    let done: Done = client
        .post("/v1/peers/lb2/forget", &Value::Null)
        .await
        .expect("it is silent");
    assert!(done.done.contains("lb2"));
    let refused = client.post::<Done>("/v1/peers/lb9/forget", &Value::Null).await;
    let text = refused.expect_err("no such node").to_string();
    assert!(
        text.contains("no other node \"lb9\"") && text.contains("there are: lb2"),
        "{text}"
    );
    let refused = client.post::<Done>("/v1/leave", &Value::Null).await;
    assert!(refused.expect_err("no group").to_string().contains("no group"));
}
