//! `mpio fence`: ranges in doubt, and an administrator's word.

use super::args::{FenceAction, FenceArgs};
use super::output::{safe, table};
use super::{Failure, client, output};
use crate::api::{Command, Confirmed, FenceList, Outcome};
use std::fmt::Write as _;
use std::path::Path;

/// Shows ranges in doubt, or vouches for a node.
///
/// # Errors
/// Those of [`client::ask`].
pub fn run(args: FenceArgs, control: Option<&Path>) -> Result<(), Failure> {
    match args.action.unwrap_or(FenceAction::List) {
        FenceAction::List => {
            let Outcome::Fences(list) =
                client::ask(control, Command::Fences { device: args.device })?
            else {
                return Err(client::unexpected());
            };
            show(&list, args.json, list_text)
        }
        FenceAction::ConfirmDead { path } => {
            let command = Command::ConfirmDead { device: args.device, path };
            let Outcome::Confirmed(done) = client::ask(control, command)? else {
                return Err(client::unexpected());
            };
            output::error(&format!(
                "warning: taken at your word: nothing that was sent by path {} will be executed any more. \
                 If its node is not off, an old write can land over newer data",
                done.path
            ));
            show(&done, args.json, confirmed_text)
        }
    }
}

fn show<T: serde::Serialize>(
    value: &T,
    json: bool,
    text: impl Fn(&T) -> String,
) -> Result<(), Failure> {
    if json {
        let json = serde_json::to_string(value).map_err(Failure::failed)?;
        return output::print(&(json + "\n"));
    }
    output::print(&text(value))
}

fn list_text(list: &FenceList) -> String {
    let mut out = format!("{}: fence {}", list.device, list.mode);
    let _ = match list.timeout_s {
        Some(seconds) => write!(out, ", released without a proof after {seconds} s"),
        None => write!(out, ", never released without a proof"),
    };
    let f = &list.fences;
    let _ = writeln!(
        out,
        "\n{} in doubt, {} writes held, {} proven, {} unproven, {} watched, {} repaired",
        f.pending, list.held_writes, f.proven, f.unproven, f.watched, f.repaired
    );
    if list.ranges.is_empty() {
        return out;
    }
    let head = ["BLOCKS", "PATH", "LANE", "AGE", "COPIES", "CLIENT", "NOW"];
    let mut rows = vec![head.map(str::to_owned).to_vec()];
    for range in &list.ranges {
        let last = range.first_block.saturating_add(range.blocks - 1);
        rows.push(vec![
            format!("{}-{last}", range.first_block),
            range.path.clone(),
            range.lane.to_string(),
            format!("{:.1} s", range.age_s),
            range.copies.to_string(),
            (if range.answered { "answered" } else { "waits" }).to_owned(),
            safe(&range.trying),
        ]);
    }
    out.push_str(&table("  ", &rows));
    out
}

fn confirmed_text(done: &Confirmed) -> String {
    let Confirmed { device, path, released, pending } = done;
    format!("{device}: path {path}: {released} ranges released, {pending} still in doubt\n")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::{FenceRange, Fences};

    #[test]
    fn ranges_for_people() {
        let mut list = FenceList {
            device: "vm0".into(),
            mode: "overlap".into(),
            timeout_s: Some(30.0),
            fences: Fences { pending: 1, proven: 2, ..Fences::default() },
            held_writes: 3,
            ranges: vec![FenceRange {
                first_block: 8,
                blocks: 8,
                path: "a:ha1".into(),
                lane: 0,
                age_s: 1.5,
                copies: 1,
                answered: true,
                trying: "logging in again".into(),
            }],
        };
        assert_eq!(
            list_text(&list),
            "vm0: fence overlap, released without a proof after 30 s\n\
             1 in doubt, 3 writes held, 2 proven, 0 unproven, 0 watched, 0 repaired\n\
             \x20 BLOCKS  PATH   LANE  AGE    COPIES  CLIENT    NOW\n\
             \x20 8-15    a:ha1  0     1.5 s  1       answered  logging in again\n"
        );
        list.ranges.clear();
        list.timeout_s = None;
        list.mode = "strict".into();
        assert!(
            list_text(&list).starts_with("vm0: fence strict, never released without a proof\n")
        );
        assert_eq!(list_text(&list).lines().count(), 2);
    }

    #[test]
    fn a_word_in_words() {
        let done =
            Confirmed { device: "vm0".into(), path: "a:ha1".into(), released: 2, pending: 1 };
        assert_eq!(confirmed_text(&done), "vm0: path a:ha1: 2 ranges released, 1 still in doubt\n");
    }
}
