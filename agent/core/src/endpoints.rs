//! Which endpoints exist, and in which condition.

use std::collections::HashMap;

use crate::backend::BackendAddr;
use crate::model::{Endpoint, EndpointSlice};

/// Counts in how many places of services' slices each endpoint is that meets a condition.
#[derive(Debug)]
pub(crate) struct Endpoints {
    counts: HashMap<BackendAddr, u32>,
    which: fn(&Endpoint) -> bool,
}

/// Every such endpoint of a slice, once for each of its ports; none if the slice is no service's.
fn endpoints(
    slice: &EndpointSlice,
    which: fn(&Endpoint) -> bool,
) -> impl Iterator<Item = BackendAddr> {
    let slice = slice.service.is_some().then_some(slice);
    slice.into_iter().flat_map(move |slice| {
        let of_port = move |port| {
            let endpoints = slice.endpoints.iter().filter(move |e| which(e));
            endpoints.map(move |endpoint| (endpoint, port))
        };
        (slice.ports.iter().flat_map(of_port))
            .map(|(endpoint, port)| BackendAddr::new(endpoint.addr, port.port, port.protocol))
    })
}

impl Endpoints {
    /// None yet of those that meet this condition.
    pub(crate) fn new(which: fn(&Endpoint) -> bool) -> Self {
        Self {
            counts: HashMap::new(),
            which,
        }
    }

    /// Whether such an endpoint is in any slice of any service.
    pub(crate) fn contains(&self, endpoint: &BackendAddr) -> bool {
        self.counts.contains_key(endpoint)
    }

    /// One version of a slice takes another's place; gives back the endpoints that are in no slice any more.
    pub(crate) fn replace(
        &mut self,
        former: Option<&EndpointSlice>,
        new: Option<&EndpointSlice>,
    ) -> Vec<BackendAddr> {
        let which = self.which;
        for endpoint in new.into_iter().flat_map(|slice| endpoints(slice, which)) {
            *self.counts.entry(endpoint).or_default() += 1;
        }
        let mut gone = Vec::new();
        for endpoint in former.into_iter().flat_map(|slice| endpoints(slice, which)) {
            if let Some(count) = self.counts.get_mut(&endpoint) {
                *count -= 1;
                if *count == 0 {
                    self.counts.remove(&endpoint);
                    gone.push(endpoint);
                }
            }
        }
        gone
    }
}
