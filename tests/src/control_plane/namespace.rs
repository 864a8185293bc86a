//! A test's own API namespace.

use anyhow::{Context, Result};
use k8s_openapi::{
    NamespaceResourceScope,
    api::{apps::v1 as apps, core::v1 as core, discovery::v1::EndpointSlice},
};
use kube::{
    Api, Resource,
    api::{DeleteParams, ListParams, Patch, PatchParams, PostParams},
};
use serde::{Serialize, de::DeserializeOwned};
use serde_json::{Value, json};

use super::{Cluster, Endpoints, Pod, Service, eventually, objects::condition};

/// An API namespace. When this value is dropped, what is in it is deleted, and the namespace after that,
/// for which nobody waits.
#[derive(Debug)]
pub struct Namespace<'a> {
    cluster: &'a Cluster,
    name: String,
}

impl<'a> Namespace<'a> {
    pub(super) fn new(cluster: &'a Cluster, name: String) -> Result<Self> {
        let object = json!({
            "apiVersion": "v1", "kind": "Namespace", "metadata": { "name": name },
        });
        cluster
            .run(|client| async move {
                let api: Api<core::Namespace> = Api::all(client);
                api.create(&PostParams::default(), &serde_json::from_value(object)?)
                    .await?;
                anyhow::Ok(())
            })
            .with_context(|| format!("cannot create namespace {name}"))?;
        let namespace = Self { cluster, name };
        // Without it the API server admits no pod.
        eventually("a new namespace has its service account", || {
            Ok(namespace.get::<core::ServiceAccount>("default")?.map(drop))
        })?;
        Ok(namespace)
    }

    /// Its name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Runs kubectl in this namespace.
    ///
    /// # Errors
    /// When it fails; the message is its own.
    pub fn kubectl(&self, arguments: &[&str]) -> Result<String> {
        let all = [&["-n", self.name.as_str()], arguments].concat();
        self.cluster.kubectl(&all)
    }

    /// Applies YAML or JSON, server-side, to this namespace; any number of documents.
    ///
    /// # Errors
    /// When the API server refuses one of them.
    pub fn apply(&self, manifests: &str) -> Result<String> {
        let arguments = [
            "-n",
            &self.name,
            "apply",
            "--server-side",
            "--force-conflicts",
            "-f",
            "-",
        ];
        self.cluster.kubectl_with(&arguments, manifests)
    }

    /// Creates an object of any type that k8s-openapi knows, out of its JSON.
    ///
    /// # Errors
    /// When the JSON is none of that type, or the API server refuses it.
    pub fn create<K: Object>(&self, object: Value) -> Result<K> {
        self.run(|api: Api<K>| async move {
            let object = serde_json::from_value(object)?;
            Ok(api.create(&PostParams::default(), &object).await?)
        })
        .with_context(|| format!("cannot create a {} in {}", K::kind(&()), self.name))
    }

    /// Reads an object; None if there is none of that name.
    ///
    /// # Errors
    /// When the API server does not answer.
    pub fn get<K: Object>(&self, name: &str) -> Result<Option<K>> {
        let owned = name.to_owned();
        self.run(|api: Api<K>| async move { Ok(api.get_opt(&owned).await?) })
            .with_context(|| format!("cannot read {} {name} in {}", K::kind(&()), self.name))
    }

    /// Changes an object by a JSON merge patch.
    ///
    /// # Errors
    /// When there is none of that name, or the API server refuses the result.
    pub fn patch<K: Object>(&self, name: &str, patch: Value) -> Result<K> {
        let owned = name.to_owned();
        self.run(|api: Api<K>| async move {
            let patch = Patch::Merge(patch);
            Ok(api.patch(&owned, &PatchParams::default(), &patch).await?)
        })
        .with_context(|| format!("cannot change {} {name} in {}", K::kind(&()), self.name))
    }

    /// Deletes an object, at once: pods are not waited for.
    ///
    /// # Errors
    /// When there is none of that name.
    pub fn delete<K: Object>(&self, name: &str) -> Result<()> {
        self.delete_with::<K>(name, DeleteParams::default().grace_period(0))
    }

    /// Creates a service and returns it with the addresses that the API server gave it.
    ///
    /// # Errors
    /// When the API server refuses it.
    pub fn service(&self, service: &Service) -> Result<core::Service> {
        self.create(service.object())
    }

    /// Creates a pod and has it report the status it was described with.
    ///
    /// # Errors
    /// When the API server refuses it.
    pub fn pod(&self, pod: &Pod) -> Result<core::Pod> {
        self.create::<core::Pod>(pod.object())?;
        self.patch_status(&pod.name, pod.status())
    }

    /// Has a pod pass its readiness probe, or fail it.
    ///
    /// # Errors
    /// When there is none of that name.
    pub fn set_ready(&self, pod: &str, ready: bool) -> Result<core::Pod> {
        let status = json!({ "status": { "conditions": [condition("Ready", ready)] } });
        self.patch_status(pod, status)
    }

    /// Deletes a pod in good order: as no kubelet confirms it, it goes on terminating, and serving if
    /// it was ready, until [`Namespace::delete`]. Its node must exist.
    ///
    /// # Errors
    /// When there is none of that name.
    pub fn terminate(&self, pod: &str) -> Result<()> {
        self.delete_with::<core::Pod>(pod, DeleteParams::default())
    }

    /// The service's EndpointSlices.
    ///
    /// # Errors
    /// When the API server does not answer.
    pub fn endpoints(&self, service: &str) -> Result<Endpoints> {
        let selector = format!("kubernetes.io/service-name={service}");
        let slices = self
            .run(|api: Api<EndpointSlice>| async move {
                Ok(api.list(&ListParams::default().labels(&selector)).await?)
            })
            .with_context(|| format!("cannot list the slices of {service} in {}", self.name))?;
        Ok(Endpoints {
            slices: slices.items,
        })
    }

    /// Waits until the controllers have made the service's slices such that `good` holds. `what` says
    /// what that is.
    ///
    /// # Errors
    /// When it does not come true; the message shows the slices as they are.
    pub fn wait_for_endpoints(
        &self,
        service: &str,
        what: &str,
        good: impl Fn(&Endpoints) -> bool,
    ) -> Result<Endpoints> {
        let found = eventually(what, || {
            let endpoints = self.endpoints(service)?;
            Ok(good(&endpoints).then_some(endpoints))
        });
        found.or_else(|error| {
            let slices = self.endpoints(service)?.slices;
            let slices = serde_json::to_string_pretty(&slices)?;
            Err(error.context(format!("the slices of {service} are {slices}")))
        })
    }

    fn patch_status(&self, pod: &str, status: Value) -> Result<core::Pod> {
        let name = pod.to_owned();
        self.run(|api: Api<core::Pod>| async move {
            let patch = Patch::Merge(status);
            let params = PatchParams::default();
            Ok(api.patch_status(&name, &params, &patch).await?)
        })
        .with_context(|| format!("cannot set the status of pod {pod} in {}", self.name))
    }

    fn delete_with<K: Object>(&self, name: &str, params: DeleteParams) -> Result<()> {
        let owned = name.to_owned();
        self.run(|api: Api<K>| async move { Ok(api.delete(&owned, &params).await.map(drop)?) })
            .with_context(|| format!("cannot delete {} {name} in {}", K::kind(&()), self.name))
    }

    fn run<K: Object, F, T>(&self, work: impl FnOnce(Api<K>) -> F) -> Result<T>
    where
        F: Future<Output = Result<T>> + Send + 'static,
        T: Send + 'static,
    {
        self.cluster
            .run(|client| work(Api::namespaced(client, &self.name)))
    }

    /// Deletes what is in it, at once, and then itself, which the controllers complete five seconds
    /// later. Pods on nodes would wait for a kubelet, so they are removed by force, after those who
    /// would make new ones.
    fn remove(&self) -> Result<()> {
        self.delete_all::<apps::DaemonSet>()?;
        self.delete_all::<apps::Deployment>()?;
        self.delete_all::<apps::ReplicaSet>()?;
        self.delete_all::<core::Service>()?;
        self.delete_all::<core::Pod>()?;
        let name = self.name.clone();
        self.cluster.run(|client| async move {
            let api: Api<core::Namespace> = Api::all(client);
            api.delete(&name, &DeleteParams::default()).await.map(drop)
        })?;
        // Those that a controller made in the meantime; from now on it cannot.
        self.delete_all::<core::Pod>()
    }

    fn delete_all<K: Object>(&self) -> Result<()> {
        self.run(|api: Api<K>| async move {
            let params = DeleteParams::background().grace_period(0);
            api.delete_collection(&params, &ListParams::default())
                .await?;
            Ok(())
        })
    }
}

impl Drop for Namespace<'_> {
    fn drop(&mut self) {
        if let Err(error) = self.remove() {
            eprintln!("cannot delete namespace {}: {error:#}", self.name);
        }
    }
}

/// What [`Namespace`] can handle: the types of k8s-openapi that live in namespaces.
pub trait Object:
    Resource<Scope = NamespaceResourceScope, DynamicType = ()>
    + Clone
    + std::fmt::Debug
    + Serialize
    + DeserializeOwned
    + Send
    + Sync
    + 'static
{
}

impl<K> Object for K where
    K: Resource<Scope = NamespaceResourceScope, DynamicType = ()>
        + Clone
        + std::fmt::Debug
        + Serialize
        + DeserializeOwned
        + Send
        + Sync
        + 'static
{
}
