//! The program `muster-agent`: a real device, or a fleet of simulated ones.

mod program;

use std::process::ExitCode;

use clap::Parser;

fn main() -> ExitCode {
    program::main(program::arguments::Arguments::parse())
}
