//! Starting and stopping.

use std::time::{Duration, Instant};

use muster_controller::Controller;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use crate::harness::{Served, settings, until};

#[tokio::test(flavor = "multi_thread")]
async fn a_taken_port_names_the_address_and_the_setting() {
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap().to_string();
    for setting in ["server.listen", "mqtt.embedded_listen"] {
        let dir = tempfile::tempdir().unwrap();
        let error =
            Box::pin(Controller::start(settings(dir.path(), &[(setting, &address)]))).await.err().expect("the port is taken").to_string();
        assert!(error.contains(&address) && error.contains(setting), "{error}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_database_that_is_away_is_named_without_its_password() {
    let dir = tempfile::tempdir().unwrap();
    let unused = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let url = format!("postgres://nobody:tops3cret@{unused}/none");
    let error = Box::pin(Controller::start(settings(dir.path(), &[("database.url", &url)]))).await.err().expect("nobody there");
    let text = format!("{error} {error:?}");
    assert!(text.contains("database.url") && text.contains(&unused.to_string()) && !text.contains("tops3cret"), "{text}");
}

#[tokio::test(flavor = "multi_thread")]
async fn it_is_the_same_controller_after_a_restart() {
    let served = Served::start(&[]).await.ready().await;
    let before: serde_json::Value = served.api.get_json("/api/v1/status").await;
    let dir = served.dir;
    served.controller.stop().await;
    let controller = Box::pin(Controller::start(settings(dir.path(), &[]))).await.unwrap();
    let api = crate::client::Client { authority: controller.http_addr().to_string(), token: None };
    let after: serde_json::Value = api.get_json("/api/v1/status").await;
    assert_eq!(before["controller"], after["controller"]);
    controller.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stop_is_soft_first_and_hard_in_the_end() {
    let served = Served::start(&[("server.stop_timeout", "1s")]).await.ready().await;
    // A request that never ends by itself: a body that does not come.
    let mut hanging = TcpStream::connect(&served.api.authority).await.unwrap();
    let head = format!(
        "POST /api/v1/collections HTTP/1.1\r\nhost: {}\r\ncontent-type: application/json\r\ncontent-length: 10\r\n\r\n{{",
        served.api.authority
    );
    hanging.write_all(head.as_bytes()).await.unwrap();
    until("the request to be under way", || async { served.api.get("/healthz").await.status == 200 }).await;
    let mut idle = TcpStream::connect(&served.api.authority).await.unwrap();
    let (authority, began) = (served.api.authority.clone(), Instant::now());
    served.controller.stop().await;
    assert!(began.elapsed() < Duration::from_secs(15), "took {:?}", began.elapsed());
    let mut answer = String::new();
    let _cut = tokio::time::timeout(Duration::from_secs(10), hanging.read_to_string(&mut answer)).await.expect("it was cut");
    assert!(answer.is_empty() || answer.contains("503"), "{answer}");
    let _closed = tokio::time::timeout(Duration::from_secs(10), idle.read_to_string(&mut answer)).await.expect("it was closed");
    assert!(TcpStream::connect(authority).await.is_err(), "nobody listens any more");
}
