//! A thousand changes at random, with the agent killed in between.

use std::{thread, time::Duration};

use anyhow::{Context as _, Result, ensure};
use weir::bpffs::Layout;
use weir_tests::agent::{Agent, peer_command};
use weir_tests::manifests::Manifests;
use weir_world::World;

use crate::{
    tables::{Model, Random, exist, read},
    town::eventually,
};

const CHANGES: usize = 1000;
const CHANGES_OF_A_LIFE: usize = 250;

fn apply(manifests: &Manifests, model: &Model, name: &str) -> Result<()> {
    match model.object(name) {
        Some(object) => manifests.apply(name, &object),
        None if manifests.path().join(format!("{name}.yaml")).exists() => manifests.delete(name),
        None => Ok(()),
    }
}

/// Waits until the tables say what the model says.
fn agrees(layout: &Layout, model: &Model, agent: &Agent) -> Result<()> {
    let expected = model.expected();
    // While they are written, what is read of one table is older than what is read of the next.
    let agrees = eventually("the tables agree with the model", || {
        Ok(read(layout).is_ok_and(|seen| expected.is(&seen)))
    });
    agrees.with_context(|| format!("{:#?}\n{expected:#?}\n{}", read(layout), agent.log()))
}

#[test]
fn a_thousand_changes_with_kills_in_between_lead_where_the_model_says() -> Result<()> {
    let world = World::builder(peer_command()?).build()?;
    let node = &world.nodes()[0];
    let manifests = Manifests::new(node.run_directory())?;
    let layout = Layout::new(&node.bpffs());
    let seed = u64::from(std::process::id());
    let mut random = Random::new(seed);
    let mut model = Model::default();
    let mut agent = Agent::start(node, manifests.path())?;
    ensure!(exist(&layout));
    for number in 1..=CHANGES {
        let name = model.change(&mut random);
        apply(&manifests, &model, &name)?;
        if number % CHANGES_OF_A_LIFE == 0 {
            // Somewhere in the middle of it.
            thread::sleep(Duration::from_micros(random.below(20_000) as u64));
            agent.kill();
            read(&layout).with_context(|| format!("seed {seed}: killed after {number} changes"))?;
            // Some are made while nobody looks.
            for _ in 0..5 {
                let name = model.change(&mut random);
                apply(&manifests, &model, &name)?;
            }
            agent = Agent::start(node, manifests.path())?;
            agrees(&layout, &model, &agent)
                .with_context(|| format!("seed {seed}: restarted after {number} changes"))?;
        } else if random.below(90) == 0 {
            agrees(&layout, &model, &agent)
                .with_context(|| format!("seed {seed}: after {number} changes"))?;
        }
    }
    let services = agent.status()?;
    ensure!(services["skipped"] == serde_json::json!([]), "{services}");
    Ok(())
}
