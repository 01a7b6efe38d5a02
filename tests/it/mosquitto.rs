//! A Mosquitto from `deploy/mosquitto` on ports of its own, and a client that shows every packet in its order.

use std::fs;
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use rumqttc::v5::mqttbytes::QoS;
use rumqttc::v5::mqttbytes::v5::{ConnectProperties, ConnectReturnCode, Packet, PubAckReason, Publish, PublishProperties};
use rumqttc::v5::{AsyncClient, Event, MqttOptions};
use tokio::sync::mpsc;
use tokio::time::timeout_at;

/// Account of the controllers.
pub(crate) const CONTROLLER: &str = "muster-controller";
/// Password of every account.
pub(crate) const PASSWORD: &str = "correct horse";
/// Longest wait for anything.
pub(crate) const DEADLINE: Duration = Duration::from_secs(20);

/// A broker from `deploy/mosquitto`, with a port and a password file of its own. Killed when dropped.
pub(crate) struct Broker {
    process: Child,
    pub(crate) controller_port: u16,
    pub(crate) device_port: u16,
    directory: tempfile::TempDir,
}

impl Broker {
    pub(crate) async fn start(accounts: &[&str]) -> Result<Self> {
        let directory = tempfile::tempdir()?;
        let deploy = Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("in the workspace").join("deploy/mosquitto");
        let passwords = directory.path().join("passwords");
        for (number, account) in accounts.iter().enumerate() {
            let mut command = Command::new("mosquitto_passwd");
            command.arg("-b").args((number == 0).then_some("-c")).arg(&passwords).args([account, PASSWORD]);
            ensure!(
                command.stderr(Stdio::null()).status().context("mosquitto_passwd (see scripts/services.sh)")?.success(),
                "account {account}"
            );
        }
        let acl = directory.path().join("acl");
        fs::copy(deploy.join("acl"), &acl)?;
        // Given a port twice in a row, another process can win it in between; then the broker says so and another is taken.
        let mut last = String::new();
        for _ in 0..5 {
            let (controller_port, device_port) = free_ports()?;
            let config = adapt(&deploy, &passwords, &acl, controller_port, device_port)?;
            let path = directory.path().join("mosquitto.conf");
            fs::write(&path, config)?;
            let log = directory.path().join("broker.log");
            let program = std::env::var_os("MUSTER_TEST_MOSQUITTO").map_or_else(|| PathBuf::from("mosquitto"), PathBuf::from);
            let mut process = Command::new(program)
                .arg("-c")
                .arg(&path)
                .stdin(Stdio::null())
                .stdout(Stdio::null())
                .stderr(fs::File::create(&log)?)
                .spawn()
                .context("mosquitto (see scripts/services.sh)")?;
            let deadline = Instant::now() + DEADLINE;
            while Instant::now() < deadline {
                if process.try_wait()?.is_some() {
                    break;
                }
                if tokio::net::TcpStream::connect(("127.0.0.1", device_port)).await.is_ok() {
                    return Ok(Self { process, controller_port, device_port, directory });
                }
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
            let _ = process.kill();
            let _ = process.wait();
            last = fs::read_to_string(&log)?;
        }
        bail!("mosquitto does not start with the configuration of deploy/mosquitto: {last}")
    }

    pub(crate) fn device(&self, id: &str) -> MqttOptions {
        options(id, id, self.device_port)
    }

    pub(crate) fn controller(&self, client_id: &str) -> MqttOptions {
        options(client_id, CONTROLLER, self.controller_port)
    }

    pub(crate) fn log(&self) -> String {
        fs::read_to_string(self.directory.path().join("broker.log")).unwrap_or_default()
    }
}

impl Drop for Broker {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// The shipped files with this test's paths and ports in place of the container's; every other line as it is.
fn adapt(deploy: &Path, passwords: &Path, acl: &Path, controller_port: u16, device_port: u16) -> Result<String> {
    let main = fs::read_to_string(deploy.join("mosquitto.conf"))?;
    let listeners = fs::read_to_string(deploy.join("listen-plain/listeners.conf"))?;
    let replaced = [
        ("password_file /mosquitto/config/passwords", format!("password_file {}", passwords.display())),
        ("acl_file /mosquitto/config/acl", format!("acl_file {}", acl.display())),
        ("include_dir /mosquitto/config/listen", listeners),
        ("listener 1883\n", format!("listener {controller_port} 127.0.0.1\n")),
        ("listener 1884\n", format!("listener {device_port} 127.0.0.1\n")),
    ];
    let mut config = main;
    for (from, to) in replaced {
        ensure!(config.matches(from).count() == 1, "{from:?} should stand in the shipped configuration exactly once");
        config = config.replace(from, &to);
    }
    // Started as root it would become another user, who cannot read this test's directory.
    if nix::unistd::geteuid().is_root() {
        config.push_str("\nuser root\n");
    }
    Ok(config)
}

fn free_ports() -> Result<(u16, u16)> {
    let first = TcpListener::bind(("127.0.0.1", 0))?;
    let second = TcpListener::bind(("127.0.0.1", 0))?;
    Ok((first.local_addr()?.port(), second.local_addr()?.port()))
}

pub(crate) fn options(client_id: &str, user: &str, port: u16) -> MqttOptions {
    let mut options = MqttOptions::new(client_id, "127.0.0.1", port);
    options.set_credentials(user, PASSWORD);
    options.set_connect_properties(ConnectProperties::new());
    options.set_max_packet_size(Some(1 << 20));
    options.set_outgoing_inflight_upper_limit(100);
    options.set_request_channel_capacity(100);
    options
}

/// One connection. Its events arrive in order; a lost connection is an event, not a silent reconnect.
pub(crate) struct Client {
    pub(crate) mqtt: AsyncClient,
    events: mpsc::Receiver<Result<Packet, String>>,
    pub(crate) received: Vec<Publish>,
    pub(crate) is_lost: bool,
    poll: tokio::task::JoinHandle<()>,
}

impl Client {
    pub(crate) async fn connect(options: MqttOptions) -> Result<Self> {
        let (mqtt, mut event_loop) = AsyncClient::new(options, 100);
        let (to, events) = mpsc::channel(4_000);
        let poll = tokio::spawn(async move {
            loop {
                let event = match event_loop.poll().await {
                    Ok(Event::Incoming(packet)) => Ok(packet),
                    Ok(Event::Outgoing(_)) => continue,
                    Err(error) => Err(error.to_string()),
                };
                let is_end = event.is_err();
                if to.send(event).await.is_err() || is_end {
                    return;
                }
            }
        });
        let mut client = Self { mqtt, events, received: Vec::new(), is_lost: false, poll };
        client
            .until("a CONNACK", |packet| match packet {
                Packet::ConnAck(ack) => Some(ack.code == ConnectReturnCode::Success),
                _ => None,
            })
            .await?
            .then_some(client)
            .context("the broker refused the connection")
    }

    /// Reads events until one is what is waited for; messages on the way are kept.
    pub(crate) async fn until<T>(&mut self, what: &str, mut wanted: impl FnMut(&Packet) -> Option<T>) -> Result<T> {
        let deadline = tokio::time::Instant::now() + DEADLINE;
        loop {
            let event = timeout_at(deadline, self.events.recv()).await.with_context(|| format!("no {what} in time"))?;
            let event = event.unwrap_or_else(|| Err("the connection has ended".to_owned()));
            self.is_lost |= event.is_err();
            let packet = event.map_err(anyhow::Error::msg).with_context(|| format!("waiting for {what}"))?;
            if let Packet::Publish(publish) = &packet {
                self.received.push(publish.clone());
            }
            if let Some(found) = wanted(&packet) {
                return Ok(found);
            }
        }
    }

    pub(crate) async fn subscribe(&mut self, filter: &str) -> Result<()> {
        self.mqtt.subscribe(filter, QoS::AtLeastOnce).await?;
        self.until("SUBACK", |packet| matches!(packet, Packet::SubAck(_)).then_some(())).await
    }

    /// What the broker said about a message.
    pub(crate) async fn publish(&mut self, topic: &str, payload: &str) -> Result<PubAckReason> {
        self.send(topic, payload, false).await
    }

    pub(crate) async fn send(&mut self, topic: &str, payload: &str, retain: bool) -> Result<PubAckReason> {
        self.send_with(topic, payload, retain, PublishProperties::default()).await
    }

    pub(crate) async fn send_with(
        &mut self,
        topic: &str,
        payload: &str,
        retain: bool,
        properties: PublishProperties,
    ) -> Result<PubAckReason> {
        self.mqtt.publish_with_properties(topic, QoS::AtLeastOnce, retain, payload.to_owned(), properties).await?;
        self.until("PUBACK", |packet| match packet {
            Packet::PubAck(ack) => Some(ack.reason),
            _ => None,
        })
        .await
    }

    /// Says goodbye and waits until the broker has closed the connection; a session that is kept stays.
    pub(crate) async fn leave(mut self) -> Result<()> {
        self.mqtt.disconnect().await?;
        let deadline = tokio::time::Instant::now() + DEADLINE;
        while let Some(Ok(_)) = timeout_at(deadline, self.events.recv()).await.context("the broker did not close the connection in time")? {
        }
        Ok(())
    }

    /// Topics and payloads of everything received up to and including this payload.
    pub(crate) async fn received_until(&mut self, marker: &str) -> Result<Vec<(String, String)>> {
        if !self.received.iter().any(|p| p.payload == marker.as_bytes()) {
            self.until(&format!("message {marker:?}"), |packet| match packet {
                Packet::Publish(publish) if publish.payload == marker.as_bytes() => Some(()),
                _ => None,
            })
            .await?;
        }
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        Ok(self.received.drain(..).map(|p| (text(&p.topic), text(&p.payload))).collect())
    }
}

impl Drop for Client {
    fn drop(&mut self) {
        self.poll.abort();
    }
}
