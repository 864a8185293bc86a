//! Stories of service load balancing in a cluster of three nodes: what `CONFORMANCE.md` names.

mod affinity;
mod cluster_ip;
mod conformance;
mod dual_stack;
mod endings;
mod external_ip;
mod hairpin;
mod health_check;
mod load_balancer;
mod maglev;
mod node_port;
mod path;
mod refusals;
mod service;
mod source_ranges;
mod talk;
mod terminating;
mod topology;
mod town;
mod traffic_policy;
mod udp;
