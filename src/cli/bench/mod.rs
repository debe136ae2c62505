//! `mpio bench`: how fast a device is, measured as its users' I/O goes, or any NBD export.
//!
//! The order is: everything that can be refused is refused; connections are opened; then I/O begins.

mod choice;
mod content;
mod cpu;
mod generator;
mod latency;
mod load;
mod per_path;
mod report;
mod run;
mod signature;
mod stream;
mod tally;
mod target;
mod text;
mod uri;

use super::args::BenchArgs;
use super::{Failure, output};
use load::Load;
use per_path::{Before, Variant, Varied, best, rounds};
use report::ReportFile;
use run::{Interrupts, Run};
use serde_json::{Value, json};
use std::path::Path;
use target::Target;

/// Measures.
///
/// # Errors
/// Exit code 2 for wrong arguments, 3 without a daemon, 1 for a target that refuses or fails.
pub fn run(args: &BenchArgs, control: Option<&Path>) -> Result<(), Failure> {
    let load = Load::new(args)?;
    check_arguments(args)?;
    let report = args.report.as_deref().map(ReportFile::open).transpose()?;
    let target = Target::find(&args.target, control, args.in_use)?;
    may_begin(&target, &load, args.force)?;
    let bench = Bench { args, target, load };
    if args.per_path { bench.series(report) } else { bench.single(report) }
}

/// What the flags say about each other and about the system.
fn check_arguments(args: &BenchArgs) -> Result<(), Failure> {
    if args.per_path && uri::is_uri(&args.target) {
        return Err(Failure::wrong(format!(
            "--per-path: {} is an NBD export, whose paths nobody knows; \
             try: the name of a device of the daemon (mpio status)",
            args.target
        )));
    }
    for pid in &args.cpu_of {
        if cpu::of(*pid).is_none() {
            return Err(Failure::wrong(format!(
                "--cpu-of: there is no process {pid} that this user may look at; try: ps"
            )));
        }
    }
    Ok(())
}

/// Everything about the export that can forbid the load, before its first request.
fn may_begin(target: &Target, load: &Load, force: bool) -> Result<(), Failure> {
    let mut connection = target.connect()?;
    target.check(&connection.exported, load)?;
    if load.writes() && !force {
        let shown = &target.shown;
        let look = signature::look(&mut connection)
            .map_err(|error| Failure::failed(format!("{error}; try: mpio status")))?;
        let found = look.map_err(|error| {
            Failure::failed(format!(
                "{shown}: what it carries cannot be read: {error}; try: mpio status"
            ))
        })?;
        if !found.is_empty() {
            let list: Vec<String> = found.iter().map(ToString::to_string).collect();
            return Err(Failure::failed(format!(
                "{shown}: it carries {}, which this load would destroy; \
                 try: another device, or --force if it is not needed any more",
                list.join(", ")
            )));
        }
    }
    connection.close();
    Ok(())
}

/// A bench that may begin.
struct Bench<'a> {
    args: &'a BenchArgs,
    target: Target,
    load: Load,
}

impl Bench<'_> {
    fn measure(&self, load: &Load, interrupts: &Interrupts) -> Result<Run, Failure> {
        let workers = run::prepare(&self.target, load)?;
        run::run(&self.target, load, workers, &self.args.cpu_of, interrupts)
    }

    fn say(&self, text: &str) -> Result<(), Failure> {
        if self.args.json { Ok(()) } else { output::print(text) }
    }

    fn single(&self, report: Option<ReportFile>) -> Result<(), Failure> {
        let interrupts = Interrupts::catch()?;
        self.say(&format!("{}: {}, {} s\n", self.target.shown, self.load, self.load.seconds))?;
        let run = self.measure(&self.load, &interrupts)?;
        self.say(&text::text(&run))?;
        self.finish(text::json(&run))?;
        self.write(report, || report::single(&self.title(), &run))?;
        match run.fault() {
            Some(why) => Err(self.fault(&why)),
            None => Ok(()),
        }
    }

    fn fault(&self, why: &str) -> Failure {
        let hint = match &self.target.managed {
            Some(managed) => format!("mpio status {}", managed.name),
            None => "the server's log".to_owned(),
        };
        Failure::failed(format!("{}: {why}; try: {hint}", self.target.shown))
    }

    fn series(&self, report: Option<ReportFile>) -> Result<(), Failure> {
        let managed = self.target.managed.as_ref().expect("--per-path is only for a device");
        let interrupts = Interrupts::catch()?;
        let before = Before::of(managed, &interrupts)?;
        let variants = before.variants()?;
        let (rounds, seconds) = rounds(self.load.seconds);
        self.say(&format!(
            "{}: {}, {rounds} rounds of {seconds} s each: {}\n",
            self.target.shown,
            self.load,
            variants.iter().map(Variant::name).collect::<Vec<_>>().join(", ")
        ))?;
        let mut runs = Vec::new();
        let played = self.play(&before, &variants, &interrupts, &mut runs);
        let restored = before.restore();
        self.say(&text::series(&runs))?;
        self.finish(series_json(&runs))?;
        self.write(report, || report::series(&self.title(), &runs))?;
        played?;
        restored?;
        let fault = runs.iter().find_map(|v| Some((v.variant.name(), v.run.fault()?)));
        fault.map_or(Ok(()), |(name, why)| Err(self.fault(&format!("{name}: {why}"))))
    }

    fn play(
        &self,
        before: &Before<'_>,
        variants: &[Variant],
        interrupts: &Interrupts,
        runs: &mut Vec<Varied>,
    ) -> Result<(), Failure> {
        let (rounds, seconds) = rounds(self.load.seconds);
        let load = Load { seconds, ..self.load.clone() };
        for round in 0..rounds {
            for (index, variant) in variants.iter().enumerate() {
                before.apply(variant)?;
                output::progress_line(&format!(
                    "round {} of {rounds}: {} …",
                    round + 1,
                    variant.name()
                ));
                let run = self.measure(&load, interrupts)?;
                let interrupted = run.interrupted;
                match runs.get_mut(index) {
                    Some(varied) => varied.append(run),
                    None => runs.push(Varied::new(variant.clone(), run)),
                }
                if interrupted {
                    return self.say("interrupted: what follows is not all\n");
                }
            }
        }
        Ok(())
    }

    fn title(&self) -> String {
        format!("mpio bench {}", self.target.shown)
    }

    fn write(
        &self,
        report: Option<ReportFile>,
        html: impl FnOnce() -> String,
    ) -> Result<(), Failure> {
        let (Some(file), Some(path)) = (report, &self.args.report) else { return Ok(()) };
        file.write(&html())?;
        self.say(&format!("report: {}\n", path.display()))
    }

    fn finish(&self, mut result: Value) -> Result<(), Failure> {
        if !self.args.json {
            return Ok(());
        }
        result["version"] = crate::api::VERSION.into();
        result["target"] = self.target.shown.as_str().into();
        let text = serde_json::to_string(&result).map_err(Failure::failed)?;
        output::print(&(text + "\n"))
    }
}

fn series_json(runs: &[Varied]) -> Value {
    let kind = |variant: &Variant| match variant {
        Variant::Path(name) => ("path", name.clone()),
        Variant::Policy(name) => ("policy", name.clone()),
    };
    let list = runs.iter().map(|varied| {
        let (kind, name) = kind(&varied.variant);
        let mut json = text::json(&varied.run);
        (json["kind"], json["name"]) = (kind.into(), name.into());
        json["iops_of_rounds"] = varied.rounds().into();
        json
    });
    let winners = |wanted: &str| {
        let best = best(runs.iter().filter(|varied| kind(&varied.variant).0 == wanted));
        best.into_iter().map(|varied| kind(&varied.variant).1).collect::<Vec<_>>()
    };
    let (paths, policies) = (winners("path"), winners("policy"));
    json!({
        "per_path": list.collect::<Vec<_>>(),
        "best": {"path": paths.first(), "policy": policies.first()},
        "as_fast": {"path": paths, "policy": policies},
    })
}
