//! A control plane to play with: starts one, says how to reach it, and keeps it until it is
//! interrupted or its standard input ends. Nothing of it is left then.

use std::io::Read;

use anyhow::{Context, Result};
use weir_tests::control_plane::{Cluster, Identity};

fn main() -> Result<()> {
    let cluster = Cluster::start()?;
    let kubeconfig = cluster.kubeconfig(&cluster.url(), &Identity::Administrator)?;
    println!("directory {}", cluster.directory().display());
    println!("kubeconfig {}", kubeconfig.display());
    println!("netns {}", cluster.netns().path().display());
    println!(
        "try nsenter --net={} kubectl --kubeconfig {} get services -A",
        cluster.netns().path().display(),
        kubeconfig.display()
    );
    std::io::stdin()
        .read_to_end(&mut Vec::new())
        .context("cannot wait for the end of the standard input")?;
    Ok(())
}
