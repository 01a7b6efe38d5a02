//! The program `muster`.
//!
//! * `args`: the command line; `commands`: what each command does.
//! * `client`, `sse`, `follow`: the HTTP API, its event stream, and following a collection to its end. Client commands know the rest of
//!   Muster only by the types of `muster-wire`.
//! * `transfer`: bundles to disk, checked against their manifests.
//! * `present`, `progress`: what is printed; `failure`: what went wrong, what to do, and the exit code.
//! * `commands::serve`, `commands::demo`, `commands::operate`: the only ones that start or open what a controller consists of.

mod args;
mod client;
mod collection_file;
mod commands;
mod definition_file;
mod documents;
mod failure;
mod follow;
mod moment;
mod present;
mod progress;
mod rollout;
mod signals;
mod sse;
mod target;
mod transfer;

use std::io::Write as _;
use std::process::ExitCode;

use crate::args::Cli;
use crate::failure::exit;

fn main() -> ExitCode {
    let cli = match Cli::parse_from_words(std::env::args_os()) {
        Ok(cli) => cli,
        Err(error) => {
            // Help goes to standard output, errors to standard error; a closed pipe is nobody's problem.
            let _ = error.print();
            return ExitCode::from(u8::try_from(error.exit_code()).unwrap_or(exit::USAGE));
        }
    };
    rustls::crypto::ring::default_provider().install_default().expect("nothing has installed another TLS provider yet");
    let runtime = match tokio::runtime::Builder::new_multi_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => {
            let _ = writeln!(std::io::stderr(), "muster: cannot start: {error}");
            return ExitCode::from(exit::SOME_NOT);
        }
    };
    let result = runtime.block_on(Box::pin(commands::run(cli)));
    // What still runs in the background after a command has ended has nothing left to say.
    runtime.shutdown_background();
    match result {
        Ok(code) => ExitCode::from(code),
        Err(failure) => {
            if let Some(text) = failure.render() {
                let _ = std::io::stderr().write_all(text.as_bytes());
            }
            ExitCode::from(failure.exit_code())
        }
    }
}
