//! `mpio serve` and `mpio attach`: the daemon, from a file or from flags.

use super::args::{AttachArgs, ChapArgs, LogArgs, LogFormat, ServeArgs, portal_and_source};
use super::{Failure, output};
use crate::control::config::Chap;
use crate::control::config::values::{self, ISCSI_PORT, Wrong};
use crate::control::config::{
    self, Address, Config, Device, Export, Portal, Target, build, check, secret,
};
use crate::control::daemon::{self, Control, DaemonError, Isids, Options};
use crate::control::log;
use crate::control::pressure;
use std::net::IpAddr;
use std::path::Path;
use std::sync::Arc;
use tokio::sync::Notify;

/// Runs the daemon.
///
/// # Errors
/// Exit code 2 for a bad configuration, 1 when it cannot start.
pub fn serve(args: &ServeArgs, control: Option<&Path>) -> Result<(), Failure> {
    start_log(&args.log)?;
    let (config, warnings) = config::load(&args.config).map_err(|errors| Failure {
        code: 2,
        messages: errors.iter().map(ToString::to_string).collect(),
    })?;
    for warning in warnings {
        tracing::warn!(line = warning.line, "{}", warning.text);
    }
    let control = control.map_or(Control::Default, |path| Control::At(path.to_owned()));
    run(Options {
        config,
        control,
        isids: Isids::Stable,
        must_start: false,
        signals: true,
        stop: Arc::new(Notify::new()),
        memory_locked: pressure::prepare().locked,
    })
}

/// Runs one device in the foreground.
///
/// # Errors
/// Exit code 2 for wrong flags, 1 when it cannot start or can never work.
pub fn attach(args: &AttachArgs, control: Option<&Path>) -> Result<(), Failure> {
    start_log(&args.log)?;
    let config = of_flags(args)?;
    for warning in check::warnings(&config) {
        output::error(&format!("warning: {}", warning.text));
    }
    let control = control.map_or(Control::DefaultIfFree, |path| Control::At(path.to_owned()));
    run(Options {
        config,
        control,
        isids: Isids::Random,
        must_start: true,
        signals: true,
        stop: Arc::new(Notify::new()),
        memory_locked: pressure::prepare().locked,
    })
}

fn run(options: Options) -> Result<(), Failure> {
    daemon::run(options).map_err(|error| match error {
        DaemonError::Lock(_)
        | DaemonError::State(_)
        | DaemonError::Listen(_)
        | DaemonError::Lane(_)
        | DaemonError::System(_)
        | DaemonError::Hopeless(_) => Failure::failed(error),
    })
}

fn start_log(args: &LogArgs) -> Result<(), Failure> {
    log::start(args.log_format == LogFormat::Json, &args.log_level)
        .map_err(|why| Failure::wrong(format!("--log-level: {why}; try: info")))
}

/// Refuses a flag's value.
pub fn flag(name: &'static str) -> impl Fn(Wrong) -> Failure {
    move |wrong| Failure::wrong(format!("{name}: {wrong}"))
}

fn of_flags(args: &AttachArgs) -> Result<Config, Failure> {
    let name = initiator_name(args.initiator_name.as_deref())?;
    let targets = args.targets.iter().map(|text| {
        let (name, own) = values::target(text).map_err(flag("--target"))?;
        let lun = own.unwrap_or(args.lun);
        values::lun_field(lun).map_err(flag("--lun"))?;
        Ok(Target { name, lun, line: 0 })
    });
    let targets = targets.collect::<Result<Vec<Target>, Failure>>()?;
    let device_name = values::name(&args.name).map_err(flag("--name"))?;
    let export = Export::parse(&args.export).map_err(flag("--export"))?;
    let mut device = Device::new(&device_name, targets, export);
    if let Some(policy) = &args.policy {
        device.policy = build::policy(policy).map_err(flag("--policy"))?;
    }
    device.wwid = args.wwid.as_deref().map(values::wwid).transpose().map_err(flag("--wwid"))?;
    device.tunables.trust_identity = args.trust_identity;
    device.read_only = args.read_only;
    let chap = chap(&args.chap)?;
    let mut portals = Vec::new();
    for (index, text) in args.portals.iter().enumerate() {
        let (address, source) = portal("--portal", text)?;
        let mut portal = Portal::new(&format!("p{}", index + 1), address, source);
        portal.discovery = !args.no_discovery;
        portal.chap.clone_from(&chap);
        portal.discovery_chap.clone_from(&chap);
        portals.push(portal);
    }
    let config = Config { file: None, initiator_name: name, portals, devices: vec![device] };
    check_flags(&config)?;
    Ok(config)
}

/// The relations that a file is checked for, with flags for lines.
fn check_flags(config: &Config) -> Result<(), Failure> {
    let problems = config::document::Problems::new("arguments", "");
    check::across(config, &problems);
    let mut errors = problems.into_errors();
    errors.extend(check::host(config));
    if errors.is_empty() {
        return Ok(());
    }
    let message = |error: &config::ConfigError| match &error.hint {
        Some(hint) => format!("arguments: {}; try: {hint}", error.problem),
        None => format!("arguments: {}", error.problem),
    };
    Err(Failure { code: 2, messages: errors.iter().map(message).collect() })
}

/// `PORTAL[@SOURCE]`.
///
/// # Errors
/// Exit code 2.
pub fn portal(name: &'static str, text: &str) -> Result<(Address, Option<IpAddr>), Failure> {
    let (portal, source) = portal_and_source(text);
    let address = Address::parse(portal, ISCSI_PORT).map_err(flag(name))?;
    let source = source.map(values::source).transpose().map_err(flag(name))?;
    Ok((address, source))
}

/// CHAP from flags.
///
/// # Errors
/// Exit code 2 for files that cannot be used and secrets that RFC 7143 forbids.
pub fn chap(args: &ChapArgs) -> Result<Option<Arc<Chap>>, Failure> {
    let (Some(user), Some(file)) = (&args.chap_user, &args.chap_secret_file) else {
        return Ok(None);
    };
    let user = secret::user(user).map_err(flag("--chap-user"))?;
    let own = secret::read(file).map_err(flag("--chap-secret-file"))?.to_vec();
    let mutual = match (&args.mutual_user, &args.mutual_secret_file) {
        (Some(user), Some(file)) => {
            let user = secret::user(user).map_err(flag("--mutual-user"))?;
            Some((user, secret::read(file).map_err(flag("--mutual-secret-file"))?.to_vec()))
        }
        _ => None,
    };
    let chap = Chap::new(user, own, mutual);
    secret::check(&chap, args.allow_short_secret).map_err(|wrong| {
        let hint = wrong.hint.replace("allow_short_secret = true", "--allow-short-secret");
        Failure::wrong(format!("--chap-secret-file: {}; try: {hint}", wrong.problem))
    })?;
    Ok(Some(Arc::new(chap)))
}

/// The name given, or one made of this host's.
///
/// # Errors
/// Exit code 2 for a name that is none.
pub fn initiator_name(given: Option<&str>) -> Result<String, Failure> {
    if let Some(name) = given {
        return values::iscsi_name(name).map_err(flag("--initiator-name"));
    }
    let host = std::fs::read_to_string("/proc/sys/kernel/hostname");
    let host: String = host
        .unwrap_or_default()
        .to_lowercase()
        .chars()
        .filter(|c| c.is_ascii_alphanumeric() || matches!(c, '.' | '-'))
        .take(64)
        .collect();
    let host = if host.is_empty() { "localhost".to_owned() } else { host };
    Ok(format!("iqn.2026-11.org.example.mpio:{host}"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::args::{Cli, Command};
    use crate::path::Policy;
    use clap::Parser;

    fn flags(more: &str) -> Result<Config, Failure> {
        let line = format!(
            "mpio attach --portal 127.0.0.11@127.0.0.1 --portal 127.0.0.12 --target iqn.2026-11.example:a \
             iqn.2026-11.example:b/3 --lun 1 --export tcp:127.0.0.1:10809 {more}"
        );
        let Command::Attach(args) = Cli::try_parse_from(line.split_whitespace()).unwrap().command
        else {
            panic!("attach")
        };
        of_flags(&args)
    }

    #[test]
    fn flags_become_the_same_configuration() {
        let config = flags("--policy FOO --read-only").unwrap();
        assert_eq!(config.portals[0].name, "p1");
        assert_eq!(config.portals[0].source, Some("127.0.0.1".parse().unwrap()));
        assert_eq!(config.portals[1].name, "p2");
        let device = &config.devices[0];
        assert_eq!((device.targets[0].lun, device.targets[1].lun), (1, 3));
        assert_eq!(device.policy, Policy::Failover);
        assert!(device.read_only);
        assert!(config.initiator_name.starts_with("iqn.2026-11.org.example.mpio:"));
    }

    #[test]
    fn wrong_flags_say_which_and_what_would_do() {
        let message = |more: &str| flags(more).map(|_| ()).unwrap_err().messages.join("\n");
        assert_eq!(
            message("--portal fd00::1"),
            "--portal: the IPv6 address \"fd00::1\" has no brackets; try: [fd00::1] or [fd00::1]:3260"
        );
        assert_eq!(
            message("--portal 127.0.0.13@203.0.113.5"),
            "arguments: portal p3: source 203.0.113.5 is not an address of this host; try: an address from `ip addr`"
        );
        assert_eq!(
            message("--portal 127.0.0.12"),
            "arguments: portal p3 is the same way as portal p2; try: another address, source or interface"
        );
        assert!(
            message("--policy LBX")
                .starts_with("--policy: \"LBX\" is not a policy; try: failover, round-robin")
        );
        assert!(
            message("--chap-user u --chap-secret-file /nonexistent")
                .starts_with("--chap-secret-file: /nonexistent cannot be read")
        );
    }
}
