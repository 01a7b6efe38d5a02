//! RabbitMQ: a virtual host of our own in the running broker, or a broker of our own that may be stopped. What is published by somebody
//! else's code is published by `tests/clients`.

use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use lapin::message::BasicGetMessage;
use lapin::options::{
    BasicAckOptions, BasicGetOptions, BasicPublishOptions, ConfirmSelectOptions, QueueDeclareOptions, QueueDeleteOptions, QueuePurgeOptions,
};
use lapin::types::{AMQPValue, FieldTable};
use lapin::{BasicProperties, Channel, Connection, ConnectionProperties};

use crate::program::Program;
use crate::{free_port, root, wait};

/// What the names of our virtual hosts begin with; after it comes when they were made, in Unix seconds.
const VHOST: &str = "muster-it-";
/// A virtual host that is older belongs to a run that died.
const LEFTOVER: Duration = Duration::from_secs(3600);
/// The management API is never waited for longer.
const MANAGEMENT_TIMEOUT: Duration = Duration::from_secs(20);
/// A node of our own starts in five seconds when nothing else wants the machine.
const NODE_STARTS: Duration = Duration::from_secs(90);
/// Confirms that may be outstanding while we publish.
const UNCONFIRMED: usize = 500;

/// A virtual host of our own; everything in it goes with this value.
#[derive(Debug)]
pub struct Rabbit {
    /// `amqp://…/muster-it-…`.
    pub url: String,
    vhost: String,
    management: Management,
    /// Made by us: to be removed.
    ours: bool,
}

/// A message as it lies in a queue.
#[derive(Debug, Clone)]
pub struct Stored {
    /// Body.
    pub body: Vec<u8>,
    /// Content type.
    pub content_type: Option<String>,
    /// Message id.
    pub message_id: Option<String>,
    /// Headers, those that are texts or numbers as text.
    pub headers: std::collections::BTreeMap<String, String>,
}

impl Stored {
    /// A header; empty when it is not there.
    pub fn header(&self, name: &str) -> &str {
        self.headers.get(name).map_or("", String::as_str)
    }
}

/// The management API.
#[derive(Debug, Clone)]
struct Management {
    url: String,
    user: String,
    password: String,
}

impl Management {
    /// `http://USER:PASSWORD@HOST:PORT`.
    fn new(text: &str) -> Self {
        let rest =
            text.strip_prefix("http://").unwrap_or_else(|| panic!("the management API {text:?}: write http://USER:PASSWORD@HOST:PORT"));
        let (login, host) = rest.rsplit_once('@').unwrap_or(("guest:guest", rest));
        let (user, password) = login.split_once(':').unwrap_or((login, ""));
        Self { url: format!("http://{}", host.trim_end_matches('/')), user: user.to_owned(), password: password.to_owned() }
    }

    /// Asks; status and body. Nothing but our own services is asked, so what goes wrong ends the test.
    async fn ask(&self, method: reqwest::Method, path: &str, body: Option<serde_json::Value>) -> Result<(u16, String), String> {
        let _ = rustls::crypto::ring::default_provider().install_default();
        let client = reqwest::Client::builder().timeout(MANAGEMENT_TIMEOUT).build().expect("a client without TLS roots");
        let mut request = client.request(method, format!("{}/api/{path}", self.url)).basic_auth(&self.user, Some(&self.password));
        if let Some(body) = body {
            request = request.header("content-type", "application/json").body(body.to_string());
        }
        let answer = request.send().await.map_err(|error| error.to_string())?;
        let status = answer.status().as_u16();
        Ok((status, answer.text().await.map_err(|error| error.to_string())?))
    }

    async fn done(&self, method: reqwest::Method, path: &str, body: Option<serde_json::Value>) -> String {
        match self.ask(method.clone(), path, body).await {
            Ok((200..300, text)) => text,
            Ok((status, text)) => panic!("RabbitMQ's management API answers {status} to {method} {path}: {text}"),
            Err(error) => panic!("RabbitMQ's management API at {}: {error}; scripts/services.sh finds or starts one that has it", self.url),
        }
    }
}

fn environment(name: &str) -> String {
    std::env::var(name).ok().filter(|text| !text.is_empty()).unwrap_or_else(|| {
        panic!("{name} is not set: these tests need RabbitMQ. Run scripts/services.sh, then: set -a; source .cache/services.env; set +a")
    })
}

fn unix_seconds() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).expect("after 1970").as_secs()
}

impl Rabbit {
    /// A new virtual host in the broker that `scripts/services.sh` found.
    pub async fn from_env() -> Self {
        let (amqp, management) = (environment("MUSTER_TEST_AMQP_URL"), Management::new(&environment("MUSTER_TEST_AMQP_MANAGEMENT_URL")));
        let vhosts: Vec<serde_json::Value> =
            serde_json::from_str(&management.done(reqwest::Method::GET, "vhosts", None).await).expect("a list of virtual hosts");
        for name in vhosts.iter().filter_map(|vhost| vhost["name"].as_str()) {
            let made = name.strip_prefix(VHOST).and_then(|rest| rest.split('-').next()?.parse::<u64>().ok());
            if made.is_some_and(|made| made + LEFTOVER.as_secs() < unix_seconds()) {
                let _ = management.ask(reqwest::Method::DELETE, &format!("vhosts/{name}"), None).await;
            }
        }
        let vhost = format!("{VHOST}{}-{}", unix_seconds(), uuid::Uuid::new_v4().simple());
        management.done(reqwest::Method::PUT, &format!("vhosts/{vhost}"), None).await;
        let everything = serde_json::json!({"configure": ".*", "write": ".*", "read": ".*"});
        management.done(reqwest::Method::PUT, &format!("permissions/{vhost}/{}", management.user), Some(everything)).await;
        let (server, _) = amqp.split_once("//").and_then(|(_, rest)| rest.split_once('/')).unwrap_or_else(|| {
            panic!("MUSTER_TEST_AMQP_URL has no path: write amqp://USER:PASSWORD@HOST:PORT/%2f, not {amqp}");
        });
        Self { url: format!("amqp://{server}/{vhost}"), vhost, management, ours: true }
    }

    /// Where it listens.
    pub fn port(&self) -> u16 {
        let host = self.url.rsplit_once('@').and_then(|(_, rest)| rest.split('/').next()).unwrap_or_default();
        host.rsplit_once(':').and_then(|(_, port)| port.parse().ok()).unwrap_or(5672)
    }

    /// A connection of ours.
    ///
    /// # Errors
    /// The broker's, or that nothing answers.
    pub async fn connect(&self) -> Result<Connection, lapin::Error> {
        let properties = ConnectionProperties::default().with_connection_name("muster-tests".into());
        // By itself the library may try for ever to reach a node that is gone.
        match tokio::time::timeout(CONNECTS, Connection::connect(&self.url, properties)).await {
            Ok(connected) => connected,
            Err(_) => Err(std::io::Error::from(std::io::ErrorKind::TimedOut).into()),
        }
    }

    /// A channel of a new connection; both end with the values.
    pub async fn channel(&self) -> (Connection, Channel) {
        let opened = async {
            let connection = self.connect().await?;
            let channel = connection.create_channel().await?;
            Ok::<_, lapin::Error>((connection, channel))
        };
        opened.await.unwrap_or_else(|error| panic!("RabbitMQ at {}: {error}", self.url))
    }

    /// Messages of a queue that nobody holds, or `None` while it does not exist. Counted by the queue itself: exact at that instant.
    pub async fn count(&self, queue: &str) -> Option<u32> {
        let (connection, channel) = self.channel().await;
        let found =
            channel.queue_declare(queue.into(), QueueDeclareOptions { passive: true, ..<_>::default() }, FieldTable::default()).await;
        let count = found.ok().map(|queue| queue.message_count());
        let _ = connection.close(200, "done".into()).await;
        count
    }

    /// Waits until a queue exists: whoever is to declare it has done so.
    pub async fn declared(&self, queue: &str, patience: Duration) {
        wait::until(&format!("the queue {queue} to be declared"), patience, || self.count(queue), Option::is_some).await;
    }

    /// Waits until a queue holds so many messages that nobody works on.
    pub async fn holds(&self, queue: &str, wanted: u32, patience: Duration) {
        wait::until(&format!("{wanted} messages in {queue}"), patience, || self.count(queue), |count| *count == Some(wanted)).await;
    }

    /// Messages of a queue, those that somebody works on included, as the management API counts them; it is seconds late.
    pub async fn backlog(&self, queue: &str) -> Option<u64> {
        let (status, text) = self.management.ask(reqwest::Method::GET, &format!("queues/{}/{queue}", self.vhost), None).await.ok()?;
        let seen: serde_json::Value = serde_json::from_str(&text).ok().filter(|_| status == 200)?;
        seen["messages"].as_u64()
    }

    /// Takes all messages out of a queue.
    pub async fn take_all(&self, queue: &str) -> Vec<Stored> {
        let (connection, channel) = self.channel().await;
        let mut all = Vec::new();
        while let Some(message) = channel.basic_get(queue.into(), BasicGetOptions { no_ack: false }).await.expect("the queue exists") {
            all.push(stored(&message));
            message.delivery.ack(BasicAckOptions::default()).await.expect("the channel is open");
        }
        let _ = connection.close(200, "done".into()).await;
        all
    }

    /// Makes a durable classic queue, for figures beside ours.
    pub async fn make_queue(&self, queue: &str, arguments: FieldTable) {
        let (connection, channel) = self.channel().await;
        let options = QueueDeclareOptions { durable: true, ..QueueDeclareOptions::default() };
        channel.queue_declare(queue.into(), options, arguments).await.unwrap_or_else(|error| panic!("the queue {queue}: {error}"));
        let _ = connection.close(200, "done".into()).await;
    }

    /// Deletes a queue with what is in it.
    pub async fn delete_queue(&self, queue: &str) {
        let (connection, channel) = self.channel().await;
        let _ = channel.queue_delete(queue.into(), QueueDeleteOptions::default()).await;
        let _ = connection.close(200, "done".into()).await;
    }

    /// Empties a queue of what nobody holds.
    pub async fn purge(&self, queue: &str) {
        let (connection, channel) = self.channel().await;
        channel.queue_purge(queue.into(), QueuePurgeOptions::default()).await.expect("the queue exists");
        let _ = connection.close(200, "done".into()).await;
    }

    /// Publishes to a queue, persistent, and waits until the broker has confirmed all.
    pub async fn publish(&self, queue: &str, messages: impl IntoIterator<Item = (BasicProperties, Vec<u8>)>) {
        let (connection, channel) = self.channel().await;
        channel.confirm_select(ConfirmSelectOptions::default()).await.expect("the channel is open");
        let mut unconfirmed = std::collections::VecDeque::new();
        for (properties, body) in messages {
            let properties = properties.with_delivery_mode(2);
            let options = BasicPublishOptions { mandatory: true, ..BasicPublishOptions::default() };
            let confirm = channel.basic_publish("".into(), queue.into(), options, &body, properties).await.expect("the channel is open");
            unconfirmed.push_back(confirm);
            if unconfirmed.len() > UNCONFIRMED {
                confirmed(queue, unconfirmed.pop_front().expect("more than a few")).await;
            }
        }
        for confirm in unconfirmed {
            confirmed(queue, confirm).await;
        }
        let _ = connection.close(200, "done".into()).await;
    }

    /// Publishes with pika, as `tests/clients/publish_pika.py` does, one JSON line for each message; what it printed.
    pub fn pika(&self, queue: &str, arguments: &[&str], lines: &str) -> serde_json::Value {
        let mut command = Command::new(environment("MUSTER_TEST_PYTHON"));
        command.arg(client("publish_pika.py")).args(["--url", &self.url, "--queue", queue]).args(arguments);
        summary("pika", &piped(&mut command, lines))
    }

    /// Sends with rhea over AMQP 1.0, as `tests/clients/send_rhea.js` does, one JSON line for each message; what it printed.
    pub fn rhea(&self, queue: &str, lines: &str) -> serde_json::Value {
        let mut command = Command::new("node");
        command.env("MUSTER_TEST_RHEA", environment("MUSTER_TEST_RHEA"));
        command.arg(client("send_rhea.js")).args(["--url", &self.url, "--queue", queue]);
        summary("rhea", &piped(&mut command, lines))
    }

    /// Ends every connection to this virtual host from the broker's side.
    pub async fn cut_connections(&self) {
        let path = format!("vhosts/{}/connections", self.vhost);
        let open: Vec<serde_json::Value> =
            serde_json::from_str(&self.management.done(reqwest::Method::GET, &path, None).await).expect("a list of connections");
        for name in open.iter().filter_map(|connection| connection["name"].as_str()) {
            let name: String = name.bytes().map(|byte| format!("%{byte:02X}")).collect();
            let _ = self.management.ask(reqwest::Method::DELETE, &format!("connections/{name}"), None).await;
        }
    }
}

impl Drop for Rabbit {
    fn drop(&mut self) {
        if !self.ours {
            return;
        }
        let (management, path) = (self.management.clone(), format!("vhosts/{}", self.vhost));
        // A test's own runtime may be on its way out. What is not removed now is removed by a later run.
        let removal = std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
            runtime.map(|runtime| runtime.block_on(management.ask(reqwest::Method::DELETE, &path, None)))
        });
        let _ = removal.join();
    }
}

async fn confirmed(queue: &str, confirm: impl Future<Output = lapin::Result<lapin::Confirmation>>) {
    match confirm.await {
        // One that nobody could be given comes back with the acknowledgement.
        Ok(lapin::Confirmation::Ack(None)) => {}
        other => panic!("RabbitMQ did not take a message for {queue}: {other:?}"),
    }
}

fn stored(message: &BasicGetMessage) -> Stored {
    let properties = &message.delivery.properties;
    let text = |value: &AMQPValue| match value {
        AMQPValue::LongString(text) => Some(String::from_utf8_lossy(text.as_bytes()).into_owned()),
        AMQPValue::ShortString(text) => Some(text.to_string()),
        AMQPValue::Boolean(value) => Some(value.to_string()),
        AMQPValue::LongInt(number) => Some(number.to_string()),
        AMQPValue::LongLongInt(number) => Some(number.to_string()),
        AMQPValue::Timestamp(seconds) => Some(seconds.to_string()),
        _ => None,
    };
    let headers = properties.headers().iter().flat_map(|table| table.inner());
    Stored {
        body: message.delivery.data.clone(),
        content_type: properties.content_type().as_ref().map(ToString::to_string),
        message_id: properties.message_id().as_ref().map(ToString::to_string),
        headers: headers.filter_map(|(name, value)| Some((name.to_string(), text(value)?))).collect(),
    }
}

/// One of the stranger's programs.
fn client(name: &str) -> PathBuf {
    root().join("tests/clients").join(name)
}

fn piped(command: &mut Command, lines: &str) -> Output {
    use std::io::Write;
    let command = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().unwrap_or_else(|error| panic!("{command:?} does not start: {error}"));
    let (mut input, lines) = (child.stdin.take().expect("piped above"), lines.to_owned());
    // It may print before it has read everything.
    let writer = std::thread::spawn(move || input.write_all(lines.as_bytes()));
    let output = child.wait_with_output().expect("a child of ours");
    let _ = writer.join();
    output
}

/// The last line it printed, which is JSON.
fn summary(name: &str, output: &Output) -> serde_json::Value {
    let (out, err) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{name} ended {}:\n{out}\n{err}", output.status);
    out.lines()
        .last()
        .and_then(|line| serde_json::from_str(line).ok())
        .unwrap_or_else(|| panic!("{name} printed no summary:\n{out}\n{err}"))
}

/// How long a connection may take.
const CONNECTS: Duration = Duration::from_secs(10);

/// A broker of our own, to be stopped or killed. Its queues survive both.
#[derive(Debug)]
pub struct OwnRabbit {
    program: Program,
    directory: PathBuf,
    /// AMQP, management, distribution, epmd.
    ports: [u16; 4],
}

impl OwnRabbit {
    /// Starts one and waits until it answers.
    pub async fn start(directory: &Path) -> Self {
        environment("MUSTER_TEST_RABBITMQ_BIN");
        let ports = [free_port(), free_port(), free_port(), free_port()];
        let own = Self { program: Self::launch(directory, ports), directory: directory.to_owned(), ports };
        own.answering().await;
        own
    }

    fn launch(directory: &Path, ports: [u16; 4]) -> Program {
        let mut command = Command::new("bash");
        command.arg(root().join("scripts/rabbitmq.sh")).arg(directory.join("rabbitmq")).args(ports.map(|port| port.to_string()));
        Program::start("rabbitmq", directory, &mut command)
    }

    async fn answering(&self) {
        let rabbit = self.rabbit();
        let look = || async {
            let managed = rabbit.management.ask(reqwest::Method::GET, "overview", None).await.map(|(status, _)| status);
            let connected = rabbit.connect().await.map(drop).map_err(|error| error.to_string());
            (managed, connected)
        };
        let ready = |seen: &(Result<u16, String>, Result<(), String>)| seen.0 == Ok(200) && seen.1.is_ok();
        let what = format!("RabbitMQ to answer (its log is {}/rabbitmq.log)", self.directory.display());
        let _ = wait::until(&what, NODE_STARTS, look, ready).await;
    }

    /// Its one virtual host, as the tests talk to it.
    pub fn rabbit(&self) -> Rabbit {
        let [amqp, management, ..] = self.ports;
        Rabbit {
            url: format!("amqp://guest:guest@127.0.0.1:{amqp}/%2f"),
            vhost: "%2f".to_owned(),
            management: Management::new(&format!("http://guest:guest@127.0.0.1:{management}")),
            ours: false,
        }
    }

    /// Where it listens.
    pub fn port(&self) -> u16 {
        self.ports[0]
    }

    /// Stops it in order; its clients are told.
    pub async fn stop(&mut self) {
        self.program.stop().await;
    }

    /// `kill -9`: its clients notice when they next wait for it. A quorum queue that was made less than a few seconds ago comes back empty.
    pub fn kill_9(&mut self) {
        self.program.kill_9();
    }

    /// The same node again, with its queues.
    pub async fn start_again(&mut self) {
        self.program = Self::launch(&self.directory, self.ports);
        self.answering().await;
    }
}
