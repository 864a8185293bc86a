//! What the cluster's objects add to what is found on the node: names, wishes, ends.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    net::IpAddr,
    sync::Arc,
};

use weir_core::{
    model::{Kind, Object, ObjectName, Pod},
    state::Change,
};

use crate::source::Event;

/// The Pod objects that matter here, and this node's addresses.
#[derive(Debug)]
pub(super) struct Objects {
    node: String,
    pods: BTreeMap<ObjectName, Pod>,
    by_uid: HashMap<Arc<str>, ObjectName>,
    pub(super) node_addresses: BTreeSet<IpAddr>,
    /// Whether all Pods were listed, once.
    pub(super) listed: bool,
}

impl Objects {
    pub(super) fn new(node: &str) -> Self {
        Self {
            node: node.to_owned(),
            pods: BTreeMap::new(),
            by_uid: HashMap::new(),
            node_addresses: BTreeSet::new(),
            listed: false,
        }
    }

    /// Whether an event says anything about pods or nodes.
    pub(super) fn concerned(event: &Event) -> bool {
        let kind = match event {
            Event::Change(change) => change.kind(),
            Event::Listed(kind) => *kind,
            _ => return false,
        };
        matches!(kind, Kind::Pod | Kind::Node)
    }

    /// Takes in a change. Objects of other kinds are passed over.
    pub(super) fn apply(&mut self, change: Change) {
        match change {
            Change::Apply(object) => self.apply_object(object),
            Change::Delete(Kind::Pod, name) => self.remove(&name),
            Change::Replace {
                kind,
                objects,
                keep,
            } => {
                if kind == Kind::Pod {
                    let keep: BTreeSet<_> = objects.iter().map(Object::name).chain(keep).collect();
                    let gone = self.pods.keys().filter(|name| !keep.contains(*name));
                    for name in gone.cloned().collect::<Vec<_>>() {
                        self.remove(&name);
                    }
                }
                for object in objects {
                    self.apply_object(object);
                }
            }
            // A node without its object keeps its addresses.
            Change::Delete(..) => {}
        }
    }

    fn apply_object(&mut self, object: Object) {
        match object {
            Object::Pod(pod) if pod.node.as_deref().is_none_or(|node| node == self.node) => {
                self.remove(&pod.name);
                if let Some(uid) = &pod.uid {
                    self.by_uid.insert(uid.clone(), pod.name.clone());
                }
                self.pods.insert(pod.name.clone(), pod);
            }
            Object::Pod(pod) => self.remove(&pod.name),
            Object::Node(node) if *node.name == *self.node => {
                self.node_addresses = node.addresses.iter().map(|address| address.addr).collect();
            }
            _ => {}
        }
    }

    fn remove(&mut self, name: &ObjectName) {
        let uid = self.pods.remove(name).and_then(|pod| pod.uid);
        if let Some(uid) = uid
            && self.by_uid.get(&uid) == Some(name)
        {
            self.by_uid.remove(&uid);
        }
    }

    /// The object of the pod whose cgroup has that UID.
    pub(super) fn by_uid(&self, uid: &str) -> Option<&Pod> {
        self.pods.get(self.by_uid.get(uid)?)
    }

    /// The object of the pod that has one of these addresses, for those whose cgroup has another UID than the object: static
    /// pods (their object is a mirror) and manifests (which have none).
    pub(super) fn by_address(&self, addresses: &[IpAddr]) -> Option<&Pod> {
        self.pods.values().find(|pod| {
            !pod.finished && !pod.host_network && pod.ips.iter().any(|ip| addresses.contains(ip))
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pod(name: &str, uid: Option<&str>, ip: u8, finished: bool) -> Object {
        Object::Pod(Pod {
            name: ObjectName::new("default", name),
            uid: uid.map(Arc::from),
            node: Some("n1".into()),
            host_network: false,
            finished,
            ips: vec![[10, 0, 0, ip].into()],
            labels: Box::default(),
            terminating: false,
            opt_out: false,
        })
    }

    fn name(pod: Option<&Pod>) -> Option<&str> {
        pod.map(|pod| &*pod.name.name)
    }

    #[test]
    fn a_pod_is_known_by_its_uid_else_by_its_address() {
        let mut objects = Objects::new("n1");
        objects.apply(Change::Apply(pod("done", Some("u-1"), 1, true)));
        objects.apply(Change::Apply(pod("manifest", None, 1, false)));
        assert_eq!(name(objects.by_uid("u-1")), Some("done"));
        let address = [IpAddr::from([10, 0, 0, 1])];
        assert_eq!(name(objects.by_address(&address)), Some("manifest"));
        objects.apply(Change::Delete(
            Kind::Pod,
            ObjectName::new("default", "manifest"),
        ));
        assert_eq!(name(objects.by_address(&address)), None);
    }

    #[test]
    fn a_new_pod_of_the_old_name_has_a_new_uid() {
        let mut objects = Objects::new("n1");
        objects.apply(Change::Apply(pod("db-0", Some("u-1"), 1, false)));
        objects.apply(Change::Apply(pod("db-0", Some("u-2"), 2, false)));
        assert_eq!(name(objects.by_uid("u-1")), None);
        assert_eq!(name(objects.by_uid("u-2")), Some("db-0"));
    }

    #[test]
    fn a_list_replaces_what_it_does_not_have() {
        let mut objects = Objects::new("n1");
        for (name, uid) in [("a", "u-a"), ("b", "u-b"), ("c", "u-c")] {
            objects.apply(Change::Apply(pod(name, Some(uid), 1, false)));
        }
        objects.apply(Change::Replace {
            kind: Kind::Pod,
            objects: vec![pod("a", Some("u-a"), 1, false)],
            keep: vec![ObjectName::new("default", "b")],
        });
        assert!(objects.by_uid("u-a").is_some() && objects.by_uid("u-b").is_some());
        assert!(objects.by_uid("u-c").is_none());
    }

    #[test]
    fn pods_of_other_nodes_are_nobody_here() {
        let mut objects = Objects::new("n2");
        objects.apply(Change::Apply(pod("a", Some("u-a"), 1, false)));
        assert!(objects.by_uid("u-a").is_none());
    }
}
