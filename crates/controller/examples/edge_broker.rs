//! A broker for more devices than one broker process may have open files: it takes devices of its own and passes their messages to and from
//! the broker of the controllers. Several of them in front of one core broker hold a simulated fleet of any size on one machine.
//!
//! `edge_broker NAME LISTEN CORE`, for example `edge_broker a 127.0.0.2:1883 127.0.0.1:1883`. Everybody may connect: for tests on loopback only.
//! Runs until it is ended.
#![allow(clippy::print_stderr, reason = "a program for measurements")]

use std::net::SocketAddr;
use std::time::Duration;

use mqtt5::QoS;
use mqtt5::broker::bridge::{BridgeConfig, BridgeDirection, TopicMapping};
use mqtt5::broker::config::{BrokerConfig, StorageBackend, StorageConfig};
use mqtt5::broker::{MqttBroker, ResourceLimits};

/// Connections; the process's own limit of open files comes first on most machines.
const CONNECTIONS: usize = 100_000;
/// Messages kept for one client that does not take them: the bridge is such a client while the core is away.
const MAX_QUEUED_MESSAGES: usize = 200_000;
const MAX_QUEUED_BYTES: usize = 512 * 1024 * 1024;

fn topic(pattern: &str, direction: BridgeDirection) -> TopicMapping {
    TopicMapping { pattern: pattern.to_owned(), direction, qos: QoS::AtLeastOnce, local_prefix: None, remote_prefix: None }
}

fn bridge(name: &str, core: &str) -> BridgeConfig {
    let mut bridge = BridgeConfig::new(name, core);
    // Bit 7 of the protocol version, which only MQTT 3 brokers read as "this is a bridge".
    bridge.try_private = false;
    bridge.initial_reconnect_delay = Duration::from_millis(200);
    bridge.reconnect_delay = Duration::from_millis(200);
    bridge.first_retry_delay = Duration::from_millis(200);
    bridge.max_reconnect_delay = Duration::from_secs(2);
    // The directions below make no loop, and a repeated request is a message of its own.
    bridge.loop_prevention_ttl = Duration::from_millis(1);
    let (down, up) = (BridgeDirection::In, BridgeDirection::Out);
    bridge.topics = vec![
        topic("muster/v1/d/+/cmd/#", down),
        topic("muster/v1/d/+/rsp/#", up),
        topic("muster/v1/d/+/task", up),
        topic("muster/v1/d/+/state", up),
        topic("muster/v1/d/+/alert", up),
    ];
    bridge
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [name, listen, core] = arguments.as_slice() else {
        eprintln!("Usage: edge_broker NAME LISTEN CORE\nExample: edge_broker a 127.0.0.2:1883 127.0.0.1:1883");
        std::process::exit(2);
    };
    let listen: SocketAddr = listen.parse()?;
    let storage = StorageConfig::new()
        .with_backend(StorageBackend::Memory)
        .with_max_queued_messages_per_client(MAX_QUEUED_MESSAGES)
        .with_max_queued_bytes_per_client(MAX_QUEUED_BYTES);
    let mut config = BrokerConfig::new()
        .with_bind_address(listen)
        .with_max_clients(CONNECTIONS)
        .with_max_packet_size(1 << 20)
        .with_maximum_qos(1)
        .with_max_outbound_inflight(u16::MAX)
        .with_sys_topics_enabled(false)
        .with_storage(storage);
    config.auth_config.allow_anonymous = true;
    config.bridges = vec![bridge(name, core)];
    let mut broker = MqttBroker::with_config(config).await?;
    broker.resource_monitor().update_limits(ResourceLimits {
        max_connections: CONNECTIONS,
        max_connections_per_ip: CONNECTIONS,
        max_message_rate_per_client: 0,
        max_bandwidth_per_client: 0,
        max_connection_rate: u32::try_from(CONNECTIONS)?,
        rate_limit_window: Duration::from_secs(1),
    });
    Box::pin(broker.run()).await?;
    Ok(())
}
