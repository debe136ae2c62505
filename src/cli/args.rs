//! Every command and flag, in one place. What a value means is checked where it is used, by the same
//! functions that read the configuration file.

use crate::api::PathAction;
use crate::path::WEIGHT_MAX;
use clap::{Args, Parser, Subcommand, ValueEnum};
use std::path::PathBuf;

const ABOUT: &str =
    "Merges several iSCSI paths to one LUN and exports it as one block device over NBD";

const EXAMPLES: &str = "\
Examples:
  mpio demo
      see it work: two targets, one device, a path that dies under load; needs no root
  mpio discover 10.10.1.10 10.10.2.10
      what these portals offer
  mpio attach --portal 10.10.1.10@10.10.1.1 --portal 10.10.2.10@10.10.2.1 \\
      --target iqn.2026-11.example.san:ha1 iqn.2026-11.example.san:ha1partner \\
      --lun 1 --export unix:/run/mpio/vm0.sock
      one device, in the foreground; then: nbd-client -unix /run/mpio/vm0.sock /dev/nbd0
  mpio config check /etc/mpio/mpio.toml && mpio serve --config /etc/mpio/mpio.toml
      the daemon
  mpio status
      devices, paths, states, latency

Exit codes: 0 done, 1 tried and failed, 2 wrong arguments or configuration, 3 no daemon.";

/// The whole command line.
#[derive(Debug, Parser)]
#[command(name = "mpio", version, about = ABOUT, after_help = EXAMPLES, subcommand_required = true,
          arg_required_else_help = true, disable_help_subcommand = true, max_term_width = 100)]
pub struct Cli {
    /// Control socket of the daemon [default: /run/mpio/control.sock, else
    /// $XDG_RUNTIME_DIR/mpio/control.sock]
    #[arg(long, global = true, value_name = "SOCKET")]
    pub control: Option<PathBuf>,
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// Commands.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// See it work: two targets, one device, paths that die under a verified load
    #[command(after_help = DEMO_HELP)]
    Demo(DemoArgs),
    /// Ask portals what they offer: targets, portals, LUNs
    #[command(after_help = DISCOVER_HELP)]
    Discover(DiscoverArgs),
    /// Run the daemon: every device of a configuration file
    #[command(after_help = SERVE_HELP)]
    Serve(ServeArgs),
    /// Run one device in the foreground, without a configuration file
    #[command(after_help = ATTACH_HELP)]
    Attach(AttachArgs),
    /// Work with configuration files
    #[command(arg_required_else_help = true)]
    Config {
        /// What to do with it.
        #[command(subcommand)]
        command: ConfigCommand,
    },
    /// Show devices, paths, states, counters, latency
    Status(StatusArgs),
    /// Show or change the policy of a device, under load
    #[command(after_help = POLICY_HELP)]
    Policy(PolicyArgs),
    /// Show the tunables of a device, or change them under load
    #[command(after_help = SET_HELP)]
    Set(SetArgs),
    /// Take a path out, or back
    #[command(after_help = PATH_HELP)]
    Path(PathArgs),
    /// Show blocks whose old writes may still land, or vouch that a node is off
    #[command(after_help = FENCE_HELP)]
    Fence(FenceArgs),
    /// Measure a device, or any NBD export: IOPS, MB/s, latency percentiles
    #[command(after_help = BENCH_HELP)]
    Bench(BenchArgs),
}

const DEMO_HELP: &str = "\
Needs no root and no configuration; everything stays on the loopback interface and in memory.
Exit code 0 only if every byte read back was right.

Examples:
  mpio demo
  mpio demo --seconds 60 --export tcp:127.0.0.1:10809 --report demo.html";

const DISCOVER_HELP: &str = "\
Each portal is asked from its source address and from no other. Exit code 1 if one could not be asked.

Examples:
  mpio discover 10.10.1.10 10.10.2.10
  mpio discover 10.10.1.10@10.10.1.1 10.10.2.10@10.10.2.1
  mpio discover [fd00::10]:3260 --source fd00::1 --json
  mpio discover 10.10.1.10 --chap-user host1 --chap-secret-file /etc/mpio/a.secret";

const SERVE_HELP: &str = "\
The daemon starts with what is there: a portal that is down does not keep a device down.
SIGTERM stops accepting, finishes what is in flight, flushes, logs out and removes the sockets.

Example:
  mpio serve --config /etc/mpio/mpio.toml --log-format json";

const ATTACH_HELP: &str = "\
The first portal is called p1, the next p2; a path is called p1:ha1 (portal, end of the target's name).
`mpio status` and the other commands work while it runs. Ctrl-C ends it cleanly.

Example:
  mpio attach --portal 10.10.1.10@10.10.1.1 --portal 10.10.2.10@10.10.2.1 \\
      --target iqn.2026-11.example.san:ha1 iqn.2026-11.example.san:ha1partner \\
      --lun 1 --export tcp:127.0.0.1:10809 --policy round-robin";

const POLICY_HELP: &str = "\
Policies, with the names that they have elsewhere:
  failover (FOO)                          the preferred path; another one when it is gone
  round-robin (RR)                        every active path in turn
  round-robin-subset (RRWS)               the optimized paths (ALUA) in turn
  least-queue-depth (LQD, queue-length)   the path with the fewest commands in flight
  least-bytes (LB, service-time)          the path with the fewest bytes in flight
  weighted-paths (WP)                     shares by weight
  latency                                 the path that answers soonest
Weights of 0 to 100 count under least-queue-depth, least-bytes and weighted-paths; a path of weight 0 stands by.

Examples:
  mpio policy vm0                     show it
  mpio policy vm0 failover --prefer a:ha1
  mpio policy vm0 weighted-paths --weight a:ha1=3 --weight b:ha1partner=1";

const SET_HELP: &str = "\
All values of one command take effect together, or none does. They hold until the daemon ends.

Examples:
  mpio set vm0                        every tunable with its value, range and reason
  mpio set vm0 path_timeout=2s nop_interval=250ms
  mpio set vm0 no_path_timeout=never --json";

const PATH_HELP: &str = "\
Examples:
  mpio path vm0 a:ha1 disable         drain it and log out; no error reaches a client
  mpio path vm0 a:ha1 enable
  mpio path vm0 a:ha1 recheck         read identity and readiness again, reconnect at once";

const FENCE_HELP: &str = "\
A write that was given up on a path may still be executed there. Its blocks stay taken until that is
proven impossible: writes that overlap them wait, reads and all other writes go on.

confirm-dead is your word that the node behind PATH is off, or has lost all that it was ever sent. It
is refused while PATH is logged in. If it is not true, an old write can land over newer data.

Examples:
  mpio fence vm0                      ranges in doubt: which, how old, by which path, what is tried
  mpio fence vm0 list --json
  mpio fence vm0 confirm-dead a:ha1   after the node of a:ha1 was switched off";
const BENCH_HELP: &str = "\
A device of the daemon is measured through its NBD export, as a user's I/O goes. Ctrl-C ends a run early,
and it still reports. Nothing is written without --write or --mixed, and these ask for --destructive.

With --rate the latencies count from the moment at which a request was due, whether or not the server was
ready for it (corrected for coordinated omission); without, a request follows an answer.

Examples:
  mpio bench vm0
  mpio bench vm0 --size 128k --depth 16 --sequential --report vm0.html
  mpio bench vm0 --per-path           each path alone, each policy, and which is best here
  mpio bench vm0 --rate 5000 --seconds 60
  mpio bench nbd+unix:///disk?socket=/tmp/x.sock --write --destructive --verify";

/// How logs are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, ValueEnum)]
pub enum LogFormat {
    /// One line of text per event.
    #[default]
    Text,
    /// One JSON object per line.
    Json,
}

/// Flags of everything that logs.
#[derive(Debug, Clone, Args)]
pub struct LogArgs {
    /// How logs are written to stderr: text, or json (one object per line)
    #[arg(
        long,
        value_enum,
        default_value = "text",
        value_name = "FORMAT",
        hide_possible_values = true
    )]
    pub log_format: LogFormat,
    /// What is logged: error, warn, info, debug, trace; or by part, such as info,mpio::lane=debug
    #[arg(long, default_value = "info", value_name = "FILTER")]
    pub log_level: String,
}

/// `demo`.
#[derive(Debug, Args)]
pub struct DemoArgs {
    /// Length of the load [default: 10]
    #[arg(long, value_name = "N")]
    pub seconds: Option<u64>,
    /// Where to export the device [default: a unix socket in a directory of its own]
    #[arg(long, value_name = "ADDR")]
    pub export: Option<String>,
    /// Write what was seen to one HTML file
    #[arg(long, value_name = "FILE.html")]
    pub report: Option<PathBuf>,
    /// What is logged to stderr meanwhile
    #[arg(long, default_value = "error", value_name = "FILTER")]
    pub log_level: String,
}

/// `discover`.
#[derive(Debug, Args)]
pub struct DiscoverArgs {
    /// Portals to ask, each with the local address to ask it from
    #[arg(required = true, value_name = "PORTAL[@SOURCE]")]
    pub portals: Vec<String>,
    /// Local address for portals without one of their own
    #[arg(long, value_name = "IP")]
    pub source: Option<String>,
    /// Our iSCSI name [default: iqn.2026-11.org.example.mpio:HOSTNAME]
    #[arg(long, value_name = "IQN")]
    pub initiator_name: Option<String>,
    /// CHAP.
    #[command(flatten)]
    pub chap: ChapArgs,
    /// One JSON object
    #[arg(long)]
    pub json: bool,
}

/// `serve`.
#[derive(Debug, Args)]
pub struct ServeArgs {
    /// Configuration file
    #[arg(long, value_name = "FILE")]
    pub config: PathBuf,
    /// Logs.
    #[command(flatten)]
    pub log: LogArgs,
}

/// CHAP on the command line.
#[derive(Debug, Clone, Default, Args)]
pub struct ChapArgs {
    /// CHAP name towards the target
    #[arg(long, value_name = "USER", requires = "chap_secret_file")]
    pub chap_user: Option<String>,
    /// File with the CHAP secret; not readable by others
    #[arg(long, value_name = "FILE", requires = "chap_user")]
    pub chap_secret_file: Option<PathBuf>,
    /// CHAP name that the target must prove
    #[arg(long, value_name = "USER", requires = "mutual_secret_file", requires = "chap_user")]
    pub mutual_user: Option<String>,
    /// File with the target's secret
    #[arg(long, value_name = "FILE", requires = "mutual_user")]
    pub mutual_secret_file: Option<PathBuf>,
    /// Accept secrets shorter than 12 bytes
    #[arg(long)]
    pub allow_short_secret: bool,
}

/// `attach`.
#[derive(Debug, Args)]
pub struct AttachArgs {
    /// Portal, and the local address to reach it from
    #[arg(long = "portal", required = true, num_args = 1.., value_name = "PORTAL[@SOURCE]")]
    pub portals: Vec<String>,
    /// Targets that show the LUN
    #[arg(long = "target", required = true, num_args = 1.., value_name = "IQN")]
    pub targets: Vec<String>,
    /// LUN
    #[arg(long, value_name = "N")]
    pub lun: u64,
    /// Where to export it: unix:/path or tcp:127.0.0.1:10809
    #[arg(long, value_name = "ADDR")]
    pub export: String,
    /// Which path the next command takes
    #[arg(long, value_name = "POLICY")]
    pub policy: Option<String>,
    /// Name of the device and of the NBD export
    #[arg(long, value_name = "NAME", default_value = "disk0")]
    pub name: String,
    /// Our iSCSI name [default: iqn.2026-11.org.example.mpio:HOSTNAME]
    #[arg(long, value_name = "IQN")]
    pub initiator_name: Option<String>,
    /// Refuse anything but this WWID
    #[arg(long, value_name = "WWID")]
    pub wwid: Option<String>,
    /// Do not ask the portals; the targets are there
    #[arg(long)]
    pub no_discovery: bool,
    /// Use every path that reports the right identity, without comparing content
    #[arg(long)]
    pub trust_identity: bool,
    /// Refuse writes
    #[arg(long)]
    pub read_only: bool,
    /// CHAP.
    #[command(flatten)]
    pub chap: ChapArgs,
    /// Logs.
    #[command(flatten)]
    pub log: LogArgs,
}

/// `config`.
#[derive(Debug, Subcommand)]
pub enum ConfigCommand {
    /// Say whether a file would work, what it would build and how much memory it takes
    Check {
        /// Configuration file
        #[arg(value_name = "FILE")]
        file: PathBuf,
    },
}

/// `status`.
#[derive(Debug, Args)]
pub struct StatusArgs {
    /// Only this device
    #[arg(value_name = "DEVICE")]
    pub device: Option<String>,
    /// One JSON object
    #[arg(long)]
    pub json: bool,
}

/// `policy`.
#[derive(Debug, Args)]
pub struct PolicyArgs {
    /// Device
    #[arg(value_name = "DEVICE")]
    pub device: String,
    /// New policy; without, the present one is shown
    #[arg(value_name = "POLICY")]
    pub policy: Option<String>,
    /// Weight of a path, 0 to 100
    #[arg(long = "weight", value_name = "PATH=N", value_parser = weight)]
    pub weights: Vec<(String, u32)>,
    /// Path to prefer
    #[arg(long, value_name = "PATH")]
    pub prefer: Option<String>,
    /// One JSON object
    #[arg(long)]
    pub json: bool,
}

/// `set`.
#[derive(Debug, Args)]
pub struct SetArgs {
    /// Device
    #[arg(value_name = "DEVICE")]
    pub device: String,
    /// New values; without any, all tunables are shown
    #[arg(value_name = "KEY=VALUE", value_parser = setting)]
    pub values: Vec<(String, String)>,
    /// One JSON object
    #[arg(long)]
    pub json: bool,
}

/// `path`.
#[derive(Debug, Args)]
pub struct PathArgs {
    /// Device
    #[arg(value_name = "DEVICE")]
    pub device: String,
    /// Path, such as a:ha1
    #[arg(value_name = "PATH")]
    pub path: String,
    /// disable (drain it and log out), enable (bring it back), or recheck (identity and readiness)
    #[arg(value_enum, value_name = "ACTION", hide_possible_values = true)]
    pub action: PathActionArg,
    /// Even if it is the last usable one
    #[arg(long)]
    pub force: bool,
}

/// `bench`.
#[derive(Debug, Args)]
#[group(skip)]
pub struct BenchArgs {
    /// Device of the daemon, or nbd://HOST[:PORT]/EXPORT, or nbd+unix:///EXPORT?socket=PATH
    #[arg(value_name = "TARGET")]
    pub target: String,
    /// Read [default]
    #[arg(long, conflicts_with_all = ["write", "mixed"])]
    pub read: bool,
    /// Write; asks for --destructive
    #[arg(long, conflicts_with = "mixed")]
    pub write: bool,
    /// Read and write, READS percent of the requests are reads; asks for --destructive
    #[arg(long, value_name = "READS", num_args = 0..=1, require_equals = true,
          default_missing_value = "70")]
    pub mixed: Option<u32>,
    /// One block after the other, each connection in its part, instead of random
    #[arg(long)]
    pub sequential: bool,
    /// Bytes per request: 512, 4k, 128k, 1m
    #[arg(long, value_name = "SIZE", default_value = "4k")]
    pub size: String,
    /// Requests in flight on each connection
    #[arg(long, value_name = "N", default_value_t = 32)]
    pub depth: usize,
    /// NBD connections
    #[arg(long, value_name = "N", default_value_t = 1)]
    pub connections: usize,
    /// Threads that drive the connections
    #[arg(long, value_name = "N", default_value_t = 1)]
    pub threads: usize,
    /// Measured time
    #[arg(long, value_name = "N", default_value_t = 10)]
    pub seconds: u64,
    /// Seconds of load before it
    #[arg(long, value_name = "SECONDS", default_value_t = 0)]
    pub ramp: u64,
    /// Requests per second, all connections together, due at fixed times
    #[arg(long, value_name = "IOPS")]
    pub rate: Option<u64>,
    /// What is on the device may be overwritten
    #[arg(long)]
    pub destructive: bool,
    /// Even if it carries a partition table or a file system
    #[arg(long, requires = "destructive")]
    pub force: bool,
    /// Even if somebody else uses the device
    #[arg(long)]
    pub in_use: bool,
    /// Read back what was written, and compare; blocks are written with content that is checked
    #[arg(long)]
    pub verify: bool,
    /// Run with each path alone and with each policy, in three rounds (needs a device of the daemon)
    #[arg(long)]
    pub per_path: bool,
    /// Write what was seen to one HTML file
    #[arg(long, value_name = "FILE.html")]
    pub report: Option<PathBuf>,
    /// One JSON object
    #[arg(long)]
    pub json: bool,
    /// Show the processor time of this process too, per request (may be repeated)
    #[arg(long = "cpu-of", value_name = "PID")]
    pub cpu_of: Vec<u32>,
}

/// Actions of `path`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum PathActionArg {
    /// Drain it and log out
    Disable,
    /// Bring it back
    Enable,
    /// Read identity and readiness again
    Recheck,
}

impl From<PathActionArg> for PathAction {
    fn from(action: PathActionArg) -> PathAction {
        match action {
            PathActionArg::Disable => PathAction::Disable,
            PathActionArg::Enable => PathAction::Enable,
            PathActionArg::Recheck => PathAction::Recheck,
        }
    }
}

/// `fence`.
#[derive(Debug, Args)]
pub struct FenceArgs {
    /// Device
    #[arg(value_name = "DEVICE")]
    pub device: String,
    /// What to do; without, the ranges are listed.
    #[command(subcommand)]
    pub action: Option<FenceAction>,
    /// One JSON object
    #[arg(long, global = true)]
    pub json: bool,
}

/// What `fence` does.
#[derive(Debug, Clone, PartialEq, Eq, Subcommand)]
pub enum FenceAction {
    /// Show ranges in doubt
    List,
    /// The node behind a path is off: what was sent there is dead
    ConfirmDead {
        /// Path, such as a:ha1
        #[arg(value_name = "PATH")]
        path: String,
    },
}

fn weight(text: &str) -> Result<(String, u32), String> {
    let parsed = text.rsplit_once('=').and_then(|(path, n)| Some((path, n.parse::<u32>().ok()?)));
    match parsed {
        Some((path, n)) if !path.is_empty() && n <= WEIGHT_MAX => Ok((path.to_owned(), n)),
        _ => Err(format!("a weight is written PATH=N, N from 0 to {WEIGHT_MAX}, such as a:ha1=3")),
    }
}

fn setting(text: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        Some((key, value)) if !key.is_empty() => Ok((key.to_owned(), value.to_owned())),
        _ => Err("a value is written KEY=VALUE, such as path_timeout=2s".to_owned()),
    }
}

/// `PORTAL[@SOURCE]`, cut at the `@`.
#[must_use]
pub fn portal_and_source(text: &str) -> (&str, Option<&str>) {
    match text.split_once('@') {
        Some((portal, source)) => (portal, Some(source)),
        None => (text, None),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(words: &str) -> Command {
        Cli::try_parse_from(words.split_whitespace()).unwrap().command
    }

    #[test]
    fn commands_of_the_interface() {
        assert!(
            matches!(parse("mpio serve --config f --log-format json"), Command::Serve(a) if a.log.log_format == LogFormat::Json)
        );
        assert!(
            matches!(parse("mpio status"), Command::Status(a) if !a.json && a.device.is_none())
        );
        assert!(
            matches!(parse("mpio status vm0 --json"), Command::Status(a) if a.json && a.device.as_deref() == Some("vm0"))
        );
        assert!(matches!(parse("mpio config check f"), Command::Config { .. }));
        let Command::Policy(p) =
            parse("mpio policy vm0 RR --weight a:ha1=3 --weight b:x=1 --prefer a:ha1")
        else {
            panic!()
        };
        assert_eq!(p.weights, [("a:ha1".to_owned(), 3), ("b:x".to_owned(), 1)]);
        let Command::Path(p) = parse("mpio path vm0 a:ha1 disable --force") else { panic!() };
        assert_eq!((p.action.into(), p.force), (PathAction::Disable, true));
    }

    #[test]
    fn attach_takes_lists_both_ways() {
        let Command::Attach(a) = parse(
            "mpio attach --portal 10.0.0.1@10.0.0.9 --portal 10.0.1.1 --target iqn.a iqn.b --lun 1 --export tcp:127.0.0.1:1",
        ) else {
            panic!()
        };
        assert_eq!((a.portals.len(), a.targets.len(), a.lun), (2, 2, 1));
        assert_eq!(portal_and_source(&a.portals[0]), ("10.0.0.1", Some("10.0.0.9")));
        assert_eq!(portal_and_source(&a.portals[1]), ("10.0.1.1", None));
    }

    #[test]
    fn the_control_socket_goes_before_or_after() {
        for line in ["mpio --control /x status", "mpio status --control /x"] {
            let cli = Cli::try_parse_from(line.split_whitespace()).unwrap();
            assert_eq!(cli.control.as_deref(), Some(std::path::Path::new("/x")));
        }
    }

    #[test]
    fn what_is_refused() {
        for line in [
            "mpio",
            "mpio serve",
            "mpio path vm0 a:ha1 destroy",
            "mpio policy vm0 RR --weight a:ha1=101",
            "mpio attach --portal p --target t --lun x --export e",
            "mpio attach --portal p --target t --lun 1 --export e --chap-user u",
            "mpio config",
        ] {
            assert!(Cli::try_parse_from(line.split_whitespace()).is_err(), "{line}");
        }
    }
}
