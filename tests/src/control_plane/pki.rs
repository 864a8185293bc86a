//! The control plane's certificates, keys and kubeconfigs: all under one authority made for it.

use std::{
    fs,
    net::IpAddr,
    path::{Path, PathBuf},
};

use anyhow::{Context, Result};
use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose,
};
use serde_json::{Value, json};

/// The group whose members may do everything.
pub(super) const ADMINISTRATORS: &str = "system:masters";

/// A certificate authority and the directory of what it issued.
#[derive(Debug)]
pub(super) struct Pki {
    directory: PathBuf,
    issuer: Issuer<'static, KeyPair>,
}

/// PEM files of a certificate and its key.
#[derive(Clone, Debug)]
pub(super) struct Certificate {
    pub(super) certificate: PathBuf,
    pub(super) key: PathBuf,
}

/// PEM files of a key pair.
#[derive(Clone, Debug)]
pub(super) struct SigningKey {
    pub(super) private: PathBuf,
    pub(super) public: PathBuf,
}

impl Pki {
    /// Makes an authority that keeps its files in `directory`, which it creates.
    pub(super) fn new(directory: PathBuf) -> Result<Self> {
        fs::create_dir_all(&directory)
            .with_context(|| format!("cannot create {}", directory.display()))?;
        let mut params = named("weir-tests", None)?;
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![
            KeyUsagePurpose::DigitalSignature,
            KeyUsagePurpose::KeyCertSign,
        ];
        let key = KeyPair::generate().context("cannot make a key")?;
        let certificate = params
            .self_signed(&key)
            .context("cannot make the certificate authority")?;
        let pki = Self {
            directory,
            issuer: Issuer::new(params, key),
        };
        write(&pki.authority(), &certificate.pem())?;
        Ok(pki)
    }

    /// The authority's certificate.
    pub(super) fn authority(&self) -> PathBuf {
        self.directory.join("ca.crt")
    }

    /// A server's certificate for `names`, which are DNS names and addresses.
    pub(super) fn server(&self, file: &str, names: &[String]) -> Result<Certificate> {
        let mut params = named(file, None)?;
        params.subject_alt_names = CertificateParams::new(names)
            .context("cannot use the server's names")?
            .subject_alt_names;
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        self.issue(file, &params)
    }

    /// A client's certificate: to Kubernetes, its holder is `user`, in `group`.
    pub(super) fn client(
        &self,
        file: &str,
        user: &str,
        group: Option<&str>,
    ) -> Result<Certificate> {
        let mut params = named(user, group)?;
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
        self.issue(file, &params)
    }

    /// A key to sign tokens with, and the public key to verify them by.
    pub(super) fn signing_key(&self, file: &str) -> Result<SigningKey> {
        let key = KeyPair::generate().context("cannot make a key")?;
        let made = SigningKey {
            private: self.directory.join(format!("{file}.key")),
            public: self.directory.join(format!("{file}.pub")),
        };
        write(&made.private, &key.serialize_pem())?;
        write(&made.public, &key.public_key_pem())?;
        Ok(made)
    }

    /// Writes a kubeconfig for the API server at `url`; `user` is the content of its user entry.
    pub(super) fn kubeconfig(&self, file: &str, url: &str, user: &Value) -> Result<PathBuf> {
        let path = self.directory.join(file);
        let config = json!({
            "apiVersion": "v1",
            "kind": "Config",
            "clusters": [{
                "name": "weir-tests",
                "cluster": { "server": url, "certificate-authority": self.authority() },
            }],
            "users": [{ "name": "user", "user": user }],
            "contexts": [{
                "name": "weir-tests",
                "context": { "cluster": "weir-tests", "user": "user" },
            }],
            "current-context": "weir-tests",
        });
        write(&path, &format!("{config:#}\n"))?;
        Ok(path)
    }

    fn issue(&self, file: &str, params: &CertificateParams) -> Result<Certificate> {
        let key = KeyPair::generate().context("cannot make a key")?;
        let certificate = params
            .signed_by(&key, &self.issuer)
            .with_context(|| format!("cannot issue the certificate {file}"))?;
        let issued = Certificate {
            certificate: self.directory.join(format!("{file}.crt")),
            key: self.directory.join(format!("{file}.key")),
        };
        write(&issued.certificate, &certificate.pem())?;
        write(&issued.key, &key.serialize_pem())?;
        Ok(issued)
    }
}

impl Certificate {
    /// As the user entry of a kubeconfig.
    pub(super) fn user(&self) -> Value {
        json!({ "client-certificate": self.certificate, "client-key": self.key })
    }
}

/// All the names under which clients may reach the API server.
pub(super) fn api_server_names(addresses: &[IpAddr]) -> Vec<String> {
    let mut names: Vec<String> = [
        "localhost",
        "127.0.0.1",
        "::1",
        "10.96.0.1",
        "fd00:10:96::1",
    ]
    .map(str::to_owned)
    .into();
    names.extend(addresses.iter().map(IpAddr::to_string));
    names.extend(
        ["", ".default", ".default.svc", ".default.svc.cluster.local"]
            .map(|domain| format!("kubernetes{domain}")),
    );
    names
}

fn named(name: &str, group: Option<&str>) -> Result<CertificateParams> {
    let mut params = CertificateParams::new(Vec::new()).context("cannot describe a certificate")?;
    params.distinguished_name.push(DnType::CommonName, name);
    if let Some(group) = group {
        params
            .distinguished_name
            .push(DnType::OrganizationName, group);
    }
    Ok(params)
}

fn write(path: &Path, text: &str) -> Result<()> {
    fs::write(path, text).with_context(|| format!("cannot write {}", path.display()))
}
