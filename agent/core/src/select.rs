//! Which endpoints receive a service's traffic.
