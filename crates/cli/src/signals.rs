//! Ctrl-C and SIGTERM: the first asks, the second insists.

use tokio::signal::unix::{Signal, SignalKind, signal};

use crate::failure::Failure;

/// Listens for both from its creation on.
pub(crate) struct Signals {
    interrupt: Signal,
    terminate: Signal,
}

/// Which of the two came.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Asked {
    /// Ctrl-C.
    Interrupt,
    /// SIGTERM.
    Terminate,
}

impl Asked {
    /// 128 + the signal's number, as a shell would show it.
    pub(crate) fn exit_code(self) -> u8 {
        match self {
            Self::Interrupt => 130,
            Self::Terminate => 143,
        }
    }
}

impl Signals {
    /// Starts listening.
    pub(crate) fn listen() -> Result<Self, Failure> {
        let listen = |kind| signal(kind).map_err(|error| Failure::local_error("listen for signals", &error));
        Ok(Self { interrupt: listen(SignalKind::interrupt())?, terminate: listen(SignalKind::terminate())? })
    }

    /// The next one.
    pub(crate) async fn next(&mut self) -> Asked {
        tokio::select! {
            _ = self.interrupt.recv() => Asked::Interrupt,
            _ = self.terminate.recv() => Asked::Terminate,
        }
    }

    /// From now on the next one ends the process at once.
    pub(crate) fn insist(mut self) {
        tokio::spawn(async move {
            let asked = self.next().await;
            std::process::exit(i32::from(asked.exit_code()));
        });
    }
}
