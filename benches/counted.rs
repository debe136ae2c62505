//! The same work as `core`, so and so often, for callgrind: see the script `instructions` beside this file.
//! Without arguments it runs every scenario once.

mod common;

use common::{SCENARIOS, World};

fn main() {
    let arguments: Vec<String> =
        std::env::args().skip(1).filter(|a| !a.starts_with("--")).collect();
    match arguments.as_slice() {
        [] => {
            for scenario in SCENARIOS {
                World::new(scenario).batch();
                println!("{}: {}", scenario.depth, scenario.name);
            }
        }
        [name, batches] => {
            let scenario = SCENARIOS.iter().find(|scenario| scenario.name == name);
            let mut world = World::new(*scenario.expect("the name of a scenario"));
            let batches: u32 = batches.parse().expect("a number of batches");
            for _ in 0..batches {
                world.batch();
            }
        }
        other => panic!("expected nothing, or a scenario and a number of batches; got {other:?}"),
    }
}
