//! What an agent finds of an earlier one.

use std::fs;

use anyhow::{Result, ensure};
use weir::{
    bpf::{self, Direction, Order},
    source::Event,
};
use weir_core::model::Kind;
use weir_world::PodSpec;

use crate::stage::{Action, Stage, classifier, link_id, program_id, world};

#[test]
fn links_are_taken_over_and_their_programs_replaced() -> Result<()> {
    let stage = Stage::following(world().pod(PodSpec::new("pod")))?;
    let pod = stage.world.pod("pod")?;
    stage.wait_until_served(&pod)?;
    let path = stage
        .layout()?
        .link(&format!("from_pod-{}", pod.host_ifindex()));
    let link = link_id(&path)?;
    let program = stage.programs(pod.host_veth(), Direction::Ingress)?;
    let epoch = stage.config()?.epoch;
    for _ in 0..3 {
        stage.stop();
        ensure!(stage.serves(&pod)?, "what it did went with it");
        stage.start(Action::Next)?;
        stage.tell(&Event::Listed(Kind::Pod))?;
        stage.wait_until("it has listed", |stage| Ok(stage.view()?.listed))?;
        ensure!(stage.serves(&pod)?);
    }
    ensure!(link_id(&path)? == link, "another link");
    ensure!(
        stage.programs(pod.host_veth(), Direction::Ingress)? != program,
        "the old program"
    );
    ensure!(
        stage.config()?.epoch == epoch,
        "flows are stale although nothing has changed"
    );
    Ok(())
}

#[test]
fn leftovers_go_when_everything_is_listed_and_not_before() -> Result<()> {
    let stage = Stage::following(world().pods(["stays", "goes"].map(PodSpec::new)))?;
    let (stays, goes) = (stage.world.pod("stays")?, stage.world.pod("goes")?);
    stage.wait_until_served(&stays)?;
    stage.wait_until_served(&goes)?;
    stage.stop();
    stage.world.remove_pod("goes")?;
    let stale = stage
        .links()?
        .into_iter()
        .filter(|link| link.contains("_pod-"))
        .count();
    ensure!(
        stale == 4 && stage.endpoints()?.len() == 4,
        "somebody cleans up without an agent"
    );
    // A name that another interface has got meanwhile, and a device that is external no longer.
    let lost = "203.0.113.9".parse()?;
    stage.leave_endpoint(lost, 9999)?;
    let node = stage.node()?;
    node.ip(&["link add former0 type bridge", "link set former0 up"])?;
    let former = node.ifindex("former0")?;
    let link = node.run(|| {
        bpf::attach_tcx(
            &classifier(Action::Drop)?,
            former,
            Direction::Ingress,
            Order::Last,
        )
    })??;
    bpf::pin(&link, &stage.layout()?.link(&format!("from_net-{former}")))?;
    drop(link);

    stage.start(Action::Next)?;
    stage.wait_until("the pod is served again", |stage| {
        Ok(stage.view()?.interfaces.len() == 1)
    })?;
    ensure!(
        stage.endpoints()?.contains_key(&lost),
        "removed before all objects were listed"
    );
    ensure!(stage.endpoints()?.contains_key(&goes.addresses().v4.into()));
    stage.tell(&Event::Listed(Kind::Pod))?;
    stage.wait_until("only the pod that stays is left", |stage| {
        let links = stage.links()?;
        let of_pods: Vec<_> = links.iter().filter(|link| link.contains("_pod-")).collect();
        Ok(stage.serves(&stays)? && stage.endpoints()?.len() == 2 && of_pods.len() == 2)
    })?;
    ensure!(stage.programs("former0", Direction::Ingress)?.is_empty());
    Ok(())
}

#[test]
fn a_link_of_another_interface_does_not_keep_its_name() -> Result<()> {
    let stage = Stage::new(world().pod(PodSpec::new("pod")))?;
    let pod = stage.world.pod("pod")?;
    let node = stage.node()?;
    node.ip(&["link add gone0 type bridge"])?;
    let gone = node.ifindex("gone0")?;
    let link = node.run(|| {
        bpf::attach_tcx(
            &classifier(Action::Drop)?,
            gone,
            Direction::Ingress,
            Order::Last,
        )
    })??;
    let path = stage
        .layout()?
        .link(&format!("from_pod-{}", pod.host_ifindex()));
    bpf::pin(&link, &path)?;
    drop(link);
    node.ip(&["link del gone0"])?;
    ensure!(bpf::target_of_tcx_link(&bpf::open_pinned(&path)?)?.is_none());
    stage.start(Action::Next)?;
    stage.wait_until_served(&pod)?;
    let target = bpf::target_of_tcx_link(&bpf::open_pinned(&path)?)?;
    ensure!(target == Some((pod.host_ifindex(), Direction::Ingress as u32)));
    Ok(())
}

#[test]
fn ours_is_nearest_to_the_interface() -> Result<()> {
    let stage = Stage::new(world().pod(PodSpec::new("pod")))?;
    let pod = stage.world.pod("pod")?;
    let (other, index) = (classifier(Action::Next)?, pod.host_ifindex());
    let attach = |direction| {
        let attached = stage
            .node()?
            .run(|| bpf::attach_tcx(&other, index, direction, Order::Last))?;
        anyhow::Ok(attached?)
    };
    let others = [attach(Direction::Ingress)?, attach(Direction::Egress)?];
    stage.start(Action::Next)?;
    stage.wait_until("both are there", |stage| {
        let count = |direction| anyhow::Ok(stage.programs(pod.host_veth(), direction)?.len());
        Ok(count(Direction::Ingress)? == 2 && count(Direction::Egress)? == 2)
    })?;
    let id = program_id(&other)?;
    ensure!(stage.programs(pod.host_veth(), Direction::Ingress)?.last() == Some(&id));
    ensure!(stage.programs(pod.host_veth(), Direction::Egress)?.first() == Some(&id));
    drop(others);
    Ok(())
}

#[test]
fn foreign_pins_are_left_alone() -> Result<()> {
    let stage = Stage::new(world())?;
    let node = stage.node()?;
    node.ip(&["link add other0 type bridge"])?;
    let index = node.ifindex("other0")?;
    let link = node.run(|| {
        bpf::attach_tcx(
            &classifier(Action::Next)?,
            index,
            Direction::Ingress,
            Order::Last,
        )
    })??;
    for name in ["connect4", "from_podling-7", "from_pod-x", "from_pod"] {
        bpf::pin(&link, &stage.layout()?.link(name))?;
    }
    stage.start(Action::Next)?;
    stage.tell(&Event::Listed(Kind::Pod))?;
    stage.wait_until("it has listed", |stage| Ok(stage.view()?.listed))?;
    let names = stage.links()?;
    for name in ["connect4", "from_podling-7", "from_pod-x", "from_pod"] {
        ensure!(
            names.iter().any(|there| there == name),
            "{name} was removed"
        );
        fs::remove_file(stage.layout()?.link(name))?;
    }
    Ok(())
}
