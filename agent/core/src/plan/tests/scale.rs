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
    let port = DesiredPort {
        port_name: "http".into(),
        proto: proto::TCP,
        lists: vec![list(service, endpoints)],
        frontends: vec![frontend(service_key(service), Some(0))],
        ..DesiredPort::default()
    };
    desired(&format!("s{service}"), vec![port])
}

#[test]
fn a_change_costs_what_it_is_itself_in_a_cluster_of_any_size() {
    let mut programmed = Programmed::new(Capacity::default());
    let first = programmed.plan((0..SERVICES).map(|service| wish(service, ENDPOINTS)));
    assert!(first.errors.is_empty());
    // Ten backends, one list, one counter, one frontend and one address each; and one new epoch.
    assert_eq!(first.ops.len(), SERVICES as usize * 14 + 1);
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
    assert_eq!((one_less.ops.len(), one_less.after_grace.len()), (3, 1));
    programmed.release(one_less.retired);
    let one_more = programmed.plan([wish(4711, ENDPOINTS)].into_iter());
    assert_eq!((one_more.ops.len(), one_more.after_grace.len()), (3, 0));
    programmed.release(one_more.retired);
    assert_eq!(programmed.counts(), counts);
}

/// The same with everything that a service can have: a port on an address that all of them share, affinity, ranges.
#[test]
fn a_change_of_a_service_with_everything_costs_no_more() {
    let node_port = |service: u32| {
        let port = u16::try_from(10_000 + service).expect("a port");
        ServiceKey {
            scope: scope::EXTERNAL,
            ..key(0, port)
        }
    };
    let full = |service: u32, endpoints: u16| {
        let mut wish = wish(service, endpoints);
        let port = &mut wish.ports[0];
        port.affinity_timeout = 60;
        port.source_ranges = admission::ranges(1);
        port.frontends[0].guarded = true;
        port.frontends.push(Frontend {
            open: true,
            ..frontend(node_port(service), Some(0))
        });
        wish
    };
    let mut programmed = Programmed::new(Capacity::default());
    let first = programmed.plan((0..SERVICES).map(|service| full(service, ENDPOINTS)));
    assert!(first.errors.is_empty());
    // Ten backends and ten members, one list, one range, one counter, two frontends, one address; one more address that
    // is everybody's, and one new epoch.
    assert_eq!(first.ops.len(), SERVICES as usize * 26 + 2);
    programmed.release(first.retired);
    let counts = programmed.counts();
    assert_eq!(
        (counts.members, counts.source_ranges),
        (SERVICES * 10, SERVICES)
    );

    let all_again = programmed.plan((0..SERVICES).map(|service| full(service, ENDPOINTS)));
    assert!(all_again.is_empty());
    // A list, two frontends, a member, a backend.
    for (endpoints, ops, after_grace) in [(ENDPOINTS - 1, 5, 1), (ENDPOINTS, 5, 0)] {
        let plan = programmed.plan([full(4711, endpoints)].into_iter());
        assert_eq!((plan.ops.len(), plan.after_grace.len()), (ops, after_grace));
        programmed.release(plan.retired);
    }
    assert_eq!(programmed.counts(), counts);
}
