//! `mpio bench`: how fast a device is, measured as its users' I/O goes, or any NBD export.
//!
//! The order is: everything that can be refused is refused; connections are opened; then I/O begins.

mod choice;
mod content;
mod cpu;
mod generator;
mod latency;
mod load;
mod run;
mod stream;
mod tally;
mod target;
mod text;
mod uri;

use super::args::BenchArgs;
use super::{Failure, output};
use load::Load;
use run::{Interrupts, Run};
use std::path::Path;
use target::Target;

/// Measures.
///
/// # Errors
/// Exit code 2 for wrong arguments, 3 without a daemon, 1 for a target that refuses or fails.
pub fn run(args: &BenchArgs, control: Option<&Path>) -> Result<(), Failure> {
    let load = Load::new(args)?;
    let target = Target::find(&args.target, control, args.in_use)?;
    let workers = run::prepare(&target, &load)?;
    let interrupts = Interrupts::catch()?;
    if !args.json {
        output::print(&format!("{}: {load}, {} s\n", target.shown, load.seconds))?;
    }
    let run = run::run(&target, &load, workers, &args.cpu_of, &interrupts)?;
    show(args, &target, &run)?;
    match run.fault() {
        Some(why) => Err(Failure::failed(format!("{}: {why}; try: mpio status", target.shown))),
        None => Ok(()),
    }
}

fn show(args: &BenchArgs, target: &Target, run: &Run) -> Result<(), Failure> {
    if !args.json {
        return output::print(&text::text(run));
    }
    let mut json = text::json(run);
    json["version"] = crate::api::VERSION.into();
    json["target"] = target.shown.as_str().into();
    let text = serde_json::to_string(&json).map_err(Failure::failed)?;
    output::print(&(text + "\n"))
}
