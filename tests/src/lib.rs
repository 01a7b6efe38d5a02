//! What whole-system tests and the bench stand on: real services on private ports, programs as processes, waiting with a deadline.

pub mod api;
pub mod azurite;
pub mod broker;
pub mod controllers;
pub mod events;
pub mod postgres;
pub mod program;
pub mod rabbit;
pub mod relay;
pub mod trace;
pub mod valve;
pub mod wait;

use std::net::TcpListener;
use std::path::PathBuf;

/// A port nobody listens on at this moment.
pub fn free_port() -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").expect("loopback has a free port");
    listener.local_addr().expect("a bound listener has an address").port()
}

/// The workspace's root.
pub fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).parent().expect("tests/ lies in the workspace").to_owned()
}

/// CPU time of this process so far, in seconds.
pub fn cpu_seconds_of_this_process() -> f64 {
    program::cpu_seconds(std::process::id())
}
