//! fio as the load, and what of its report is used.

use crate::harness::process::command;
use serde_json::Value;
use std::path::Path;
use std::process::{Child, Stdio};
use std::time::Duration;

/// Bytes of the device: more than any run writes.
pub const SIZE: u64 = 8 << 30;

/// Before what is measured, so that start-up is not in it.
const RAMP_S: u64 = 1;

/// A running fio.
pub struct Fio {
    child: Option<Child>,
}

/// One direction of a run.
#[derive(Debug, Clone, Copy)]
pub struct Direction {
    /// Requests per second.
    pub iops: f64,
    /// Longest request, ms.
    pub longest_ms: f64,
    /// 99.9th percentile, ms.
    pub p999_ms: f64,
}

/// What fio reports.
#[derive(Debug, Clone, Copy)]
pub struct Report {
    /// Reads.
    pub reads: Direction,
    /// Writes.
    pub writes: Direction,
}

impl Fio {
    /// Random 4 KiB requests (`rw` as fio calls it), no block twice, for `lasts` after a second to warm up.
    pub fn start(uri: &str, rw: &str, depth: u32, lasts: Duration, directory: &Path) -> Fio {
        let mut fio = command(None, "fio");
        fio.current_dir(directory).args(["--name=gap", "--ioengine=nbd", "--bs=4k"]);
        fio.args([&format!("--uri={uri}"), &format!("--rw={rw}"), &format!("--size={SIZE}")]);
        fio.args([&format!("--iodepth={depth}"), "--time_based", "--randrepeat=0"]);
        fio.args([&format!("--runtime={}", lasts.as_secs()), &format!("--ramp_time={RAMP_S}")]);
        fio.args(["--norandommap=0", "--random_generator=lfsr", "--output-format=json"]);
        let child = fio.stdout(Stdio::piped()).stderr(Stdio::null()).spawn().unwrap();
        // The first requests are under way when this returns, the ramp is over.
        std::thread::sleep(Duration::from_secs(RAMP_S) + Duration::from_millis(700));
        Fio { child: Some(child) }
    }

    /// Waits for its end.
    ///
    /// # Errors
    /// When a request failed, or the report is not one.
    pub fn finish(mut self) -> Result<Report, String> {
        let child = self.child.take().expect("it is finished once");
        let output = child.wait_with_output().map_err(|error| error.to_string())?;
        let text = String::from_utf8_lossy(&output.stdout);
        let json = text.find('{').map_or("", |at| &text[at..]);
        let report: Value =
            serde_json::from_str(json).map_err(|error| format!("fio's report: {error}"))?;
        let job = &report["jobs"][0];
        let direction = |name: &str| {
            let ms = |value: &Value| value.as_f64().unwrap_or(0.0) / 1e6;
            let latency = &job[name]["clat_ns"];
            Direction {
                iops: job[name]["iops"].as_f64().unwrap_or(0.0),
                longest_ms: ms(&latency["max"]),
                p999_ms: ms(&latency["percentile"]["99.900000"]),
            }
        };
        let errors = job["total_err"].as_u64().or(job["error"].as_u64()).unwrap_or(1);
        if errors > 0 || !output.status.success() {
            return Err(format!("fio saw {errors} errors"));
        }
        Ok(Report { reads: direction("read"), writes: direction("write") })
    }
}

impl Drop for Fio {
    fn drop(&mut self) {
        if let Some(mut child) = self.child.take() {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}
