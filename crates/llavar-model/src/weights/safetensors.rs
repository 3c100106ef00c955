//! The safetensors header: names, types, shapes and byte ranges, all checked against the file's length
//! before anything is allocated.

use std::{collections::HashSet, fmt, ops::Range};

use serde::{
    Deserialize, Deserializer,
    de::{IgnoredAny, MapAccess, Visitor},
};
use thiserror::Error;

use super::{
    dtype::{Dtype, byte_len},
    storage::Stored,
};

/// Headers of published models have at most a few hundred kilobytes; the format's own reader allows
/// 100 MB, and so does this one.
const MAX_HEADER: u64 = 100_000_000;

/// What is wrong with a safetensors file.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum SafetensorsError {
    /// Shorter than the eight bytes of the header's length.
    #[error("it has {bytes} bytes, the header alone needs 8")]
    TooShort {
        /// Its length.
        bytes: usize,
    },
    /// The header's length is impossible.
    #[error(
        "its header claims {claimed} bytes, the file has {left} after the length and at most {MAX_HEADER} are read"
    )]
    HeaderLength {
        /// Length as written.
        claimed: u64,
        /// Bytes that the file has for it.
        left: usize,
    },
    /// The header is not the expected JSON.
    #[error("its header is not the expected JSON: {source}")]
    Json {
        /// Line, column and reason.
        source: serde_json::Error,
    },
    /// An unknown element type.
    #[error("tensor `{tensor}` has the type `{dtype}`, which is not supported")]
    Dtype {
        /// The tensor.
        tensor: String,
        /// Its type.
        dtype: String,
    },
    /// The byte range lies outside the file.
    #[error(
        "tensor `{tensor}` claims the bytes {begin} to {end} of {data}; the file is truncated or damaged"
    )]
    Offsets {
        /// The tensor.
        tensor: String,
        /// First byte.
        begin: u64,
        /// One past the last.
        end: u64,
        /// Bytes of data in the file.
        data: usize,
    },
    /// The byte range does not fit the shape.
    #[error(
        "tensor `{tensor}` of shape {shape:?} and type {dtype} has {got} bytes, which does not fit"
    )]
    Length {
        /// The tensor.
        tensor: String,
        /// Its shape.
        shape: Vec<u64>,
        /// Its type.
        dtype: Dtype,
        /// Bytes of its range.
        got: u64,
    },
    /// Two tensors share bytes.
    #[error("tensors `{first}` and `{second}` overlap")]
    Overlap {
        /// The earlier one.
        first: String,
        /// The later one.
        second: String,
    },
    /// A name occurs twice.
    #[error("tensor `{tensor}` is listed twice")]
    Twice {
        /// The tensor.
        tensor: String,
    },
}

/// Reads the header of a whole file.
pub(crate) fn read(file: &[u8]) -> Result<Vec<Stored>, SafetensorsError> {
    let (length, rest) = file
        .split_first_chunk::<8>()
        .ok_or(SafetensorsError::TooShort { bytes: file.len() })?;
    let claimed = u64::from_le_bytes(*length);
    let header = usize::try_from(claimed)
        .ok()
        .filter(|_| claimed <= MAX_HEADER)
        .and_then(|n| rest.get(..n))
        .ok_or(SafetensorsError::HeaderLength {
            claimed,
            left: rest.len(),
        })?;
    let data_start = 8 + header.len();
    let data = file.len() - data_start;
    let entries: Header =
        serde_json::from_slice(header).map_err(|source| SafetensorsError::Json { source })?;

    let mut names = HashSet::with_capacity(entries.0.len());
    let mut tensors = Vec::with_capacity(entries.0.len());
    for (name, info) in entries.0 {
        let Some(dtype) = Dtype::from_name(&info.dtype) else {
            return Err(SafetensorsError::Dtype {
                tensor: name,
                dtype: info.dtype,
            });
        };
        let (begin, end) = info.data_offsets;
        if begin > end || end > data as u64 {
            return Err(SafetensorsError::Offsets {
                tensor: name,
                begin,
                end,
                data,
            });
        }
        let shape: Option<Vec<usize>> = info
            .shape
            .iter()
            .map(|&d| {
                usize::try_from(d)
                    .ok()
                    .filter(|&d| d <= isize::MAX as usize)
            })
            .collect();
        let fits = shape
            .as_ref()
            .and_then(|s| byte_len(s, dtype))
            .is_some_and(|n| n as u64 == end - begin);
        let Some(shape) = shape.filter(|_| fits) else {
            return Err(SafetensorsError::Length {
                tensor: name,
                shape: info.shape,
                dtype,
                got: end - begin,
            });
        };
        if !names.insert(name.clone()) {
            return Err(SafetensorsError::Twice { tensor: name });
        }
        let bytes = data_start + begin as usize..data_start + end as usize;
        tensors.push(Stored::contiguous(name, dtype, shape, bytes));
    }
    check_overlap(&tensors)?;
    Ok(tensors)
}

fn check_overlap(tensors: &[Stored]) -> Result<(), SafetensorsError> {
    let mut ranges: Vec<(&Range<usize>, &str)> = tensors
        .iter()
        .filter(|t| !t.bytes.is_empty())
        .map(|t| (&t.bytes, t.entry.name.as_str()))
        .collect();
    ranges.sort_by_key(|(range, _)| range.start);
    for pair in ranges.windows(2) {
        if let [(a, first), (b, second)] = pair
            && b.start < a.end
        {
            return Err(SafetensorsError::Overlap {
                first: (*first).to_owned(),
                second: (*second).to_owned(),
            });
        }
    }
    Ok(())
}

#[derive(Deserialize)]
struct Info {
    dtype: String,
    shape: Vec<u64>,
    data_offsets: (u64, u64),
}

/// The header's entries in file order, duplicates included; a plain map would hide them.
struct Header(Vec<(String, Info)>);

impl<'de> Deserialize<'de> for Header {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Entries;
        impl<'de> Visitor<'de> for Entries {
            type Value = Header;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a map from tensor names to dtype, shape and data_offsets")
            }
            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Header, A::Error> {
                let mut entries = Vec::new();
                while let Some(name) = map.next_key::<String>()? {
                    if name == "__metadata__" {
                        map.next_value::<IgnoredAny>()?;
                    } else {
                        entries.push((name, map.next_value()?));
                    }
                }
                Ok(Header(entries))
            }
        }
        deserializer.deserialize_map(Entries)
    }
}
