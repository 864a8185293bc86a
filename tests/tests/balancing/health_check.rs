//! `healthCheckNodePort`: what a cloud's load balancer learns about a node.

use std::{
    io::{Read, Write},
    net::{SocketAddr, TcpStream},
    time::Duration,
};

use anyhow::{Context, Result, ensure};
use serde_json::Value;
use weir_world::peer::Transport;

use crate::{
    service::{ready, terminating},
    talk::{is_refused, reaches},
    town::{Family, Town, town},
};

/// Status, weight and body that a machine outside is given.
fn ask(town: &Town, to: SocketAddr) -> Result<(u16, u64, Value)> {
    town.world.client("ann")?.run(|| {
        let patience = Duration::from_secs(10);
        let mut stream = TcpStream::connect_timeout(&to, patience)?;
        stream.set_read_timeout(Some(patience))?;
        stream.write_all(b"GET /healthz HTTP/1.1\r\nHost: lb\r\nConnection: close\r\n\r\n")?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer)?;
        let (head, body) = answer.split_once("\r\n\r\n").context("no HTTP")?;
        let status = head.split(' ').nth(1).context("no status")?.parse()?;
        let weight = head.lines().find_map(|line| {
            let (name, value) = line.split_once(':')?;
            name.eq_ignore_ascii_case("X-Load-Balancing-Endpoint-Weight")
                .then(|| value.trim().parse().ok())?
        });
        Ok((status, weight.context("no weight")?, serde_json::from_str(body)?))
    })?
}

#[test]
fn a_node_tells_how_many_endpoints_it_has() -> Result<()> {
    let town = town()?;
    let mut service = town
        .service("checked")
        .load_balancer()
        .with("externalTrafficPolicy", "Local")
        .to(&["one-a", "one-b", "two-a"]);
    let port = 31000 + service.number;
    service.object["spec"]["healthCheckNodePort"] = port.into();
    service.apply()?;
    let expect = |service: &crate::service::Service<'_>, counts: [u64; 3]| -> Result<()> {
        for (node, count) in ["node1", "node2", "node3"].into_iter().zip(counts) {
            for family in Family::BOTH {
                let (status, weight, body) = ask(&town, town.at(node, family, port)?)?;
                let expected = if count > 0 { 200 } else { 503 };
                ensure!((status, weight) == (expected, count), "{node}: {status} {weight}");
                let told = serde_json::json!({
                    "service": {"namespace": "default", "name": service.name},
                    "localEndpoints": count,
                    "serviceProxyHealthy": true,
                });
                ensure!(body == told, "{node}: {body}");
            }
        }
        Ok(())
    };
    expect(&service, [2, 1, 0])?;
    // Those that are only terminating serve on, but attract nobody new.
    service.move_to(vec![terminating("one-a"), ready("two-a"), ready("three-a")])?;
    expect(&service, [0, 1, 1])?;
    let ann = town.peer("ann")?;
    for family in Family::BOTH {
        reaches(&ann, Transport::Tcp, service.at_node("node1", family)?, &["one-a"])?;
    }
    service.move_to(Vec::new())?;
    expect(&service, [0, 0, 0])?;

    // Nobody is asked any more, and nobody listens: under the policy Cluster every node serves, and in the end none.
    service.object["spec"]["externalTrafficPolicy"] = "Cluster".into();
    service.apply()?;
    for family in Family::BOTH {
        is_refused(&ann, Transport::Tcp, town.at("node1", family, port)?)?;
    }
    service.object["spec"]["externalTrafficPolicy"] = "Local".into();
    service.endpoints = vec![ready("one-a")];
    service.apply()?;
    expect(&service, [1, 0, 0])?;
    service.delete()?;
    for node in ["node1", "node2", "node3"] {
        is_refused(&ann, Transport::Tcp, town.at(node, Family::V4, port)?)?;
    }
    Ok(())
}
