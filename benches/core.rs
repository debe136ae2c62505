//! Requests per second of the pure initiator (export, volume, path, session), in memory: what the protocol
//! costs when sockets cost nothing. One iteration is one request.

mod common;

use common::{SCENARIOS, World};
use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use std::time::Duration;

fn core(c: &mut Criterion) {
    let mut group = c.benchmark_group("core");
    for scenario in SCENARIOS {
        let mut world = World::new(scenario);
        group.throughput(Throughput::Elements(1));
        group.bench_function(scenario.name, |bencher| {
            bencher.iter_custom(|requests| {
                let batches = requests.div_ceil(scenario.depth as u64);
                let took: Duration = (0..batches).map(|_| world.batch()).sum();
                // Whole batches only: scaled to what was asked for.
                took.mul_f64(requests as f64 / (batches * scenario.depth as u64) as f64)
            });
        });
    }
    group.finish();
}

criterion_group!(benches, core);
criterion_main!(benches);
