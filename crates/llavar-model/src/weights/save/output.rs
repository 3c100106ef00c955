//! A file being written, and the safetensors layout within it.

use std::{
    collections::HashSet,
    fs::File,
    io::{BufWriter, Write},
    path::{Path, PathBuf},
};

use serde_json::{Map, Value, json};

use super::{SaveError, TensorSpec};
use crate::weights::Dtype;

/// Bytes that may still be written, over all files of one save.
#[derive(Debug)]
pub(super) struct Quota {
    limit: Option<u64>,
    written: u64,
}

impl Quota {
    pub(super) fn new(limit: Option<u64>) -> Self {
        Self { limit, written: 0 }
    }
}

/// A file being written.
#[derive(Debug)]
pub(super) struct Output<'q> {
    path: PathBuf,
    file: BufWriter<File>,
    quota: &'q mut Quota,
}

impl<'q> Output<'q> {
    pub(super) fn create(path: &Path, quota: &'q mut Quota) -> Result<Self, SaveError> {
        let file = File::create(path).map_err(|e| SaveError::io(path, e))?;
        // Large pieces keep the number of system calls low and do not cost noticeable memory.
        Ok(Self {
            path: path.to_owned(),
            file: BufWriter::with_capacity(1 << 20, file),
            quota,
        })
    }

    pub(super) fn write(&mut self, bytes: &[u8]) -> Result<(), SaveError> {
        let total = self.quota.written + bytes.len() as u64;
        if self.quota.limit.is_some_and(|limit| total > limit) {
            return Err(self.full(bytes.len()));
        }
        self.file
            .write_all(bytes)
            .map_err(|e| self.error(e, bytes.len()))?;
        self.quota.written = total;
        Ok(())
    }

    /// Writes out what is buffered and waits until the disk has it.
    pub(super) fn close(mut self) -> Result<(), SaveError> {
        let flushed = self
            .file
            .flush()
            .and_then(|()| self.file.get_ref().sync_all());
        flushed.map_err(|e| self.error(e, 0))
    }

    fn full(&self, needed: usize) -> SaveError {
        SaveError::DiskFull {
            path: self.path.clone(),
            needed: needed as u64,
            written: self.quota.written,
        }
    }

    fn error(&self, error: std::io::Error, needed: usize) -> SaveError {
        match SaveError::io(&self.path, error) {
            SaveError::DiskFull { .. } => self.full(needed),
            other => other,
        }
    }
}

/// Takes the elements of one tensor.
#[derive(Debug)]
pub struct TensorSink<'s, 'q> {
    output: &'s mut Output<'q>,
    spec: &'s TensorSpec,
    expected: usize,
    given: usize,
    scratch: Vec<u8>,
}

impl TensorSink<'_, '_> {
    /// Writes bytes as they are: elements of the tensor's type, row-major, little-endian.
    ///
    /// # Errors
    /// [`SaveError::TensorLength`] when more are given than the shape needs; [`SaveError::DiskFull`],
    /// [`SaveError::Io`].
    pub fn write(&mut self, bytes: &[u8]) -> Result<(), SaveError> {
        self.given += bytes.len();
        if self.given > self.expected {
            return Err(self.length_error());
        }
        self.output.write(bytes)
    }

    /// Writes values, rounded to the tensor's type.
    ///
    /// # Errors
    /// As [`TensorSink::write`].
    pub fn write_f32(&mut self, values: &[f32]) -> Result<(), SaveError> {
        for piece in values.chunks(1 << 16) {
            let mut scratch = std::mem::take(&mut self.scratch);
            scratch.clear();
            self.spec.dtype.encode_f32(piece, &mut scratch);
            let result = self.write(&scratch);
            self.scratch = scratch;
            result?;
        }
        Ok(())
    }

    fn length_error(&self) -> SaveError {
        SaveError::TensorLength {
            name: self.spec.name.clone(),
            expected: self.expected,
            got: self.given,
        }
    }
}

/// Place of a type in a file: wide types first, so that every tensor is aligned; the order within a
/// width is that of the format's own library, so that files come out byte for byte the same.
fn rank(dtype: Dtype) -> u8 {
    match dtype {
        Dtype::I64 => 0,
        Dtype::F64 => 1,
        Dtype::F32 => 2,
        Dtype::I32 => 3,
        Dtype::BF16 => 4,
        Dtype::F16 => 5,
        Dtype::I16 => 6,
        Dtype::I8 => 7,
        Dtype::U8 => 8,
        Dtype::Bool => 9,
    }
}

/// Writes one safetensors file.
pub(super) fn write_tensors(
    path: &Path,
    mut specs: Vec<TensorSpec>,
    quota: &mut Quota,
    fill: &mut impl FnMut(&TensorSpec, &mut TensorSink<'_, '_>) -> Result<(), SaveError>,
) -> Result<(), SaveError> {
    specs.sort_by(|a, b| {
        rank(a.dtype)
            .cmp(&rank(b.dtype))
            .then_with(|| a.name.cmp(&b.name))
    });
    let mut output = Output::create(path, quota)?;
    output.write(&header(path, &specs)?)?;
    for spec in &specs {
        let expected = spec.bytes()?;
        let mut sink = TensorSink {
            output: &mut output,
            spec,
            expected,
            given: 0,
            scratch: Vec::new(),
        };
        fill(spec, &mut sink)?;
        if sink.given != expected {
            return Err(sink.length_error());
        }
    }
    output.close()
}

/// Length and JSON, padded with spaces so that the data begins at a multiple of 8.
fn header(path: &Path, specs: &[TensorSpec]) -> Result<Vec<u8>, SaveError> {
    let mut map = Map::new();
    map.insert("__metadata__".to_owned(), json!({ "format": "pt" }));
    let mut names = HashSet::new();
    let mut at = 0;
    for spec in specs {
        if !names.insert(&spec.name) {
            return Err(SaveError::Twice {
                name: spec.name.clone(),
            });
        }
        let end = at + spec.bytes()?;
        let info = json!({
            "dtype": spec.dtype.name(), "shape": spec.shape, "data_offsets": [at, end]
        });
        map.insert(spec.name.clone(), info);
        at = end;
    }
    let mut json =
        serde_json::to_vec(&Value::Object(map)).map_err(|e| SaveError::io(path, e.into()))?;
    json.resize(json.len().next_multiple_of(8), b' ');
    let mut header = (json.len() as u64).to_le_bytes().to_vec();
    header.append(&mut json);
    Ok(header)
}
