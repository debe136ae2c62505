//! What is printed of a run that broke a rule: short, and enough to begin with.

use crate::load::CELL;
use crate::plan::Bug;
use crate::run::Failure;
use crate::trace::About;
use std::fmt::Write;

/// Lines of the story at most.
const LINES_MAX: usize = 60;
/// Executed commands at most.
const RECORDS_MAX: usize = 30;

/// The report.
#[must_use]
pub fn report(failure: &Failure) -> String {
    let Failure { plan, broken, world, load } = failure;
    let mut out = String::new();
    let setup = &plan.setup;
    let nodes: Vec<usize> = setup.portals.iter().map(|p| p.node).collect();
    let _ = writeln!(out, "seed {}: {}", plan.seed, broken.rule.words());
    let _ = writeln!(out, "  {}", broken.what.trim_end().replace('\n', "\n  "));
    let _ = writeln!(
        out,
        "  paths to nodes {nodes:?}, {} lanes, policy {}, fence {:?}, {} requests, {:?}",
        setup.lanes,
        setup.policy,
        setup.tunables.fence,
        load.asked.len(),
        plan.shape.pattern,
    );
    story(failure, &mut out);
    if let Some((first, cells)) = broken.cells {
        let block = u64::from(setup.pair.block_size);
        let (lba, end) = (first * CELL / block, ((first + cells) * CELL).div_ceil(block));
        let records = world.pair.journal().touching(lba, end - lba);
        let _ = writeln!(out, "executed on blocks {lba} to {}:", end - 1);
        for record in records.iter().rev().take(RECORDS_MAX).rev() {
            let at = record.executed_at.as_nanos();
            let orphan = if record.orphaned { ", its session gone" } else { "" };
            let writer = load.asked.iter().position(|a| {
                matches!(a.kind, crate::load::Kind::Write { checksum, .. } if checksum == record.checksum)
            });
            let writer = writer.map_or(String::new(), |token| format!(" (#{token})"));
            let _ = writeln!(
                out,
                "  {}.{:06} node {} opcode {:02x}{writer} {} from {}, session {}{orphan}",
                at / 1_000_000_000,
                at / 1000 % 1_000_000,
                record.nexus.node,
                record.opcode,
                record.blocks,
                record.lba,
                record.nexus.tsih,
            );
        }
    }
    let _ = writeln!(out, "again: {}", again(plan.seed, plan.bug));
    out
}

/// What happened to the place, or to anything, and what was broken meanwhile.
fn story(failure: &Failure, out: &mut String) {
    let touches = |first: u64, count: u64| match failure.broken.cells {
        Some((cell, cells)) => first < cell + cells && cell < first + count,
        None => false,
    };
    let entries = failure.world.trace.entries();
    let wanted: Vec<_> = entries
        .iter()
        .filter(|entry| match entry.about {
            About::Cells(first, count) => touches(first, count),
            About::Fault | About::Notice => true,
        })
        .collect();
    let skipped = wanted.len().saturating_sub(LINES_MAX);
    if skipped > 0 {
        let _ = writeln!(out, "  … {skipped} lines before");
    }
    for entry in &wanted[skipped..] {
        let at = entry.at.as_nanos();
        let text: String = entry.text.chars().take(160).collect();
        let _ = writeln!(out, "  {}.{:06} {text}", at / 1_000_000_000, at / 1000 % 1_000_000);
    }
}

/// The command that repeats a run.
#[must_use]
pub fn again(seed: u64, bug: Option<Bug>) -> String {
    match bug {
        None => format!("cargo run --release -p mpio-sim -- run --seed {seed}"),
        Some(bug @ Bug::Product(_)) => format!(
            "cargo run --release -p mpio-sim --features planted -- run --seed {seed} --bug {}",
            bug.name()
        ),
        Some(bug) => {
            format!("cargo run --release -p mpio-sim -- run --seed {seed} --bug {}", bug.name())
        }
    }
}
