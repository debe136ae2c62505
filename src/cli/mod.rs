//! The command line: flags and output. Everything that a command does to a running daemon goes through
//! `api` over the control socket.
//!
//! Exit codes: 0 done, 1 tried and failed, 2 wrong arguments or configuration, 3 the daemon could not be
//! reached. Errors go to stderr as `mpio: what: why; try: …`.

mod admin;
pub mod args;
mod bench;
pub mod client;
mod config_check;
mod demo;
mod discover;
mod fence;
mod html;
mod nbd_client;
mod output;
mod serve;
mod status;

use args::{Cli, Command, ConfigCommand};
use clap::Parser;
use std::fmt;
use std::process::ExitCode;

/// How a command ended when it did not end well.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Failure {
    /// Exit code.
    pub code: u8,
    /// `what: why; try: …`, without the program's name; several lines for several errors.
    pub messages: Vec<String>,
}

impl Failure {
    /// It was tried and failed: exit code 1.
    pub fn failed(message: impl fmt::Display) -> Failure {
        Failure { code: 1, messages: vec![message.to_string()] }
    }

    /// Wrong arguments or configuration: exit code 2.
    pub fn wrong(message: impl fmt::Display) -> Failure {
        Failure { code: 2, messages: vec![message.to_string()] }
    }

    /// The daemon could not be reached: exit code 3.
    pub fn unreachable(message: impl fmt::Display) -> Failure {
        Failure { code: 3, messages: vec![message.to_string()] }
    }
}

/// Runs the program.
#[must_use]
pub fn main() -> ExitCode {
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => return arguments(&error),
    };
    match run(cli) {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            for message in &failure.messages {
                output::error(message);
            }
            ExitCode::from(failure.code)
        }
    }
}

fn run(cli: Cli) -> Result<(), Failure> {
    let control = cli.control.as_deref();
    match cli.command {
        Command::Demo(args) => demo::run(&args),
        Command::Discover(args) => discover::run(&args),
        Command::Serve(args) => serve::serve(&args, control),
        Command::Attach(args) => serve::attach(&args, control),
        Command::Config { command: ConfigCommand::Check { file } } => config_check::run(&file),
        Command::Status(args) => status::run(&args, control),
        Command::Policy(args) => admin::policy(&args, control),
        Command::Set(args) => admin::set(args, control),
        Command::Path(args) => admin::path(args, control),
        Command::Fence(args) => fence::run(args, control),
        Command::Bench(args) => bench::run(&args, control),
    }
}

/// Help and version go to stdout and are no error; anything else is told in our own form.
fn arguments(error: &clap::Error) -> ExitCode {
    use clap::error::ErrorKind;
    match error.kind() {
        ErrorKind::DisplayHelp | ErrorKind::DisplayVersion => {
            let _ = output::print(&error.render().to_string());
            ExitCode::SUCCESS
        }
        ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand => {
            output::complain(&error.render().to_string());
            ExitCode::from(2)
        }
        _ => {
            output::error(&complaint(&error.render().to_string()));
            ExitCode::from(2)
        }
    }
}

/// One line out of clap's several: what is wrong, its tip, and where the help is.
fn complaint(rendered: &str) -> String {
    let text = rendered.strip_prefix("error: ").unwrap_or(rendered);
    let (usage, words): (Vec<&str>, Vec<&str>) = text
        .lines()
        .map(str::trim)
        .filter(|l| !l.is_empty())
        .partition(|l| l.starts_with("Usage:"));
    let words: Vec<&str> = words.into_iter().filter(|l| !l.starts_with("For more")).collect();
    let (tips, words): (Vec<&str>, Vec<&str>) =
        words.into_iter().partition(|l| l.starts_with("tip:"));
    let what = words.join(" ");
    let hint = match (tips.first(), usage.first()) {
        (Some(tip), _) => tip.trim_start_matches("tip: ").to_owned(),
        (None, Some(usage)) => usage.trim_start_matches("Usage: ").to_owned(),
        (None, None) => "mpio --help".to_owned(),
    };
    format!("arguments: {}; try: {hint}", what.trim_end_matches('.'))
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    #[test]
    fn the_definition_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn complaints_are_one_line() {
        let complain = |words: &[&str]| {
            let error = Cli::try_parse_from(words).map(|_| ()).unwrap_err();
            complaint(&error.render().to_string())
        };
        assert_eq!(
            complain(&["mpio", "statsu"]),
            "arguments: unrecognized subcommand 'statsu'; try: a similar subcommand exists: 'status'"
        );
        assert_eq!(
            complain(&["mpio", "serve"]),
            "arguments: the following required arguments were not provided: --config <FILE>; \
             try: mpio serve --config <FILE>"
        );
        let policy = complain(&["mpio", "policy", "vm0", "--weight", "a:ha1"]);
        assert_eq!(
            policy,
            "arguments: invalid value 'a:ha1' for '--weight <PATH=N>': a weight is written PATH=N, \
             N from 0 to 100, such as a:ha1=3; try: mpio --help"
        );
    }
}
