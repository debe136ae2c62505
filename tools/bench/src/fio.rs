//! fio's nbd engine as the generator: what many people measure with. It costs more for each request than
//! what it measures, so from depth 8 up it compares itself.

use crate::measure::{Load, Measured};
use crate::process::{BenchError, command, cpu_ns, finish};
use crate::setup::{Env, Server};
use serde_json::Value;
use std::path::Path;

/// What is written and read back, MiB.
const VERIFIED_MIB: u32 = 16;

/// One turn of so many seconds.
///
/// # Errors
/// When it fails, or a request does.
pub fn measure(
    env: &Env,
    server: &Server,
    load: Load,
    seconds: u32,
) -> Result<Measured, BenchError> {
    let before = cpu_ns(server.pid)?;
    let runtime = format!("--runtime={seconds}");
    let job =
        run(env, server, load, &["--time_based", &runtime, "--norandommap", "--randrepeat=0"])?;
    let spent = cpu_ns(server.pid)?.saturating_sub(before);
    measured(&job, load, spent)
}

/// Writes blocks that carry their checksums, and reads them back.
///
/// # Errors
/// When a byte is wrong, or it fails.
pub fn verify(env: &Env, server: &Server, load: Load) -> Result<(), BenchError> {
    let size = format!("--io_size={VERIFIED_MIB}m");
    let write = Load { write: true, ..load };
    let job = run(env, server, write, &["--verify=crc32c", "--verify_fatal=1", &size])?;
    match job["read"]["total_ios"].as_u64() {
        Some(compared) if compared > 0 => Ok(()),
        _ => Err(BenchError::Failed("fio: nothing was read back".to_owned())),
    }
}

fn run(env: &Env, server: &Server, load: Load, more: &[&str]) -> Result<Value, BenchError> {
    assert_eq!(load.connections, 1, "one job, one connection");
    let mut fio = command(env.cores, Path::new("fio"));
    let rw = if load.write { "randwrite" } else { "randread" };
    fio.args(["--name=bench", "--ioengine=nbd", "--output-format=json"]);
    fio.args([
        format!("--uri={}", server.uri),
        format!("--rw={rw}"),
        format!("--bs={}", load.size),
    ]);
    fio.args([format!("--iodepth={}", load.depth), format!("--size={}m", crate::setup::SIZE_MIB)]);
    // It leaves files of its state where it runs.
    let text = finish("fio", fio.args(more).current_dir(&env.directory))?;
    job(&text)
}

/// The only job of a report; fio may say something before it.
fn job(text: &str) -> Result<Value, BenchError> {
    let json = text.find('{').map_or("", |at| &text[at..]);
    let report: Value = serde_json::from_str(json)
        .map_err(|error| BenchError::Failed(format!("fio's report: {error}: {text}")))?;
    let job = report["jobs"][0].clone();
    match job["error"].as_u64() {
        Some(0) => Ok(job),
        _ => Err(BenchError::Failed(format!("fio saw errors: {}", job["error"]))),
    }
}

/// `spent` is the processor time of the server meanwhile, nanoseconds.
fn measured(job: &Value, load: Load, spent: u64) -> Result<Measured, BenchError> {
    let side = &job[if load.write { "write" } else { "read" }];
    let number = |value: &Value| value.as_f64().unwrap_or(0.0);
    let requests = number(&side["total_ios"]);
    if requests == 0.0 {
        return Err(BenchError::Failed("fio: no request was answered".to_owned()));
    }
    let percentile = |name: &str| number(&side["clat_ns"]["percentile"][name]) / 1e3;
    Ok(Measured {
        iops: number(&side["iops"]),
        p50: percentile("50.000000"),
        p99: percentile("99.000000"),
        cpu: spent as f64 / 1e3 / requests,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const REPORT: &str = r#"note: something
{"jobs":[{"error":0,"read":{"iops":5000.5,"total_ios":10000,
"clat_ns":{"percentile":{"50.000000":120000,"99.000000":900000}}},"write":{"total_ios":0}}]}"#;

    fn load(write: bool) -> Load {
        Load { write, size: "4k", depth: 32, connections: 1 }
    }

    #[test]
    fn a_report_is_read() {
        let job = job(REPORT).unwrap();
        let read = measured(&job, load(false), 40_000_000).unwrap();
        assert_eq!(read, Measured { iops: 5000.5, p50: 120.0, p99: 900.0, cpu: 4.0 });
        assert!(measured(&job, load(true), 1).is_err(), "no write was made");
    }

    #[test]
    fn errors_are_told() {
        assert!(job("cannot connect").is_err());
        assert!(job(&REPORT.replace("\"error\":0", "\"error\":5")).is_err());
    }
}
