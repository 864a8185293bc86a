//! The running agent, as its API and its metrics see it.

use std::sync::Arc;

use weir_abi::{ServiceCounters, Verdict};
use weir_core::plan::ServicePort;

use crate::{
    api::{
        self, Unavailable,
        view::{Attachment, ServiceFilter, ServiceView, Status},
    },
    attach::{Attached, INTERFACE_HOOKS},
    bpffs::Layout,
    dataplane::{Counters, Kernel},
    health::Moment,
    metrics::{self, TableFill},
    pods,
    sync::{Engine, EngineHandle},
};

/// What is known of the agent on this node.
pub struct Node {
    /// The node's name.
    pub name: String,
    /// Where its objects come from.
    pub source: String,
    /// What it attached.
    pub attached: Vec<Attached>,
    /// The thread that follows pods and devices, if packets are translated.
    pub pods: Option<pods::Handle>,
    /// The sync thread.
    pub engine: EngineHandle<Kernel>,
    /// The kernel's counters.
    pub counters: Arc<Counters>,
    /// Where what is attached is pinned.
    pub layout: Layout,
    /// When it started.
    pub started: Moment,
}

impl api::Engine for Node {
    async fn status(&self) -> Result<Status, Unavailable> {
        let status = self.engine.ask(Engine::status).await;
        let mut status = status.ok_or_else(ending)?;
        status.node.clone_from(&self.name);
        status.version = env!("CARGO_PKG_VERSION").to_owned();
        status.uptime_seconds = self.started.instant.elapsed().as_secs();
        status.source.clone_from(&self.source);
        status.attachments = self.attached.iter().map(attachment).collect();
        if let Some(pods) = &self.pods {
            status.pods = pods.view().as_ref().clone();
            let at_interfaces = at_interfaces(&status.pods, &self.layout);
            status.attachments.extend(at_interfaces);
        }
        status.assess();
        Ok(status)
    }

    async fn services(&self, filter: ServiceFilter) -> Result<Vec<ServiceView>, Unavailable> {
        let counters = self.counters.clone();
        let services = self
            .engine
            .ask(move |engine| engine.services(&filter, &counters));
        services.await.ok_or_else(ending)
    }
}

impl metrics::Kernel for Node {
    fn service_counters(&self) -> Vec<(ServicePort, ServiceCounters)> {
        let ports = self.engine.ask_blocking(Engine::service_ports);
        let counted = |(port, id)| (port, self.counters.service(id));
        ports.into_iter().flatten().map(counted).collect()
    }

    fn verdicts(&self) -> Vec<(Verdict, u64)> {
        let counted = Verdict::ALL
            .into_iter()
            .filter(|verdict| *verdict != Verdict::Pass);
        counted
            .map(|verdict| (verdict, self.counters.verdict(verdict)))
            .collect()
    }

    fn tables(&self) -> Vec<TableFill> {
        let tables = self.engine.ask_blocking(Engine::tables);
        tables.unwrap_or_default()
    }
}

/// A link whose file someone removed ends with the agent; say so.
fn attachment(attached: &Attached) -> Attachment {
    Attachment {
        hook: attached.hook.name.to_owned(),
        target: attached.target.display().to_string(),
        pinned: attached
            .link
            .exists()
            .then(|| attached.link.display().to_string()),
    }
}

/// The hooks at pods' interfaces, which are too many to name, and at each external device.
fn at_interfaces(pods: &pods::View, layout: &Layout) -> Vec<Attachment> {
    let [to_pod, from_pod, of_devices @ ..] = INTERFACE_HOOKS;
    let attachment = |hook: &str, target: String| Attachment {
        hook: hook.to_owned(),
        target,
        pinned: Some(layout.link(&format!("{hook}-*")).display().to_string()),
    };
    let mut attachments = Vec::new();
    let interfaces = pods.interfaces.len();
    if interfaces > 0 {
        let hooks = [to_pod, from_pod].into_iter();
        let target = format!("{interfaces} interfaces of pods");
        attachments.extend(hooks.map(|hook| attachment(hook.name, target.clone())));
    }
    for device in &pods.devices {
        let hooks = of_devices.iter();
        attachments.extend(hooks.map(|hook| attachment(hook.name, device.clone())));
    }
    attachments
}

fn ending() -> Unavailable {
    Unavailable {
        error: "the agent is ending".to_owned(),
    }
}
