//! The merged configuration as a tree whose leaves remember where they came from, and its serde deserializer.

use std::collections::BTreeMap;

use serde::de::value::{MapDeserializer, SeqDeserializer, StrDeserializer};
use serde::de::{self, Deserializer, IntoDeserializer, Unexpected, Visitor};
use serde::forward_to_deserialize_any;

use super::error::{ConfigError, Origin};
use super::secret::SECRET_TYPE;

/// One place of the tree.
#[derive(Debug, Clone)]
pub(super) enum Node {
    /// A section.
    Table(BTreeMap<String, Node>, Origin),
    /// A list of a file.
    Array(Vec<Node>, Origin),
    /// A value of a file, which has a type.
    Typed(toml::Value, Origin),
    /// A value of the environment or a flag, which has none.
    Text(String, Origin),
}

impl Node {
    pub(super) fn from_value(value: toml::Value, origin: &Origin) -> Self {
        match value {
            toml::Value::Table(table) => {
                let children = table.into_iter().map(|(key, value)| (key, Self::from_value(value, origin))).collect();
                Self::Table(children, origin.clone())
            }
            toml::Value::Array(items) => {
                Self::Array(items.into_iter().map(|item| Self::from_value(item, origin)).collect(), origin.clone())
            }
            value => Self::Typed(value, origin.clone()),
        }
    }

    pub(super) fn origin(&self) -> &Origin {
        match self {
            Self::Table(_, origin) | Self::Array(_, origin) | Self::Typed(_, origin) | Self::Text(_, origin) => origin,
        }
    }

    /// The text of this place, where it is one.
    pub(super) fn text(&self) -> Option<&str> {
        match self {
            Self::Text(text, _) | Self::Typed(toml::Value::String(text), _) => Some(text),
            _ => None,
        }
    }

    /// Adds all places below this one that are no sections, with their dotted keys.
    pub(super) fn leaves<'a>(&'a self, path: &str, found: &mut Vec<(String, &'a Self)>) {
        let Self::Table(children, _) = self else {
            found.push((path.to_owned(), self));
            return;
        };
        for (name, child) in children {
            let key = if path.is_empty() { name.clone() } else { format!("{path}.{name}") };
            child.leaves(&key, found);
        }
    }

    /// Puts a later layer over this one, key by key. What changes its kind is taken as it comes: the struct that reads
    /// it says what it expected.
    pub(super) fn overlay(&mut self, later: Self) {
        match (self, later) {
            (Self::Table(children, own), Self::Table(others, origin)) => {
                *own = origin;
                for (key, other) in others {
                    match children.get_mut(&key) {
                        Some(child) => child.overlay(other),
                        None => {
                            children.insert(key, other);
                        }
                    }
                }
            }
            (place, later) => *place = later,
        }
    }

    /// Puts `text` at `key`, making sections on the way. Two places that disagree on what is a section are an error; a
    /// default gives way.
    pub(super) fn set(&mut self, key: &[String], text: String, origin: &Origin) -> Result<(), ConfigError> {
        let shape = |depth: usize, is_section: bool, other: &Self| ConfigError::Shape {
            origin: origin.clone(),
            key: key.get(..depth).unwrap_or_default().join("."),
            is_section,
            other: other.origin().clone(),
        };
        let Some((last, sections)) = key.split_last() else { return Ok(()) };
        let mut place = self;
        for (depth, part) in sections.iter().enumerate() {
            place = match place.or_section(origin) {
                Self::Table(children, _) => {
                    children.entry(part.clone()).or_insert_with(|| Self::Table(BTreeMap::new(), origin.clone()))
                }
                other => return Err(shape(depth, true, other)),
            };
        }
        match place.or_section(origin) {
            Self::Table(children, _) => match children.get(last) {
                Some(child @ Self::Table(..)) if *child.origin() != Origin::Nowhere => {
                    Err(shape(key.len(), false, child))
                }
                _ => {
                    children.insert(last.clone(), Self::Text(text, origin.clone()));
                    Ok(())
                }
            },
            other => Err(shape(sections.len(), true, other)),
        }
    }

    /// This place, as an empty section when it is a default of another kind.
    fn or_section(&mut self, origin: &Origin) -> &mut Self {
        if *self.origin() == Origin::Nowhere && !matches!(self, Self::Table(..)) {
            *self = Self::Table(BTreeMap::new(), origin.clone());
        }
        self
    }

    /// The origin of the deepest place on `path` that somebody gave (a default stands nowhere); a secret's `_file` form
    /// counts as the secret.
    pub(super) fn origin_on(&self, path: &[String]) -> &Origin {
        let mut place = self;
        let mut origin = self.origin();
        for part in path {
            let child = match place {
                Self::Table(children, _) => children.get(part).or_else(|| children.get(&format!("{part}_file"))),
                Self::Array(items, _) => {
                    part.trim_matches(['[', ']']).parse().ok().and_then(|index: usize| items.get(index))
                }
                Self::Typed(..) | Self::Text(..) => None,
            };
            match child {
                Some(child) => place = child,
                None => break,
            }
            if *place.origin() != Origin::Nowhere {
                origin = place.origin();
            }
        }
        origin
    }
}

/// Later layers win.
fn rank(origin: &Origin) -> u8 {
    match origin {
        Origin::Nowhere => 0,
        Origin::File(_) => 1,
        Origin::Variable(_) => 2,
        Origin::Flag(_) => 3,
    }
}

/// What serde reports, before it is known where.
#[derive(Debug)]
pub(super) enum NodeError {
    UnknownKey { field: String, expected: Vec<&'static str> },
    BadValue(String),
}

impl std::fmt::Display for NodeError {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::UnknownKey { field, .. } => write!(formatter, "unknown key `{field}`"),
            Self::BadValue(message) => formatter.write_str(message),
        }
    }
}

impl std::error::Error for NodeError {}

impl de::Error for NodeError {
    fn custom<T: std::fmt::Display>(message: T) -> Self {
        Self::BadValue(message.to_string())
    }

    fn unknown_field(field: &str, expected: &'static [&'static str]) -> Self {
        Self::UnknownKey { field: field.to_owned(), expected: expected.to_vec() }
    }

    fn unknown_variant(variant: &str, expected: &'static [&'static str]) -> Self {
        let names: Vec<String> = expected.iter().map(|name| format!("\"{name}\"")).collect();
        Self::BadValue(format!("expected one of {}, got \"{variant}\"", names.join(", ")))
    }

    fn missing_field(field: &'static str) -> Self {
        Self::BadValue(format!("the required key `{field}` is missing"))
    }

    fn invalid_type(unexpected: Unexpected<'_>, expected: &dyn de::Expected) -> Self {
        Self::mismatch(unexpected, expected)
    }

    fn invalid_value(unexpected: Unexpected<'_>, expected: &dyn de::Expected) -> Self {
        Self::mismatch(unexpected, expected)
    }
}

impl NodeError {
    /// Says in plain words what serde says in the words of Rust.
    fn mismatch(unexpected: Unexpected<'_>, expected: &dyn de::Expected) -> Self {
        let expected = match expected.to_string().as_str() {
            "u8" => format!("a whole number from 0 to {}", u8::MAX),
            "u16" => format!("a whole number from 0 to {}", u16::MAX),
            "u32" => format!("a whole number from 0 to {}", u32::MAX),
            "u64" | "usize" => "a whole number, at least 0".to_owned(),
            "i8" | "i16" | "i32" | "i64" | "isize" => "a whole number".to_owned(),
            "f32" | "f64" => "a number".to_owned(),
            "a boolean" => "true or false".to_owned(),
            "a string" => "a text".to_owned(),
            "a sequence" => "a list".to_owned(),
            other => other.to_owned(),
        };
        let got = match unexpected {
            Unexpected::Str(text) => format!("\"{text}\""),
            Unexpected::Signed(value) => value.to_string(),
            Unexpected::Unsigned(value) => value.to_string(),
            Unexpected::Float(value) => value.to_string(),
            Unexpected::Bool(value) => value.to_string(),
            Unexpected::Map => "a section".to_owned(),
            Unexpected::Seq => "a list".to_owned(),
            other => other.to_string(),
        };
        Self::BadValue(format!("expected {expected}, got {got}"))
    }

    /// The error with its key and origin.
    pub(super) fn locate(self, path: &[String], root: &Node) -> ConfigError {
        match self {
            Self::UnknownKey { field, expected } => {
                let mut path = path.to_vec();
                if path.last().is_none_or(|last| *last != field) {
                    path.push(field);
                }
                ConfigError::UnknownKey { origin: root.origin_on(&path).clone(), key: dotted(&path), expected }
            }
            Self::BadValue(message) => {
                ConfigError::BadValue { origin: root.origin_on(path).clone(), key: dotted(path), message }
            }
        }
    }
}

fn dotted(path: &[String]) -> String {
    let mut key = String::new();
    for part in path {
        if !key.is_empty() && !part.starts_with('[') {
            key.push('.');
        }
        key.push_str(part);
    }
    key
}

/// A place as serde reads it.
#[derive(Clone, Copy)]
pub(super) enum Value<'a> {
    /// The place itself.
    Node(&'a Node),
    /// The place holds the path of a file with a secret.
    SecretFile(&'a Node),
}

impl IntoDeserializer<'_, NodeError> for Value<'_> {
    type Deserializer = Self;

    fn into_deserializer(self) -> Self {
        self
    }
}

impl<'a> Value<'a> {
    /// The node, unless it is a file of a secret that something else than a secret asks for.
    fn node(self) -> Result<&'a Node, NodeError> {
        match self {
            Self::Node(node) => Ok(node),
            Self::SecretFile(_) => {
                Err(NodeError::BadValue("only secrets have a `_file` form, and this is no secret".to_owned()))
            }
        }
    }

    fn no_section(self) -> NodeError {
        // The value itself is not repeated: whoever puts a value where a section belongs may have put a secret there.
        NodeError::BadValue("expected a section with keys, got a value".to_owned())
    }

    fn integer<'de, V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, NodeError> {
        match self.node()? {
            Node::Text(text, _) => {
                let digits = text.trim().replace('_', "");
                if let Ok(value) = digits.parse::<i64>() {
                    visitor.visit_i64(value)
                } else if let Ok(value) = digits.parse::<u64>() {
                    visitor.visit_u64(value)
                } else {
                    Err(de::Error::invalid_type(Unexpected::Str(text), &visitor))
                }
            }
            _ => self.deserialize_any(visitor),
        }
    }
}

macro_rules! integers {
    ($($method:ident)*) => {
        $(fn $method<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, NodeError> {
            self.integer(visitor)
        })*
    };
}

macro_rules! texts {
    ($($method:ident)*) => {
        $(fn $method<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, NodeError> {
            match self.node()? {
                Node::Text(text, _) => visitor.visit_str(text),
                _ => self.deserialize_any(visitor),
            }
        })*
    };
}

impl<'de> Deserializer<'de> for Value<'_> {
    type Error = NodeError;

    fn deserialize_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, NodeError> {
        match self.node()? {
            Node::Table(children, _) => visitor
                .visit_map(MapDeserializer::new(children.iter().map(|(key, node)| (key.as_str(), Value::Node(node))))),
            Node::Array(items, _) => visitor.visit_seq(SeqDeserializer::new(items.iter().map(Value::Node))),
            Node::Typed(value, _) => match value {
                toml::Value::Integer(value) => visitor.visit_i64(*value),
                toml::Value::Float(value) => visitor.visit_f64(*value),
                toml::Value::Boolean(value) => visitor.visit_bool(*value),
                toml::Value::String(value) => visitor.visit_str(value),
                other => visitor.visit_string(other.to_string()),
            },
            Node::Text(text, _) => {
                if let Ok(value) = text.parse::<i64>() {
                    visitor.visit_i64(value)
                } else if let Ok(value) = text.parse::<bool>() {
                    visitor.visit_bool(value)
                } else if let Ok(value) = text.parse::<f64>() {
                    visitor.visit_f64(value)
                } else {
                    visitor.visit_str(text)
                }
            }
        }
    }

    fn deserialize_bool<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, NodeError> {
        match self.node()? {
            Node::Text(text, _) => match text.trim().to_ascii_lowercase().as_str() {
                "true" | "1" => visitor.visit_bool(true),
                "false" | "0" => visitor.visit_bool(false),
                _ => Err(de::Error::invalid_type(Unexpected::Str(text), &"true or false")),
            },
            _ => self.deserialize_any(visitor),
        }
    }

    integers! {
        deserialize_i8 deserialize_i16 deserialize_i32 deserialize_i64 deserialize_i128
        deserialize_u8 deserialize_u16 deserialize_u32 deserialize_u64 deserialize_u128
    }

    fn deserialize_f32<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, NodeError> {
        self.deserialize_f64(visitor)
    }

    fn deserialize_f64<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, NodeError> {
        match self.node()? {
            Node::Text(text, _) => match text.trim().parse::<f64>() {
                Ok(value) => visitor.visit_f64(value),
                Err(_) => Err(de::Error::invalid_type(Unexpected::Str(text), &"a number")),
            },
            _ => self.deserialize_any(visitor),
        }
    }

    texts! { deserialize_char deserialize_str deserialize_string deserialize_identifier }

    fn deserialize_option<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, NodeError> {
        visitor.visit_some(self)
    }

    fn deserialize_newtype_struct<V: Visitor<'de>>(
        self,
        name: &'static str,
        visitor: V,
    ) -> Result<V::Value, NodeError> {
        if name != SECRET_TYPE {
            return visitor.visit_newtype_struct(self);
        }
        match self {
            Self::Node(node) if matches!(node.origin(), Origin::Flag(_)) => Err(NodeError::BadValue(
                "a secret is never a flag, other users of the machine could read it: use the environment, or the \
                 `_file` form"
                    .to_owned(),
            )),
            Self::Node(_) => visitor.visit_newtype_struct(self),
            Self::SecretFile(node) => {
                let path = match node {
                    Node::Text(text, _) | Node::Typed(toml::Value::String(text), _) => text,
                    _ => {
                        return Err(NodeError::BadValue(
                            "expected the path of a file that holds the secret".to_owned(),
                        ));
                    }
                };
                let text = std::fs::read_to_string(path)
                    .map_err(|error| NodeError::BadValue(format!("cannot read the secret from {path}: {error}")))?;
                let secret = text.strip_suffix('\n').map_or(&*text, |line| line.strip_suffix('\r').unwrap_or(line));
                visitor.visit_str(secret)
            }
        }
    }

    fn deserialize_seq<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, NodeError> {
        match self.node()? {
            Node::Text(text, origin) => {
                let items = if text.trim_start().starts_with('[') {
                    let mut table: toml::Table = toml::from_str(&format!("list = {text}"))
                        .map_err(|error| NodeError::BadValue(error.message().to_owned()))?;
                    table.remove("list").map(|list| Node::from_value(list, origin))
                } else {
                    let parts = text.split(',').map(str::trim).filter(|part| !part.is_empty());
                    Some(Node::Array(
                        parts.map(|part| Node::Text(part.to_owned(), origin.clone())).collect(),
                        origin.clone(),
                    ))
                };
                match items {
                    Some(Node::Array(items, _)) => {
                        visitor.visit_seq(SeqDeserializer::new(items.iter().map(Value::Node)))
                    }
                    _ => Err(de::Error::invalid_type(Unexpected::Str(text), &visitor)),
                }
            }
            _ => self.deserialize_any(visitor),
        }
    }

    fn deserialize_tuple<V: Visitor<'de>>(self, _: usize, visitor: V) -> Result<V::Value, NodeError> {
        self.deserialize_seq(visitor)
    }

    fn deserialize_tuple_struct<V: Visitor<'de>>(
        self,
        _: &'static str,
        _: usize,
        visitor: V,
    ) -> Result<V::Value, NodeError> {
        self.deserialize_seq(visitor)
    }

    fn deserialize_struct<V: Visitor<'de>>(
        self,
        _: &'static str,
        fields: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, NodeError> {
        let Node::Table(children, _) = self.node()? else {
            return Err(self.no_section());
        };
        let mut entries: Vec<(&str, Value<'_>)> = Vec::with_capacity(children.len());
        for (key, node) in children {
            let secret =
                key.strip_suffix("_file").filter(|stem| fields.contains(stem) && !fields.contains(&key.as_str()));
            let Some(stem) = secret else {
                entries.push((key, Value::Node(node)));
                continue;
            };
            match children.get(stem).map(|direct| rank(direct.origin()).cmp(&rank(node.origin()))) {
                // The later layer gave the text itself.
                Some(std::cmp::Ordering::Greater) => {}
                Some(std::cmp::Ordering::Equal) => {
                    return Err(NodeError::BadValue(format!("both `{stem}` and `{key}` are set: keep one")));
                }
                Some(std::cmp::Ordering::Less) | None => {
                    entries.retain(|(known, _)| *known != stem);
                    entries.push((stem, Value::SecretFile(node)));
                }
            }
        }
        visitor.visit_map(MapDeserializer::new(entries.into_iter()))
    }

    fn deserialize_enum<V: Visitor<'de>>(
        self,
        _: &'static str,
        _: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, NodeError> {
        match self.node()? {
            Node::Text(text, _) | Node::Typed(toml::Value::String(text), _) => {
                let name: StrDeserializer<'_, NodeError> = text.as_str().into_deserializer();
                visitor.visit_enum(name)
            }
            _ => self.deserialize_any(visitor),
        }
    }

    fn deserialize_map<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, NodeError> {
        match self.node()? {
            Node::Table(..) => self.deserialize_any(visitor),
            _ => Err(self.no_section()),
        }
    }

    fn deserialize_ignored_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, NodeError> {
        visitor.visit_unit()
    }

    forward_to_deserialize_any! { bytes byte_buf unit unit_struct }
}
