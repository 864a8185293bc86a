//! A runtime whose threads are inside the control plane's namespace, and a client that works on it.

use std::path::Path;

use anyhow::{Context, Result};
use kube::{
    Client, Config,
    config::{KubeConfigOptions, Kubeconfig},
};
use tokio::runtime::{Builder, Handle, Runtime};

use super::Netns;

pub(super) struct Io {
    runtime: Runtime,
    client: Client,
}

impl Io {
    /// The client is the one of `kubeconfig`.
    pub(super) fn new(netns: &Netns, kubeconfig: &Path) -> Result<Self> {
        let netns = netns.clone();
        let runtime = Builder::new_multi_thread()
            .worker_threads(2)
            .thread_name("control-plane-io")
            .on_thread_start(move || {
                netns
                    .enter()
                    .expect("the namespace was made by this process, which may enter it as well");
            })
            .enable_all()
            .build()
            .context("cannot start a runtime")?;
        let kubeconfig = Kubeconfig::read_from(kubeconfig).context("cannot read the kubeconfig")?;
        let client = block_on(&runtime, async move {
            let options = KubeConfigOptions::default();
            let config = Config::from_custom_kubeconfig(kubeconfig, &options).await?;
            anyhow::Ok(Client::try_from(config)?)
        })
        .context("cannot make a client")?;
        Ok(Self { runtime, client })
    }

    pub(super) fn runtime(&self) -> &Handle {
        self.runtime.handle()
    }

    /// Runs `work` on the runtime and waits for it.
    ///
    /// # Panics
    /// When `work` does.
    pub(super) fn run<F, T>(&self, work: impl FnOnce(Client) -> F) -> T
    where
        F: Future<Output = T> + Send + 'static,
        T: Send + 'static,
    {
        block_on(&self.runtime, work(self.client.clone()))
    }
}

/// Unlike the runtime's own, this runs none of `work` on the calling thread, which is elsewhere.
fn block_on<T: Send + 'static>(
    runtime: &Runtime,
    work: impl Future<Output = T> + Send + 'static,
) -> T {
    let (report, result) = std::sync::mpsc::channel();
    runtime.spawn(async move {
        let _ = report.send(work.await);
    });
    result
        .recv()
        .expect("the task panicked: its message stands above")
}
