//! The floor: the same requests over the same broker to the same devices, with the same client library, and nothing remembered.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use bytes::Bytes;
use rumqttc::v5::mqttbytes::QoS;
use rumqttc::v5::mqttbytes::v5::{ConnectProperties, Packet, PublishProperties};
use rumqttc::v5::{AsyncClient, Event, MqttOptions};
use tokio::sync::Semaphore;
use uuid::Uuid;

/// Requests without an answer.
const WINDOW: usize = 1000;

/// Round trips per second. `login`: user name and password, where the broker asks for them.
pub(crate) async fn round_trips(port: u16, login: Option<(&str, &str)>, devices: &[String], count: usize) -> Result<f64> {
    let caller = format!("raw-{}", Uuid::new_v4().simple());
    let mut options = MqttOptions::new(&caller, "127.0.0.1", port);
    options.set_keep_alive(Duration::from_secs(60));
    options.set_outgoing_inflight_upper_limit(1000);
    options.set_connect_properties(ConnectProperties {
        receive_maximum: Some(u16::MAX),
        max_packet_size: Some(512 * 1024),
        ..ConnectProperties::new()
    });
    if let Some((user, password)) = login {
        options.set_credentials(user, password);
    }
    let mut network = rumqttc::NetworkOptions::new();
    network.set_tcp_nodelay(true);
    let (client, mut events) = AsyncClient::new(options, 128);
    events.options.set_network_options(network);
    client.subscribe(format!("muster/v1/d/+/rsp/{caller}"), QoS::AtLeastOnce).await?;
    loop {
        if let Event::Incoming(Packet::SubAck(_)) = events.poll().await? {
            break;
        }
    }
    let window = std::sync::Arc::new(Semaphore::new(WINDOW));
    let began = Instant::now();
    let publisher = {
        let (client, window, devices, caller) = (client.clone(), window.clone(), devices.to_vec(), caller.clone());
        tokio::spawn(async move {
            for index in 0..count {
                let permit = window.acquire().await.context("the window is open")?;
                permit.forget();
                let device = &devices[index % devices.len()];
                let properties = PublishProperties {
                    payload_format_indicator: Some(1),
                    message_expiry_interval: Some(60),
                    response_topic: Some(format!("muster/v1/d/{device}/rsp/{caller}")),
                    correlation_data: Some(Bytes::copy_from_slice(Uuid::now_v7().as_bytes())),
                    user_properties: vec![
                        ("__protVer".to_owned(), "1.0".to_owned()),
                        ("__srcId".to_owned(), caller.clone()),
                        ("maxResponse".to_owned(), "131072".to_owned()),
                    ],
                    content_type: Some("application/json".to_owned()),
                    ..PublishProperties::default()
                };
                client.publish_with_properties(format!("muster/v1/d/{device}/cmd/ping"), QoS::AtLeastOnce, false, "{}", properties).await?;
            }
            anyhow::Ok(())
        })
    };
    let mut answered = 0;
    while answered < count {
        let event = tokio::time::timeout(Duration::from_secs(20), events.poll())
            .await
            .with_context(|| format!("no answer for 20 s after {answered} of {count}: a stall"))??;
        if let Event::Incoming(Packet::Publish(_)) = event {
            answered += 1;
            window.add_permits(1);
        }
    }
    let rate = count as f64 / began.elapsed().as_secs_f64();
    publisher.await??;
    ensure!(answered == count, "every request is answered");
    let _ = client.disconnect().await;
    let _ = tokio::time::timeout(Duration::from_millis(200), async { while events.poll().await.is_ok() {} }).await;
    Ok(rate)
}
