use std::{io::Write as _, path::Path};

use tempfile::NamedTempFile;

use super::*;
use crate::{
    cli::{self, Cli, run::Options, values::NodePortAddress},
    http::BindAddress,
    log,
};

/// As `kubeadm init` of 1.36 writes it, with a few things set.
const KUBEADM: &str = r#"
apiVersion: kubeproxy.config.k8s.io/v1alpha1
bindAddress: 0.0.0.0
bindAddressHardFail: false
clientConnection:
  acceptContentTypes: ""
  burst: 0
  contentType: ""
  kubeconfig: /var/lib/kube-proxy/kubeconfig.conf
  qps: 0
clusterCIDR: 10.244.0.0/16
configSyncPeriod: 0s
conntrack:
  maxPerCore: null
  min: null
  tcpBeLiberal: false
  tcpCloseWaitTimeout: null
  tcpEstablishedTimeout: null
  udpStreamTimeout: 0s
  udpTimeout: 0s
detectLocal:
  bridgeInterface: ""
  interfaceNamePrefix: ""
detectLocalMode: ""
enableProfiling: false
healthzBindAddress: ""
hostnameOverride: ""
iptables:
  localhostNodePorts: null
  masqueradeAll: false
  masqueradeBit: null
  minSyncPeriod: 0s
  syncPeriod: 0s
ipvs:
  excludeCIDRs: null
  minSyncPeriod: 0s
  scheduler: ""
  strictARP: true
  syncPeriod: 0s
  tcpFinTimeout: 0s
  tcpTimeout: 0s
  udpTimeout: 0s
kind: KubeProxyConfiguration
logging:
  flushFrequency: 0
  options:
    json:
      infoBufferSize: "0"
    text:
      infoBufferSize: "0"
  verbosity: 0
metricsBindAddress: 0.0.0.0
mode: ipvs
nodePortAddresses: null
oomScoreAdj: null
portRange: ""
showHiddenMetricsForVersion: ""
winkernel:
  enableDSR: false
  forwardHealthCheckVip: false
  networkName: ""
  rootHnsEndpointName: ""
  sourceVip: ""
"#;

fn file(text: &str) -> NamedTempFile {
    let mut file = NamedTempFile::new().unwrap();
    file.write_all(text.as_bytes()).unwrap();
    file
}

fn parse(arguments: &[&str]) -> Result<Options> {
    match cli::parse([&["weir", "run"], arguments].concat())?.command {
        cli::Command::Run(options) => Ok(*options),
        other => panic!("{other:?}"),
    }
}

fn names(foreign: &[Foreign]) -> Vec<&str> {
    foreign
        .iter()
        .map(|foreign| foreign.name.as_str())
        .collect()
}

#[test]
fn the_arguments_of_kubeadms_daemon_set_just_work() {
    let config = file(KUBEADM);
    let config = format!("--config={}", config.path().display());
    let options = parse(&[&config, "--hostname-override=Node-1"]).unwrap();
    assert_eq!(options.node_name().unwrap(), "node-1");
    assert_eq!(
        options.kubeconfig.as_deref(),
        Some(Path::new("/var/lib/kube-proxy/kubeconfig.conf"))
    );
    assert_eq!(
        options.metrics_bind_address,
        "0.0.0.0:10249".parse().unwrap()
    );
    assert_eq!(
        options.healthz_bind_address,
        "0.0.0.0:10256".parse().unwrap()
    );
    assert_eq!(options.nodeport_addresses, [NodePortAddress::Primary]);
    assert_eq!(
        names(&options.kube_proxy.fields),
        ["clusterCIDR", "ipvs.strictARP", "mode"]
    );
    assert_eq!(names(&options.kube_proxy.flags), Vec::<&str>::new());
    let warning = options.kube_proxy.warning().unwrap();
    assert!(
        warning.contains("mode (Weir has one way to balance, eBPF)"),
        "{warning}"
    );
    assert_eq!(warning.lines().count(), 1);
}

#[test]
fn flags_win_over_the_file_and_the_file_over_defaults() {
    let config = file(concat!(
        "kind: KubeProxyConfiguration\n",
        "apiVersion: kubeproxy.config.k8s.io/v1alpha1\n",
        "hostnameOverride: from-file\n",
        "healthzBindAddress: 127.0.0.1:1\n",
        "metricsBindAddress: '[::1]:2'\n",
        "nodePortAddresses: [192.0.2.0/24, 2001:db8::/64]\n",
        "logging: {format: json}\n",
    ));
    let path = config.path().to_str().unwrap();
    let options = parse(&["--config", path]).unwrap();
    assert_eq!(options.node_name().unwrap(), "from-file");
    assert_eq!(options.healthz_bind_address, "127.0.0.1:1".parse().unwrap());
    assert_eq!(options.metrics_bind_address, "[::1]:2".parse().unwrap());
    assert_eq!(options.nodeport_addresses.len(), 2);
    assert_eq!(options.log_format, log::Format::Json);
    assert_eq!(options.kube_proxy.warning(), None);

    let options = parse(&[
        "--config",
        path,
        "--node-name=flag",
        "--healthz-bind-address=",
        "--metrics-bind-address=192.0.2.1",
        "--nodeport-addresses=primary",
        "--logging-format=text",
    ])
    .unwrap();
    assert_eq!(options.node_name().unwrap(), "flag");
    assert_eq!(options.healthz_bind_address, BindAddress(None));
    assert_eq!(
        options.metrics_bind_address,
        "192.0.2.1:10249".parse().unwrap()
    );
    assert_eq!(options.nodeport_addresses, [NodePortAddress::Primary]);
    assert_eq!(options.log_format, log::Format::Text);
}

#[test]
fn a_file_that_names_a_kubeconfig_goes_with_manifests() {
    let config = file(KUBEADM);
    let path = config.path().to_str().unwrap();
    let options = parse(&["--config", path, "--manifests", "/m"]).unwrap();
    assert_eq!(options.manifests.as_deref(), Some(Path::new("/m")));
}

#[test]
fn a_file_that_is_no_configuration_is_an_error_that_names_it() {
    let failure = |text: &str| {
        let config = file(text);
        let path = config.path().to_str().unwrap().to_owned();
        let error = format!("{:#}", parse(&["--config", &path]).unwrap_err());
        assert!(
            error.contains(&path) && error.contains("--config"),
            "{error}"
        );
        error
    };
    assert!(failure("a: [").contains("not YAML"));
    assert!(
        failure("kind: KubeletConfiguration\napiVersion: kubelet.config.k8s.io/v1beta1\n")
            .contains("KubeletConfiguration")
    );
    assert!(failure("").contains("apiVersion"));
    let error = format!("{:#}", parse(&["--config", "/no/such/file"]).unwrap_err());
    assert!(error.contains("/no/such/file"), "{error}");
    let bad = failure_of_value();
    assert!(
        bad.contains("nowhere") && bad.contains("nodeport-addresses"),
        "{bad}"
    );
}

fn failure_of_value() -> String {
    let text = concat!(
        "kind: KubeProxyConfiguration\n",
        "apiVersion: kubeproxy.config.k8s.io/v1alpha1\n",
        "nodePortAddresses: [nowhere]\n",
    );
    let config = file(text);
    parse(&["--config", config.path().to_str().unwrap()])
        .unwrap_err()
        .to_string()
}

#[test]
fn fields_that_nobody_knows_are_named_and_groups_have_an_outcome() {
    let file = File::parse(concat!(
        "kind: KubeProxyConfiguration\n",
        "apiVersion: kubeproxy.config.k8s.io/v1alpha1\n",
        "conntrack: {maxPerCore: 1, udpTimeout: 30s}\n",
        "iptables: {syncPeriod: 30s, masqueradeAll: true}\n",
        "featureGates: {A: true, B: false}\n",
        "modes: x\n",
    ))
    .unwrap();
    let mut found: Vec<_> = file
        .foreign
        .iter()
        .map(|foreign| (foreign.name.as_str(), foreign.outcome))
        .collect();
    found.sort_unstable();
    assert_eq!(
        found,
        [
            ("conntrack.maxPerCore", flags::CONNTRACK),
            ("conntrack.udpTimeout", flags::CONNTRACK),
            ("featureGates", "they are of Kubernetes' own components"),
            ("iptables.masqueradeAll", flags::MASQUERADE),
            ("iptables.syncPeriod", flags::SYNC),
            ("modes", "kube-proxy 1.36 does not know it either"),
        ]
    );
}

#[test]
fn every_flag_of_kube_proxys_is_accepted_and_named_and_no_other() {
    for flag in flags::FLAGS {
        let option = format!("--{}", flag.name);
        let given = if flag.is_switch {
            vec![option.clone()]
        } else {
            vec![option.clone(), "-1".to_owned()]
        };
        let given: Vec<&str> = given.iter().map(String::as_str).collect();
        let options = parse(&given).unwrap();
        assert_eq!(names(&options.kube_proxy.flags), [option.as_str()]);
        assert_eq!(options.kube_proxy.init_only, flag.name == "init-only");
        let assigned = parse(&[&format!("{option}=true")]).unwrap();
        assert_eq!(names(&assigned.kube_proxy.flags), [option.as_str()]);
        assert!(!flag.outcome.is_empty());
    }
    let options = parse(&[
        "-v",
        "4",
        "--masquerade-all=false",
        "--proxy-mode",
        "nftables",
    ])
    .unwrap();
    assert_eq!(names(&options.kube_proxy.flags), ["--proxy-mode", "--v"]);
    for unknown in ["--proxy-port-range=1", "--masquerade", "--userspace"] {
        let error = parse(&[unknown]).unwrap_err();
        assert!(
            error
                .to_string()
                .contains(unknown.split('=').next().unwrap()),
            "{error}"
        );
    }
}

/// Against the program itself: `WEIR_CONTROL_PLANE` is what `cargo xtask build` makes of `tests/control-plane`.
#[test]
fn no_flag_of_the_real_kube_proxy_is_missing() {
    let Some(binary) = std::env::var_os("WEIR_CONTROL_PLANE") else {
        return;
    };
    let output = std::process::Command::new(binary)
        .args(["kube-proxy", "--help"])
        .output()
        .unwrap();
    let help = String::from_utf8(output.stdout).unwrap();
    let listed: Vec<&str> = help
        .lines()
        .filter_map(|line| {
            let line = line.trim_start();
            let line = line
                .strip_prefix("-v, ")
                .or(line.strip_prefix("-h, "))
                .unwrap_or(line);
            line.strip_prefix("--")?.split([' ', '=']).next()
        })
        .collect();
    assert!(listed.len() > 70, "{help}");
    let run = <Cli as clap::CommandFactory>::command();
    let run = run.find_subcommand("run").unwrap().clone();
    for name in listed {
        let known = run.get_arguments().any(|arg| {
            arg.get_long() == Some(name)
                || arg
                    .get_all_aliases()
                    .is_some_and(|aliases| aliases.contains(&name))
        });
        assert!(known || ["help", "version"].contains(&name), "--{name}");
    }
}

#[test]
fn cleanup_is_asked_for_as_of_kube_proxy() {
    assert!(!parse(&[]).unwrap().cleanup);
    assert!(parse(&["--cleanup"]).unwrap().cleanup);
    assert!(
        parse(&["--cleanup=true", "--manifests=/m"])
            .unwrap()
            .cleanup
    );
    assert!(!parse(&["--cleanup=false"]).unwrap().cleanup);
}

#[test]
fn what_services_and_api_servers_take() {
    let options = parse(&[
        "--apiserver=https://192.0.2.1:6443,192.0.2.2",
        "--devices=eth0,ens*",
        "--external-ips=false",
        "--max-frontends=1000",
        "--max-flows=5000",
    ])
    .unwrap();
    assert_eq!(options.apiserver.len(), 2);
    assert!(options.devices[1].matches("ens5"));
    assert!(!options.external_ips);
    assert_eq!(
        (options.max_frontends, options.max_slots),
        (Some(1000), None)
    );
    assert_eq!(options.max_flows, Some(5000));
    assert_eq!(parse(&["--master=192.0.2.1"]).unwrap().apiserver.len(), 1);
    for wrong in [
        "--max-frontends=0",
        "--external-ips=perhaps",
        "--apiserver=ftp://x",
        "--devices=a/b",
        "--nodeport-addresses=here",
    ] {
        assert!(parse(&[wrong]).is_err(), "{wrong}");
    }
    assert!(parse(&["--apiserver=192.0.2.1", "--manifests=/m"]).is_err());
}
