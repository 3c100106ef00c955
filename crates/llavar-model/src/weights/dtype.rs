//! Element types of stored tensors.

use half::{bf16, f16};

/// Element type of a stored tensor; little-endian in every file format read here.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Dtype {
    /// 64-bit float.
    F64,
    /// 32-bit float.
    F32,
    /// 16-bit IEEE float.
    F16,
    /// 16-bit brain float.
    BF16,
    /// 64-bit signed integer.
    I64,
    /// 32-bit signed integer.
    I32,
    /// 16-bit signed integer.
    I16,
    /// 8-bit signed integer.
    I8,
    /// 8-bit unsigned integer.
    U8,
    /// One byte, 0 or 1.
    Bool,
}

impl Dtype {
    /// Bytes of one element.
    pub const fn size(self) -> usize {
        match self {
            Self::F64 | Self::I64 => 8,
            Self::F32 | Self::I32 => 4,
            Self::F16 | Self::BF16 | Self::I16 => 2,
            Self::I8 | Self::U8 | Self::Bool => 1,
        }
    }

    /// Whether it is a floating-point type.
    pub const fn is_float(self) -> bool {
        matches!(self, Self::F64 | Self::F32 | Self::F16 | Self::BF16)
    }

    /// The name in safetensors headers.
    pub const fn name(self) -> &'static str {
        match self {
            Self::F64 => "F64",
            Self::F32 => "F32",
            Self::F16 => "F16",
            Self::BF16 => "BF16",
            Self::I64 => "I64",
            Self::I32 => "I32",
            Self::I16 => "I16",
            Self::I8 => "I8",
            Self::U8 => "U8",
            Self::Bool => "BOOL",
        }
    }

    /// What `torch_dtype` says of a model of this type.
    pub(crate) const fn torch_name(self) -> &'static str {
        match self {
            Self::BF16 => "bfloat16",
            Self::F16 => "float16",
            _ => "float32",
        }
    }

    /// Finds the type by its name in safetensors headers.
    pub fn from_name(name: &str) -> Option<Self> {
        [
            Self::F64,
            Self::F32,
            Self::F16,
            Self::BF16,
            Self::I64,
            Self::I32,
            Self::I16,
            Self::I8,
            Self::U8,
            Self::Bool,
        ]
        .into_iter()
        .find(|d| d.name() == name)
    }

    /// Converts little-endian elements to `f32`; stops at the shorter of the two.
    ///
    /// Integers beyond 2^24 and 64-bit floats are rounded to the nearest.
    pub fn decode_f32(self, bytes: &[u8], out: &mut [f32]) {
        match self {
            Self::F64 => each(bytes, out, |b| f64::from_le_bytes(b) as f32),
            Self::F32 => each(bytes, out, f32::from_le_bytes),
            Self::F16 => each(bytes, out, |b| f16::from_le_bytes(b).to_f32()),
            Self::BF16 => each(bytes, out, |b| bf16::from_le_bytes(b).to_f32()),
            Self::I64 => each(bytes, out, |b| i64::from_le_bytes(b) as f32),
            Self::I32 => each(bytes, out, |b| i32::from_le_bytes(b) as f32),
            Self::I16 => each(bytes, out, |b| f32::from(i16::from_le_bytes(b))),
            Self::I8 => each(bytes, out, |b| f32::from(i8::from_le_bytes(b))),
            Self::U8 => each(bytes, out, |[b]: [u8; 1]| f32::from(b)),
            Self::Bool => each(bytes, out, |[b]: [u8; 1]| f32::from(u8::from(b != 0))),
        }
    }

    /// Appends `values` to `out`, little-endian, rounded to nearest even where the type is narrower.
    ///
    /// Integer types saturate; `Bool` is whether the value is not zero.
    pub fn encode_f32(self, values: &[f32], out: &mut Vec<u8>) {
        match self {
            Self::F64 => values
                .iter()
                .for_each(|&v| out.extend(f64::from(v).to_le_bytes())),
            Self::F32 => values.iter().for_each(|v| out.extend(v.to_le_bytes())),
            Self::F16 => values
                .iter()
                .for_each(|&v| out.extend(f16::from_f32(v).to_le_bytes())),
            Self::BF16 => values
                .iter()
                .for_each(|&v| out.extend(bf16::from_f32(v).to_le_bytes())),
            Self::I64 => values
                .iter()
                .for_each(|&v| out.extend((v as i64).to_le_bytes())),
            Self::I32 => values
                .iter()
                .for_each(|&v| out.extend((v as i32).to_le_bytes())),
            Self::I16 => values
                .iter()
                .for_each(|&v| out.extend((v as i16).to_le_bytes())),
            Self::I8 => values
                .iter()
                .for_each(|&v| out.extend((v as i8).to_le_bytes())),
            Self::U8 => values.iter().for_each(|&v| out.push(v as u8)),
            Self::Bool => values.iter().for_each(|&v| out.push(u8::from(v != 0.0))),
        }
    }
}

impl std::fmt::Display for Dtype {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.name())
    }
}

fn each<const N: usize>(bytes: &[u8], out: &mut [f32], convert: impl Fn([u8; N]) -> f32) {
    let (elements, _) = bytes.as_chunks::<N>();
    for (o, b) in out.iter_mut().zip(elements) {
        *o = convert(*b);
    }
}

/// Bytes of a tensor, `None` when the product overflows.
pub(crate) fn byte_len(shape: &[usize], dtype: Dtype) -> Option<usize> {
    // A zero anywhere makes the tensor empty, whatever the other dimensions are.
    if shape.contains(&0) {
        return Some(0);
    }
    shape
        .iter()
        .try_fold(dtype.size(), |n, &d| n.checked_mul(d))
        .filter(|&n| isize::try_from(n).is_ok())
}
