//! The text of one JSON value inside a longer text.

use std::borrow::Cow;
use std::fmt;

use serde::de::{Deserialize, Deserializer, IgnoredAny, MapAccess, Visitor};
use serde_json::Value;

/// A newtype struct of this name is what serde_json's `RawValue` asks its deserializers for. They answer with the text of the
/// value, borrowed where they can.
const RAW_VALUE: &str = "$serde_json::private::RawValue";

/// One JSON value as text. As serde_json's `RawValue`, it is borrowed from the text that is deserialized, and checked to be
/// well-formed but not decoded; unlike it, it can also be had from what serde has buffered, as it does with the object of a
/// watch event whose type comes after it. Then it is written anew.
#[derive(Debug)]
pub(super) struct JsonText<'a>(pub(super) Cow<'a, str>);

impl<'de: 'a, 'a> Deserialize<'de> for JsonText<'a> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_newtype_struct(RAW_VALUE, JsonVisitor)
    }
}

struct JsonVisitor;

impl<'de> Visitor<'de> for JsonVisitor {
    type Value = JsonText<'de>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("any JSON value")
    }

    /// From serde_json: a map of one entry, whose value is the text.
    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
        map.next_key::<IgnoredAny>()?;
        Ok(JsonText(map.next_value::<Borrowed<'de>>()?.0))
    }

    /// From any other deserializer.
    fn visit_newtype_struct<D: Deserializer<'de>>(
        self,
        deserializer: D,
    ) -> Result<Self::Value, D::Error> {
        let value = Value::deserialize(deserializer)?;
        Ok(JsonText(value.to_string().into()))
    }
}

#[derive(serde::Deserialize)]
#[serde(transparent)]
struct Borrowed<'a>(#[serde(borrow)] Cow<'a, str>);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_text_is_borrowed_from_a_longer_one() {
        let list = r#"[{"a" : [1, "]"]},null, 17]"#;
        let items: Vec<JsonText> = serde_json::from_str(list).expect("well-formed");
        let texts: Vec<&str> = items.iter().map(|item| &*item.0).collect();
        assert_eq!(texts, [r#"{"a" : [1, "]"]}"#, "null", "17"]);
        assert!(
            items.iter().all(|item| matches!(item.0, Cow::Borrowed(_))),
            "{items:?}"
        );
    }

    #[test]
    fn what_serde_has_buffered_is_written_anew() {
        #[derive(serde::Deserialize)]
        #[serde(tag = "type", content = "object")]
        enum Tagged<'a> {
            #[serde(borrow)]
            Added(JsonText<'a>),
        }
        for text in [
            r#"{"type":"Added","object":{"a":"1"}}"#,
            r#"{"object":{"a":"1"},"type":"Added"}"#,
        ] {
            let Tagged::Added(object) = serde_json::from_str(text).expect("well-formed");
            assert_eq!(object.0, r#"{"a":"1"}"#);
        }
        let value = serde_json::json!({"a": "1"});
        let object = JsonText::deserialize(value).expect("a value");
        assert_eq!(object.0, r#"{"a":"1"}"#);
    }

    #[test]
    fn what_is_not_well_formed_is_an_error() {
        for text in ["[{]", r#"[{"a" 1}]"#, "[tru]", r#"["a]"#] {
            serde_json::from_str::<Vec<JsonText>>(text).expect_err(text);
        }
    }
}
