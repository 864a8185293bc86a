//! An agent with too few rights.

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};
use weir_tests::{
    agent,
    control_plane::{self, Cluster, Identity, eventually},
};

use crate::shop::{Shop, failing, source, wait_until_watching};

/// What the agent needs: group, resource, verbs.
const NEEDED: [(&str, &str, &[&str]); 6] = [
    ("", "services", &["list", "watch"]),
    ("discovery.k8s.io", "endpointslices", &["list", "watch"]),
    ("", "nodes", &["list", "watch"]),
    ("", "namespaces", &["list", "watch"]),
    ("", "pods", &["list", "watch"]),
    ("events.k8s.io", "events", &["create"]),
];

/// A user's ClusterRole, which goes when this is dropped.
pub(crate) struct Rights<'a> {
    cluster: &'a Cluster,
    user: String,
}

impl<'a> Rights<'a> {
    /// A user who may do nothing yet.
    pub(crate) fn new(cluster: &'a Cluster, story: &str) -> Result<Self> {
        let user = format!("weir-{story}");
        let rights = Self { cluster, user };
        let binding = json!({
            "apiVersion": "rbac.authorization.k8s.io/v1",
            "kind": "ClusterRoleBinding",
            "metadata": { "name": rights.user },
            "roleRef": { "apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": rights.user },
            "subjects": [{ "apiGroup": "rbac.authorization.k8s.io", "kind": "User", "name": rights.user }],
        });
        cluster.apply(&binding.to_string())?;
        Ok(rights)
    }

    /// The user.
    pub(crate) fn user(&self) -> &str {
        &self.user
    }

    /// Grants everything the agent needs but these resources' verbs.
    pub(crate) fn grant(&self, but: &[(&str, &str)]) -> Result<()> {
        let rules = NEEDED.iter().flat_map(|(group, resource, verbs)| {
            let verbs = verbs.iter().copied();
            let verbs = verbs.filter(|verb| !but.contains(&(*resource, *verb)));
            verbs.map(move |verb| -> Value {
                json!({ "apiGroups": [group], "resources": [resource], "verbs": [verb] })
            })
        });
        let role = json!({
            "apiVersion": "rbac.authorization.k8s.io/v1",
            "kind": "ClusterRole",
            "metadata": { "name": self.user },
            "rules": rules.collect::<Vec<_>>(),
        });
        self.cluster.apply(&role.to_string()).map(drop)
    }

    /// Waits until the API server has learnt that the user may not do this.
    pub(crate) fn wait_until_denied(&self, verb: &str, resource: &str) -> Result<()> {
        eventually("the right is withdrawn", || {
            let answer = self
                .cluster
                .kubectl(&["auth", "can-i", verb, resource, "-A", "--as", &self.user]);
            // It says no by its exit status as well.
            Ok(answer.is_err().then_some(()))
        })
    }
}

impl Drop for Rights<'_> {
    fn drop(&mut self) {
        for kind in ["clusterrolebinding", "clusterrole"] {
            let deleted = self
                .cluster
                .kubectl(&["delete", "--ignore-not-found", kind, &self.user]);
            if let Err(error) = deleted {
                eprintln!("cannot delete {kind} {}: {error:#}", self.user);
            }
        }
    }
}

#[test]
fn a_missing_right_is_named_and_missed_no_longer_once_it_is_granted() -> Result<()> {
    let cluster = control_plane::shared()?;
    let rights = Rights::new(&cluster, "rights")?;
    rights.grant(&[("endpointslices", "watch"), ("pods", "list")])?;
    let shop = Shop::open_as(&cluster, "rights", &Identity::User(rights.user()))?;
    let to = shop.service("web")?;
    shop.pods(&["web-1"])?;
    // It can list slices, but not hear of later ones.
    shop.namespace
        .wait_for_endpoints("web", "web-1 is ready", |endpoints| {
            endpoints.ready().len() == 2
        })?;
    let agent = shop.spawn_agent()?;
    let missing = [
        (
            "EndpointSlice",
            "the agent may not watch endpointslices.discovery.k8s.io at cluster scope: grant the verbs list and watch on \
             \"endpointslices\" in API group \"discovery.k8s.io\" to its ClusterRole",
        ),
        (
            "Pod",
            "the agent may not list pods at cluster scope: grant the verbs list and watch on \"pods\" in API group \"\" to its \
             ClusterRole",
        ),
    ];
    agent.wait_until(
        "the missing rights are noticed, and nothing else",
        |agent| {
            let status = agent.status()?;
            let mut listed = status["sources"].as_array().context("no sources")?.iter();
            Ok(failing(&status)? == missing.map(|(kind, _)| kind)
                && listed.all(|source| source["synced"] == (source["kind"] != "Pod")))
        },
    )?;
    let status = agent.status()?;
    assert_eq!(status["healthy"], false);
    let text = agent::weir(shop.node(), &["status"], &[])?;
    let text = String::from_utf8(text.stdout)?;
    for (kind, expected) in missing {
        let error = source(&status, kind)?["error"]
            .as_str()
            .context("no error")?;
        assert!(error.starts_with(expected), "{error}");
        assert!(
            error.contains(rights.user()),
            "what the server says is kept: {error}"
        );
        let start = &expected[..expected.find(':').context("no colon")?];
        assert!(agent.log().contains(start), "{}", agent.log());
        assert!(text.contains(start), "{text}");
    }
    ensure!(
        !shop.connect(to.v4)?.ok(),
        "nothing is programmed before everything is listed"
    );

    // One right after the other: it goes on by itself.
    rights.grant(&[("endpointslices", "watch")])?;
    agent.wait_until("the pods are listed", |agent| {
        Ok(failing(&agent.status()?)? == ["EndpointSlice"])
    })?;
    shop.wait_for(&agent, &to, &["web-1"])?;
    rights.grant(&[])?;
    wait_until_watching(&agent)?;
    shop.pods(&["web-2"])?;
    shop.wait_for(&agent, &to, &["web-1", "web-2"])?;

    // Withdrawn, a right is missed when the watch is opened next. What is programmed stays.
    let load = shop.load(to.v4)?;
    rights.grant(&[("services", "watch")])?;
    rights.wait_until_denied("watch", "services")?;
    shop.proxy.cut();
    agent.wait_until("the right is missed", |agent| {
        let status = agent.status()?;
        let error = source(&status, "Service")?["error"].to_string();
        Ok(failing(&status)? == ["Service"]
            && error.contains("may not watch services at cluster scope"))
    })?;
    let late = shop.service("late")?;
    shop.namespace.set_ready("web-2", false)?;
    shop.wait_for(&agent, &to, &["web-1"])?;
    assert_eq!(shop.seen(&agent, "late")?, None);
    rights.grant(&[])?;
    shop.wait_until_refused(&agent, &late)?;
    wait_until_watching(&agent)?;
    load.stop()
}
