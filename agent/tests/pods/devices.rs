//! External devices.

use std::sync::Arc;

use anyhow::{Error, Result, ensure};
use weir::{bpf::Direction, pods::Choice, source::Event};
use weir_core::{
    model::{AddressKind, Kind, Node as NodeObject, NodeAddress, Object},
    state::Change,
};
use weir_world::PodSpec;

use crate::stage::{Action, Stage, world};

#[test]
fn the_default_routes_device_is_external_and_no_pods() -> Result<()> {
    let stage = Stage::following(world().pod(PodSpec::new("pod")))?;
    let uplink = stage.node()?.uplink();
    stage.wait_until("the uplink is served", |stage| {
        let served = |direction| anyhow::Ok(stage.programs(uplink, direction)?.len() == 1);
        Ok(stage.view()?.devices == [uplink]
            && served(Direction::Ingress)?
            && served(Direction::Egress)?)
    })
}

#[test]
fn a_device_with_an_address_of_the_node_is_external_while_it_is_there() -> Result<()> {
    let stage = Stage::following(world())?;
    let node = stage.node()?;
    let object = NodeObject {
        name: Arc::from(node.name()),
        zone: None,
        addresses: vec![NodeAddress {
            kind: AddressKind::Internal,
            addr: "198.51.100.7".parse()?,
        }],
        pod_cidrs: Vec::new(),
        deleting: false,
        to_be_deleted: false,
    };
    stage.tell(&Event::Change(Change::Apply(Object::Node(object))))?;
    node.ip(&[
        "link add second0 type bridge",
        "addr add 198.51.100.7/24 dev second0",
    ])?;
    stage.wait_until("both are served", |stage| {
        Ok(stage.view()?.devices == [node.uplink(), "second0"])
    })?;
    let index = node.ifindex("second0")?;
    node.ip(&["link del second0"])?;
    stage.wait_until("one is served, and nothing is left of the other", |stage| {
        let links = stage.links()?;
        Ok(stage.view()?.devices == [node.uplink()]
            && !links
                .iter()
                .any(|link| link.ends_with(&format!("_net-{index}"))))
    })
}

#[test]
fn named_devices_are_served_when_they_come_and_can_be() -> Result<()> {
    let mut stage = Stage::new(world())?;
    let names = ["ext*", "flat0", "nowhere0"].map(str::parse);
    let names = names.into_iter().collect::<Result<_, String>>();
    stage.devices = Choice::Named(names.map_err(Error::msg)?);
    let node = stage.node()?;
    // Without an Ethernet header, as tunnels of WireGuard and VPNs are.
    node.ip(&["tuntap add mode tun name flat0"])?;
    stage.start(Action::Next)?;
    stage.tell(&Event::Listed(Kind::Pod))?;
    stage.wait_until("what cannot be served is told", |stage| {
        let left: Vec<_> = stage
            .view()?
            .left
            .iter()
            .map(|left| left.name.clone())
            .collect();
        Ok(left.iter().any(|name| name == "flat0") && left.iter().any(|name| name == "nowhere0"))
    })?;
    ensure!(stage.view()?.devices.is_empty());
    ensure!(stage.programs("flat0", Direction::Ingress)?.is_empty());
    node.ip(&["link add ext0 type bridge"])?;
    stage.wait_until("the named one is served", |stage| {
        Ok(stage.view()?.devices == ["ext0"]
            && stage.programs("ext0", Direction::Ingress)?.len() == 1)
    })
}
