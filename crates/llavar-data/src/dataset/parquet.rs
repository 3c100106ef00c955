//! Parquet as Hugging Face writes it: columns `id`, `conversations`, and `image` (or a list, `images`) of
//! the `Image` struct `{bytes, path}`.
//!
//! Records are wanted in any order and Parquet is read in row groups, so everything but the image bytes is
//! brought into JSONL once: in memory for small files, in the cache for large ones. An image is read from
//! its page; the pages before it in the row group are stepped over by their headers.

use std::{
    fs::{self, File},
    io::{self, BufReader, BufWriter, Read, Write},
    panic::{AssertUnwindSafe, catch_unwind},
    path::{Path, PathBuf},
    sync::Arc,
};

use ::parquet::{
    basic::ConvertedType,
    column::reader::ColumnReader,
    errors::{ParquetError, Result as ParquetResult},
    file::reader::{ChunkReader, FileReader, Length, SerializedFileReader},
    record::{Field, Row},
    schema::types::{Type, TypePtr},
};
use serde_json::{Map, Value};

use super::{
    cache::{Cache, Stamp, aside},
    positioned::{Cursor, Positioned},
    records,
};
use crate::error::Error;

/// The first bytes of a Parquet file.
pub(super) const MAGIC: &[u8] = b"PAR1";
const IMAGE_COLUMNS: [&str; 2] = ["image", "images"];

/// Reads image bytes by row.
pub(super) struct ParquetImages {
    reader: SerializedFileReader<Pages>,
    /// Number of the leaf column that holds them, with the definition level of a value.
    column: Option<(usize, i16)>,
    /// First row of each row group, and the end of the last.
    starts: Vec<usize>,
}

impl std::fmt::Debug for ParquetImages {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ParquetImages")
            .field("column", &self.column)
            .field("row_groups", &self.starts.len().saturating_sub(1))
            .finish_non_exhaustive()
    }
}

/// Opens the file; gives its records as JSONL, one line a row.
pub(super) fn open(
    path: &Path,
    file: Positioned,
    stamp: Stamp,
    cache: &Cache,
) -> Result<(ParquetImages, Positioned), Error> {
    let broken = |reason: String| Error::Container {
        path: path.to_path_buf(),
        form: "Parquet file",
        reason,
    };
    let images = guarded(|| ParquetImages::new(file, stamp.bytes)).map_err(broken)?;
    if images.starts.last() == Some(&0) {
        return Err(Error::NoSamples {
            path: path.to_path_buf(),
        });
    }
    let salt = format!("{}-{}", stamp.bytes, stamp.modified);
    let kept = cache.file("records", path, &salt);
    if let Some(kept) = &kept
        && let Ok(found) = File::open(kept)
    {
        return Ok((images, Positioned::file(found)));
    }
    let mut out = Sidecar::new(kept, cache.max_memory);
    let written = guarded(|| {
        let rows = images.reader.get_row_iter(Some(images.projection()?))?;
        for (number, row) in rows.enumerate() {
            out.row(&record_of(row?, number))?;
        }
        Ok(())
    });
    match (written, out.fault.take()) {
        (_, Some((cache, source))) => Err(Error::Cache {
            path: path.to_path_buf(),
            cache,
            source,
        }),
        (Err(reason), None) => Err(broken(reason)),
        (Ok(()), None) => {
            out.finish()
                .map(|records| (images, records))
                .map_err(|(cache, source)| Error::Cache {
                    path: path.to_path_buf(),
                    cache,
                    source,
                })
        }
    }
}

impl ParquetImages {
    fn new(file: Positioned, bytes: u64) -> ParquetResult<Self> {
        let reader = SerializedFileReader::new(Pages { file, bytes })?;
        let schema = reader.metadata().file_metadata().schema_descr();
        // The struct itself, or a list of it.
        let is_bytes = |parts: &[String]| match parts {
            [first, .., last] => IMAGE_COLUMNS.contains(&first.as_str()) && last == "bytes",
            _ => false,
        };
        let column = schema.columns().iter().position(|column| {
            column.physical_type() == ::parquet::basic::Type::BYTE_ARRAY
                && is_bytes(column.path().parts())
        });
        let column = column.map(|number| (number, schema.column(number).max_def_level()));
        let mut starts = vec![0];
        let mut rows = 0usize;
        for group in reader.metadata().row_groups() {
            rows += usize::try_from(group.num_rows()).unwrap_or(0);
            starts.push(rows);
        }
        Ok(Self {
            reader,
            column,
            starts,
        })
    }

    /// The schema without the image bytes.
    fn projection(&self) -> ParquetResult<Type> {
        let schema = self.reader.metadata().file_metadata().schema();
        let mut fields = Vec::new();
        for field in schema.get_fields() {
            if !IMAGE_COLUMNS.contains(&field.name()) {
                fields.push(Arc::clone(field));
            } else if let Some(field) = without_bytes(field)? {
                fields.push(field);
            }
        }
        Type::group_type_builder(schema.name())
            .with_fields(fields)
            .build()
    }

    /// Encoded bytes of image `nth` of a row; `None` where the row has only its path.
    pub(super) fn bytes(&self, row: usize, nth: usize) -> Result<Option<Vec<u8>>, String> {
        let Some((column, present)) = self.column else {
            return Ok(None);
        };
        let group = self.starts.partition_point(|&start| start <= row);
        let Some(group) = group.checked_sub(1) else {
            return Ok(None);
        };
        let local = row - self.starts[group];
        guarded(|| {
            let group = self.reader.get_row_group(group)?;
            let ColumnReader::ByteArrayColumnReader(mut reader) =
                group.get_column_reader(column)?
            else {
                return Ok(None);
            };
            reader.skip_records(local)?;
            let (mut levels, mut repetitions, mut values) = (Vec::new(), Vec::new(), Vec::new());
            reader.read_records(1, Some(&mut levels), Some(&mut repetitions), &mut values)?;
            // A column without nulls has no levels.
            if levels.is_empty() {
                levels.resize(values.len(), present);
            }
            if levels.get(nth) != Some(&present) {
                return Ok(None);
            }
            let before = levels[..nth].iter().filter(|&&l| l == present).count();
            Ok(values.get(before).map(|value| value.data().to_vec()))
        })
    }
}

/// A column of images without their bytes: the struct keeps `path`, which also tells whether there is one.
fn without_bytes(field: &TypePtr) -> ParquetResult<Option<TypePtr>> {
    if field.is_primitive() {
        let text = field.get_basic_info().converted_type() == ConvertedType::UTF8;
        return Ok(text.then(|| Arc::clone(field)));
    }
    let mut fields = Vec::new();
    for inner in field.get_fields() {
        if inner.is_primitive() && inner.name() != "bytes" {
            fields.push(Arc::clone(inner));
        } else if !inner.is_primitive()
            && let Some(inner) = without_bytes(inner)?
        {
            fields.push(inner);
        }
    }
    let info = field.get_basic_info();
    let group = Type::group_type_builder(field.name())
        .with_repetition(info.repetition())
        .with_converted_type(info.converted_type())
        .with_logical_type(info.logical_type_ref().cloned())
        .with_fields(fields)
        .build()?;
    Ok(Some(Arc::new(group)))
}

/// A row as a LLaVA record.
fn record_of(row: Row, number: usize) -> Map<String, Value> {
    let mut record = Map::new();
    let mut names = Vec::new();
    for (column, field) in row.into_columns() {
        if !IMAGE_COLUMNS.contains(&column.as_str()) {
            record.insert(column, value_of(field));
            continue;
        }
        match field {
            Field::ListInternal(list) => {
                names.extend(list.elements().iter().enumerate().filter_map(image_name));
            }
            field => names.extend(image_name((0, &field))),
        }
    }
    records::normalise(&mut record);
    let names = names
        .into_iter()
        .map(|name| match name {
            Name::Given(name) => name,
            Name::Unnamed(nth) => format!("row {number} image {nth}"),
        })
        .collect();
    records::name_images(&mut record, names);
    record.entry("id").or_insert_with(|| number.into());
    record
}

enum Name {
    Given(String),
    Unnamed(usize),
}

fn image_name((nth, field): (usize, &Field)) -> Option<Name> {
    match field {
        Field::Str(path) if !path.trim().is_empty() => Some(Name::Given(path.clone())),
        Field::Group(row) => {
            let path = row.get_column_iter().find_map(|(name, field)| match field {
                Field::Str(path) if name == "path" && !path.trim().is_empty() => Some(path),
                _ => None,
            });
            Some(path.map_or(Name::Unnamed(nth), |p| Name::Given(p.clone())))
        }
        _ => None,
    }
}

fn value_of(field: Field) -> Value {
    match field {
        Field::Str(text) => text.into(),
        Field::Bool(x) => x.into(),
        Field::Byte(x) => x.into(),
        Field::Short(x) => x.into(),
        Field::Int(x) => x.into(),
        Field::Long(x) => x.into(),
        Field::UByte(x) => x.into(),
        Field::UShort(x) => x.into(),
        Field::UInt(x) => x.into(),
        Field::ULong(x) => x.into(),
        Field::Float(x) => x.into(),
        Field::Double(x) => x.into(),
        Field::Bytes(bytes) => String::from_utf8_lossy(bytes.data()).into(),
        Field::Group(row) => {
            let columns = row.into_columns().into_iter();
            Value::Object(columns.map(|(name, f)| (name, value_of(f))).collect())
        }
        Field::ListInternal(list) => list.elements().iter().cloned().map(value_of).collect(),
        Field::Null => Value::Null,
        other => other.to_string().into(),
    }
}

/// Runs the reader; damaged files must not end the program.
fn guarded<T>(read: impl FnOnce() -> ParquetResult<T>) -> Result<T, String> {
    match catch_unwind(AssertUnwindSafe(read)) {
        Ok(Ok(value)) => Ok(value),
        Ok(Err(error)) => Err(error.to_string()),
        Err(_) => Err("the file is damaged: its reader broke off".into()),
    }
}

/// JSONL on its way to memory or, once it is large, to the cache.
struct Sidecar {
    path: Option<PathBuf>,
    max_memory: usize,
    memory: Vec<u8>,
    file: Option<(BufWriter<File>, PathBuf)>,
    fault: Option<(PathBuf, io::Error)>,
}

impl Sidecar {
    fn new(path: Option<PathBuf>, max_memory: usize) -> Self {
        Self {
            path,
            max_memory,
            memory: Vec::new(),
            file: None,
            fault: None,
        }
    }

    /// Adds a line. What goes wrong with the cache is kept aside: it is no fault of the Parquet file.
    fn row(&mut self, record: &Map<String, Value>) -> ParquetResult<()> {
        let text = |e: serde_json::Error| ParquetError::General(e.to_string());
        serde_json::to_writer(&mut self.memory, record).map_err(text)?;
        self.memory.push(b'\n');
        if self.memory.len() >= self.max_memory
            && let Some(path) = &self.path
        {
            let path = path.clone();
            if let Err(error) = self.flush(&path) {
                let reason = ParquetError::General(error.to_string());
                self.fault = Some((path, error));
                return Err(reason);
            }
        }
        Ok(())
    }

    fn flush(&mut self, path: &Path) -> io::Result<()> {
        if self.file.is_none() {
            let aside = aside(path)?;
            let file = File::options()
                .read(true)
                .write(true)
                .create(true)
                .truncate(true)
                .open(&aside)?;
            self.file = Some((BufWriter::new(file), aside));
            // From here on lines pass through.
            self.max_memory = 1 << 16;
        }
        if let Some((file, _)) = &mut self.file {
            file.write_all(&self.memory)?;
            self.memory.clear();
        }
        Ok(())
    }

    fn finish(mut self) -> Result<Positioned, (PathBuf, io::Error)> {
        let Some(path) = self.path.clone().filter(|_| self.file.is_some()) else {
            return Ok(Positioned::memory(std::mem::take(&mut self.memory)));
        };
        let mut publish = || -> io::Result<File> {
            self.flush(&path)?;
            let Some((file, aside)) = self.file.take() else {
                return Err(io::ErrorKind::NotFound.into());
            };
            let file = file.into_inner().map_err(|e| e.into_error())?;
            file.sync_data()?;
            fs::rename(&aside, &path)?;
            Ok(file)
        };
        publish()
            .map(Positioned::file)
            .map_err(|e| (path.clone(), e))
    }
}

impl Drop for Sidecar {
    fn drop(&mut self) {
        if let Some((_, aside)) = self.file.take() {
            let _ = fs::remove_file(aside);
        }
    }
}

/// The file for Parquet's reader; every reader of it has a place of its own, so threads do not disturb
/// each other.
struct Pages {
    file: Positioned,
    bytes: u64,
}

impl Length for Pages {
    fn len(&self) -> u64 {
        self.bytes
    }
}

impl ChunkReader for Pages {
    type T = BufReader<Cursor>;

    fn get_read(&self, start: u64) -> ParquetResult<Self::T> {
        Ok(BufReader::new(self.file.reader(start)))
    }

    fn get_bytes(&self, start: u64, length: usize) -> ParquetResult<bytes::Bytes> {
        // Lengths are those of the file's own tables, which may be wrong.
        if start.saturating_add(length as u64) > self.bytes {
            return Err(ParquetError::EOF(format!(
                "{length} bytes at {start} of {} are asked for",
                self.bytes
            )));
        }
        let mut buffer = Vec::with_capacity(length);
        self.file
            .reader(start)
            .take(length as u64)
            .read_to_end(&mut buffer)?;
        if buffer.len() != length {
            return Err(ParquetError::EOF(format!(
                "the file ends before {length} bytes at {start}"
            )));
        }
        Ok(buffer.into())
    }
}
