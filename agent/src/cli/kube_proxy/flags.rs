//! The flags of kube-proxy 1.36 that Weir does not have (`cmd/kube-proxy/app/options.go`, and what its libraries add).

/// A flag.
pub(super) struct Flag {
    /// Without the dashes.
    pub(super) name: &'static str,
    /// Whether it needs no value.
    pub(super) is_switch: bool,
    /// What becomes of it.
    pub(super) outcome: &'static str,
}

const fn value(name: &'static str, outcome: &'static str) -> Flag {
    Flag {
        name,
        is_switch: false,
        outcome,
    }
}

const fn switch(name: &'static str, outcome: &'static str) -> Flag {
    Flag {
        name,
        is_switch: true,
        outcome,
    }
}

pub(super) const CONNTRACK: &str =
    "what Weir balances does not pass conntrack; the node's limits and timeouts stay as they are";
pub(super) const SYNC: &str = "each change is programmed at once";
pub(super) const MODE: &str = "Weir has one way to balance, eBPF";
pub(super) const LOCAL: &str = "Weir knows pods by their interfaces, not by addresses";
pub(super) const LOG: &str = "Weir logs by --log-level and --log-format";
pub(super) const API: &str = "Weir paces its requests to the API server itself";
pub(super) const CADVISOR: &str = "of no meaning to a service proxy; kube-proxy ignores it as well";
pub(super) const MASQUERADE: &str =
    "Weir masquerades what would be answered past it, and nothing else; it uses no mark";
pub(super) const IPVS: &str = "there is no IPVS in Weir";

/// All of them.
pub(super) const FLAGS: &[Flag] = &[
    value(
        "bind-address",
        "Weir binds nothing to it; node ports are served on --nodeport-addresses",
    ),
    switch(
        "bind-address-hard-fail",
        "a port that cannot be had ends Weir, but for those of health checks, which are tried again",
    ),
    value("cluster-cidr", LOCAL),
    value("config-sync-period", "watches are followed without resyncs"),
    value("conntrack-max-per-core", CONNTRACK),
    value("conntrack-min", CONNTRACK),
    switch("conntrack-tcp-be-liberal", CONNTRACK),
    value("conntrack-tcp-timeout-close-wait", CONNTRACK),
    value("conntrack-tcp-timeout-established", CONNTRACK),
    value("conntrack-udp-timeout", CONNTRACK),
    value("conntrack-udp-timeout-stream", CONNTRACK),
    value("detect-local-mode", LOCAL),
    value("feature-gates", "they are of Kubernetes' own components"),
    value("healthz-port", "use --healthz-bind-address"),
    switch(
        "init-only",
        "there is nothing to prepare: Weir ends at once",
    ),
    switch(
        "iptables-localhost-nodeports",
        "localhost serves node ports when --nodeport-addresses holds it",
    ),
    value("iptables-masquerade-bit", MASQUERADE),
    value("iptables-min-sync-period", SYNC),
    value("iptables-sync-period", SYNC),
    value("ipvs-exclude-cidrs", IPVS),
    value("ipvs-min-sync-period", SYNC),
    value(
        "ipvs-scheduler",
        "endpoints are chosen at random, or as a service's annotation says",
    ),
    switch("ipvs-strict-arp", IPVS),
    value("ipvs-sync-period", SYNC),
    value("ipvs-tcp-timeout", IPVS),
    value("ipvs-tcpfin-timeout", IPVS),
    value("ipvs-udp-timeout", IPVS),
    value("kube-api-burst", API),
    value("kube-api-content-type", "Weir reads JSON"),
    value("kube-api-qps", API),
    value("log-flush-frequency", LOG),
    value("log-json-info-buffer-size", LOG),
    switch("log-json-split-stream", LOG),
    value("log-text-info-buffer-size", LOG),
    switch("log-text-split-stream", LOG),
    switch("masquerade-all", MASQUERADE),
    value("metrics-port", "use --metrics-bind-address"),
    value("oom-score-adj", "set it for the container"),
    value("pod-bridge-interface", LOCAL),
    value("pod-interface-name-prefix", LOCAL),
    switch("profiling", "Weir has no profiler to serve"),
    value("proxy-mode", MODE),
    value("show-hidden-metrics-for-version", "Weir hides no metrics"),
    value("v", LOG),
    value("vmodule", LOG),
    value(
        "write-config-to",
        "nothing is written: Weir has no configuration file of its own",
    ),
    value("application-metrics-count-limit", CADVISOR),
    value("boot-id-file", CADVISOR),
    value("container-hints", CADVISOR),
    value("containerd", CADVISOR),
    value("containerd-env-metadata-whitelist", CADVISOR),
    value("containerd-namespace", CADVISOR),
    value("crio-client-timeout", CADVISOR),
    value("event-storage-age-limit", CADVISOR),
    value("event-storage-event-limit", CADVISOR),
    value("global-housekeeping-interval", CADVISOR),
    value("housekeeping-interval", CADVISOR),
    value("machine-id-file", CADVISOR),
    value("max-housekeeping-interval", CADVISOR),
    value("referenced-reset-interval", CADVISOR),
    value("storage-driver-buffer-duration", CADVISOR),
    value("storage-driver-db", CADVISOR),
    value("storage-driver-host", CADVISOR),
    value("storage-driver-password", CADVISOR),
    value("storage-driver-table", CADVISOR),
    value("storage-driver-user", CADVISOR),
    value("update-machine-info-interval", CADVISOR),
    switch("allow-dynamic-housekeeping", CADVISOR),
    switch("disable-root-cgroup-stats", CADVISOR),
    switch("docker-only", CADVISOR),
    switch("enable-load-reader", CADVISOR),
    switch("log-cadvisor-usage", CADVISOR),
    switch("storage-driver-secure", CADVISOR),
];
