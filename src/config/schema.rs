//! The JSON Schema of `repositories.yml`, for editors and for the curious. It says what works, no more.

use std::borrow::Cow;

use schemars::generate::SchemaSettings;
use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};

use super::field::{Entries, Field, OneOrMore};
use super::file::{PROVIDERS, Written};

/// The JSON Schema (draft 2020-12) of `repositories.yml`.
pub fn schema() -> String {
    // Pretty printing of a value that is made of strings and numbers cannot fail.
    serde_json::to_string_pretty(&root()).unwrap_or_default()
}

fn root() -> Schema {
    SchemaSettings::draft2020_12()
        .into_generator()
        .into_root_schema_for::<Written>()
}

/// The keys of one structure of [`file`](super::file).
pub(super) fn keys(structure: &str) -> Vec<String> {
    let root = root();
    let variants = root.pointer("/$defs/Repository/oneOf").and_then(|all| all.as_array());
    let kind = structure.to_lowercase();
    let variant = variants.into_iter().flatten().find(|variant| {
        variant
            .pointer("/properties/type/const")
            .is_some_and(|name| *name == kind)
    });
    let found = match (structure, variant) {
        ("Written", _) => root.get("properties"),
        (_, Some(variant)) => variant.get("properties"),
        (_, None) => ["properties", "anyOf/1/properties"]
            .iter()
            .find_map(|place| root.pointer(&format!("/$defs/{structure}/{place}"))),
    };
    let properties = found.and_then(|properties| properties.as_object());
    properties
        .map(|properties| properties.keys().cloned().collect())
        .unwrap_or_default()
}

/// A structure that can also be written as one word.
pub(super) fn or_text(schema: &mut Schema) {
    let whole = std::mem::take(schema);
    *schema = json_schema!({ "anyOf": [{ "type": "string" }, whole] });
}

/// Credentials: a user, or who gives us one, which can also be written as one word.
pub(super) fn or_provider(schema: &mut Schema) {
    let mut whole = std::mem::take(schema);
    whole.insert(
        "oneOf".to_owned(),
        serde_json::json!([{ "required": ["username"] }, { "required": ["from"] }]),
    );
    *schema = json_schema!({ "anyOf": [{ "enum": PROVIDERS }, whole] });
}

impl<T: JsonSchema> JsonSchema for Field<T> {
    fn inline_schema() -> bool {
        true
    }

    fn schema_name() -> Cow<'static, str> {
        T::schema_name()
    }

    fn schema_id() -> Cow<'static, str> {
        format!("Field<{}>", T::schema_id()).into()
    }

    fn json_schema(generator: &mut SchemaGenerator) -> Schema {
        let schema = generator.subschema_for::<T>();
        if schema.get("type").is_some_and(|kind| kind == "boolean") {
            // Behind a variable there can be anything.
            return json_schema!({ "anyOf": [schema, { "type": "string", "pattern": "\\$\\{" }] });
        }
        schema
    }
}

impl<T: JsonSchema> JsonSchema for OneOrMore<T> {
    fn inline_schema() -> bool {
        true
    }

    fn schema_name() -> Cow<'static, str> {
        format!("OneOrMore{}", T::schema_name()).into()
    }

    fn json_schema(generator: &mut SchemaGenerator) -> Schema {
        let one = generator.subschema_for::<T>();
        json_schema!({ "anyOf": [one, { "type": "array", "items": one, "minItems": 1 }] })
    }
}

impl<T: JsonSchema> JsonSchema for Entries<T> {
    fn inline_schema() -> bool {
        true
    }

    fn schema_name() -> Cow<'static, str> {
        format!("Entries{}", T::schema_name()).into()
    }

    fn json_schema(generator: &mut SchemaGenerator) -> Schema {
        json_schema!({
            "type": "object",
            "minProperties": 1,
            "propertyNames": { "pattern": "^[a-z0-9]+((\\.|_|__|-+)[a-z0-9]+)*$", "not": { "enum": ["v2", "library"] } },
            "additionalProperties": generator.subschema_for::<T>(),
        })
    }
}
