//! What the controllers say about a service's endpoints.

use k8s_openapi::api::discovery::v1::{Endpoint, EndpointSlice};

/// All slices of one service.
#[derive(Clone, Debug)]
pub struct Endpoints {
    /// The slices as the API server has them.
    pub slices: Vec<EndpointSlice>,
}

impl Endpoints {
    /// The addresses of the endpoints that are ready, in order, each once.
    pub fn ready(&self) -> Vec<&str> {
        self.addresses(ready)
    }

    /// The addresses of the endpoints that are being terminated but still serve, in order, each once.
    pub fn serving_terminating(&self) -> Vec<&str> {
        self.addresses(|endpoint| {
            endpoint.conditions.as_ref().is_some_and(|conditions| {
                conditions.serving == Some(true) && conditions.terminating == Some(true)
            })
        })
    }

    /// All addresses, in order, each once.
    pub fn all(&self) -> Vec<&str> {
        self.addresses(|_| true)
    }

    fn addresses(&self, chosen: impl Fn(&Endpoint) -> bool) -> Vec<&str> {
        let mut addresses: Vec<&str> = self
            .slices
            .iter()
            .flat_map(|slice| &slice.endpoints)
            .filter(|endpoint| chosen(endpoint))
            .flat_map(|endpoint| &endpoint.addresses)
            .map(String::as_str)
            .collect();
        addresses.sort_unstable();
        addresses.dedup();
        addresses
    }
}

fn ready(endpoint: &Endpoint) -> bool {
    endpoint
        .conditions
        .as_ref()
        .is_some_and(|conditions| conditions.ready == Some(true))
}
