//! Takes a manifest apart: text to documents, documents to objects, each with the line it begins at.

use std::path::Path;

use serde::Deserialize as _;
use serde_json::Value;

/// A file that cannot be taken apart.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Broken {
    /// Where, from 1, if it is about one place.
    pub(super) line: Option<usize>,
    /// What is wrong.
    pub(super) error: String,
}

/// One object of a file.
#[derive(Clone, Debug)]
pub(super) struct Document {
    /// Where it begins, from 1; for an item of a list, where the list begins.
    pub(super) line: usize,
    /// Its place in a list, or nothing.
    pub(super) item: Option<usize>,
    /// The object as it stands.
    pub(super) value: Value,
}

/// The objects of a file; a `List`, or a list of one kind such as `ServiceList`, counts as its items.
pub(super) fn documents(path: &Path, bytes: &[u8]) -> Result<Vec<Document>, Broken> {
    let bytes = bytes.strip_prefix(b"\xef\xbb\xbf").unwrap_or(bytes);
    let text = std::str::from_utf8(bytes).map_err(|error| Broken {
        line: Some(line_at(bytes, error.valid_up_to())),
        error: "not UTF-8 text: save the file as UTF-8".to_owned(),
    })?;
    let is_json = path
        .extension()
        .is_some_and(|extension| extension == "json");
    let whole = if is_json { json(text)? } else { yaml(text)? };
    let mut documents = Vec::new();
    for (line, value) in whole {
        expand(line, value, &mut documents)?;
    }
    Ok(documents)
}

fn json(text: &str) -> Result<Vec<(usize, Value)>, Broken> {
    let mut values = Vec::new();
    let mut stream = serde_json::Deserializer::from_str(text).into_iter::<Value>();
    loop {
        let rest = &text[stream.byte_offset()..];
        let start = stream.byte_offset() + (rest.len() - rest.trim_start().len());
        match stream.next() {
            None => return Ok(values),
            Some(Ok(Value::Null)) => {}
            Some(Ok(value)) => values.push((line_at(text.as_bytes(), start), value)),
            Some(Err(error)) => {
                return Err(Broken {
                    line: Some(error.line()),
                    error: format!("not JSON: {error}"),
                });
            }
        }
    }
}

fn yaml(text: &str) -> Result<Vec<(usize, Value)>, Broken> {
    let mut values = Vec::new();
    for (before, document) in split(text) {
        let blank = document.lines().take_while(|line| is_blank(line)).count();
        let line = before + blank + 1;
        let broken = |error: serde_yaml_ng::Error| Broken {
            line: Some(error.location().map_or(line, |place| place.line())),
            error: format!("not YAML: {}", without_place(&error)),
        };
        let mut value = yaml_value(document)
            // Once more with the lines before it, so that every line in the message counts from the file's first.
            .or_else(|_| yaml_value(&format!("{}{document}", "\n".repeat(before))))
            .map_err(broken)?;
        value.apply_merge().map_err(broken)?;
        if value.is_null() {
            continue;
        }
        let value = serde_json::to_value(&value).map_err(|error| Broken {
            line: Some(line),
            error: format!("not what a manifest can hold: {error}"),
        })?;
        values.push((line, value));
    }
    Ok(values)
}

fn yaml_value(document: &str) -> serde_yaml_ng::Result<serde_yaml_ng::Value> {
    serde_yaml_ng::Value::deserialize(serde_yaml_ng::Deserializer::from_str(document))
}

/// The message without the place that is told anyway.
fn without_place(error: &serde_yaml_ng::Error) -> String {
    let text = error.to_string();
    match error.location() {
        None => text,
        Some(place) => {
            let place = format!(" at line {} column {}", place.line(), place.column());
            text.replacen(&place, "", 1)
        }
    }
}

/// The documents of a YAML stream with the number of lines before each. A line that begins with `---` always ends a
/// document (YAML 1.2.2, 9.1.2: content must not have it), so that each can be read on its own.
fn split(text: &str) -> Vec<(usize, &str)> {
    let mut documents = Vec::new();
    let (mut start, mut lines_before, mut offset) = (0, 0, 0);
    for (number, line) in text.split_inclusive('\n').enumerate() {
        let marks_start = line
            .strip_prefix("---")
            .is_some_and(|rest| rest.is_empty() || rest.starts_with([' ', '\t', '\r', '\n']));
        if marks_start && offset > start {
            documents.push((lines_before, &text[start..offset]));
        }
        if marks_start {
            (start, lines_before) = (offset, number);
        }
        offset += line.len();
    }
    documents.push((lines_before, &text[start..]));
    documents
}

fn is_blank(line: &str) -> bool {
    let line = line.trim_start();
    line.is_empty() || line.starts_with('#') || line.trim_end() == "---"
}

fn expand(line: usize, value: Value, documents: &mut Vec<Document>) -> Result<(), Broken> {
    let broken = |error: String| Broken {
        line: Some(line),
        error,
    };
    let text = |field: &str| value.get(field).and_then(Value::as_str);
    let Some(kind) = text("kind") else {
        return Err(broken(
            "not a Kubernetes object: it has no kind; begin it with apiVersion, kind and metadata"
                .to_owned(),
        ));
    };
    let Some(kind_of_items) = kind
        .strip_suffix("List")
        .filter(|_| value.get("items").is_some())
    else {
        documents.push(Document {
            line,
            item: None,
            value,
        });
        return Ok(());
    };
    // Items of a ServiceList need not repeat what they are.
    let defaults = (!kind_of_items.is_empty()).then(|| {
        (
            kind_of_items.to_owned(),
            value.get("apiVersion").cloned().unwrap_or_default(),
        )
    });
    let kind = kind.to_owned();
    let items = match value {
        Value::Object(mut fields) => fields.remove("items").unwrap_or_default(),
        _ => Value::Null,
    };
    let Value::Array(items) = items else {
        return Err(broken(format!("items of a {kind} must be a sequence")));
    };
    for (index, mut value) in items.into_iter().enumerate() {
        let Value::Object(fields) = &mut value else {
            return Err(broken(format!("items[{index}] is not an object")));
        };
        if let Some((kind, version)) = &defaults {
            fields.entry("kind").or_insert_with(|| kind.as_str().into());
            fields
                .entry("apiVersion")
                .or_insert_with(|| version.clone());
        }
        if !fields.get("kind").is_some_and(Value::is_string) {
            return Err(broken(format!("items[{index}] has no kind")));
        }
        documents.push(Document {
            line,
            item: Some(index),
            value,
        });
    }
    Ok(())
}

fn line_at(bytes: &[u8], offset: usize) -> usize {
    bytes[..offset]
        .iter()
        .filter(|byte| **byte == b'\n')
        .count()
        + 1
}
