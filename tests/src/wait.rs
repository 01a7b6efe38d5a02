//! Waiting for a condition with a deadline and the last thing seen; nothing sleeps and hopes.

use std::fmt::Debug;
use std::future::Future;
use std::time::{Duration, Instant};

/// Between two looks.
const EVERY: Duration = Duration::from_millis(50);

/// Looks until `accept` holds; panics after `patience` with what was seen last.
pub async fn until<T: Debug, F, Fut>(what: &str, patience: Duration, mut look: F, accept: impl Fn(&T) -> bool) -> T
where
    F: FnMut() -> Fut,
    Fut: Future<Output = T>,
{
    let deadline = Instant::now() + patience;
    loop {
        let seen = look().await;
        if accept(&seen) {
            return seen;
        }
        assert!(Instant::now() < deadline, "waited {patience:?} for {what}; last seen: {seen:?}");
        tokio::time::sleep(EVERY).await;
    }
}

/// Looks until something answers at a port; panics with `hint` after `patience`.
pub async fn for_port(port: u16, patience: Duration, hint: impl Fn() -> String) {
    let deadline = Instant::now() + patience;
    while tokio::net::TcpStream::connect(("127.0.0.1", port)).await.is_err() {
        assert!(Instant::now() < deadline, "nothing listens on port {port} after {patience:?}: {}", hint());
        tokio::time::sleep(EVERY).await;
    }
}
