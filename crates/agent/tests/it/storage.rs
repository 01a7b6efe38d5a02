//! A storage that keeps what it is sent and breaks when it is told to. It knows just enough of the Blob REST calls to see
//! whether ours are right.

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::{TcpListener, TcpStream};

/// One call as it arrived.
#[derive(Debug, Clone)]
pub(crate) struct Call {
    pub path: String,
    pub query: String,
    pub headers: BTreeMap<String, String>,
    pub body: Vec<u8>,
}

/// What to do with a call instead of the right thing.
#[derive(Debug, Clone)]
pub(crate) enum Trouble {
    /// Answer with this status and this error code.
    Status(u16, &'static str),
    /// Answer 503 and ask for a wait of so many seconds.
    RetryAfter(u64),
    /// Do the right thing, then cut the connection without an answer.
    LoseAnswer,
    /// Take the call and never answer.
    Hang,
}

#[derive(Debug, Default)]
struct Inner {
    calls: Vec<Call>,
    troubles: VecDeque<Trouble>,
    always: Option<Trouble>,
    objects: BTreeMap<String, Vec<u8>>,
    blocks: BTreeMap<String, BTreeMap<String, Vec<u8>>>,
    delay: Duration,
    running: usize,
    most_at_once: usize,
}

/// A running storage.
#[derive(Debug, Clone)]
pub(crate) struct Storage {
    inner: Arc<Mutex<Inner>>,
    port: u16,
}

impl Storage {
    pub(crate) async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let port = listener.local_addr().expect("bound").port();
        let storage = Self { inner: Arc::default(), port };
        let serving = storage.clone();
        tokio::spawn(async move {
            while let Ok((connection, _)) = listener.accept().await {
                let storage = serving.clone();
                tokio::spawn(async move { storage.serve(connection).await });
            }
        });
        storage
    }

    /// A container grant; its signature must arrive unchanged.
    pub(crate) fn grant(&self, container: &str) -> String {
        format!("http://127.0.0.1:{}/acct/{container}?sv=2022-11-02&sr=c&sp=cw&sig=a%2Bb%2Fc%3D", self.port)
    }

    /// Troubles for the next calls, in order.
    pub(crate) fn next(&self, troubles: impl IntoIterator<Item = Trouble>) {
        self.inner.lock().expect("no panic while locked").troubles.extend(troubles);
    }

    /// The trouble of every call from now on, or none.
    pub(crate) fn always(&self, trouble: Option<Trouble>) {
        self.inner.lock().expect("no panic while locked").always = trouble;
    }

    /// How long every call takes.
    pub(crate) fn delay(&self, delay: Duration) {
        self.inner.lock().expect("no panic while locked").delay = delay;
    }

    pub(crate) fn calls(&self) -> Vec<Call> {
        self.inner.lock().expect("no panic while locked").calls.clone()
    }

    /// Committed objects below a container.
    pub(crate) fn objects(&self, container: &str) -> BTreeMap<String, Vec<u8>> {
        let prefix = format!("/acct/{container}/");
        let inner = self.inner.lock().expect("no panic while locked");
        inner.objects.iter().filter_map(|(path, bytes)| Some((path.strip_prefix(&prefix)?.to_owned(), bytes.clone()))).collect()
    }

    /// Blocks that were staged and not committed, below a container.
    pub(crate) fn staged(&self, container: &str) -> usize {
        let prefix = format!("/acct/{container}/");
        let inner = self.inner.lock().expect("no panic while locked");
        inner.blocks.iter().filter(|(path, _)| path.starts_with(&prefix)).map(|(_, blocks)| blocks.len()).sum()
    }

    pub(crate) fn most_at_once(&self) -> usize {
        self.inner.lock().expect("no panic while locked").most_at_once
    }

    async fn serve(&self, connection: TcpStream) {
        let mut connection = BufReader::new(connection);
        loop {
            let mut head = Vec::new();
            while !head.ends_with(b"\r\n\r\n") {
                match connection.read_u8().await {
                    Ok(byte) => head.push(byte),
                    Err(_) => return,
                }
            }
            let head = String::from_utf8(head).expect("text");
            let mut lines = head.split("\r\n");
            let mut words = lines.next().expect("a request line").split(' ');
            assert_eq!(words.next(), Some("PUT"));
            let target = words.next().expect("a target");
            let (path, query) = target.split_once('?').unwrap_or((target, ""));
            let headers: BTreeMap<String, String> =
                lines.filter_map(|line| line.split_once(": ")).map(|(k, v)| (k.to_lowercase(), v.to_owned())).collect();
            let length = headers.get("content-length").expect("a length").parse().expect("a number");
            let mut body = vec![0; length];
            if connection.read_exact(&mut body).await.is_err() {
                return;
            }
            let call = Call { path: path.to_owned(), query: query.to_owned(), headers, body };
            let (trouble, delay) = {
                let mut inner = self.inner.lock().expect("no panic while locked");
                inner.calls.push(call.clone());
                inner.running += 1;
                inner.most_at_once = inner.most_at_once.max(inner.running);
                (inner.troubles.pop_front().or_else(|| inner.always.clone()), inner.delay)
            };
            if delay > Duration::ZERO {
                tokio::time::sleep(delay).await;
            }
            let answer = self.handle(&call, trouble).await;
            self.inner.lock().expect("no panic while locked").running -= 1;
            let Some(answer) = answer else { return };
            if connection.write_all(answer.as_bytes()).await.is_err() {
                return;
            }
        }
    }

    async fn handle(&self, call: &Call, trouble: Option<Trouble>) -> Option<String> {
        let refuse = |status: u16, code: &str| format!("HTTP/1.1 {status} X\r\nx-ms-error-code: {code}\r\nContent-Length: 0\r\n\r\n");
        match trouble {
            Some(Trouble::Status(status, code)) => return Some(refuse(status, code)),
            Some(Trouble::RetryAfter(seconds)) => {
                return Some(format!("HTTP/1.1 503 X\r\nRetry-After: {seconds}\r\nContent-Length: 0\r\n\r\n"));
            }
            Some(Trouble::Hang) => std::future::pending().await,
            Some(Trouble::LoseAnswer) | None => {}
        }
        let code = self.inner.lock().expect("no panic while locked").apply(call);
        if matches!(trouble, Some(Trouble::LoseAnswer)) {
            return None;
        }
        Some(match code {
            Ok(()) => "HTTP/1.1 201 Created\r\nContent-Length: 0\r\n\r\n".to_owned(),
            Err((status, code)) => refuse(status, code),
        })
    }
}

fn member<'a>(query: &'a str, name: &str) -> Option<&'a str> {
    query.split('&').find_map(|pair| pair.strip_prefix(name)?.strip_prefix('='))
}

impl Inner {
    fn apply(&mut self, call: &Call) -> Result<(), (u16, &'static str)> {
        if member(&call.query, "sig") != Some("a%2Bb%2Fc%3D") {
            return Err((403, "AuthenticationFailed"));
        }
        if !call.headers.contains_key("x-ms-version") {
            return Err((400, "MissingRequiredHeader"));
        }
        match member(&call.query, "comp") {
            None => {
                let kind = call.headers.get("x-ms-blob-type").map(String::as_str);
                if kind == Some("AppendBlob") && !call.body.is_empty() || !matches!(kind, Some("AppendBlob" | "BlockBlob")) {
                    return Err((400, "InvalidHeaderValue"));
                }
                self.objects.insert(call.path.clone(), call.body.clone());
                self.blocks.remove(&call.path);
            }
            Some("block") => {
                let id = member(&call.query, "blockid")
                    .ok_or((400, "MissingRequiredQueryParameter"))?
                    .replace("%3D", "=")
                    .replace("%2B", "+")
                    .replace("%2F", "/");
                self.blocks.entry(call.path.clone()).or_default().insert(id, call.body.clone());
            }
            Some("blocklist") => {
                let text = String::from_utf8_lossy(&call.body).into_owned();
                let blocks = self.blocks.remove(&call.path).unwrap_or_default();
                let mut whole = Vec::new();
                for id in text.split("<Latest>").skip(1).filter_map(|rest| rest.split("</Latest>").next()) {
                    whole.extend_from_slice(blocks.get(id).ok_or((400, "InvalidBlockList"))?);
                }
                self.objects.insert(call.path.clone(), whole);
            }
            Some("appendblock") => {
                let object = self.objects.get_mut(&call.path).ok_or((404, "BlobNotFound"))?;
                if call.body.is_empty() {
                    return Err((400, "InvalidHeaderValue"));
                }
                let at = call.headers.get("x-ms-blob-condition-appendpos").and_then(|v| v.parse::<usize>().ok());
                if at.is_some_and(|at| at != object.len()) {
                    return Err((412, "AppendPositionConditionNotMet"));
                }
                object.extend_from_slice(&call.body);
            }
            Some(_) => return Err((400, "InvalidQueryParameterValue")),
        }
        Ok(())
    }
}
