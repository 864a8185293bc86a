//! Links: made, taken over, and moved.

use std::{fs, net::SocketAddr, time::Duration};

use anyhow::Result;
use weir::attach::{Attached, HOOKS, How};
use weir_world::peer::Exchange;

use super::stage::{Stage, V4, V6};

fn all(attached: &[Attached], how: How) -> bool {
    attached.len() == HOOKS.len() && attached.iter().all(|hook| hook.how == how)
}

/// Whether the client's connections are translated. There is no such address in the world.
fn is_served(stage: &Stage) -> Result<bool> {
    let mut served = Vec::new();
    for to in [SocketAddr::from((V4, 80)), (V6, 80).into()] {
        let exchange = Exchange::tcp(to).timeout(Duration::from_millis(300));
        served.push(stage.client.exchange(exchange)?.ok());
    }
    assert_eq!(served[0], served[1], "both families or none");
    Ok(served[0])
}

#[test]
fn programs_are_replaced_in_place_and_links_follow_the_root() -> Result<()> {
    let mut stage = Stage::detached()?;
    stage.serve((V4, 80).into(), 1)?;
    stage.serve((V6, 80).into(), 2)?;
    let root = stage.node().cgroup_root().to_path_buf();
    assert!(!is_served(&stage)?);

    let attached = stage.attach(&root)?;
    assert!(all(&attached, How::New), "{attached:?}");
    assert!(
        attached
            .iter()
            .all(|hook| hook.link.exists() && hook.target == root)
    );
    assert!(is_served(&stage)?);
    let attached = stage.attach(&root)?;
    assert!(all(&attached, How::Replaced), "{attached:?}");
    assert!(is_served(&stage)?);

    // To a cgroup that the client is not in: nothing stays at the old one.
    let other = root.join("other");
    fs::create_dir(&other)?;
    let attached = stage.attach(&other)?;
    assert!(all(&attached, How::Moved), "{attached:?}");
    assert!(!is_served(&stage)?);

    // The cgroup goes away under the links.
    fs::remove_dir(&other)?;
    let attached = stage.attach(&root)?;
    assert!(all(&attached, How::Moved), "{attached:?}");
    assert!(attached.iter().all(|hook| hook.link.exists()));
    assert!(is_served(&stage)?);
    let attached = stage.attach(&root)?;
    assert!(all(&attached, How::Replaced), "{attached:?}");
    Ok(())
}

#[test]
fn links_and_tables_outlive_whoever_made_them() -> Result<()> {
    let mut stage = Stage::open()?;
    stage.serve((V4, 80).into(), 1)?;
    stage.serve((V6, 80).into(), 2)?;
    // The only descriptors of the programs and links are gone with it.
    let layout = stage.layout.clone();
    stage.object = weir::dataplane::Object::open(&layout, &super::stage::CAPACITY)?;
    assert!(is_served(&stage)?);
    // Without its link's file nothing is attached any more.
    weir::bpffs::remove_tree(layout.root())?;
    assert!(!is_served(&stage)?);
    Ok(())
}
