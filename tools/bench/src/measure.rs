//! One load on one contender, and what comes of several turns.

use crate::fio;
use crate::process::{BenchError, command, finish};
use crate::setup::{Env, Server};
use serde_json::Value;
use std::path::Path;

/// What is asked of a device.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Load {
    /// Writes instead of reads.
    pub write: bool,
    /// Bytes, as `mpio bench` takes them.
    pub size: &'static str,
    /// Requests in flight on each connection.
    pub depth: u32,
    /// NBD connections.
    pub connections: u32,
}

impl Load {
    /// For people.
    #[must_use]
    pub fn name(&self) -> String {
        let what = if self.write { "write" } else { "read" };
        let Load { size, depth, connections, .. } = self;
        match connections {
            1 => format!("{size} {what}, depth {depth}"),
            n => format!("{size} {what}, depth {depth}, {n} connections"),
        }
    }
}

/// What one turn gave.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Measured {
    /// Requests per second.
    pub iops: f64,
    /// Latency, microseconds; 0 where nobody says.
    pub p50: f64,
    /// See `p50`.
    pub p99: f64,
    /// Processor time of the initiator for each request, microseconds; 0 where it is not apart.
    pub cpu: f64,
}

/// Who makes the load.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Generator {
    /// `mpio bench`.
    Mpio,
    /// fio's nbd engine.
    Fio,
}

/// Somebody who is measured.
#[derive(Debug)]
pub enum Contender {
    /// A server of NBD.
    Nbd {
        /// For people.
        name: &'static str,
        /// What serves.
        server: Server,
        /// Who makes the load.
        by: Generator,
        /// It has carried large requests for a minute before it is measured.
        aged: bool,
    },
    /// `iscsi-perf`, which is generator and initiator in one, against this URL.
    Perf(String),
}

/// How long an aged contender has carried large requests, seconds.
const AGE: u32 = 60;

impl Contender {
    /// For people.
    #[must_use]
    pub fn name(&self) -> &'static str {
        match self {
            Contender::Nbd { name, .. } => name,
            Contender::Perf(_) => "iscsi-perf",
        }
    }

    /// Writes content under `load`, reads it back, compares.
    ///
    /// # Errors
    /// When a byte is wrong, or it fails.
    pub fn verify(&self, env: &Env, load: Load) -> Result<(), BenchError> {
        let Contender::Nbd { name, server, by, .. } = self else { return Ok(()) };
        if *by == Generator::Fio {
            return fio::verify(env, server, load);
        }
        let json = bench(env, server, Load { write: true, ..load }, 1, &["--verify"])?;
        let (compared, wrong) = (&json["verified"]["compared"], &json["verified"]["wrong"]);
        if wrong == 0 && compared.as_u64() > Some(0) {
            return Ok(());
        }
        Err(BenchError::Failed(format!("{name}: {compared} blocks compared, {wrong} wrong")))
    }

    /// Does before all measurements what makes it what it is.
    ///
    /// # Errors
    /// When it fails.
    pub fn prepare(&self, env: &Env, quick: bool) -> Result<(), BenchError> {
        let Contender::Nbd { server, aged: true, .. } = self else { return Ok(()) };
        let large = Load { write: false, size: "128k", depth: 16, connections: 1 };
        let seconds = if quick { 1 } else { AGE };
        let mixed = ["--mixed=50", "--destructive", "--force"];
        bench(env, server, large, seconds, &mixed).map(|_| ())
    }

    /// One turn of so many seconds.
    ///
    /// # Errors
    /// When it fails.
    pub fn measure(&self, env: &Env, load: Load, seconds: u32) -> Result<Measured, BenchError> {
        match self {
            Contender::Perf(url) => perf(env, url, load, seconds),
            Contender::Nbd { server, by: Generator::Fio, .. } => {
                fio::measure(env, server, load, seconds)
            }
            Contender::Nbd { server, by: Generator::Mpio, .. } => {
                let pid = server.pid.to_string();
                let json = bench(env, server, load, seconds, &["--cpu-of", &pid])?;
                let number = |value: &Value| value.as_f64().unwrap_or(0.0);
                Ok(Measured {
                    iops: number(&json["iops"]),
                    p50: number(&json["latency_us"]["p50"]),
                    p99: number(&json["latency_us"]["p99"]),
                    cpu: number(&json["cpu"][0]["us_per_request"]),
                })
            }
        }
    }
}

fn bench(
    env: &Env,
    server: &Server,
    load: Load,
    seconds: u32,
    more: &[&str],
) -> Result<Value, BenchError> {
    let mut command = command(env.cores, &env.bin.join("mpio"));
    let number = |n: u32| n.to_string();
    command.args(["bench", &server.uri, "--json", "--size", load.size]);
    command.args(["--depth", &number(load.depth), "--connections", &number(load.connections)]);
    command.args(["--seconds", &number(seconds)]).args(more);
    if load.write {
        command.args(["--write", "--destructive", "--force"]);
    }
    let text = finish("mpio bench", &mut command)?;
    serde_json::from_str(&text).map_err(|error| BenchError::Failed(format!("{error}: {text}")))
}

fn perf(env: &Env, url: &str, load: Load, seconds: u32) -> Result<Measured, BenchError> {
    // It can do nothing else.
    assert!(!load.write && load.size == "4k" && load.connections == 1, "{load:?}");
    let mut command = command(env.cores, Path::new("iscsi-perf"));
    command.args(["-m", &load.depth.to_string(), "-b", "8", "-t", &seconds.to_string(), "-r", url]);
    let text = finish("iscsi-perf", &mut command)?;
    let iops = perf_iops(&text)
        .ok_or_else(|| BenchError::Failed(format!("iscsi-perf says no rate: {text}")))?;
    Ok(Measured { iops, p50: 0.0, p99: 0.0, cpu: 0.0 })
}

/// The last `iops average N` of what `iscsi-perf` writes.
fn perf_iops(text: &str) -> Option<f64> {
    let (_, last) = text.rsplit_once("iops average ")?;
    last.split_whitespace().next()?.parse().ok()
}

/// The middle value, the least and the greatest.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Spread {
    /// Half are not above it.
    pub median: f64,
    /// Least.
    pub least: f64,
    /// Greatest.
    pub most: f64,
}

impl Spread {
    /// Of several values; `None` of none.
    #[must_use]
    pub fn of(values: impl Iterator<Item = f64>) -> Option<Spread> {
        let mut values: Vec<f64> = values.collect();
        values.sort_by(f64::total_cmp);
        let (least, most) = (*values.first()?, *values.last()?);
        let median = f64::midpoint(values[(values.len() - 1) / 2], values[values.len() / 2]);
        Some(Spread { median, least, most })
    }

    /// For people, with the spread if there is one.
    #[must_use]
    pub fn ratio(&self) -> String {
        if self.least == self.most {
            return format!("{:.2}", self.median);
        }
        format!("{:.2} ({:.2}-{:.2})", self.median, self.least, self.most)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn medians() {
        let of = |values: &[f64]| Spread::of(values.iter().copied());
        assert_eq!(of(&[]), None);
        assert_eq!(of(&[3.0, 1.0, 2.0]), Some(Spread { median: 2.0, least: 1.0, most: 3.0 }));
        assert_eq!(of(&[4.0, 1.0]), Some(Spread { median: 2.5, least: 1.0, most: 4.0 }));
    }

    #[test]
    fn the_last_rate_counts() {
        let text =
            "iops current 10\riops average 48000 (187 MB/s)   \riops average 48123 (188 MB/s) \n";
        assert_eq!(perf_iops(text), Some(48123.0));
        assert_eq!(perf_iops("nothing"), None);
    }
}
