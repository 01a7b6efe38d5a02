//! A valve in a connection: what the client says can be held back while what the server says still comes. So a test decides that something
//! was done and not yet said. What the client said on AMQP 0-9-1 is written down.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinHandle;

const BUFFER_BYTES: usize = 64 * 1024;
/// A method frame: its header, then class and method.
const METHOD_FRAME: u8 = 1;
const FRAME_HEADER_BYTES: usize = 7;
/// Larger than any method; bodies pass by in frames of up to 128 KiB.
const MAX_FRAME_BYTES: usize = 16 << 20;

/// A port of our own in front of a server.
#[derive(Debug)]
pub struct Valve {
    /// Where the client is to go.
    pub port: u16,
    state: watch::Sender<State>,
    said: Arc<Mutex<Said>>,
    task: JoinHandle<()>,
}

#[derive(Debug, Clone, Copy)]
struct State {
    open: bool,
    /// Connections that were made before it was last cut are at their end.
    cuts: u64,
}

/// What clients said.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub struct Said {
    /// The first eight bytes of each connection.
    pub greetings: Vec<[u8; 8]>,
    /// How often each method was said, by class and method: 60, 80 is `basic.ack`, 60, 90 `basic.reject`, 60, 120 `basic.nack`.
    pub methods: BTreeMap<(u16, u16), u64>,
    /// Consumers that asked not to have to acknowledge.
    pub presettled: u64,
}

impl Valve {
    /// In front of a server on the loopback; open.
    pub async fn start(server: u16) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("loopback has a free port");
        let port = listener.local_addr().expect("a bound listener has an address").port();
        let (state, look) = watch::channel(State { open: true, cuts: 0 });
        let said = Arc::new(Mutex::new(Said::default()));
        let task = tokio::spawn({
            let said = Arc::clone(&said);
            async move {
                while let Ok((client, _)) = listener.accept().await {
                    // A server that is away: the client's connection ends as it would there.
                    let Ok(server) = TcpStream::connect(("127.0.0.1", server)).await else { continue };
                    let _ = (client.set_nodelay(true), server.set_nodelay(true));
                    let ((from_client, to_client), (from_server, to_server)) = (client.into_split(), server.into_split());
                    let (look, said) = (look.clone(), Arc::clone(&said));
                    tokio::spawn(async move {
                        tokio::select! {
                            () = forth(from_client, to_server, look, said) => {}
                            () = back(from_server, to_client) => {}
                        }
                    });
                }
            }
        });
        Self { port, state, said, task }
    }

    /// The URL of a server on the loopback, with our port in it.
    pub fn url(&self, url: &str) -> String {
        let (before, after) = url.rsplit_once('@').unwrap_or(("", url));
        let path = after.find('/').map_or("", |place| &after[place..]);
        format!("{before}@127.0.0.1:{}{path}", self.port)
    }

    /// From now on what clients say stays here.
    pub fn close(&self) {
        self.state.send_modify(|state| state.open = false);
    }

    /// Ends all connections; what clients still had to say is never said. Those that come from now on speak freely.
    pub fn cut(&self) {
        self.state.send_modify(|state| *state = State { open: true, cuts: state.cuts + 1 });
    }

    /// What clients have said so far, held back or not.
    pub fn said(&self) -> Said {
        self.said.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

impl Drop for Valve {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn forth(mut from: OwnedReadHalf, mut to: OwnedWriteHalf, mut look: watch::Receiver<State>, said: Arc<Mutex<Said>>) {
    let cuts = look.borrow().cuts;
    let (mut buffer, mut held, mut frames) = (vec![0; BUFFER_BYTES], Vec::new(), Frames::default());
    loop {
        let state = *look.borrow_and_update();
        if state.cuts != cuts {
            return;
        }
        if state.open && !held.is_empty() {
            if to.write_all(&held).await.is_err() {
                return;
            }
            held.clear();
        }
        tokio::select! {
            changed = look.changed() => if changed.is_err() { return },
            read = from.read(&mut buffer) => match read {
                Ok(0) | Err(_) => return,
                Ok(read) => {
                    frames.note(&buffer[..read], &mut said.lock().unwrap_or_else(PoisonError::into_inner));
                    held.extend_from_slice(&buffer[..read]);
                }
            },
        }
    }
}

async fn back(mut from: OwnedReadHalf, mut to: OwnedWriteHalf) {
    let _ = tokio::io::copy(&mut from, &mut to).await;
}

/// Finds the methods in what a client says.
#[derive(Default)]
struct Frames {
    greeted: bool,
    rest: Vec<u8>,
}

impl Frames {
    fn note(&mut self, bytes: &[u8], said: &mut Said) {
        self.rest.extend_from_slice(bytes);
        if !self.greeted {
            let Some(greeting) = self.rest.first_chunk::<8>() else { return };
            said.greetings.push(*greeting);
            self.greeted = true;
            self.rest.drain(..8);
        }
        let mut at = 0;
        while let Some(header) = self.rest.get(at..at + FRAME_HEADER_BYTES) {
            let size = u32::from_be_bytes([header[3], header[4], header[5], header[6]]) as usize;
            assert!(size < MAX_FRAME_BYTES, "a client says a frame of {size} bytes: this is no AMQP 0-9-1");
            let Some(payload) = self.rest.get(at + FRAME_HEADER_BYTES..at + FRAME_HEADER_BYTES + size + 1) else { break };
            if header[0] == METHOD_FRAME
                && let [class_high, class_low, method_high, method_low, arguments @ ..] = payload
            {
                let method = (u16::from_be_bytes([*class_high, *class_low]), u16::from_be_bytes([*method_high, *method_low]));
                *said.methods.entry(method).or_default() += 1;
                said.presettled += u64::from(method == (60, 20) && consumes_without_acknowledging(arguments));
            }
            at += FRAME_HEADER_BYTES + size + 1;
        }
        self.rest.drain(..at);
    }
}

/// `basic.consume`: a number, the queue, the consumer's name, then bits of which the second is `no-ack`.
fn consumes_without_acknowledging(arguments: &[u8]) -> bool {
    let text = |at: usize| arguments.get(at).map(|length| at + 1 + usize::from(*length));
    let bits = text(2).and_then(text).and_then(|at| arguments.get(at));
    bits.is_some_and(|bits| bits & 0b10 != 0)
}
