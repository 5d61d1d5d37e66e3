//! The field table: every struct of the kinds served, with what JSON, protobuf and the patch
//! formats need to know about each field.
//!
//! The text form is `kinds.table` (its head explains the columns); it is parsed once.

use std::collections::{BTreeMap, HashMap};
use std::sync::LazyLock;

use serde_json::Value;

/// Index of a struct in the table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct TypeId(usize);

/// What one value of a field is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum FieldType {
    /// Text.
    String,
    /// 32-bit signed.
    Int32,
    /// 64-bit signed.
    Int64,
    /// true or false.
    Bool,
    /// Double.
    Float64,
    /// Bytes; base64 in JSON.
    Bytes,
    /// `resource.Quantity`: a string, or a number on input.
    Quantity,
    /// `metav1.Time`: RFC 3339, whole seconds.
    Time,
    /// `metav1.MicroTime`: RFC 3339, six fractional digits.
    MicroTime,
    /// `intstr.IntOrString`.
    IntOrString,
    /// `runtime.RawExtension`: any JSON object.
    Raw,
    /// `metav1.FieldsV1`: any JSON object.
    Fields,
    /// A list of strings inside a map (`authentication.ExtraValue`).
    Items,
    /// A struct of the table.
    Struct(TypeId),
}

/// How often a field's type occurs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Shape {
    /// Once.
    One,
    /// A list.
    List,
    /// A map with string keys.
    Map,
}

/// How a strategic merge patch treats a list.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum MergeStrategy {
    /// The patch's list replaces the object's.
    Replace,
    /// A list of scalars is joined as a set.
    MergeScalars,
    /// A list of structs is joined by this key.
    MergeByKey(&'static str),
}

/// Who owns what inside a list or map, for server-side apply.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Ownership {
    /// The value is owned as a whole.
    Atomic,
    /// Each member is owned on its own: struct fields, map entries.
    Granular,
    /// Each list item is owned by its scalar value.
    Set,
    /// Each list item is owned by these keys.
    Keys(Vec<&'static str>),
}

/// One field of a struct.
#[derive(Clone, Debug)]
pub(crate) struct Field {
    /// JSON name; empty for an inlined struct.
    pub(crate) name: &'static str,
    /// Protobuf field number.
    pub(crate) number: u32,
    /// Type of one value.
    pub(crate) ty: FieldType,
    /// One value, a list or a map of them.
    pub(crate) shape: Shape,
    /// Whether Go has a pointer, so that a zero value means something.
    pub(crate) pointer: bool,
    /// Whether Go writes the field even when it is zero.
    pub(crate) always: bool,
    /// Strategic merge patch strategy of a list.
    pub(crate) merge: MergeStrategy,
    /// Whether a strategic patch may carry `$retainKeys` for the value or its items.
    pub(crate) retain_keys: bool,
    /// Ownership in server-side apply.
    pub(crate) ownership: Ownership,
    /// The value an absent list key stands for.
    pub(crate) default: Option<Value>,
    go_name: Option<&'static str>,
}

/// One struct.
#[derive(Debug)]
pub(crate) struct StructType {
    /// `core.v1.PodSpec`.
    pub(crate) name: &'static str,
    /// Whether it has `apiVersion` and `kind` of its own.
    pub(crate) object: bool,
    /// Whether server-side apply owns it as a whole.
    pub(crate) atomic: bool,
    /// Own fields, inlined structs as fields with an empty name.
    pub(crate) fields: Vec<Field>,
    json: HashMap<&'static str, Field>,
}

impl StructType {
    /// The field of a JSON name, inlined structs included.
    pub(crate) fn field(&self, name: &str) -> Option<&Field> {
        self.json.get(name)
    }

    /// The field of a protobuf number.
    pub(crate) fn numbered(&self, number: u32) -> Option<&Field> {
        self.fields.iter().find(|field| field.number == number)
    }

    /// Go's name without its package: `PodSpec`.
    pub(crate) fn short_name(&self) -> &'static str {
        self.name.rsplit('.').next().unwrap_or(self.name)
    }

    /// Go's name with the last part of its package: `v1.PodSpec`.
    fn go_name(&self) -> &'static str {
        self.name.split_once('.').map_or(self.name, |(_, rest)| rest)
    }
}

impl Field {
    /// Go's name of the type of one value, as decoding errors print it.
    pub(crate) fn go_element(&self) -> String {
        let named = self.go_name.filter(|name| {
            self.shape == Shape::One || !(name.starts_with("[]") || name.starts_with("map["))
        });
        let element = |name: &'static str| match name.rsplit_once(']') {
            Some((_, element)) => element,
            None => name,
        };
        match (named, self.shape) {
            (Some(name), Shape::One) => name.to_owned(),
            _ => match self.go_name.map(element) {
                Some(name) if !name.is_empty() && self.ty != FieldType::Quantity => name.to_owned(),
                _ => self.ty.go_name().to_owned(),
            },
        }
    }

    /// Go's name of the whole field's type.
    pub(crate) fn go_type(&self) -> String {
        match (self.go_name, self.shape) {
            (Some(name), _) => name.to_owned(),
            (None, Shape::One) => self.ty.go_name().to_owned(),
            (None, Shape::List) => format!("[]{}", self.ty.go_name()),
            (None, Shape::Map) => format!("map[string]{}", self.ty.go_name()),
        }
    }

    /// Whether Go's encoder leaves the value out (`omitempty` of a field that is no pointer).
    pub(crate) fn is_omitted(&self, value: &Value) -> bool {
        match value {
            Value::Null => true,
            Value::Array(items) => items.is_empty() && !self.always,
            Value::Object(members) => {
                self.shape == Shape::Map && members.is_empty() && !self.always
            }
            Value::String(text) => !self.keeps_zero() && text.is_empty(),
            Value::Bool(value) => !self.keeps_zero() && !value,
            Value::Number(number) => !self.keeps_zero() && number.as_f64() == Some(0.0),
        }
    }

    fn keeps_zero(&self) -> bool {
        self.pointer || self.always
    }
}

impl FieldType {
    fn go_name(self) -> &'static str {
        match self {
            Self::String => "string",
            Self::Int32 => "int32",
            Self::Int64 => "int64",
            Self::Bool => "bool",
            Self::Float64 => "float64",
            Self::Bytes => "[]uint8",
            Self::Quantity => "resource.Quantity",
            Self::Time => "v1.Time",
            Self::MicroTime => "v1.MicroTime",
            Self::IntOrString => "intstr.IntOrString",
            Self::Raw => "runtime.RawExtension",
            Self::Fields => "v1.FieldsV1",
            Self::Items => "v1.ExtraValue",
            Self::Struct(id) => get(id).go_name(),
        }
    }
}

struct Types {
    structs: Vec<StructType>,
    by_name: BTreeMap<&'static str, TypeId>,
}

static TYPES: LazyLock<Types> = LazyLock::new(|| parse(include_str!("kinds.table")));

/// The struct of an id.
pub(crate) fn get(id: TypeId) -> &'static StructType {
    &TYPES.structs[id.0]
}

/// The struct of a name such as `core.v1.PodSpec`.
pub(crate) fn by_name(name: &str) -> Option<&'static StructType> {
    TYPES.by_name.get(name).map(|id| get(*id))
}

/// The struct of an object's `apiVersion` and `kind`.
pub(crate) fn by_kind(api_version: &str, kind: &str) -> Option<&'static StructType> {
    let (group, version) = api_version.split_once('/').unwrap_or(("core", api_version));
    // `rbac.authorization.k8s.io` lives in package `rbac`; every other group begins with its package.
    let package = group.split('.').next().unwrap_or(group);
    by_name(&format!("{package}.{version}.{kind}"))
        .or_else(|| by_name(&format!("meta.v1.{kind}")))
        .filter(|found| found.object)
}

/// Parses the table; it is part of the program, so a fault in it is ours.
fn parse(text: &'static str) -> Types {
    let by_name: BTreeMap<&'static str, TypeId> = text
        .lines()
        .filter_map(|line| line.strip_prefix("type "))
        .enumerate()
        .map(|(index, line)| (line.split(' ').next().unwrap_or(line), TypeId(index)))
        .collect();
    let mut structs: Vec<StructType> = Vec::with_capacity(by_name.len());
    for line in text.lines().filter(|line| !line.starts_with('#') && !line.is_empty()) {
        if let Some(head) = line.strip_prefix("type ") {
            let mut words = head.split(' ');
            let name = words.next().unwrap_or(head);
            let flags: Vec<&str> = words.collect();
            structs.push(StructType {
                name,
                object: flags.contains(&"object"),
                atomic: flags.contains(&"atomic"),
                fields: Vec::new(),
                json: HashMap::new(),
            });
        } else if let Some(open) = structs.last_mut() {
            open.fields.push(parse_field(line.trim_start(), &by_name));
        }
    }
    for index in 0..structs.len() {
        structs[index].json = flattened(&structs, index);
    }
    // A granular struct field may point to a struct that is owned as a whole.
    let atomic: Vec<bool> = structs.iter().map(|found| found.atomic).collect();
    for found in &mut structs {
        for field in found.fields.iter_mut().chain(found.json.values_mut()) {
            if let (FieldType::Struct(id), Shape::One) = (field.ty, field.shape)
                && atomic[id.0]
            {
                field.ownership = Ownership::Atomic;
            }
        }
    }
    Types { structs, by_name }
}

fn flattened(structs: &[StructType], index: usize) -> HashMap<&'static str, Field> {
    let mut json = HashMap::new();
    for field in &structs[index].fields {
        if !field.name.is_empty() {
            json.insert(field.name, field.clone());
        } else if let FieldType::Struct(id) = field.ty {
            for (name, inner) in flattened(structs, id.0) {
                json.entry(name).or_insert(inner);
            }
        }
    }
    json
}

fn parse_field(line: &'static str, by_name: &BTreeMap<&'static str, TypeId>) -> Field {
    let mut words = line.split(' ');
    let mut word = || words.next().unwrap_or_default();
    let name = match word() {
        "-" => "",
        name => name,
    };
    let number = word().parse().expect("the second column of kinds.table is a number");
    let (shape, element) = match word() {
        list if list.starts_with("[]") => (Shape::List, &list[2..]),
        map if map.starts_with("map:") => (Shape::Map, &map[4..]),
        one => (Shape::One, one),
    };
    let ty = match element {
        "string" => FieldType::String,
        "int32" => FieldType::Int32,
        "int64" => FieldType::Int64,
        "bool" => FieldType::Bool,
        "float64" => FieldType::Float64,
        "bytes" => FieldType::Bytes,
        "Quantity" => FieldType::Quantity,
        "Time" => FieldType::Time,
        "MicroTime" => FieldType::MicroTime,
        "IntOrString" => FieldType::IntOrString,
        "Raw" => FieldType::Raw,
        "Fields" => FieldType::Fields,
        "Items" => FieldType::Items,
        named => FieldType::Struct(
            *by_name.get(named).expect("every type that kinds.table mentions is in kinds.table"),
        ),
    };
    let mut field = Field {
        name,
        number,
        ty,
        shape,
        pointer: false,
        always: false,
        merge: MergeStrategy::Replace,
        retain_keys: false,
        ownership: if shape == Shape::List { Ownership::Atomic } else { Ownership::Granular },
        default: None,
        go_name: None,
    };
    for flag in words {
        match flag.split_once('=').unwrap_or((flag, "")) {
            ("*", _) => field.pointer = true,
            ("always", _) => field.always = true,
            ("go", go_name) => field.go_name = Some(go_name),
            ("merge", "") => field.merge = MergeStrategy::MergeScalars,
            ("merge", key) => field.merge = MergeStrategy::MergeByKey(key),
            ("retainKeys", _) => field.retain_keys = true,
            ("keys", keys) => field.ownership = Ownership::Keys(keys.split(',').collect()),
            ("set", _) => field.ownership = Ownership::Set,
            ("atomic", _) => field.ownership = Ownership::Atomic,
            ("default", json) => field.default = serde_json::from_str(json).ok(),
            _ => {}
        }
    }
    field
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn table_holds_every_served_kind() {
        for resource in crate::resources::ALL {
            assert!(by_kind(&resource.api_version(), resource.kind).is_some(), "{}", resource.kind);
        }
        assert!(by_kind("v1", "DeleteOptions").is_some());
        assert!(by_kind("policy/v1", "Eviction").is_some());
        assert!(by_kind("v1", "PodSpec").is_none());
    }

    #[test]
    fn inlined_fields_belong_to_the_outer_struct() {
        let volume = by_name("core.v1.Volume").expect("volumes are in the table");
        assert!(volume.field("emptyDir").is_some());
        assert!(volume.field("volumeSource").is_none());
        assert_eq!(volume.numbered(2).map(|field| field.name), Some(""));
    }

    #[test]
    fn pull_secrets_merge_in_pods_and_not_in_service_accounts() {
        let merge = |name: &str| {
            by_name(name).and_then(|found| found.field("imagePullSecrets")).map(|field| field.merge)
        };
        assert_eq!(merge("core.v1.PodSpec"), Some(MergeStrategy::MergeByKey("name")));
        assert_eq!(merge("core.v1.ServiceAccount"), Some(MergeStrategy::Replace));
    }

    #[test]
    fn go_names_are_those_of_decoding_errors() {
        let container = by_name("core.v1.Container").expect("containers are in the table");
        let name = |field: &str| container.field(field).map(Field::go_type).unwrap_or_default();
        assert_eq!(name("image"), "string");
        assert_eq!(name("imagePullPolicy"), "v1.PullPolicy");
        assert_eq!(name("ports"), "[]v1.ContainerPort");
        assert_eq!(name("resources"), "v1.ResourceRequirements");
        let meta = by_name("meta.v1.ObjectMeta").expect("metadata is in the table");
        assert_eq!(
            meta.field("labels").map(Field::go_type).unwrap_or_default(),
            "map[string]string"
        );
        assert_eq!(meta.field("labels").map(Field::go_element).unwrap_or_default(), "string");
    }
}
