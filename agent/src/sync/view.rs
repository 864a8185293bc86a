//! What the engine says of itself to people.

use std::{
    collections::{BTreeSet, HashMap},
    net::SocketAddr,
    sync::Arc,
    time::Instant,
};

use weir_abi::{Address, service::scope};
use weir_core::{
    compile::{self, BackendAddr, DesiredPort},
    model::{Endpoint, Kind, Protocol, Service},
    plan::{Programmed, ServicePort},
};

use super::Engine;
use crate::{
    api::view::{
        ConnectionsView, EndpointView, FrontendView, PortView, ServiceFilter, ServiceView,
        SkippedObject, SourceView, Status, SyncView, TableFill,
    },
    dataplane::{Counters, Dataplane},
};

impl<D: Dataplane> Engine<D> {
    /// The engine's part of a status.
    #[must_use]
    pub fn status(&self) -> Status {
        let now = Instant::now();
        let seconds_since = |at: Instant| now.saturating_duration_since(at).as_secs_f64();
        let sources = Kind::ALL.into_iter().map(|kind| {
            let state = self.sources.get(&kind.into()).cloned().unwrap_or_default();
            let skipped = self.skipped.keys().filter(|(of, _)| *of == kind.into());
            SourceView {
                kind: kind.label().to_owned(),
                synced: state.listed,
                objects: self.cluster.count(kind) as u64,
                last_event_age_seconds: state.last_event.map(|at| seconds_since(at) as u64),
                skipped: skipped.count() as u64,
                error: state.error,
            }
        });
        Status {
            sources: sources.collect(),
            tables: self.tables(),
            sync: SyncView {
                count: self.syncs,
                failures: self.failures,
                pending: self.dirty.services.len() as u64,
                pending_for_seconds: self.dirty_since.map(seconds_since),
                last_age_seconds: self.last_success.map(seconds_since),
                last_duration_seconds: self.last.as_ref().map(|last| last.took.as_secs_f64()),
                last_error: self.last.as_ref().and_then(|last| last.error.clone()),
            },
            skipped: self
                .skipped
                .iter()
                .map(|((kind, name), reason)| SkippedObject {
                    kind: kind.to_string(),
                    name: name.clone(),
                    reason: reason.clone(),
                })
                .collect(),
            unprogrammed: self
                .unfit
                .iter()
                .map(|(service, reason)| SkippedObject {
                    kind: Kind::Service.label().to_owned(),
                    name: service.to_string(),
                    reason: reason.clone(),
                })
                .collect(),
            ..Status::default()
        }
    }

    /// How full the tables are; nothing before they were read.
    #[must_use]
    pub fn tables(&self) -> Vec<TableFill> {
        let Some(programmed) = &self.programmed else {
            return Vec::new();
        };
        let (used, capacity) = (programmed.counts(), programmed.capacity());
        let fill = |name: &str, entries: u32, capacity: u32| TableFill {
            name: name.to_owned(),
            entries: entries.into(),
            capacity: capacity.into(),
        };
        vec![
            fill(weir_abi::table::SERVICES, used.services, capacity.services),
            fill(weir_abi::table::SLOTS, used.slots, capacity.slots),
            fill(weir_abi::table::BACKENDS, used.backends, capacity.backends),
            fill(weir_abi::table::SERVICE_COUNTERS, used.ids, capacity.ids),
            fill(weir_abi::table::MEMBERS, used.members, capacity.members),
            fill(
                weir_abi::table::SOURCE_RANGES,
                used.source_ranges,
                capacity.source_ranges,
            ),
        ]
    }

    /// The programmed service ports and their ids.
    #[must_use]
    pub fn service_ports(&self) -> Vec<(ServicePort, u32)> {
        let ports = self.programmed.iter().flat_map(Programmed::service_ports);
        ports.map(|(port, id)| (port.clone(), id)).collect()
    }

    /// The services that match, by name, with what `counters` has counted for them.
    #[must_use]
    pub fn services(&self, filter: &ServiceFilter, counters: &Counters) -> Vec<ServiceView> {
        let ids: HashMap<ServicePort, u32> = self.service_ports().into_iter().collect();
        let matching = self
            .cluster
            .services()
            .filter(|service| filter.matches(&service.name.namespace, &service.name.name));
        let mut views = Vec::new();
        for service in matching {
            let desired = compile::service(&self.cluster, &service.name);
            let ports = desired.ports.iter().map(|port| {
                let key = ServicePort {
                    name: service.name.clone(),
                    port_name: port.port_name.clone(),
                    proto: port.proto,
                };
                let counted = ids.get(&key).map(|id| counters.service(*id));
                let counted = counted.unwrap_or_default();
                PortView {
                    name: port.port_name.to_string(),
                    protocol: Protocol::label_of(port.proto).to_owned(),
                    port: service_port(service, port),
                    selection: port.selection.label().to_owned(),
                    frontends: frontends(port),
                    endpoints: self.endpoints(service, port),
                    connections: ConnectionsView {
                        translated: counted.translated,
                        refused: counted.refused,
                    },
                }
            });
            let ports: Vec<PortView> = ports.collect();
            // Headless, ExternalName and labelled services are not ours to show.
            if !ports.is_empty() {
                views.push(ServiceView {
                    namespace: service.name.namespace.to_string(),
                    name: service.name.name.to_string(),
                    kind: format!("{:?}", service.service_type),
                    ports,
                });
            }
        }
        views
    }

    /// The backends of a port, each with what its slice says of it.
    fn endpoints(&self, service: &Service, port: &DesiredPort) -> Vec<EndpointView> {
        let backends: BTreeSet<BackendAddr> = port.lists.iter().flatten().copied().collect();
        let slices = self.cluster.slices_of(&service.name);
        let known: HashMap<Address, &Endpoint> = slices
            .flat_map(|slice| &slice.endpoints)
            .map(|endpoint| (endpoint.addr.into(), endpoint))
            .collect();
        let view = |backend: &BackendAddr| {
            let endpoint = known.get(&backend.addr);
            let text = |text: &Arc<str>| text.to_string();
            EndpointView {
                address: SocketAddr::new(backend.addr.into(), u16::from_be(backend.port_be)),
                node: endpoint.and_then(|e| e.node.as_ref().map(text)),
                zone: endpoint.and_then(|e| e.zone.as_ref().map(text)),
                pod: None,
            }
        };
        backends.iter().map(view).collect()
    }
}

fn frontends(port: &DesiredPort) -> Vec<FrontendView> {
    port.frontends
        .iter()
        .map(|frontend| FrontendView {
            address: SocketAddr::new(frontend.key.addr.into(), u16::from_be(frontend.key.port_be)),
            scope: match frontend.key.scope {
                scope::EXTERNAL => "external",
                _ => "internal",
            }
            .to_owned(),
            verdict: frontend.verdict.label().to_owned(),
            endpoints: frontend
                .list
                .and_then(|list| port.lists.get(list))
                .map_or(0, |list| u32::try_from(list.len()).unwrap_or(u32::MAX)),
        })
        .collect()
}

fn service_port(service: &Service, port: &DesiredPort) -> u16 {
    let mut ports = service.ports.iter();
    ports
        .find(|p| p.name == port.port_name && p.protocol as u8 == port.proto)
        .map_or(0, |p| p.port)
}
