//! The container engine's own API over its Unix socket.

use std::path::{Path, PathBuf};
use std::time::Duration;

use muster_wire::method::frames::{FrameDecoder, FrameError, Stream};
use serde::Deserialize;
use serde_json::Value;
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

use super::{LineSink, LogLine, MAX_LINE_BYTES, SourceError, Window};

/// Largest answer that is held in memory: lists and inspections.
pub const MAX_ANSWER_BYTES: usize = 16 * 1024 * 1024;
/// Longest silence of the engine.
const SILENCE_LIMIT: Duration = Duration::from_secs(60);

/// A client of one engine.
#[derive(Debug, Clone)]
pub struct Docker {
    socket: PathBuf,
    http: reqwest::Client,
}

/// A container, running or not.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Container {
    /// The engine's id.
    pub id: String,
    /// Its name without the slash.
    pub name: String,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Listed {
    id: String,
    #[serde(default)]
    names: Vec<String>,
}

impl Docker {
    /// A client of the engine behind this socket.
    ///
    /// # Errors
    /// When the HTTP client cannot be set up.
    pub fn new(socket: &Path) -> Result<Self, reqwest::Error> {
        crate::session::broker::use_ring();
        let http = reqwest::Client::builder().unix_socket(socket).read_timeout(SILENCE_LIMIT).http1_only().build()?;
        Ok(Self { socket: socket.to_owned(), http })
    }

    fn error(&self, status: u16, reason: impl ToString) -> SourceError {
        SourceError::Docker { socket: self.socket.clone(), reason: reason.to_string(), status }
    }

    async fn get(&self, path: &str) -> Result<reqwest::Response, SourceError> {
        let answer = self
            .http
            .get(format!("http://engine{path}"))
            .send()
            .await
            .map_err(|e| self.error(0, crate::upload::chain(&e.without_url())))?;
        if answer.status().is_success() {
            return Ok(answer);
        }
        let status = answer.status().as_u16();
        let body = self.body(answer).await.unwrap_or_default();
        Err(self.error(status, format!("HTTP {status}: {}", muster_wire::method::error::message_of(&body))))
    }

    async fn body(&self, mut answer: reqwest::Response) -> Result<Vec<u8>, SourceError> {
        let mut body = Vec::new();
        while let Some(chunk) = answer.chunk().await.map_err(|e| self.error(0, crate::upload::chain(&e.without_url())))? {
            if body.len() + chunk.len() > MAX_ANSWER_BYTES {
                return Err(self.error(0, format!("an answer has more than {MAX_ANSWER_BYTES} bytes")));
            }
            body.extend_from_slice(&chunk);
        }
        Ok(body)
    }

    async fn json<T: serde::de::DeserializeOwned>(&self, path: &str) -> Result<T, SourceError> {
        let answer = self.get(path).await?;
        let body = self.body(answer).await?;
        serde_json::from_slice(&body).map_err(|e| self.error(0, format!("{path} answered something else: {e}")))
    }

    /// All containers, stopped ones included.
    ///
    /// # Errors
    /// When the engine does not answer as it should.
    pub async fn containers(&self) -> Result<Vec<Container>, SourceError> {
        let listed: Vec<Listed> = self.json("/containers/json?all=1").await?;
        let named =
            listed.into_iter().filter_map(|c| Some(Container { name: c.names.first()?.trim_start_matches('/').to_owned(), id: c.id }));
        Ok(named.filter(|c| !c.name.is_empty() && is_plain(&c.id)).collect())
    }

    /// `docker inspect`, not redacted.
    ///
    /// # Errors
    /// As [`Self::containers`].
    pub async fn inspect(&self, id: &str) -> Result<Value, SourceError> {
        self.json(&format!("/containers/{id}/json")).await
    }

    /// All networks with what is in them.
    ///
    /// # Errors
    /// As [`Self::containers`].
    pub async fn networks(&self) -> Result<Vec<Value>, SourceError> {
        let listed: Vec<Value> = self.json("/networks").await?;
        let mut networks = Vec::new();
        for network in listed {
            match network.get("Id").and_then(Value::as_str).filter(|id| is_plain(id)) {
                Some(id) => networks.push(self.json(&format!("/networks/{id}?verbose=true")).await.unwrap_or(network)),
                None => networks.push(network),
            }
        }
        Ok(networks)
    }

    pub(crate) async fn logs(&self, id: &str, window: Window, sink: &mut LineSink) -> Result<(), SourceError> {
        let terminal = self.inspect(id).await?.pointer("/Config/Tty").and_then(Value::as_bool).unwrap_or(false);
        let mut path = format!("/containers/{id}/logs?stdout=1&stderr=1&timestamps=1");
        for (name, value) in [("since", window.since), ("until", window.until), ("tail", window.tail.map(i64::from))] {
            if let Some(value) = value {
                path.push_str(&format!("&{name}={value}"));
            }
        }
        let mut answer = self.get(&path).await?;
        let (mut frames, mut partial, mut lines, mut received) = (FrameDecoder::new(), Vec::new(), Vec::new(), 0);
        while let Some(chunk) = answer.chunk().await.map_err(|e| self.error(0, crate::upload::chain(&e.without_url())))? {
            if terminal {
                // A terminal's output has no frames: it is lines of one stream.
                partial.extend_from_slice(&chunk);
                while let Some(end) =
                    partial.iter().position(|&b| b == b'\n').or((partial.len() >= MAX_LINE_BYTES).then_some(MAX_LINE_BYTES - 1))
                {
                    lines.push(line_of(Stream::Stdout, &partial[..=end], &mut received));
                    partial.drain(..=end);
                }
            } else {
                frames
                    .push(&chunk, |frame| lines.push(line_of(frame.stream, frame.payload, &mut received)))
                    .map_err(|e| self.error(0, e))?;
            }
            for line in lines.drain(..) {
                if !sink.push(line).await {
                    return Ok(());
                }
            }
        }
        if !partial.is_empty() {
            sink.push(line_of(Stream::Stdout, &partial, &mut received)).await;
        }
        frames.finish().map_err(|e: FrameError| self.error(0, e))
    }
}

/// An id that can stand in a path: nothing the engine says may lead elsewhere.
fn is_plain(id: &str) -> bool {
    !id.is_empty() && id.len() <= 128 && id.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'-'))
}

/// Takes the engine's own time off the front of a line; a line without one was received with the line before it.
fn line_of(stream: Stream, payload: &[u8], received: &mut i64) -> LogLine {
    let stamped = payload.iter().take(40).position(|&b| b == b' ').and_then(|at| {
        let moment = OffsetDateTime::parse(std::str::from_utf8(&payload[..at]).ok()?, &Rfc3339).ok()?;
        Some((i64::try_from(moment.unix_timestamp_nanos()).ok()?, &payload[at + 1..]))
    });
    let (nanos, rest) = stamped.unwrap_or((*received, payload));
    *received = nanos;
    LogLine { stream, received_unix_nanos: nanos, payload: rest.to_vec() }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::UnixListener;

    fn frame(stream: u8, text: &str) -> Vec<u8> {
        let mut bytes = vec![stream, 0, 0, 0];
        bytes.extend_from_slice(&u32::try_from(text.len()).expect("small").to_be_bytes());
        bytes.extend_from_slice(text.as_bytes());
        bytes
    }

    /// An engine that answers each path with fixed bytes, chunked in pieces of seven, one connection per request.
    async fn engine(answers: Vec<(&'static str, u16, Vec<u8>)>) -> (tempfile::TempDir, Docker) {
        let directory = tempfile::tempdir().expect("a directory");
        let socket = directory.path().join("engine.sock");
        let listener = UnixListener::bind(&socket).expect("bound");
        tokio::spawn(async move {
            while let Ok((mut connection, _)) = listener.accept().await {
                let mut request = Vec::new();
                while !request.ends_with(b"\r\n\r\n") {
                    request.push(connection.read_u8().await.expect("a request"));
                }
                let path = String::from_utf8_lossy(&request).split(' ').nth(1).expect("a path").to_owned();
                let (_, status, body) =
                    answers.iter().find(|(p, ..)| *p == path).cloned().unwrap_or(("", 404, br#"{"message":"no such thing"}"#.to_vec()));
                let mut answer = format!("HTTP/1.1 {status} X\r\nTransfer-Encoding: chunked\r\nConnection: close\r\n\r\n").into_bytes();
                for piece in body.chunks(7) {
                    answer.extend_from_slice(format!("{:x}\r\n", piece.len()).as_bytes());
                    answer.extend_from_slice(piece);
                    answer.extend_from_slice(b"\r\n");
                }
                answer.extend_from_slice(b"0\r\n\r\n");
                connection.write_all(&answer).await.expect("answered");
            }
        });
        let docker = Docker::new(&socket).expect("a client");
        (directory, docker)
    }

    async fn logs(docker: &Docker, window: Window) -> Result<Vec<LogLine>, SourceError> {
        let (mut sink, mut lines) = LineSink::channel();
        docker.logs("c1", window, &mut sink).await?;
        sink.end(Ok(())).await;
        let mut all = Vec::new();
        while let Some(batch) = lines.recv().await {
            all.extend(batch?);
        }
        Ok(all)
    }

    #[tokio::test]
    async fn containers_and_their_lines_are_read_as_the_engine_gives_them() {
        let list = br#"[{"Id":"c1","Names":["/edgeHub"]},{"Id":"../x","Names":["/evil"]},{"Id":"c2","Names":[]}]"#.to_vec();
        let log =
            [frame(1, "2026-01-02T03:04:05.123456789Z first\n"), frame(2, "2026-01-02T03:04:06Z \n"), frame(1, "no stamp\n")].concat();
        let (_directory, docker) = engine(vec![
            ("/containers/json?all=1", 200, list),
            ("/containers/c1/json", 200, br#"{"Config":{"Tty":false}}"#.to_vec()),
            ("/containers/c1/logs?stdout=1&stderr=1&timestamps=1&since=5&tail=2", 200, log),
        ])
        .await;
        assert_eq!(docker.containers().await.expect("listed"), [Container { id: "c1".to_owned(), name: "edgeHub".to_owned() }]);
        let lines = logs(&docker, Window { since: Some(5), until: None, tail: Some(2) }).await.expect("read");
        let shown: Vec<_> =
            lines.iter().map(|l| (l.stream, l.received_unix_nanos, String::from_utf8_lossy(&l.payload).into_owned())).collect();
        assert_eq!(
            shown,
            [
                (Stream::Stdout, 1_767_323_045_123_456_789, "first\n".to_owned()),
                (Stream::Stderr, 1_767_323_046_000_000_000, "\n".to_owned()),
                (Stream::Stdout, 1_767_323_046_000_000_000, "no stamp\n".to_owned()),
            ]
        );
    }

    #[tokio::test]
    async fn terminals_are_read_as_lines_and_errors_are_passed_on() {
        let (_directory, docker) = engine(vec![
            ("/containers/c1/json", 200, br#"{"Config":{"Tty":true}}"#.to_vec()),
            ("/containers/c1/logs?stdout=1&stderr=1&timestamps=1", 200, b"2026-01-02T03:04:05.1Z one\r\n2026-01-02T03:04:06Z two".to_vec()),
            ("/containers/json?all=1", 200, b"{}".to_vec()),
        ])
        .await;
        let lines = logs(&docker, Window::default()).await.expect("read");
        assert_eq!(lines.iter().map(|l| String::from_utf8_lossy(&l.payload).into_owned()).collect::<Vec<_>>(), ["one\r\n", "two"]);
        let error = logs(&docker, Window { tail: Some(1), ..Window::default() }).await.expect_err("404").to_string();
        assert!(error.contains("HTTP 404: no such thing"), "{error}");
        assert!(docker.containers().await.expect_err("not a list").to_string().contains("something else"));
        let nobody = Docker::new(Path::new("/nowhere/docker.sock")).expect("a client");
        assert!(nobody.containers().await.expect_err("nobody").to_string().contains("/nowhere/docker.sock"));
    }
}
