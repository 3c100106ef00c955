//! An ONNX file as it lies on disk: nodes, constants, metadata.

use std::collections::HashMap;

use crate::{
    error::{OnnxError, Result},
    value::{Value, elements},
    wire::{Field, fields, floats},
};

/// An attribute of a node.
#[derive(Debug, Clone)]
pub(crate) enum Attribute {
    Int(i64),
    Float(f32),
    Text(String),
    Ints(Vec<i64>),
    Tensor(Value),
}

/// One operation.
#[derive(Debug, Clone, Default)]
pub(crate) struct Node {
    pub(crate) op: String,
    pub(crate) inputs: Vec<String>,
    pub(crate) outputs: Vec<String>,
    pub(crate) attributes: HashMap<String, Attribute>,
}

impl Node {
    /// An integer attribute, or its default.
    pub(crate) fn int(&self, name: &str, default: i64) -> i64 {
        match self.attributes.get(name) {
            Some(Attribute::Int(value)) => *value,
            _ => default,
        }
    }

    /// A float attribute, or its default.
    pub(crate) fn float(&self, name: &str, default: f32) -> f32 {
        match self.attributes.get(name) {
            Some(Attribute::Float(value)) => *value,
            _ => default,
        }
    }

    /// A text attribute, or nothing.
    pub(crate) fn text(&self, name: &str) -> &str {
        match self.attributes.get(name) {
            Some(Attribute::Text(value)) => value,
            _ => "",
        }
    }

    /// A list of integers, or nothing.
    pub(crate) fn ints(&self, name: &str) -> Option<&[i64]> {
        match self.attributes.get(name) {
            Some(Attribute::Ints(value)) => Some(value),
            _ => None,
        }
    }

    /// The name of the first output, by which errors call a node.
    pub(crate) fn name(&self) -> &str {
        self.outputs.first().map_or("", String::as_str)
    }

    /// An error of this node.
    pub(crate) fn unsupported(&self, reason: impl Into<String>) -> OnnxError {
        OnnxError::Unsupported {
            node: self.name().to_owned(),
            op: self.op.clone(),
            reason: reason.into(),
        }
    }
}

/// What a file holds.
#[derive(Debug, Default)]
pub(crate) struct File {
    pub(crate) nodes: Vec<Node>,
    pub(crate) constants: HashMap<String, Value>,
    pub(crate) input: String,
    pub(crate) output: String,
    pub(crate) metadata: HashMap<String, String>,
}

impl File {
    /// Reads a file in memory.
    pub(crate) fn parse(bytes: &[u8]) -> Result<Self> {
        let mut file = Self::default();
        file.read(bytes)
            .map_err(|reason| OnnxError::Format { reason })?;
        if file.nodes.is_empty() || file.input.is_empty() || file.output.is_empty() {
            return Err(OnnxError::Format {
                reason: "there is no graph in it".to_owned(),
            });
        }
        Ok(file)
    }

    fn read(&mut self, bytes: &[u8]) -> std::result::Result<(), String> {
        fields(bytes, |number, field| match number {
            7 => self.graph(field.bytes()?),
            14 => {
                let (mut key, mut value) = (String::new(), String::new());
                fields(field.bytes()?, |number, field| {
                    match number {
                        1 => key = field.text()?,
                        2 => value = field.text()?,
                        _ => {}
                    }
                    Ok(())
                })?;
                self.metadata.insert(key, value);
                Ok(())
            }
            _ => Ok(()),
        })
    }

    fn graph(&mut self, bytes: &[u8]) -> std::result::Result<(), String> {
        let mut inputs = Vec::new();
        fields(bytes, |number, field| {
            match number {
                1 => self.nodes.push(node(field.bytes()?)?),
                5 => {
                    let (name, value) = tensor(field.bytes()?)?;
                    self.constants.insert(name, value);
                }
                11 => inputs.push(value_name(field)?),
                12 if self.output.is_empty() => self.output = value_name(field)?,
                _ => {}
            }
            Ok(())
        })?;
        // Old files list their constants among the inputs.
        let input = inputs
            .into_iter()
            .find(|name| !self.constants.contains_key(name));
        self.input = input.unwrap_or_default();
        Ok(())
    }
}

fn value_name(field: Field) -> std::result::Result<String, String> {
    let mut name = String::new();
    fields(field.bytes()?, |number, field| {
        if number == 1 {
            name = field.text()?;
        }
        Ok(())
    })?;
    Ok(name)
}

fn node(bytes: &[u8]) -> std::result::Result<Node, String> {
    let mut node = Node::default();
    fields(bytes, |number, field| {
        match number {
            1 => node.inputs.push(field.text()?),
            2 => node.outputs.push(field.text()?),
            4 => node.op = field.text()?,
            5 => {
                if let Some((name, value)) = attribute(field.bytes()?)? {
                    node.attributes.insert(name, value);
                }
            }
            _ => {}
        }
        Ok(())
    })?;
    Ok(node)
}

fn attribute(bytes: &[u8]) -> std::result::Result<Option<(String, Attribute)>, String> {
    let mut name = String::new();
    let mut value = None;
    let (mut ints, mut kind) = (Vec::new(), 0);
    fields(bytes, |number, field| {
        match (number, field) {
            (1, field) => name = field.text()?,
            (2, Field::Fixed32(bits)) => value = Some(Attribute::Float(f32::from_le_bytes(bits))),
            (3, field) => value = Some(Attribute::Int(field.int()?)),
            (4, field) => value = Some(Attribute::Text(field.text()?)),
            (5, field) => value = Some(Attribute::Tensor(tensor(field.bytes()?)?.1)),
            (8, field) => field.push_ints(&mut ints)?,
            (20, field) => kind = field.int()?,
            _ => {}
        }
        Ok(())
    })?;
    /// The number of `INTS` among kinds of attributes.
    const INTS: i64 = 7;
    if kind == INTS || !ints.is_empty() {
        value = Some(Attribute::Ints(ints));
    }
    Ok(value.map(|value| (name, value)))
}

/// Name and content of a `TensorProto`.
fn tensor(bytes: &[u8]) -> std::result::Result<(String, Value), String> {
    let (mut name, mut kind) = (String::new(), 0);
    let (mut dims, mut ints, mut real) = (Vec::new(), Vec::new(), Vec::new());
    let mut raw: &[u8] = &[];
    fields(bytes, |number, field| {
        match number {
            1 => field.push_ints(&mut dims)?,
            2 => kind = field.int()?,
            4 => field.push_floats(&mut real)?,
            5 | 7 => field.push_ints(&mut ints)?,
            8 => name = field.text()?,
            9 => raw = field.bytes()?,
            _ => {}
        }
        Ok(())
    })?;
    let dims: Vec<usize> = dims.into_iter().map(|d| d.max(0) as usize).collect();
    let count = elements(&dims).map_err(|why| format!("constant `{name}` is {why}"))?;
    let value = match kind {
        1 => {
            real.extend(floats(raw));
            Value::floats(dims, real)
        }
        6 => {
            let words = raw.as_chunks::<4>().0;
            ints.extend(words.iter().map(|w| i64::from(i32::from_le_bytes(*w))));
            Value::ints(dims, ints)
        }
        7 => {
            let words = raw.as_chunks::<8>().0;
            ints.extend(words.iter().map(|w| i64::from_le_bytes(*w)));
            Value::ints(dims, ints)
        }
        _ => return Err(format!("constant `{name}` is of kind {kind}")),
    };
    if value.len() != count {
        return Err(format!(
            "constant `{name}` has {} of {count} elements",
            value.len()
        ));
    }
    Ok((name, value))
}
