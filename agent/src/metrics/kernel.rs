//! What the kernel counts, read at each scrape.

use std::{
    fmt,
    sync::{Arc, OnceLock},
};

use prometheus_client::{
    encoding::{DescriptorEncoder, EncodeLabelSet, EncodeMetric as _},
    metrics::{MetricType, counter::ConstCounter, gauge::ConstGauge},
};
use serde::{Deserialize, Serialize};
use weir_abi::{ServiceCounters, Verdict};
use weir_core::{model::Protocol, plan::ServicePort};

/// Whoever can read the kernel's tables. Called from a thread that may block.
pub trait Kernel: Send + Sync {
    /// The counters of every service port that is programmed now, summed over the CPUs.
    fn service_counters(&self) -> Vec<(ServicePort, ServiceCounters)>;
    /// How often each verdict was given, summed over the CPUs.
    fn verdicts(&self) -> Vec<(Verdict, u64)>;
    /// How full each table is.
    fn tables(&self) -> Vec<TableFill>;
}

/// How full a table of the kernel is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TableFill {
    /// The map's name.
    pub name: String,
    /// Entries in use.
    pub entries: u64,
    /// Entries it can hold.
    pub capacity: u64,
}

#[derive(Clone)]
pub(super) struct Collector(pub(super) Arc<OnceLock<Arc<dyn Kernel>>>);

impl fmt::Debug for Collector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("kernel::Collector")
    }
}

impl prometheus_client::collector::Collector for Collector {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
        let Some(kernel) = self.0.get() else {
            return Ok(());
        };
        tables(&mut encoder, &kernel.tables())?;
        verdicts(&mut encoder, &kernel.verdicts())?;
        services(&mut encoder, &kernel.service_counters())
    }
}

fn tables(encoder: &mut DescriptorEncoder<'_>, tables: &[TableFill]) -> fmt::Result {
    gauges(
        encoder,
        "weir_map_entries",
        "Entries in use, by kernel table.",
        tables
            .iter()
            .map(|table| ([("map", table.name.as_str())], table.entries)),
    )?;
    gauges(
        encoder,
        "weir_map_capacity",
        "Entries it can hold, by kernel table.",
        tables
            .iter()
            .map(|table| ([("map", table.name.as_str())], table.capacity)),
    )
}

fn verdicts(encoder: &mut DescriptorEncoder<'_>, verdicts: &[(Verdict, u64)]) -> fmt::Result {
    let samples = verdicts
        .iter()
        .map(|(verdict, n)| ([("verdict", verdict.label())], *n));
    counters(
        encoder,
        "weir_verdicts",
        "Connections and packets, by what became of them.",
        samples,
    )
}

fn services(
    encoder: &mut DescriptorEncoder<'_>,
    services: &[(ServicePort, ServiceCounters)],
) -> fmt::Result {
    let samples = services.iter().flat_map(|(port, counters)| {
        [
            ("translated", counters.translated),
            ("refused", counters.refused),
        ]
        .map(|(result, n)| {
            let labels = [
                ("namespace", &*port.name.namespace),
                ("service", &*port.name.name),
                ("port", &*port.port_name),
                ("protocol", Protocol::label_of(port.proto)),
                ("result", result),
            ];
            (labels, n)
        })
    });
    counters(
        encoder,
        "weir_service_connections",
        "Connections to a service port, by whether they were sent to an endpoint.",
        samples,
    )
}

pub(super) fn gauges<L: EncodeLabelSet>(
    encoder: &mut DescriptorEncoder<'_>,
    name: &str,
    help: &str,
    samples: impl IntoIterator<Item = (L, u64)>,
) -> fmt::Result {
    let mut family = encoder.encode_descriptor(name, help, None, MetricType::Gauge)?;
    for (labels, value) in samples {
        ConstGauge::new(value).encode(family.encode_family(&labels)?)?;
    }
    Ok(())
}

/// `name` is without `_total`.
pub(super) fn counters<L: EncodeLabelSet>(
    encoder: &mut DescriptorEncoder<'_>,
    name: &str,
    help: &str,
    samples: impl IntoIterator<Item = (L, u64)>,
) -> fmt::Result {
    let mut family = encoder.encode_descriptor(name, help, None, MetricType::Counter)?;
    for (labels, value) in samples {
        ConstCounter::new(value).encode(family.encode_family(&labels)?)?;
    }
    Ok(())
}
