//! A device in a page: says that it is there and answers what it is asked, over MQTT and HTTP only.

use std::io::Write as _;
use std::sync::Arc;
use std::time::Duration;

use mqtt5::types::Message;
use mqtt5::{ConnectOptions, MqttClient, PublishOptions, QoS, WillMessage};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::sync::mpsc;

pub(crate) struct Device {
    pub(crate) client: Arc<MqttClient>,
    worker: tokio::task::JoinHandle<()>,
}

impl Drop for Device {
    fn drop(&mut self) {
        self.worker.abort();
    }
}

/// What one support bundle of these devices holds.
pub(crate) fn support_bundle() -> Vec<u8> {
    let mut zip = zip::ZipWriter::new(std::io::Cursor::new(Vec::new()));
    let options = zip::write::SimpleFileOptions::default();
    for (name, text) in
        [("logs/edgeAgent_log.txt", "the agent said this\n"), ("logs/edgeHub_log.txt", "the hub said that\n"), ("check.json", "{}")]
    {
        zip.start_file(name, options).unwrap();
        zip.write_all(text.as_bytes()).unwrap();
    }
    zip.finish().unwrap().into_inner()
}

impl Device {
    pub(crate) async fn connect(url: &str, id: &str, methods: &[&str]) -> Self {
        let mut will = WillMessage::new(format!("muster/v1/d/{id}/state"), br#"{"online":false}"#.to_vec());
        (will.qos, will.retain) = (QoS::AtLeastOnce, true);
        let client = Arc::new(MqttClient::with_options(ConnectOptions::new(id).with_automatic_reconnect(false).with_will(will)));
        client.connect(url).await.expect("the broker lets devices in");
        let (sender, mut requests) = mpsc::channel::<Message>(64);
        client.subscribe(format!("muster/v1/d/{id}/cmd/#"), move |message| drop(sender.try_send(message))).await.expect("its own requests");
        let birth =
            json!({ "online": true, "proto": ["1.0"], "methods": methods, "agent": { "name": "test", "version": "1" }, "reported": {} });
        publish(&client, &format!("muster/v1/d/{id}/state"), &birth, true, None).await;
        let (answering, id) = (client.clone(), id.to_owned());
        let methods: Vec<String> = methods.iter().map(|method| (*method).to_owned()).collect();
        let worker = tokio::spawn(async move {
            while let Some(request) = requests.recv().await {
                if methods.iter().any(|method| request.topic.ends_with(&format!("/{method}"))) {
                    answer(&answering, &id, request).await;
                }
            }
        });
        Self { client, worker }
    }

    /// From here on it answers nothing by itself; its requests go to who asks for them.
    pub(crate) async fn requests(&self, id: &str, method: &str) -> mpsc::Receiver<Message> {
        self.worker.abort();
        let (sender, requests) = mpsc::channel(8);
        let keep = move |message| drop(sender.try_send(message));
        self.client.subscribe(format!("muster/v1/d/{id}/cmd/{method}"), keep).await.expect("its own requests");
        requests
    }
}

pub(crate) async fn publish(client: &MqttClient, topic: &str, payload: &Value, retain: bool, correlation: Option<Vec<u8>>) {
    let mut options = PublishOptions { qos: QoS::AtLeastOnce, retain, ..PublishOptions::default() };
    options.properties.correlation_data = correlation;
    options.properties.user_properties = vec![("__stat".to_owned(), "200".to_owned()), ("__protVer".to_owned(), "1.0".to_owned())];
    client.publish_with_options(topic, payload.to_string().into_bytes(), options).await.expect("published");
}

async fn answer(client: &MqttClient, id: &str, request: Message) {
    let (Some(topic), Some(correlation)) = (request.properties.response_topic, request.properties.correlation_data) else { return };
    let payload: Value = serde_json::from_slice(&request.payload).unwrap_or_default();
    match request.topic.rsplit('/').next().unwrap() {
        "ping" => publish(client, &topic, &Value::Null, false, Some(correlation)).await,
        "UploadSupportBundle" => {
            let task = uuid::Uuid::new_v4().to_string();
            publish(
                client,
                &topic,
                &json!({ "status": "Running", "message": "", "correlationId": task }),
                false,
                Some(correlation.clone()),
            )
            .await;
            upload(payload["sasUrl"].as_str().unwrap(), "support bundle/b.zip", &support_bundle()).await;
            let attempt = uuid::Uuid::from_slice(&correlation).unwrap();
            let report = json!({ "correlationId": task, "status": "Completed", "message": "", "attempt": attempt.to_string(), "bytes": 1, "objects": [] });
            publish(client, &format!("muster/v1/d/{id}/task"), &report, false, None).await;
        }
        _ => {}
    }
}

/// Put Blob with a grant, as any storage client does it.
pub(crate) async fn upload(grant: &str, name: &str, bytes: &[u8]) {
    let (container, query) = grant.split_once('?').unwrap();
    let (authority, path) = container.strip_prefix("http://").unwrap().split_once('/').unwrap();
    let name = name.replace(' ', "%20");
    let head = format!(
        "PUT /{path}/{name}?{query} HTTP/1.1\r\nhost: {authority}\r\nx-ms-blob-type: BlockBlob\r\ncontent-length: {}\r\nconnection: close\r\n\r\n",
        bytes.len()
    );
    let mut stream = TcpStream::connect(authority).await.unwrap();
    stream.write_all(&[head.as_bytes(), bytes].concat()).await.unwrap();
    let mut answer = String::new();
    tokio::time::timeout(Duration::from_secs(30), stream.read_to_string(&mut answer)).await.unwrap().unwrap();
    assert!(answer.starts_with("HTTP/1.1 201"), "{answer}");
}
