//! Knocks at a broker: one CONNECT, and what its CONNACK says about itself. By hand, because a client library hides just that.

use std::fmt;
use std::io::{self, Read, Write};
use std::net::{TcpStream, ToSocketAddrs as _};
use std::sync::Arc;
use std::time::Duration;

use rustls_pki_types::CertificateDer;
use rustls_pki_types::ServerName;
use rustls_pki_types::pem::PemObject as _;

use crate::settings::{Mqtt, host_name};

/// Largest CONNACK that is read.
const MAX_CONNACK_BYTES: usize = 4096;

/// What a broker says about itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Facts {
    /// Messages it takes from us before it acknowledges.
    pub(super) receive_maximum: u16,
    /// Largest packet it takes; absent for no limit.
    pub(super) max_packet_bytes: Option<u32>,
    /// Whether it keeps retained messages.
    pub(super) retain: bool,
}

impl fmt::Display for Facts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let largest = self.max_packet_bytes.map_or_else(|| "packets of any size".to_owned(), |max| format!("packets up to {max} bytes"));
        let retain = if self.retain { "retained messages" } else { "no retained messages" };
        write!(f, "MQTT 5, {retain}, {largest}, receive maximum {}", self.receive_maximum)
    }
}

/// Why it did not let us in.
#[derive(Debug, thiserror::Error)]
pub(super) enum Unwelcome {
    #[error("{0}")]
    Io(#[from] io::Error),
    #[error("TLS: {0}")]
    Tls(String),
    #[error("it refused the connection: {0}")]
    Refused(&'static str),
    #[error("it does not speak MQTT 5")]
    NotMqtt5,
}

trait Stream: Read + Write {}
impl<T: Read + Write> Stream for T {}

/// Connects, asks, says goodbye.
pub(super) fn probe(mqtt: &Mqtt, patience: Duration) -> Result<Facts, Unwelcome> {
    let (scheme, rest) = mqtt.url.split_once("://").unwrap_or(("mqtt", &mqtt.url));
    let authority = rest.split('/').next().unwrap_or(rest);
    let host = host_name(authority);
    let port = authority.rsplit_once(':').and_then(|(_, port)| port.parse().ok()).unwrap_or(if scheme == "mqtts" { 8883 } else { 1883 });
    let address =
        (host, port).to_socket_addrs()?.next().ok_or_else(|| io::Error::new(io::ErrorKind::NotFound, "the host name has no address"))?;
    let tcp = TcpStream::connect_timeout(&address, patience)?;
    tcp.set_read_timeout(Some(patience))?;
    tcp.set_write_timeout(Some(patience))?;
    let mut stream: Box<dyn Stream> = if scheme == "mqtts" { Box::new(secure(tcp, host, mqtt)?) } else { Box::new(tcp) };
    let id = format!("muster-doctor-{}", &uuid::Uuid::new_v4().simple().to_string()[..8]);
    let username = Some(mqtt.username.as_str()).filter(|name| !name.is_empty());
    let password = Some(mqtt.password.expose()).filter(|password| !password.is_empty());
    stream.write_all(&connect(&id, username, password))?;
    stream.flush()?;
    let facts = connack(&mut stream)?;
    // DISCONNECT, normal. It is only polite.
    let _gone = stream.write_all(&[0xe0, 0]);
    Ok(facts)
}

fn secure(tcp: TcpStream, host: &str, mqtt: &Mqtt) -> Result<rustls::StreamOwned<rustls::ClientConnection, TcpStream>, Unwelcome> {
    let tls = |error: &dyn fmt::Display| Unwelcome::Tls(error.to_string());
    let mut roots = rustls::RootCertStore::empty();
    if mqtt.ca_file.as_os_str().is_empty() {
        roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
    } else {
        for certificate in CertificateDer::pem_file_iter(&mqtt.ca_file).map_err(|error| tls(&error))? {
            roots.add(certificate.map_err(|error| tls(&error))?).map_err(|error| tls(&error))?;
        }
    }
    let config = rustls::ClientConfig::builder().with_root_certificates(roots).with_no_client_auth();
    let name = ServerName::try_from(host.to_owned()).map_err(|error| tls(&error))?;
    let connection = rustls::ClientConnection::new(Arc::new(config), name).map_err(|error| tls(&error))?;
    Ok(rustls::StreamOwned::new(connection, tcp))
}

/// A CONNECT packet: version 5, clean start, no properties.
fn connect(id: &str, username: Option<&str>, password: Option<&str>) -> Vec<u8> {
    let text = |out: &mut Vec<u8>, text: &str| {
        let bytes = &text.as_bytes()[..text.len().min(usize::from(u16::MAX))];
        out.extend_from_slice(&u16::try_from(bytes.len()).unwrap_or(u16::MAX).to_be_bytes());
        out.extend_from_slice(bytes);
    };
    let mut body = Vec::new();
    text(&mut body, "MQTT");
    body.push(5);
    body.push(0b10 | u8::from(password.is_some()) << 6 | u8::from(username.is_some()) << 7);
    body.extend_from_slice(&30u16.to_be_bytes());
    body.push(0);
    text(&mut body, id);
    for given in [username, password].into_iter().flatten() {
        text(&mut body, given);
    }
    let mut packet = vec![0x10];
    let mut left = body.len();
    loop {
        let byte = u8::try_from(left % 128).unwrap_or_default();
        left /= 128;
        packet.push(if left > 0 { byte | 0x80 } else { byte });
        if left == 0 {
            break;
        }
    }
    packet.extend_from_slice(&body);
    packet
}

fn connack(stream: &mut impl Read) -> Result<Facts, Unwelcome> {
    let mut kind = [0];
    stream.read_exact(&mut kind)?;
    if kind[0] != 0x20 {
        return Err(Unwelcome::NotMqtt5);
    }
    let length = variable(stream)?;
    if !(2..=MAX_CONNACK_BYTES).contains(&length) {
        return Err(Unwelcome::NotMqtt5);
    }
    let mut body = vec![0; length];
    stream.read_exact(&mut body)?;
    match body[1] {
        0 => {}
        // Also the number of a 3.1.1 broker that does not know version 5.
        1 | 0x84 => return Err(Unwelcome::NotMqtt5),
        4 | 0x86 => return Err(Unwelcome::Refused("user name or password is wrong")),
        5 | 0x87 => return Err(Unwelcome::Refused("not authorised")),
        0x85 => return Err(Unwelcome::Refused("it does not take this client id")),
        0x88 | 0x89 => return Err(Unwelcome::Refused("it is unavailable or busy")),
        _ => return Err(Unwelcome::Refused("with a reason of its own; its log says which")),
    }
    properties(&body[2..]).ok_or(Unwelcome::NotMqtt5)
}

fn variable(stream: &mut impl Read) -> Result<usize, Unwelcome> {
    let (mut value, mut shift) = (0usize, 0);
    loop {
        let mut byte = [0];
        stream.read_exact(&mut byte)?;
        value |= usize::from(byte[0] & 0x7f) << shift;
        shift += 7;
        if byte[0] & 0x80 == 0 {
            return Ok(value);
        }
        if shift > 21 {
            return Err(Unwelcome::NotMqtt5);
        }
    }
}

fn properties(mut bytes: &[u8]) -> Option<Facts> {
    let mut facts = Facts { receive_maximum: u16::MAX, max_packet_bytes: None, retain: true };
    let length = variable(&mut bytes).ok()?;
    let mut bytes = bytes.get(..length)?;
    let take = |bytes: &mut &[u8], count: usize| -> Option<u32> {
        let (head, rest) = bytes.split_at_checked(count)?;
        *bytes = rest;
        Some(head.iter().fold(0, |value, byte| value << 8 | u32::from(*byte)))
    };
    while !bytes.is_empty() {
        match take(&mut bytes, 1)? {
            0x21 => facts.receive_maximum = u16::try_from(take(&mut bytes, 2)?).ok()?,
            0x27 => facts.max_packet_bytes = Some(take(&mut bytes, 4)?),
            0x25 => facts.retain = take(&mut bytes, 1)? == 1,
            0x24 | 0x28 | 0x29 | 0x2a => drop(take(&mut bytes, 1)?),
            0x22 | 0x13 => drop(take(&mut bytes, 2)?),
            0x11 => drop(take(&mut bytes, 4)?),
            // Texts: assigned id, response information, server reference, reason, authentication; and pairs of them.
            id @ (0x12 | 0x1a | 0x1c | 0x1f | 0x15 | 0x16 | 0x26) => {
                for _ in 0..=usize::from(id == 0x26) {
                    let length = take(&mut bytes, 2)? as usize;
                    bytes = bytes.get(length..)?;
                }
            }
            _ => return None,
        }
    }
    Some(facts)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_connect_is_what_the_standard_says() {
        let packet = connect("id", Some("u"), Some("pw"));
        assert_eq!(
            packet,
            [0x10, 22, 0, 4, b'M', b'Q', b'T', b'T', 5, 0b1100_0010, 0, 30, 0, 0, 2, b'i', b'd', 0, 1, b'u', 0, 2, b'p', b'w']
        );
        let long = connect(&"x".repeat(200), None, None);
        assert_eq!((long[1], long[2], long.len()), (0xd5, 1, 3 + 213));
    }

    #[test]
    fn a_connack_is_read_and_nonsense_is_not() {
        let good = [0x20, 14, 0, 0, 11, 0x21, 0, 20, 0x27, 0, 2, 0, 0, 0x25, 0];
        let facts = connack(&mut &[good.as_slice(), &[0]].concat()[..]).err();
        assert!(facts.is_some(), "shorter than it says");
        let good = [0x20, 13, 0, 0, 10, 0x21, 0, 20, 0x27, 0, 2, 0, 0, 0x25, 0];
        let facts = connack(&mut &good[..]).expect("good");
        assert_eq!(facts, Facts { receive_maximum: 20, max_packet_bytes: Some(131_072), retain: false });
        let text = [0x20, 10, 0, 0, 7, 0x26, 0, 1, b'a', 0, 1, b'b'];
        assert!(connack(&mut &text[..]).expect("good").retain);
        assert!(matches!(connack(&mut &[0x20, 2, 0, 5][..]), Err(Unwelcome::Refused("not authorised"))));
        assert!(matches!(connack(&mut &[0x20, 2, 0, 1][..]), Err(Unwelcome::NotMqtt5)));
        for nonsense in [
            &b"HTTP/1.1 400 Bad Request\r\n"[..],
            &[0x20, 0xff, 0xff, 0xff, 0xff],
            &[0x20, 4, 0, 0, 9, 0x21],
            &[0x20, 4, 0, 0, 1, 0x99],
            &[],
        ] {
            assert!(connack(&mut &nonsense[..]).is_err(), "{nonsense:?}");
        }
    }
}
