//! The example device of `docs/DEVICE-CONTRACT.md`, run as it stands on the page: it is in the fleet when it connects, answers, repeats an
//! answer, refuses what the contract refuses, uploads, and says so.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use anyhow::{Context, Result, ensure};
use bytes::Bytes;
use rumqttc::v5::mqttbytes::v5::{Packet, PubAckReason, Publish, PublishProperties};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;
use tokio::time::timeout;
use uuid::Uuid;

use crate::mosquitto::{Broker, CONTROLLER, Client, DEADLINE, PASSWORD};

const DEVICE: &str = "python-1";
const ANSWERS: &str = "muster/v1/d/python-1/rsp/ctl-1";

struct Process(Child);

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// The interpreter that has the example's library: `scripts/services.sh` makes it.
fn python() -> PathBuf {
    let made = Path::new(env!("CARGO_MANIFEST_DIR")).join("../.cache/venv/bin/python");
    std::env::var_os("MUSTER_TEST_PYTHON").map_or(made, PathBuf::from)
}

fn start(directory: &Path, port: u16) -> Result<Process> {
    let page = std::fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/DEVICE-CONTRACT.md"))?;
    let program = directory.join("device.py");
    std::fs::write(&program, crate::documents::fenced_block(&page, "python"))?;
    let log = std::fs::File::create(directory.join("device.log"))?;
    let child = Command::new(python())
        .arg(&program)
        .args(["127.0.0.1", &port.to_string(), DEVICE, PASSWORD])
        .current_dir(directory)
        .stdin(Stdio::null())
        .stdout(log.try_clone()?)
        .stderr(log)
        .spawn()
        .with_context(|| format!("{} (run `make services`)", python().display()))?;
    Ok(Process(child))
}

fn properties(correlation: Uuid, response_topic: &str, expiry_seconds: Option<u32>) -> PublishProperties {
    PublishProperties {
        response_topic: Some(response_topic.to_owned()),
        correlation_data: Some(Bytes::copy_from_slice(correlation.as_bytes())),
        message_expiry_interval: expiry_seconds,
        content_type: Some("application/json".to_owned()),
        user_properties: vec![("x-mqtt-sender".to_owned(), "a broker".to_owned()), ("__protVer".to_owned(), "1.0".to_owned())],
        ..PublishProperties::default()
    }
}

/// The answer to this correlation data: status and payload.
async fn answer(controller: &mut Client, correlation: Uuid) -> Result<(String, String)> {
    let is_it = |publish: &Publish| {
        let properties = publish.properties.as_ref()?;
        let matches =
            publish.topic == ANSWERS.as_bytes() && properties.correlation_data.as_deref() == Some(correlation.as_bytes().as_slice());
        let status = properties.user_properties.iter().find(|(name, _)| name == "__stat").map(|(_, value)| value.clone());
        matches.then(|| (status.unwrap_or_default(), String::from_utf8_lossy(&publish.payload).into_owned()))
    };
    controller.until("the answer", |packet| if let Packet::Publish(publish) = packet { is_it(publish) } else { None }).await
}

/// The next message on a topic of the device, as JSON, that is as wanted.
async fn heard(controller: &mut Client, topic: &str, wanted: impl Fn(&Value) -> bool) -> Result<Value> {
    let topic = format!("muster/v1/d/{DEVICE}/{topic}");
    let read = |packet: &Packet| match packet {
        Packet::Publish(publish) if publish.topic == topic.as_bytes() => {
            serde_json::from_slice::<Value>(&publish.payload).ok().filter(|value| wanted(value))
        }
        _ => None,
    };
    controller.until(&format!("a message on {topic}"), read).await
}

async fn request(controller: &mut Client, method: &str, body: &str, properties: PublishProperties) -> Result<()> {
    let said = controller.send_with(&format!("muster/v1/d/{DEVICE}/cmd/{method}"), body, false, properties).await?;
    // Nobody there yet is no error: the session keeps the request.
    ensure!(matches!(said, PubAckReason::Success | PubAckReason::NoMatchingSubscribers), "{said:?}");
    Ok(())
}

/// Takes one PUT and returns its head and its body.
async fn take_put(listener: &TcpListener) -> Result<(String, Vec<u8>)> {
    let (mut socket, _) = timeout(DEADLINE, listener.accept()).await.context("nothing was uploaded")??;
    let mut received = Vec::new();
    loop {
        let read = timeout(DEADLINE, socket.read_buf(&mut received)).await??;
        ensure!(read > 0, "the upload broke off");
        let Some(end) = received.windows(4).position(|w| w == b"\r\n\r\n") else { continue };
        let head = String::from_utf8_lossy(&received[..end]).into_owned();
        let length =
            head.lines().find_map(|l| l.to_lowercase().strip_prefix("content-length: ")?.parse::<usize>().ok()).context("no length")?;
        if received.len() >= end + 4 + length {
            socket.write_all(b"HTTP/1.1 201 Created\r\ncontent-length: 0\r\nconnection: close\r\n\r\n").await?;
            return Ok((head, received.split_off(end + 4)));
        }
    }
}

#[tokio::test]
async fn the_example_on_the_page_is_a_device() -> Result<()> {
    let directory = tempfile::tempdir()?;
    let broker = Broker::start(&[CONTROLLER, DEVICE]).await?;
    let mut controller = Client::connect(broker.controller("ctl-1")).await?;
    for filter in ["rsp/ctl-1", "task", "state"] {
        controller.subscribe(&format!("muster/v1/d/+/{filter}")).await?;
    }
    let device = start(directory.path(), broker.device_port)?;
    let log = || std::fs::read_to_string(directory.path().join("device.log")).unwrap_or_default();
    let birth = heard(&mut controller, "state", |birth| birth["online"] == true).await.with_context(log)?;
    ensure!(birth["methods"].as_array().is_some_and(|methods| methods.contains(&json!("ping"))), "{birth}");

    let ping = Uuid::now_v7();
    request(&mut controller, "ping", "{}", properties(ping, ANSWERS, Some(60))).await?;
    ensure!(answer(&mut controller, ping).await.with_context(log)? == ("200".to_owned(), String::new()));

    // Without an expiry 400; with a response topic that is not its own, silence; then an unknown method, 400.
    let no_expiry = Uuid::now_v7();
    request(&mut controller, "ping", "{}", properties(no_expiry, ANSWERS, None)).await?;
    ensure!(answer(&mut controller, no_expiry).await?.0 == "400");
    let elsewhere = Uuid::now_v7();
    request(&mut controller, "ping", "{}", properties(elsewhere, "muster/v1/d/other/rsp/ctl-1", Some(60))).await?;
    let unknown = Uuid::now_v7();
    request(&mut controller, "SelfDestruct", "{}", properties(unknown, ANSWERS, Some(60))).await?;
    ensure!(answer(&mut controller, unknown).await.with_context(log)?.0 == "400");

    // An upload: accepted at once, PUT below the container with the query as it is, and reported.
    let storage = TcpListener::bind(("127.0.0.1", 0)).await?;
    let attempt = Uuid::now_v7();
    let body =
        json!({ "schemaVersion": "1.0", "sasUrl": format!("http://{}/container?sp=cw&sig=a%2Fb", storage.local_addr()?) }).to_string();
    request(&mut controller, "UploadSupportBundle", &body, properties(attempt, ANSWERS, Some(60))).await?;
    let first = answer(&mut controller, attempt).await.with_context(log)?;
    ensure!(first.0 == "200", "{first:?}");
    let accepted: Value = serde_json::from_str(&first.1)?;
    ensure!(accepted["status"] == "Running", "{accepted}");
    let (head, zip) = take_put(&storage).await.with_context(log)?;
    ensure!(head.starts_with("PUT /container/example/python-1/support-bundle.zip?sp=cw&sig=a%2Fb HTTP/1.1"), "{head}");
    ensure!(head.to_lowercase().contains("x-ms-blob-type: blockblob"), "{head}");
    let bundle = directory.path().join("bundle.zip");
    std::fs::write(&bundle, zip)?;
    ensure!(
        Command::new("unzip").arg("-tq").arg(&bundle).output().context("unzip (run `make services`)")?.status.success(),
        "not a sound zip"
    );
    let entries = String::from_utf8(Command::new("unzip").arg("-Z1").arg(&bundle).output()?.stdout)?;
    ensure!(entries.lines().collect::<Vec<_>>() == ["manifest.json", "logs/example_log.txt"], "{entries}");
    let report = heard(&mut controller, "task", |report| report["status"] == "Completed").await.with_context(log)?;
    ensure!(report["correlationId"] == accepted["correlationId"] && report["attempt"] == json!(attempt), "{report}");

    let poll = Uuid::now_v7();
    let body = json!({ "schemaVersion": "1.0", "correlationId": accepted["correlationId"] }).to_string();
    request(&mut controller, "GetTaskStatus", &body, properties(poll, ANSWERS, Some(60))).await?;
    let status: Value = serde_json::from_str(&answer(&mut controller, poll).await?.1)?;
    ensure!(status["status"] == "Completed", "{status}");

    // Killed and started again it still knows the answer. The body has no URL this time: whoever looked at it would answer 400.
    drop(device);
    let _device = start(directory.path(), broker.device_port)?;
    request(&mut controller, "UploadSupportBundle", "{}", properties(attempt, ANSWERS, Some(60))).await?;
    ensure!(answer(&mut controller, attempt).await.with_context(log)? == first, "another answer to the same correlation data");
    Ok(())
}
