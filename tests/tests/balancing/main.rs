//! Stories of service load balancing in a cluster of three nodes: what `CONFORMANCE.md` names.

mod affinity;
mod cluster_ip;
mod dual_stack;
mod endings;
mod external_ip;
mod hairpin;
mod health_check;
mod load_balancer;
mod node_port;
mod refusals;
mod service;
mod source_ranges;
mod talk;
mod terminating;
mod topology;
mod town;
mod traffic_policy;
mod udp;
