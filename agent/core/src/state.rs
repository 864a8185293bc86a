//! The indexed cluster state.

use std::collections::{BTreeMap, BTreeSet};
use std::mem;
use std::net::IpAddr;
use std::sync::Arc;

use crate::backend::BackendAddr;
use crate::endpoints::Endpoints;
use crate::model::{
    EndpointSlice, Family, Hints, Kind, Namespace, Node, Object, ObjectName, Pod, Protocol, Service,
};
use crate::pool::Pool;
use crate::settings::Settings;

/// A change of the cluster, as a source saw it.
#[derive(Clone, Debug, PartialEq)]
pub enum Change {
    /// The object is new, or has changed.
    Apply(Object),
    /// The object is gone.
    Delete(Kind, ObjectName),
    /// These are all objects of that kind; whatever else was known of it is gone. Objects of another kind among them
    /// are applied as if they had come alone; of two with one name the later counts.
    Replace {
        /// The kind.
        kind: Kind,
        /// The objects that could be read.
        objects: Vec<Object>,
        /// Objects that exist, but whose present version could not be read: their last good version stays, if there is one.
        keep: Vec<ObjectName>,
    },
}

impl Change {
    /// The kind of object that changed.
    #[must_use]
    pub fn kind(&self) -> Kind {
        match self {
            Self::Apply(object) => object.kind(),
            Self::Delete(kind, _) | Self::Replace { kind, .. } => *kind,
        }
    }
}

/// What has to be compiled again after changes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Dirty {
    /// Services to compile; they need not exist (any more).
    pub services: BTreeSet<ObjectName>,
    /// When the changes of endpoints happened, as the changed slices' annotations say it. Slices that were there
    /// before the agent are told when they are first seen, with a time long past.
    pub triggers: Vec<jiff::Timestamp>,
    /// Endpoints that were in a slice and, after that change, were in none of any service's, whatever their condition:
    /// deleted, not merely unready or terminating. A later change may have brought one back: ask
    /// [`Cluster::lives`] before anything is done to its connections.
    ///
    /// Not among them are those that only lost their service: a slice that is deleted as a whole says nothing of the pods
    /// that were not terminating, which go on living when their Service is deleted. Nor are API servers, which are no pods
    /// and drop out of `default/kubernetes` while they still serve.
    pub deleted: BTreeSet<BackendAddr>,
}

impl Dirty {
    /// Whether there is nothing to do.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.services.is_empty()
    }

    /// Takes in what another change has made dirty.
    pub fn merge(&mut self, other: Self) {
        self.services.extend(other.services);
        self.triggers.extend(other.triggers);
        self.deleted.extend(other.deleted);
    }
}

/// All that is known of the cluster, from one node's point of view.
#[derive(Debug)]
pub struct Cluster {
    node_name: Arc<str>,
    settings: Settings,
    services: BTreeMap<ObjectName, Service>,
    slices: BTreeMap<ObjectName, EndpointSlice>,
    /// The names of the slices of each service, also of services that do not exist.
    slices_by_service: BTreeMap<ObjectName, BTreeSet<ObjectName>>,
    endpoints: Endpoints,
    /// Those that cannot serve at present, which are few.
    unable: Endpoints,
    nodes: BTreeMap<ObjectName, Node>,
    namespaces: BTreeMap<ObjectName, Namespace>,
    pods: BTreeMap<ObjectName, Pod>,
    /// Names that repeat from object to object: namespaces, services, nodes, zones, ports, labels.
    strings: Pool<str>,
    hints: Pool<Hints>,
}

const FAMILIES: [Family; 2] = [Family::V4, Family::V6];

/// See [`Cluster::place`].
struct Place {
    zone: Option<Arc<str>>,
    /// The primary address of each family.
    primary: [Option<IpAddr>; 2],
    /// The addresses of each family that node ports are served on.
    node_ports: [Vec<IpAddr>; 2],
}

impl Cluster {
    /// An empty cluster with default settings, seen from the node of that name.
    #[must_use]
    pub fn new(node_name: &str) -> Self {
        let mut strings = Pool::default();
        Self {
            node_name: strings.get(node_name),
            settings: Settings::default(),
            services: BTreeMap::new(),
            slices: BTreeMap::new(),
            slices_by_service: BTreeMap::new(),
            endpoints: Endpoints::new(|_| true),
            unable: Endpoints::new(|endpoint| !endpoint.serving),
            nodes: BTreeMap::new(),
            namespaces: BTreeMap::new(),
            pods: BTreeMap::new(),
            strings,
            hints: Pool::default(),
        }
    }

    /// Settles what the operator decides; returns what that made dirty.
    pub fn set_settings(&mut self, settings: Settings) -> Dirty {
        let mut dirty = Dirty::default();
        let before = self.place();
        let former = mem::replace(&mut self.settings, settings);
        self.place_may_have_changed(&before, &mut dirty);
        if former.external_ips != self.settings.external_ips {
            self.dirty_where(&mut dirty, |service| !service.external_ips.is_empty());
        }
        dirty
    }

    /// Takes in a change; returns what it made dirty, which is nothing when nothing that Weir uses has changed.
    pub fn apply(&mut self, change: Change) -> Dirty {
        let mut dirty = Dirty::default();
        match change {
            Change::Apply(object) => self.apply_object(object, &mut dirty),
            Change::Delete(kind, name) => self.delete(kind, &name, &mut dirty),
            Change::Replace {
                kind,
                objects,
                keep,
            } => {
                let names = objects.iter().map(Object::name);
                let kept: BTreeSet<ObjectName> = names.chain(keep).collect();
                let gone = |names: Vec<&ObjectName>| -> Vec<ObjectName> {
                    let gone = names.into_iter().filter(|name| !kept.contains(*name));
                    gone.cloned().collect()
                };
                for name in gone(self.names(kind)) {
                    self.delete(kind, &name, &mut dirty);
                }
                for object in objects {
                    self.apply_object(object, &mut dirty);
                }
            }
        }
        dirty
    }

    fn apply_object(&mut self, object: Object, dirty: &mut Dirty) {
        match object {
            Object::Service(service) => self.apply_service(service, dirty),
            Object::EndpointSlice(slice) => self.apply_slice(slice, dirty),
            Object::Node(node) => {
                let before = self.place();
                let name = ObjectName::cluster_scoped(node.name.clone());
                self.nodes.insert(name, node);
                self.place_may_have_changed(&before, dirty);
            }
            Object::Namespace(mut namespace) => {
                self.share_pairs(&mut namespace.labels);
                let name = ObjectName::cluster_scoped(namespace.name.clone());
                self.namespaces.insert(name, namespace);
            }
            Object::Pod(mut pod) => {
                self.share_name(&mut pod.name);
                self.share_pairs(&mut pod.labels);
                if let Some(node) = &mut pod.node {
                    self.share(node);
                }
                self.pods.insert(pod.name.clone(), pod);
            }
        }
    }

    fn apply_service(&mut self, mut service: Service, dirty: &mut Dirty) {
        if self.services.get(&service.name) == Some(&service) {
            return;
        }
        self.share_name(&mut service.name);
        for port in &mut service.ports {
            self.share(&mut port.name);
        }
        dirty.services.insert(service.name.clone());
        self.services.insert(service.name.clone(), service);
    }

    fn apply_slice(&mut self, mut slice: EndpointSlice, dirty: &mut Dirty) {
        if let Some(known) = self.slices.get_mut(&slice.name) {
            // The controller may touch the annotation alone; nothing needs to be programmed then.
            known.last_change_trigger = slice.last_change_trigger;
            if *known == slice {
                return;
            }
        }
        self.share_slice(&mut slice);
        let previous = (self.slices.get(&slice.name)).and_then(|known| known.service.clone());
        if previous != slice.service {
            self.unlink(previous.as_ref(), &slice.name, dirty);
            if let Some(service) = &slice.service {
                let slices = self.slices_by_service.entry(service.clone()).or_default();
                slices.insert(slice.name.clone());
            }
        }
        if let Some(service) = &slice.service {
            dirty.services.insert(service.clone());
            dirty.triggers.extend(slice.last_change_trigger);
        }
        let former = self.slices.get(&slice.name);
        let gone = self.endpoints.replace(former, Some(&slice));
        self.unable.replace(former, Some(&slice));
        if !slice.service.as_ref().is_some_and(is_api_servers) {
            dirty.deleted.extend(gone);
        }
        self.slices.insert(slice.name.clone(), slice);
    }

    fn delete(&mut self, kind: Kind, name: &ObjectName, dirty: &mut Dirty) {
        match kind {
            Kind::Service => {
                if self.services.remove(name).is_some() {
                    dirty.services.insert(name.clone());
                }
            }
            Kind::EndpointSlice => {
                if let Some(slice) = self.slices.remove(name) {
                    let gone = self.endpoints.replace(Some(&slice), None);
                    self.unable.replace(Some(&slice), None);
                    if !slice.service.as_ref().is_some_and(is_api_servers) {
                        let ending = |gone: &BackendAddr| slice.is_terminating(gone.addr.into());
                        dirty.deleted.extend(gone.into_iter().filter(ending));
                    }
                    self.unlink(slice.service.as_ref(), name, dirty);
                }
            }
            Kind::Node => {
                let before = self.place();
                self.nodes.remove(name);
                self.place_may_have_changed(&before, dirty);
            }
            Kind::Namespace => {
                self.namespaces.remove(name);
            }
            Kind::Pod => {
                self.pods.remove(name);
            }
        }
    }

    /// Takes a slice out of a service.
    fn unlink(&mut self, service: Option<&ObjectName>, slice: &ObjectName, dirty: &mut Dirty) {
        let Some(service) = service else { return };
        if let Some(slices) = self.slices_by_service.get_mut(service) {
            slices.remove(slice);
            if slices.is_empty() {
                self.slices_by_service.remove(service);
            }
        }
        dirty.services.insert(service.clone());
    }

    /// Where this node is, as far as services depend on it.
    fn place(&self) -> Place {
        let node = self.this_node();
        Place {
            zone: self.this_zone().cloned(),
            primary: FAMILIES.map(|family| node?.primary_address(family)),
            node_ports: FAMILIES.map(|family| self.settings.node_port_addresses(node, family)),
        }
    }

    /// This node's zone decides over zone hints, its addresses over node ports and over who may come from the node
    /// itself: the services that have any are to be compiled anew.
    fn place_may_have_changed(&self, before: &Place, dirty: &mut Dirty) {
        let now = self.place();
        if now.zone != before.zone {
            let has_zone_hints = |slice: &EndpointSlice| {
                let mut hints = slice.endpoints.iter().flat_map(|endpoint| &endpoint.hints);
                hints.any(|hints| !hints.zones.is_empty())
            };
            let hinted = self.slices.values().filter(|slice| has_zone_hints(slice));
            let services = hinted.filter_map(|slice| slice.service.clone());
            dirty.services.extend(services);
        }
        if now.node_ports != before.node_ports {
            self.dirty_where(dirty, |service| {
                service.ports.iter().any(|port| port.node_port.is_some())
            });
        }
        if now.primary != before.primary {
            self.dirty_where(dirty, |service| !service.source_ranges.is_empty());
        }
    }

    fn dirty_where(&self, dirty: &mut Dirty, concerned: impl Fn(&Service) -> bool) {
        let services = self.services.values().filter(|service| concerned(service));
        dirty
            .services
            .extend(services.map(|service| service.name.clone()));
    }

    fn names(&self, kind: Kind) -> Vec<&ObjectName> {
        match kind {
            Kind::Service => self.services.keys().collect(),
            Kind::EndpointSlice => self.slices.keys().collect(),
            Kind::Node => self.nodes.keys().collect(),
            Kind::Namespace => self.namespaces.keys().collect(),
            Kind::Pod => self.pods.keys().collect(),
        }
    }
}

/// One allocation for what repeats.
impl Cluster {
    fn share(&mut self, text: &mut Arc<str>) {
        let own = mem::take(text);
        *text = self.strings.share(own);
    }

    fn share_name(&mut self, name: &mut ObjectName) {
        self.share(&mut name.namespace);
    }

    fn share_pairs(&mut self, pairs: &mut [(Arc<str>, Arc<str>)]) {
        for (key, value) in pairs {
            self.share(key);
            self.share(value);
        }
    }

    fn share_slice(&mut self, slice: &mut EndpointSlice) {
        self.share_name(&mut slice.name);
        if let Some(service) = &mut slice.service {
            self.share(&mut service.namespace);
            self.share(&mut service.name);
        }
        for port in &mut slice.ports {
            self.share(&mut port.name);
        }
        for endpoint in &mut slice.endpoints {
            for text in [&mut endpoint.node, &mut endpoint.zone]
                .into_iter()
                .flatten()
            {
                self.share(text);
            }
            if let Some(hints) = &mut endpoint.hints {
                self.share_hints(hints);
            }
        }
    }

    fn share_hints(&mut self, hints: &mut Arc<Hints>) {
        *hints = self.hints.find(hints).unwrap_or_else(|| {
            let mut own = Hints::clone(hints);
            for text in own.nodes.iter_mut().chain(&mut own.zones) {
                self.share(text);
            }
            self.hints.share(Arc::new(own))
        });
    }
}

/// What is known.
impl Cluster {
    /// The name of the node whose point of view this is.
    #[must_use]
    pub fn node_name(&self) -> &str {
        &self.node_name
    }

    /// What the operator has decided.
    #[must_use]
    pub fn settings(&self) -> &Settings {
        &self.settings
    }

    /// Whether any slice of any service has an endpoint, in whatever condition.
    #[must_use]
    pub fn has_endpoint(&self, endpoint: &BackendAddr) -> bool {
        self.endpoints.contains(endpoint)
    }

    /// Whether connections to an endpoint are still somebody's: it is in a slice, or a pod that is known and does not end has
    /// its address. A pod that was given other labels is no endpoint any more, and still serves who is connected to it.
    #[must_use]
    pub fn lives(&self, endpoint: &BackendAddr) -> bool {
        let addr: IpAddr = endpoint.addr.into();
        self.has_endpoint(endpoint)
            || self
                .pods()
                .any(|pod| !pod.finished && !pod.terminating && pod.ips.contains(&addr))
    }

    /// Whether what is on its way to an endpoint may go on, though new connections may not: as with kube-proxy, TCP connections
    /// as long as the endpoint lives, ready or not; everything else as long as it can serve.
    #[must_use]
    pub fn goes_on(&self, endpoint: &BackendAddr) -> bool {
        if endpoint.proto == Protocol::Tcp.number() {
            self.lives(endpoint)
        } else {
            self.has_endpoint(endpoint) && !self.unable.contains(endpoint)
        }
    }

    /// The node whose point of view this is, once it is known.
    #[must_use]
    pub fn this_node(&self) -> Option<&Node> {
        self.node(&self.node_name)
    }

    /// The zone of the node whose point of view this is, if it is known.
    #[must_use]
    pub fn this_zone(&self) -> Option<&Arc<str>> {
        self.this_node()?.zone.as_ref()
    }

    /// A node by name.
    #[must_use]
    pub fn node(&self, name: &str) -> Option<&Node> {
        self.nodes.get(&ObjectName::cluster_scoped(name))
    }

    /// All nodes, by name.
    pub fn nodes(&self) -> impl Iterator<Item = &Node> {
        self.nodes.values()
    }

    /// A service by name.
    #[must_use]
    pub fn service(&self, name: &ObjectName) -> Option<&Service> {
        self.services.get(name)
    }

    /// All services, by name.
    pub fn services(&self) -> impl Iterator<Item = &Service> {
        self.services.values()
    }

    /// The slices of a service, by name.
    pub fn slices_of(&self, service: &ObjectName) -> impl Iterator<Item = &EndpointSlice> {
        let names = self.slices_by_service.get(service);
        names
            .into_iter()
            .flatten()
            .filter_map(|name| self.slices.get(name))
    }

    /// A pod by name.
    #[must_use]
    pub fn pod(&self, name: &ObjectName) -> Option<&Pod> {
        self.pods.get(name)
    }

    /// All pods, by name.
    pub fn pods(&self) -> impl Iterator<Item = &Pod> {
        self.pods.values()
    }

    /// A namespace by name.
    #[must_use]
    pub fn namespace(&self, name: &str) -> Option<&Namespace> {
        self.namespaces.get(&ObjectName::cluster_scoped(name))
    }

    /// How many objects of a kind there are.
    #[must_use]
    pub fn count(&self, kind: Kind) -> usize {
        match kind {
            Kind::Service => self.services.len(),
            Kind::EndpointSlice => self.slices.len(),
            Kind::Node => self.nodes.len(),
            Kind::Namespace => self.namespaces.len(),
            Kind::Pod => self.pods.len(),
        }
    }
}

/// Whether the service is that of the API servers.
fn is_api_servers(service: &ObjectName) -> bool {
    (&*service.namespace, &*service.name) == ("default", "kubernetes")
}

#[cfg(test)]
#[path = "state_tests.rs"]
mod tests;
