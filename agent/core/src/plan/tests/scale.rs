//! Costs in a large cluster, counted in operations.

use super::*;

const SERVICES: u32 = 10_000;
const ENDPOINTS: u16 = 10;

fn service_key(service: u32) -> ServiceKey {
    let [_, high, middle, low] = service.to_be_bytes();
    ServiceKey {
        addr: IpAddr::from([10, high + 96, middle, low]).into(),
        ..key(0, 80)
    }
}

/// Endpoints of their own for every service.
fn list(service: u32, endpoints: u16) -> Vec<BackendAddr> {
    let [a, b, c, d] = service.to_be_bytes();
    let address = |endpoint: u16| BackendAddr {
        addr: Address([
            0xfd,
            0,
            0,
            0,
            0,
            0,
            0,
            0,
            a,
            b,
            c,
            d,
            0,
            0,
            0,
            endpoint.to_be_bytes()[1],
        ]),
        ..backend(0)
    };
    (0..endpoints).map(address).collect()
}

fn wish(service: u32, endpoints: u16) -> DesiredService {
    let frontend = Frontend {
        key: service_key(service),
        verdict: Verdict::Translate,
        list: Some(0),
    };
    let port = DesiredPort {
        port_name: "http".into(),
        proto: proto::TCP,
        lists: vec![list(service, endpoints)],
        frontends: vec![frontend],
    };
    desired(&format!("s{service}"), vec![port])
}

#[test]
fn a_change_costs_what_it_is_itself_in_a_cluster_of_any_size() {
    let capacity = Capacity::default();
    let mut programmed = Programmed::new(capacity);
    let first = programmed.plan((0..SERVICES).map(|service| wish(service, ENDPOINTS)));
    assert!(first.errors.is_empty());
    // Ten backends, one list, one counter, one frontend and one address each.
    assert_eq!(first.ops.len(), SERVICES as usize * 14);
    programmed.release(first.retired);
    let counts = programmed.counts();
    assert_eq!(counts.services, SERVICES * 2);
    assert_eq!(
        (counts.slots, counts.backends),
        (SERVICES * 10, SERVICES * 10)
    );
    assert_eq!(counts.ids, SERVICES);

    let all_again = programmed.plan((0..SERVICES).map(|service| wish(service, ENDPOINTS)));
    assert!(all_again.is_empty());

    let one_less = programmed.plan([wish(4711, ENDPOINTS - 1)].into_iter());
    assert_eq!((one_less.ops.len(), one_less.after_grace.len()), (2, 1));
    programmed.release(one_less.retired);
    let one_more = programmed.plan([wish(4711, ENDPOINTS)].into_iter());
    assert_eq!((one_more.ops.len(), one_more.after_grace.len()), (3, 0));
    programmed.release(one_more.retired);
    assert_eq!(programmed.counts(), counts);
}
