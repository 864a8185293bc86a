//! Pods that come, go, end, and reuse addresses.

use std::{
    net::{IpAddr, SocketAddr, TcpListener, TcpStream},
    time::Duration,
};

use anyhow::{Context, Result, ensure};
use weir::source::Event;
use weir_abi::config::flags;
use weir_core::{
    model::{Kind, ObjectName},
    state::Change,
};
use weir_world::{PodSpec, Wiring};

use crate::stage::{Action, Stage, world};

#[test]
fn pods_come_and_go() -> Result<()> {
    let stage = Stage::following(world())?;
    stage.wait_until("there is nothing", |stage| Ok(stage.view()?.listed))?;
    let first = stage.world.add_pod(PodSpec::new("first"))?;
    let second = stage.world.add_pod(PodSpec::new("second"))?;
    stage.wait_until_served(&first)?;
    stage.wait_until_served(&second)?;
    let epoch = stage.config()?.epoch;

    stage.world.remove_pod("first")?;
    stage.wait_until("the first has gone", |stage| {
        let links = stage.links()?;
        let gone = !links
            .iter()
            .any(|link| link.ends_with(&format!("_pod-{}", first.host_ifindex())));
        Ok(gone && stage.endpoints()?.len() == 2)
    })?;
    ensure!(stage.serves(&second)?);
    stage.wait_until("flows are told", |stage| Ok(stage.config()?.epoch != epoch))
}

#[test]
fn a_pod_whose_process_comes_late_is_served_then() -> Result<()> {
    let stage = Stage::following(world())?;
    let pod = stage.world.add_pod(PodSpec::new("late").without_pause())?;
    stage.wait_until("it is waited for", |stage| {
        Ok(stage
            .view()?
            .waiting
            .iter()
            .any(|waiting| waiting.contains(pod.uid())))
    })?;
    ensure!(stage.endpoints()?.is_empty());
    let mut cat = std::process::Command::new("sleep");
    cat.arg("1000");
    let process = pod.spawn(cat)?;
    stage.wait_until_served(&pod)?;
    // Packets for it still come when its last process has ended.
    drop(process);
    stage.tell(&Event::Listed(Kind::Pod))?;
    let other = stage.world.add_pod(PodSpec::new("other"))?;
    stage.wait_until_served(&other)?;
    ensure!(stage.serves(&pod)?);
    Ok(())
}

#[test]
fn an_address_goes_to_the_pod_that_has_it_now() -> Result<()> {
    for wiring in [Wiring::Routed, Wiring::Bridged] {
        let stage = Stage::following(world().wiring(wiring))?;
        let mut last = 0;
        for round in 0..5 {
            let pod = stage
                .world
                .add_pod(PodSpec::new(format!("round{round}")).host(77))?;
            ensure!(pod.host_ifindex() != last);
            last = pod.host_ifindex();
            stage.wait_until_served(&pod)?;
            stage.world.remove_pod(pod.name())?;
        }
    }
    Ok(())
}

#[test]
fn an_address_of_two_pods_is_the_younger_ones_whoever_goes_first() -> Result<()> {
    let stage = Stage::following(world().pods(["old", "young", "last"].map(PodSpec::new)))?;
    let [old, young, last] = ["old", "young", "last"].map(|name| stage.world.pod(name));
    let (old, young, last) = (old?, young?, last?);
    for pod in [&old, &young, &last] {
        stage.wait_until_served(pod)?;
    }
    let shared: IpAddr = old.addresses().v4.into();
    let owner =
        |stage: &Stage| -> Result<Option<u32>> { Ok(stage.endpoints()?.get(&shared).copied()) };
    for pod in [&young, &last] {
        pod.ip(&[&format!("addr add {shared}/32 dev eth0")])?;
    }
    let owned_by = |pod: &weir_world::Pod| {
        let ifindex = pod.host_ifindex();
        stage.wait_until("the address has its owner", move |stage| {
            Ok(owner(stage)? == Some(ifindex))
        })
    };
    owned_by(&last)?;
    stage.world.remove_pod("last")?;
    owned_by(&young)?;
    stage.world.remove_pod("old")?;
    let v6: IpAddr = old.addresses().v6.into();
    stage.wait_until("the old pod has gone", |stage| {
        Ok(!stage.endpoints()?.contains_key(&v6))
    })?;
    ensure!(owner(&stage)? == Some(young.host_ifindex()));
    Ok(())
}

#[test]
fn a_finished_pod_has_no_address_and_a_named_one_has_its_name() -> Result<()> {
    let stage = Stage::following(world().pods(["job", "web"].map(PodSpec::new)))?;
    let (job, web) = (stage.world.pod("job")?, stage.world.pod("web")?);
    stage.tell_pod(&job, |_| {})?;
    // A mirror's UID is not that of the cgroup; its address is.
    stage.tell_pod(&web, |object| object.uid = Some("of-the-mirror".into()))?;
    stage.wait_until("both are known by name", |stage| {
        let mut names: Vec<_> = stage
            .view()?
            .interfaces
            .iter()
            .map(|i| i.pod.clone())
            .collect();
        names.sort();
        Ok(names == ["default/job", "default/web"])
    })?;
    stage.tell_pod(&job, |object| object.finished = true)?;
    stage.wait_until("the job is no endpoint", |stage| {
        Ok(stage.endpoints()?.len() == 2)
    })?;
    ensure!(stage.serves(&web)?);
    Ok(())
}

#[test]
fn a_pod_opts_out_and_in() -> Result<()> {
    let stage = Stage::following(world().pods(["mesh", "web"].map(PodSpec::new)))?;
    let mesh = stage.world.pod("mesh")?;
    stage.wait_until_served(&mesh)?;
    ensure!(stage.opt_outs()?.is_empty() && stage.config()?.flags & flags::OPT_OUTS == 0);
    let opted_out = |count: usize| {
        stage.wait_until("the wish is programmed", move |stage| {
            let flag = stage.config()?.flags & flags::OPT_OUTS != 0;
            Ok(stage.opt_outs()?.len() == count && flag == (count > 0))
        })
    };
    stage.tell_pod(&mesh, |object| object.opt_out = true)?;
    opted_out(1)?;
    let cookie = mesh.run(weir::pods::netns_cookie)??;
    ensure!(stage.opt_outs()? == [cookie]);
    stage.tell_pod(&mesh, |_| {})?;
    opted_out(0)?;
    stage.tell_pod(&mesh, |object| object.opt_out = true)?;
    opted_out(1)?;
    let name = ObjectName::new("default", "mesh");
    stage.tell(&Event::Change(Change::Delete(Kind::Pod, name)))?;
    stage.world.remove_pod("mesh")?;
    opted_out(0)
}

#[test]
fn interfaces_that_vanish_meanwhile_stop_nobody() -> Result<()> {
    let stage = Stage::following(world().pod(PodSpec::new("steady")))?;
    let steady = stage.world.pod("steady")?;
    for round in 0..10 {
        let pods = (0..3).map(|n| PodSpec::new(format!("short{round}-{n}")));
        for pod in stage.world.add_pods(pods)? {
            // Each at another moment of being found and attached to.
            std::thread::sleep(Duration::from_millis(u64::from(pod.host_number() % 7)));
            pod.delete_netns()?;
        }
    }
    let after = stage.world.add_pod(PodSpec::new("after"))?;
    stage.wait_until_served(&after)?;
    stage.wait_until("only what is there is left", |stage| {
        let links = stage.links()?;
        let of_pods = links.iter().filter(|link| link.contains("_pod-")).count();
        Ok(stage.serves(&steady)? && stage.endpoints()?.len() == 4 && of_pods == 4)
    })?;
    ensure!(stage.view()?.failures.is_empty());
    Ok(())
}

#[test]
fn what_is_attached_judges_what_the_pod_sends() -> Result<()> {
    let stage = Stage::new(world().pod(PodSpec::new("pod")))?;
    let pod = stage.world.pod("pod")?;
    let node = stage.node()?;
    let (listener, address) = node.run(|| -> Result<_> {
        let listener = TcpListener::bind((node.addresses().v4, 0))?;
        let address: SocketAddr = listener.local_addr()?;
        Ok((listener, address))
    })??;
    let reaches = |patience| -> Result<bool> {
        let connected = pod.run(|| TcpStream::connect_timeout(&address, patience))?;
        Ok(connected.is_ok())
    };
    ensure!(
        reaches(crate::stage::PATIENCE)?,
        "the world does not work by itself"
    );
    stage.start(Action::Drop)?;
    stage.wait_until_served(&pod)?;
    ensure!(!reaches(Duration::from_millis(300))?);
    stage.stop();
    ensure!(
        !reaches(Duration::from_millis(300))?,
        "the program has gone with its agent"
    );
    stage.start(Action::Next)?;
    stage.wait_until("the pod reaches the node", |_| {
        reaches(Duration::from_millis(300))
    })?;
    drop(listener);
    stage.world.pods().first().context("it is still there")?;
    Ok(())
}
