//! `mpio policy`, `mpio set` and `mpio path`: one request to the daemon, one answer for people or scripts.

use super::args::{PathArgs, PolicyArgs, SetArgs};
use super::{Failure, client, output};
use crate::api::{Command, Outcome, PathAction, PolicyStatus, SetStatus};
use crate::path::Policy;
use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::Path;

/// Shows or changes a policy.
///
/// # Errors
/// Those of [`client::ask`].
pub fn policy(args: &PolicyArgs, control: Option<&Path>) -> Result<(), Failure> {
    let command = Command::Policy {
        device: args.device.clone(),
        policy: args.policy.clone(),
        weights: args.weights.iter().cloned().collect(),
        prefer: args.prefer.clone(),
    };
    let Outcome::Policy(status) = client::ask(control, command)? else {
        return Err(client::unexpected());
    };
    if args.json {
        let json = serde_json::to_string(&status).map_err(Failure::failed)?;
        return output::print(&(json + "\n"));
    }
    output::print(&policy_text(&status))
}

fn policy_text(status: &PolicyStatus) -> String {
    let mut text = format!("{}: {}", status.device, status.policy);
    if let Some(prefer) = &status.prefer {
        let _ = write!(text, ", prefers {prefer}");
    }
    if status.weights.values().any(|&weight| weight != 1) {
        let weights: Vec<String> = status.weights.iter().map(|(p, w)| format!("{p}={w}")).collect();
        let _ = write!(text, ", weights {}", weights.join(" "));
        let used = status.policy.parse().is_ok_and(|policy: Policy| policy.uses_weights());
        text.push_str(if used { "" } else { " (which it does not use)" });
    }
    text + "\n"
}

/// Shows or changes tunables.
///
/// # Errors
/// A key that is given twice; those of [`client::ask`].
pub fn set(args: SetArgs, control: Option<&Path>) -> Result<(), Failure> {
    let mut values = BTreeMap::new();
    for (key, value) in args.values {
        if values.contains_key(&key) {
            return Err(Failure::wrong(format!("{key}: it is set twice; try: one value")));
        }
        values.insert(key, value);
    }
    let shows = values.is_empty();
    let command = Command::Set { device: args.device, values };
    let Outcome::Set(status) = client::ask(control, command)? else {
        return Err(client::unexpected());
    };
    for warning in &status.warnings {
        output::complain(&format!("mpio: device {}: warning: {warning}\n", status.device));
    }
    if args.json {
        let json = serde_json::to_string(&status).map_err(Failure::failed)?;
        return output::print(&(json + "\n"));
    }
    output::print(&if shows { tunables_text(&status) } else { changes_text(&status) })
}

fn changes_text(status: &SetStatus) -> String {
    if status.changed.is_empty() {
        return format!("{}: nothing to change\n", status.device);
    }
    let word = |text: &str| if text.is_empty() { "none".to_owned() } else { text.to_owned() };
    let mut text = String::new();
    for change in &status.changed {
        let (from, to) = (word(&change.from), word(&change.to));
        let _ = writeln!(text, "{}: {} {to} (was {from})", status.device, change.key);
    }
    text
}

/// One block per tunable: reasons are too long for a table.
fn tunables_text(status: &SetStatus) -> String {
    let mut text = format!("device {}\n", status.device);
    let width = status.tunables.iter().map(|t| t.key.len()).max().unwrap_or(0);
    for t in &status.tunables {
        let value = if t.value.is_empty() { "none" } else { &t.value };
        let default = match t.default == t.value {
            true => String::new(),
            false if t.default.is_empty() => ", default none".to_owned(),
            false => format!(", default {}", t.default),
        };
        let _ = writeln!(text, "  {:width$}  {value}  ({}{default})", t.key, t.range);
        let _ = writeln!(text, "  {:width$}  {}", "", t.reason);
    }
    text
}

/// Takes a path out or back.
///
/// # Errors
/// Those of [`client::ask`].
pub fn path(args: PathArgs, control: Option<&Path>) -> Result<(), Failure> {
    let action: PathAction = args.action.into();
    let done = match action {
        PathAction::Disable => "disabled",
        PathAction::Enable => "enabled",
        PathAction::Recheck => "is being rechecked",
    };
    let text = format!("{}: path {} {done}\n", args.device, args.path);
    let command = Command::Path { device: args.device, path: args.path, action, force: args.force };
    match client::ask(control, command)? {
        Outcome::Done {} => output::print(&text),
        _ => Err(client::unexpected()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeMap;

    #[test]
    fn policy_in_words() {
        let mut status = PolicyStatus {
            device: "vm0".into(),
            policy: "failover".into(),
            weights: BTreeMap::from([("a:ha1".into(), 1), ("b:x".into(), 1)]),
            prefer: Some("a:ha1".into()),
        };
        assert_eq!(policy_text(&status), "vm0: failover, prefers a:ha1\n");
        status.prefer = None;
        status.policy = "weighted-paths".into();
        status.weights.insert("a:ha1".into(), 0);
        assert_eq!(policy_text(&status), "vm0: weighted-paths, weights a:ha1=0 b:x=1\n");
        status.policy = "failover".into();
        status.weights.insert("a:ha1".into(), 3);
        assert_eq!(
            policy_text(&status),
            "vm0: failover, weights a:ha1=3 b:x=1 (which it does not use)\n"
        );
    }
}
