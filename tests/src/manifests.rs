//! Objects for worlds: a directory of manifests that an agent follows.

use std::{
    fs,
    net::IpAddr,
    path::{Path, PathBuf},
};

use anyhow::Result;
use serde_json::{Value, json};

/// A directory of manifests, one object a file.
pub struct Manifests {
    directory: PathBuf,
}

impl Manifests {
    /// An empty directory at `parent/manifests`, but for the Node `node1`.
    ///
    /// # Errors
    /// When it cannot be made.
    pub fn new(parent: &Path) -> Result<Self> {
        let directory = parent.join("manifests");
        fs::create_dir(&directory)?;
        let manifests = Self { directory };
        let node = json!({"apiVersion": "v1", "kind": "Node", "metadata": {"name": "node1"}});
        manifests.apply("node1", &node)?;
        Ok(manifests)
    }

    /// The directory.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.directory
    }

    /// Writes an object to the file of that name; replaces the old one by a rename.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn apply(&self, file: &str, object: &Value) -> Result<()> {
        self.write(file, &serde_json::to_string_pretty(object)?)
    }

    /// As [`Manifests::apply`], with any text.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn write(&self, file: &str, text: &str) -> Result<()> {
        let new = self.directory.join(format!(".{file}.new"));
        fs::write(&new, text)?;
        fs::rename(&new, self.directory.join(format!("{file}.yaml")))?;
        Ok(())
    }

    /// Removes a file.
    ///
    /// # Errors
    /// When it is not there.
    pub fn delete(&self, file: &str) -> Result<()> {
        Ok(fs::remove_file(
            self.directory.join(format!("{file}.yaml")),
        )?)
    }

    /// Applies a service of port 80, and its slices, one for each family of its addresses.
    ///
    /// # Errors
    /// When they cannot be written.
    pub fn service(&self, name: &str, addresses: &[&str], endpoints: &[Endpoint]) -> Result<()> {
        self.apply(name, &service(name, addresses))?;
        self.endpoints(name, endpoints)
    }

    /// Applies the slices of a service: IPv4 and IPv6.
    ///
    /// # Errors
    /// When they cannot be written.
    pub fn endpoints(&self, service: &str, endpoints: &[Endpoint]) -> Result<()> {
        let items: Vec<Value> = [false, true]
            .into_iter()
            .map(|v6| slice(service, endpoints, v6))
            .collect();
        self.apply(
            &format!("{service}-endpoints"),
            &json!({"apiVersion": "v1", "kind": "List", "items": items}),
        )
    }
}

/// Where a pod serves.
#[derive(Clone, Copy, Debug)]
pub struct Endpoint {
    /// Its address.
    pub addr: IpAddr,
    /// Its port.
    pub port: u16,
}

/// Both addresses of each pod, at `port`.
#[must_use]
pub fn endpoints_of(pods: &[&weir_world::Pod], port: u16) -> Vec<Endpoint> {
    let addresses = pods.iter().flat_map(|pod| pod.addresses().both());
    addresses.map(|addr| Endpoint { addr, port }).collect()
}

/// A ClusterIP service of TCP port 80, in the namespace `default`.
#[must_use]
pub fn service(name: &str, addresses: &[&str]) -> Value {
    json!({
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {"name": name, "namespace": "default"},
        "spec": {
            "clusterIP": addresses[0],
            "clusterIPs": addresses,
            "ports": [{"name": "http", "port": 80, "protocol": "TCP"}],
        },
    })
}

fn slice(service: &str, endpoints: &[Endpoint], v6: bool) -> Value {
    let family = if v6 { "IPv6" } else { "IPv4" };
    let of_family = || {
        endpoints
            .iter()
            .filter(|endpoint| endpoint.addr.is_ipv6() == v6)
    };
    let port = of_family().next().map_or(0, |endpoint| endpoint.port);
    json!({
        "apiVersion": "discovery.k8s.io/v1",
        "kind": "EndpointSlice",
        "metadata": {
            "name": format!("{service}-{}", family.to_lowercase()),
            "namespace": "default",
            "labels": {"kubernetes.io/service-name": service},
        },
        "addressType": family,
        "ports": if port == 0 { json!([]) } else {
            json!([{"name": "http", "port": port, "protocol": "TCP"}])
        },
        "endpoints": of_family().map(|endpoint| json!({
            "addresses": [endpoint.addr],
            "conditions": {"ready": true},
            "nodeName": "node1",
        })).collect::<Vec<_>>(),
    })
}

/// The Pod object of a world's pod, which may ask for its sockets to be left alone.
#[must_use]
pub fn pod(pod: &weir_world::Pod, opts_out: bool) -> Value {
    let addresses = pod.addresses();
    let annotations = if opts_out {
        json!({"weir.dev/socket-translation": "disabled"})
    } else {
        json!({})
    };
    json!({
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {
            "name": pod.name(), "namespace": pod.namespace(), "uid": pod.uid(),
            "annotations": annotations,
        },
        "spec": {"nodeName": pod.node().name(), "containers": []},
        "status": {
            "phase": "Running",
            "podIP": addresses.v4,
            "podIPs": [{"ip": addresses.v4}, {"ip": addresses.v6}],
        },
    })
}
