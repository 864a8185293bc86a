//! What tests and benches ask of etcd: to forget, and to take many objects at once.

use std::{
    io::{Read, Write},
    net::{Ipv4Addr, TcpStream},
    time::Duration,
};

use anyhow::{Context, Result, bail};
use base64::{Engine as _, prelude::BASE64_STANDARD};
use serde_json::{Value, json};

use super::components::ETCD_PORT;

/// Has etcd forget every revision before the present one, which is returned. To be called inside the
/// control plane's namespace.
pub(super) fn compact() -> Result<u64> {
    // Any range request tells the revision; "AA==" is the key of one zero byte, which nobody uses.
    let range = post("/v3/kv/range", &json!({ "key": "AA==" }))?;
    let revision: u64 = range["header"]["revision"]
        .as_str()
        .and_then(|text| text.parse().ok())
        .with_context(|| format!("etcd told no revision: {range}"))?;
    let revision_text = revision.to_string();
    post(
        "/v3/kv/compaction",
        &json!({ "revision": revision_text, "physical": true }),
    )?;
    Ok(revision)
}

/// How many operations etcd takes in one transaction (`--max-txn-ops`).
const MOST_OPERATIONS: usize = 128;

/// Writes values under their keys. To be called inside the control plane's namespace.
pub(super) fn put(values: &[(String, String)]) -> Result<()> {
    for values in values.chunks(MOST_OPERATIONS) {
        let operations: Vec<Value> = values
            .iter()
            .map(|(key, value)| {
                let (key, value) = (BASE64_STANDARD.encode(key), BASE64_STANDARD.encode(value));
                json!({ "requestPut": { "key": key, "value": value } })
            })
            .collect();
        post("/v3/kv/txn", &json!({ "success": operations }))?;
    }
    Ok(())
}

/// One request to etcd's JSON gateway. HTTP/1.0 asks for a plain body that ends with the connection.
fn post(path: &str, body: &Value) -> Result<Value> {
    let mut stream =
        TcpStream::connect((Ipv4Addr::LOCALHOST, ETCD_PORT)).context("cannot reach etcd")?;
    stream
        .set_read_timeout(Some(Duration::from_secs(30)))
        .context("cannot set a timeout")?;
    let body = body.to_string();
    write!(
        stream,
        "POST {path} HTTP/1.0\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\r\n{body}",
        body.len()
    )
    .context("cannot write to etcd")?;
    let mut answer = String::new();
    stream
        .read_to_string(&mut answer)
        .context("cannot read etcd's answer")?;
    let (head, body) = answer
        .split_once("\r\n\r\n")
        .with_context(|| format!("etcd answered no HTTP: {answer}"))?;
    if head.split(' ').nth(1) != Some("200") {
        bail!("etcd refused {path}: {answer}");
    }
    serde_json::from_str(body).with_context(|| format!("etcd answered no JSON: {body}"))
}
