//! Progress on standard error, for people only: nothing is drawn when it is not a terminal.

use std::future::Future;
use std::time::Duration;

use indicatif::{ProgressBar, ProgressStyle};

/// What takes longer than this shows that it is alive.
const PATIENCE: Duration = Duration::from_secs(1);
/// How often a spinner moves.
const TICK: Duration = Duration::from_millis(120);

/// A bar over a known number of bytes.
pub(crate) fn bytes_bar(total: u64, what: &str) -> ProgressBar {
    let style = ProgressStyle::with_template("{msg} {wide_bar} {decimal_bytes}/{decimal_total_bytes} {decimal_bytes_per_sec} {eta}")
        .expect("the template is well formed");
    ProgressBar::new(total).with_style(style).with_message(what.to_owned())
}

/// A block of text that is redrawn in place.
pub(crate) fn block() -> ProgressBar {
    ProgressBar::no_length().with_style(ProgressStyle::with_template("{msg}").expect("the template is well formed"))
}

/// A line with a spinner.
pub(crate) fn spinner(what: &str) -> ProgressBar {
    let style = ProgressStyle::with_template("{spinner} {msg} {elapsed}").expect("the template is well formed");
    let bar = ProgressBar::new_spinner().with_style(style).with_message(what.to_owned());
    bar.enable_steady_tick(TICK);
    bar
}

/// Waits, and shows a spinner when it takes long.
pub(crate) async fn waiting<T>(what: &str, work: impl Future<Output = T>) -> T {
    let mut work = std::pin::pin!(work);
    tokio::select! {
        done = &mut work => return done,
        () = tokio::time::sleep(PATIENCE) => {}
    }
    let bar = spinner(what);
    let done = work.await;
    bar.finish_and_clear();
    done
}
