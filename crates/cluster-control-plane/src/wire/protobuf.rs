//! Kubernetes protobuf to JSON by the field table.
//!
//! A body is four magic bytes and a `runtime.Unknown` (field 1 `TypeMeta`, 2 raw bytes, 3 content
//! encoding, 4 content type; apimachinery `runtime/generated.proto`). Field names of the upstream
//! messages are their JSON names, so one generic walk serves every kind.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use jiff::Timestamp;
use serde_json::{Map, Value, json};

use crate::object;
use crate::schema::types::{self, Field, FieldType, Shape, StructType};

/// What every Kubernetes protobuf body begins with.
const MAGIC: &[u8] = b"k8s\0";

/// Deepest nesting of messages followed; the deepest kind served has about 15 levels.
const DEPTH_MAX: usize = 32;

/// Why a body cannot be decoded.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum DecodeError {
    /// Not a Kubernetes protobuf message at all, or cut short.
    #[error("malformed protobuf body: {0}")]
    Malformed(&'static str),
    /// A kind that has no protobuf form here.
    #[error("no protobuf descriptor for kind {kind:?} in version {api_version:?}")]
    UnknownKind {
        /// As the envelope says.
        api_version: String,
        /// As the envelope says.
        kind: String,
    },
}

/// Decodes one enveloped object.
pub(super) fn decode(body: &[u8]) -> Result<Value, DecodeError> {
    let envelope =
        body.strip_prefix(MAGIC).ok_or(DecodeError::Malformed("the magic is missing"))?;
    let (mut type_meta, mut raw): (&[u8], &[u8]) = (&[], &[]);
    let mut reader = Reader { bytes: envelope };
    while let Some((number, wire)) = reader.next()? {
        match (number, wire) {
            (1, Wire::Bytes(bytes)) => type_meta = bytes,
            (2, Wire::Bytes(bytes)) => raw = bytes,
            _ => {}
        }
    }
    let (mut api_version, mut kind) = (String::new(), String::new());
    let mut reader = Reader { bytes: type_meta };
    while let Some((number, wire)) = reader.next()? {
        match (number, wire) {
            (1, Wire::Bytes(bytes)) => api_version = text(bytes)?,
            (2, Wire::Bytes(bytes)) => kind = text(bytes)?,
            _ => {}
        }
    }
    let Some(found) = types::by_kind(&api_version, &kind) else {
        return Err(DecodeError::UnknownKind { api_version, kind });
    };
    let mut members = Map::new();
    message(found, raw, &mut members, 0)?;
    members.insert("apiVersion".to_owned(), Value::String(api_version));
    members.insert("kind".to_owned(), Value::String(kind));
    Ok(Value::Object(members))
}

/// One field's value as it stands on the wire.
#[derive(Clone, Copy)]
enum Wire<'a> {
    Varint(u64),
    Fixed64(u64),
    /// No field of the table has this form; only unknown ones do.
    Fixed32,
    Bytes(&'a [u8]),
}

struct Reader<'a> {
    bytes: &'a [u8],
}

impl<'a> Reader<'a> {
    fn next(&mut self) -> Result<Option<(u32, Wire<'a>)>, DecodeError> {
        if self.bytes.is_empty() {
            return Ok(None);
        }
        let key = self.varint()?;
        let number = u32::try_from(key >> 3).map_err(|_| DecodeError::Malformed("field number"))?;
        if number == 0 {
            return Err(DecodeError::Malformed("field number zero"));
        }
        let wire = match key & 7 {
            0 => Wire::Varint(self.varint()?),
            1 => Wire::Fixed64(u64::from_le_bytes(self.array()?)),
            2 => {
                let length = self.varint()?;
                let length =
                    usize::try_from(length).map_err(|_| DecodeError::Malformed("length"))?;
                Wire::Bytes(self.take(length)?)
            }
            5 => {
                self.take(4)?;
                Wire::Fixed32
            }
            _ => return Err(DecodeError::Malformed("wire type")),
        };
        Ok(Some((number, wire)))
    }

    fn varint(&mut self) -> Result<u64, DecodeError> {
        let mut value = 0_u64;
        for shift in (0..70).step_by(7) {
            let (byte, rest) =
                self.bytes.split_first().ok_or(DecodeError::Malformed("cut short in a number"))?;
            self.bytes = rest;
            if shift == 63 && 1 < *byte {
                break;
            }
            value |= u64::from(byte & 0x7f) << shift;
            if byte & 0x80 == 0 {
                return Ok(value);
            }
        }
        Err(DecodeError::Malformed("a number is too long"))
    }

    fn take(&mut self, length: usize) -> Result<&'a [u8], DecodeError> {
        let cut = self.bytes.split_at_checked(length);
        let (taken, rest) = cut.ok_or(DecodeError::Malformed("cut short in a field"))?;
        self.bytes = rest;
        Ok(taken)
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], DecodeError> {
        let taken = self.take(N)?;
        taken.try_into().map_err(|_| DecodeError::Malformed("cut short in a field"))
    }
}

fn message(
    found: &'static StructType,
    bytes: &[u8],
    members: &mut Map<String, Value>,
    depth: usize,
) -> Result<(), DecodeError> {
    if DEPTH_MAX < depth {
        return Err(DecodeError::Malformed("nested too deeply"));
    }
    let mut reader = Reader { bytes };
    while let Some((number, wire)) = reader.next()? {
        // A newer client may know fields that we do not.
        let Some(field) = found.numbered(number) else { continue };
        if field.name.is_empty() {
            if let (FieldType::Struct(id), Wire::Bytes(bytes)) = (field.ty, wire) {
                message(types::get(id), bytes, members, depth + 1)?;
            }
            continue;
        }
        match field.shape {
            Shape::One => {
                let value = value(field, wire, depth)?;
                if !is_zero(field, &value) {
                    members.insert(field.name.to_owned(), value);
                }
            }
            Shape::List => {
                let list = members.entry(field.name).or_insert_with(|| Value::Array(Vec::new()));
                if let Value::Array(items) = list {
                    items_of(field, wire, depth, items)?;
                }
            }
            Shape::Map => {
                let (key, value) = entry(field, wire, depth)?;
                let map = members.entry(field.name).or_insert_with(|| Value::Object(Map::new()));
                if let Value::Object(map) = map {
                    map.insert(key, value);
                }
            }
        }
    }
    Ok(())
}

/// Go writes every field that is no pointer, set or not; what is zero was not set.
fn is_zero(field: &Field, value: &Value) -> bool {
    match value {
        Value::Object(members) => members.is_empty() && !field.pointer,
        other => field.is_omitted(other),
    }
}

fn items_of(
    field: &Field,
    wire: Wire<'_>,
    depth: usize,
    items: &mut Vec<Value>,
) -> Result<(), DecodeError> {
    let is_varint = matches!(field.ty, FieldType::Int32 | FieldType::Int64 | FieldType::Bool);
    match wire {
        Wire::Bytes(bytes) if is_varint => {
            let mut packed = Reader { bytes };
            while !packed.bytes.is_empty() {
                let number = packed.varint()?;
                items.push(value(field, Wire::Varint(number), depth)?);
            }
        }
        one => items.push(value(field, one, depth)?),
    }
    Ok(())
}

fn entry(field: &Field, wire: Wire<'_>, depth: usize) -> Result<(String, Value), DecodeError> {
    let Wire::Bytes(bytes) = wire else { return Err(DecodeError::Malformed("map entry")) };
    let (mut key, mut found) = (String::new(), None);
    let mut reader = Reader { bytes };
    while let Some((number, wire)) = reader.next()? {
        match (number, wire) {
            (1, Wire::Bytes(bytes)) => key = text(bytes)?,
            (2, wire) => found = Some(value(field, wire, depth)?),
            _ => {}
        }
    }
    let empty = || match field.ty {
        FieldType::String | FieldType::Bytes => Value::String(String::new()),
        FieldType::Items => Value::Array(Vec::new()),
        _ => Value::Object(Map::new()),
    };
    Ok((key, found.unwrap_or_else(empty)))
}

#[expect(
    clippy::cast_possible_wrap,
    reason = "protobuf sends negative integers as two's complement"
)]
#[expect(clippy::cast_possible_truncation, reason = "an int32 is sent sign-extended to 64 bits")]
fn value(field: &Field, wire: Wire<'_>, depth: usize) -> Result<Value, DecodeError> {
    Ok(match (field.ty, wire) {
        (FieldType::String, Wire::Bytes(bytes)) => Value::String(text(bytes)?),
        (FieldType::Bytes, Wire::Bytes(bytes)) => Value::String(STANDARD.encode(bytes)),
        (FieldType::Int32, Wire::Varint(number)) => json!(number as i64 as i32),
        (FieldType::Int64, Wire::Varint(number)) => json!(number as i64),
        (FieldType::Bool, Wire::Varint(number)) => json!(number != 0),
        (FieldType::Float64, Wire::Fixed64(bits)) => json!(f64::from_bits(bits)),
        (FieldType::Quantity, Wire::Bytes(bytes)) => Value::String(string_field(bytes, 1)?),
        (FieldType::Time, Wire::Bytes(bytes)) => time(bytes, object::format_time)?,
        (FieldType::MicroTime, Wire::Bytes(bytes)) => time(bytes, object::format_micro_time)?,
        (FieldType::IntOrString, Wire::Bytes(bytes)) => int_or_string(bytes)?,
        (FieldType::Raw | FieldType::Fields, Wire::Bytes(bytes)) => {
            let mut raw: &[u8] = &[];
            let mut reader = Reader { bytes };
            while let Some((number, wire)) = reader.next()? {
                if let (1, Wire::Bytes(bytes)) = (number, wire) {
                    raw = bytes;
                }
            }
            if raw.is_empty() {
                Value::Null
            } else {
                serde_json::from_slice(raw).map_err(|_| DecodeError::Malformed("embedded JSON"))?
            }
        }
        (FieldType::Items, Wire::Bytes(bytes)) => {
            let mut items = Vec::new();
            let mut reader = Reader { bytes };
            while let Some((number, wire)) = reader.next()? {
                if let (1, Wire::Bytes(bytes)) = (number, wire) {
                    items.push(Value::String(text(bytes)?));
                }
            }
            Value::Array(items)
        }
        (FieldType::Struct(id), Wire::Bytes(bytes)) => {
            let mut members = Map::new();
            message(types::get(id), bytes, &mut members, depth + 1)?;
            Value::Object(members)
        }
        (_, Wire::Varint(_) | Wire::Fixed32 | Wire::Fixed64(_) | Wire::Bytes(_)) => {
            return Err(DecodeError::Malformed("a field has a wire type of another kind"));
        }
    })
}

fn text(bytes: &[u8]) -> Result<String, DecodeError> {
    std::str::from_utf8(bytes)
        .map(str::to_owned)
        .map_err(|_| DecodeError::Malformed("text is not UTF-8"))
}

fn string_field(bytes: &[u8], wanted: u32) -> Result<String, DecodeError> {
    let mut found = String::new();
    let mut reader = Reader { bytes };
    while let Some((number, wire)) = reader.next()? {
        if let Wire::Bytes(bytes) = wire
            && number == wanted
        {
            found = text(bytes)?;
        }
    }
    Ok(found)
}

#[expect(
    clippy::cast_possible_wrap,
    reason = "protobuf sends negative integers as two's complement"
)]
#[expect(clippy::cast_possible_truncation, reason = "nanos fit 32 bits by definition")]
fn time(bytes: &[u8], format: fn(Timestamp) -> String) -> Result<Value, DecodeError> {
    if bytes.is_empty() {
        return Ok(Value::Null);
    }
    let (mut seconds, mut nanos) = (0_i64, 0_i32);
    let mut reader = Reader { bytes };
    while let Some((number, wire)) = reader.next()? {
        match (number, wire) {
            (1, Wire::Varint(number)) => seconds = number as i64,
            (2, Wire::Varint(number)) => nanos = number as i64 as i32,
            _ => {}
        }
    }
    let at = Timestamp::new(seconds, nanos).map_err(|_| DecodeError::Malformed("time"))?;
    Ok(Value::String(format(at)))
}

#[expect(
    clippy::cast_possible_wrap,
    reason = "protobuf sends negative integers as two's complement"
)]
#[expect(clippy::cast_possible_truncation, reason = "an int32 is sent sign-extended to 64 bits")]
fn int_or_string(bytes: &[u8]) -> Result<Value, DecodeError> {
    let (mut kind, mut number_value, mut text_value) = (0, 0_i32, String::new());
    let mut reader = Reader { bytes };
    while let Some((number, wire)) = reader.next()? {
        match (number, wire) {
            (1, Wire::Varint(number)) => kind = number,
            (2, Wire::Varint(number)) => number_value = number as i64 as i32,
            (3, Wire::Bytes(bytes)) => text_value = text(bytes)?,
            _ => {}
        }
    }
    Ok(if kind == 0 { json!(number_value) } else { Value::String(text_value) })
}

#[cfg(test)]
mod tests;
