//! A Node in the API for as long as a test needs it.

use anyhow::{Context, Result};
use k8s_openapi::api::core::v1 as core;
use kube::{
    Api,
    api::{DeleteParams, Patch, PatchParams, PostParams},
};

use super::{Cluster, Node};

/// A Node in the API; deleted when dropped.
#[derive(Debug)]
pub struct NodeGuard<'a> {
    cluster: &'a Cluster,
    name: String,
}

impl<'a> NodeGuard<'a> {
    pub(super) fn new(cluster: &'a Cluster, node: &Node) -> Result<Self> {
        let (object, status) = (node.object(), node.status());
        let name = node.name.clone();
        cluster
            .run(|client| async move {
                let api: Api<core::Node> = Api::all(client);
                api.create(&PostParams::default(), &serde_json::from_value(object)?)
                    .await?;
                let patch = Patch::Merge(&status);
                api.patch_status(&name, &PatchParams::default(), &patch)
                    .await?;
                anyhow::Ok(())
            })
            .with_context(|| format!("cannot create node {}", node.name))?;
        Ok(Self {
            cluster,
            name: node.name.clone(),
        })
    }

    /// The node's name.
    pub fn name(&self) -> &str {
        &self.name
    }
}

impl Drop for NodeGuard<'_> {
    fn drop(&mut self) {
        let name = self.name.clone();
        let deleted = self.cluster.run(|client| async move {
            let api: Api<core::Node> = Api::all(client);
            api.delete(&name, &DeleteParams::default()).await.map(drop)
        });
        if let Err(error) = deleted {
            eprintln!("cannot delete node {}: {error}", self.name);
        }
    }
}
