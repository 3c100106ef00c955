//! Scores as Parquet: what DuckDB, Polars, Spark and pandas read.
//!
//! Columns have the names of [`ScoreRow`]'s fields; a missing value is null. The file's key-value metadata
//! holds the [`RunInfo`] as `llavar.run` and the [`Part`] as `llavar.part`, both JSON.

use std::{fs::File, path::Path, sync::Arc};

use parquet::{
    basic::Compression,
    data_type::{ByteArray, ByteArrayType, DataType, DoubleType, Int64Type},
    errors::ParquetError,
    file::{
        metadata::KeyValue,
        properties::WriterProperties,
        reader::{FileReader, SerializedFileReader},
        writer::{SerializedFileWriter, SerializedRowGroupWriter},
    },
    record::Field,
    schema::parser::parse_message_type,
};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use crate::{RunInfo, ScoreRow, SelectError};

/// Reals below it hold every whole number, 2^53.
const MOST_WHOLE: f64 = 9_007_199_254_740_992.0;

/// Rows of a row group: few enough to be held twice, many enough for readers to be quick.
const GROUP: usize = 1 << 16;

/// Which part of a data set a file holds.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Part {
    /// Number of the part, from 0.
    pub part: usize,
    /// Number of parts.
    pub of: usize,
    /// Samples of the whole data set.
    pub samples: usize,
}

/// A score file.
#[derive(Debug, Clone, PartialEq)]
pub struct ScoreTable {
    /// Its rows.
    pub rows: Vec<ScoreRow>,
    /// What they were measured with; absent in a file that another tool has written.
    pub info: Option<RunInfo>,
    /// Which part it is; absent as well.
    pub part: Option<Part>,
}

enum Get {
    Text(fn(&ScoreRow) -> Option<&str>),
    Integer(fn(&ScoreRow) -> Option<i64>),
    Real(fn(&ScoreRow) -> Option<f64>),
}

/// Name, whether every row has a value, and where it is.
const COLUMNS: [(&str, bool, Get); 23] = [
    ("record", true, Get::Integer(|r| Some(r.record as i64))),
    ("id", true, Get::Text(|r| Some(&r.id))),
    (
        "occurrence",
        true,
        Get::Integer(|r| Some(r.occurrence.into())),
    ),
    ("qa_id", true, Get::Integer(|r| Some(r.qa_id.into()))),
    ("kind", true, Get::Text(|r| Some(r.kind.as_str()))),
    ("image", false, Get::Text(|r| r.image.as_deref())),
    ("source", true, Get::Text(|r| Some(&r.source))),
    ("question", true, Get::Text(|r| Some(&r.question))),
    ("answer", true, Get::Text(|r| Some(&r.answer))),
    ("content", true, Get::Text(|r| Some(&r.content))),
    (
        "n_answer",
        false,
        Get::Integer(|r| r.n_answer.map(Into::into)),
    ),
    ("n_qa", false, Get::Integer(|r| r.n_qa.map(Into::into))),
    ("n_duo", false, Get::Integer(|r| r.n_duo.map(Into::into))),
    ("s_a_given_q", false, Get::Real(|r| r.s_a_given_q)),
    ("s_a", false, Get::Real(|r| r.s_a)),
    ("s_qa_given_image", false, Get::Real(|r| r.s_qa_given_image)),
    ("s_qa", false, Get::Real(|r| r.s_qa)),
    (
        "s_duo_given_image_and_extractive",
        false,
        Get::Real(|r| r.s_duo_given_image_and_extractive),
    ),
    ("ifd", false, Get::Real(|r| r.ifd)),
    ("vfd", false, Get::Real(|r| r.vfd)),
    ("mifd", false, Get::Real(|r| r.mifd)),
    ("ffd", false, Get::Real(|r| r.ffd)),
    ("reason", false, Get::Text(|r| r.reason.as_deref())),
];

impl ScoreTable {
    /// The bytes of a Parquet file, Snappy-compressed.
    ///
    /// # Errors
    /// What the library refuses; `path` only names the file in it.
    pub fn to_parquet(&self, path: &Path) -> Result<Vec<u8>, SelectError> {
        self.encode().map_err(|source| SelectError::Parquet {
            path: path.to_path_buf(),
            source,
        })
    }

    fn encode(&self) -> Result<Vec<u8>, ParquetError> {
        let columns = COLUMNS.iter().map(|(name, required, get)| {
            let presence = if *required { "required" } else { "optional" };
            let kind = match get {
                Get::Text(_) => return format!("{presence} binary {name} (STRING);"),
                Get::Integer(_) => "int64",
                Get::Real(_) => "double",
            };
            format!("{presence} {kind} {name};")
        });
        let schema = format!("message scores {{ {} }}", columns.collect::<String>());
        let schema = Arc::new(parse_message_type(&schema)?);
        let json = |value: Result<String, serde_json::Error>| {
            value.map_err(|error| ParquetError::External(Box::new(error)))
        };
        let mut notes = Vec::new();
        if let Some(info) = &self.info {
            let text = json(serde_json::to_string(info))?;
            notes.push(KeyValue::new("llavar.run".to_owned(), text));
        }
        if let Some(part) = &self.part {
            let text = json(serde_json::to_string(part))?;
            notes.push(KeyValue::new("llavar.part".to_owned(), text));
        }
        let properties = WriterProperties::builder()
            .set_compression(Compression::SNAPPY)
            .set_key_value_metadata(Some(notes))
            .build();
        let mut writer = SerializedFileWriter::new(Vec::new(), schema, Arc::new(properties))?;
        for rows in self.rows.chunks(GROUP) {
            let mut group = writer.next_row_group()?;
            for (_, required, get) in &COLUMNS {
                match get {
                    Get::Text(get) => {
                        let text = |row: &ScoreRow| get(row).map(ByteArray::from);
                        column::<ByteArrayType>(&mut group, rows, *required, text)?;
                    }
                    Get::Integer(get) => column::<Int64Type>(&mut group, rows, *required, get)?,
                    Get::Real(get) => column::<DoubleType>(&mut group, rows, *required, get)?,
                }
            }
            group.close()?;
        }
        writer.into_inner()
    }

    /// Reads a score file, also one that another tool has filtered or sorted and written again.
    ///
    /// # Errors
    /// [`SelectError::Io`], [`SelectError::Parquet`], [`SelectError::Row`].
    pub fn read(path: &Path) -> Result<Self, SelectError> {
        let file = File::open(path).map_err(|source| SelectError::Io {
            path: path.to_path_buf(),
            source,
        })?;
        let fail = |source| SelectError::Parquet {
            path: path.to_path_buf(),
            source,
        };
        let reader = SerializedFileReader::new(file).map_err(fail)?;
        let notes = reader.metadata().file_metadata().key_value_metadata();
        let note = |key: &str| notes?.iter().find(|note| note.key == key)?.value.as_deref();
        let info = note("llavar.run").and_then(|text| serde_json::from_str(text).ok());
        let part = note("llavar.part").and_then(|text| serde_json::from_str(text).ok());
        let mut rows = Vec::new();
        for (number, row) in reader.get_row_iter(None).map_err(fail)?.enumerate() {
            let row = row.map_err(fail)?;
            let fields = row.get_column_iter();
            let fields: Map<String, Value> = fields
                .map(|(name, field)| (name.clone(), whole(name, value(field))))
                .collect();
            let row = serde_json::from_value(Value::Object(fields));
            rows.push(row.map_err(|error| SelectError::Row {
                path: path.to_path_buf(),
                row: number,
                reason: error.to_string(),
            })?);
        }
        Ok(Self { rows, info, part })
    }
}

fn column<T: DataType>(
    group: &mut SerializedRowGroupWriter<'_, Vec<u8>>,
    rows: &[ScoreRow],
    required: bool,
    get: impl Fn(&ScoreRow) -> Option<T::T>,
) -> Result<(), ParquetError> {
    let Some(mut column) = group.next_column()? else {
        return Err(ParquetError::General("a column too many".to_owned()));
    };
    let values: Vec<Option<T::T>> = rows.iter().map(get).collect();
    let levels: Vec<i16> = values.iter().map(|v| v.is_some().into()).collect();
    let values: Vec<T::T> = values.into_iter().flatten().collect();
    let levels = (!required).then_some(levels.as_slice());
    column.typed::<T>().write_batch(&values, levels, None)?;
    column.close()
}

/// pandas makes reals of whole numbers where a column has nulls.
fn whole(name: &str, value: Value) -> Value {
    let integers =
        |(column, _, get): &(&str, bool, Get)| *column == name && matches!(get, Get::Integer(_));
    match value.as_f64() {
        Some(x)
            if value.is_f64()
                && x.fract() == 0.0
                && (0.0..MOST_WHOLE).contains(&x)
                && COLUMNS.iter().any(integers) =>
        {
            (x as u64).into()
        }
        _ => value,
    }
}

/// A number that JSON has no word for becomes null.
fn value(field: &Field) -> Value {
    match field {
        Field::Bool(x) => (*x).into(),
        Field::Byte(x) => (*x).into(),
        Field::Short(x) => (*x).into(),
        Field::Int(x) => (*x).into(),
        Field::Long(x) => (*x).into(),
        Field::UByte(x) => (*x).into(),
        Field::UShort(x) => (*x).into(),
        Field::UInt(x) => (*x).into(),
        Field::ULong(x) => (*x).into(),
        Field::Float(x) => f64::from(*x).into(),
        Field::Double(x) => (*x).into(),
        Field::Str(x) => x.as_str().into(),
        Field::Bytes(x) => String::from_utf8_lossy(x.data()).into(),
        _ => Value::Null,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn whole_numbers_may_be_reals() {
        assert_eq!(whole("n_duo", json!(14.0)), json!(14));
        assert_eq!(whole("record", json!(0.0)), json!(0));
        // What is none stays as it is, and the row is refused by name.
        for odd in [json!(14.5), json!(-1.0), json!(1e300), json!(null)] {
            assert_eq!(whole("n_duo", odd.clone()), odd);
        }
        assert_eq!(whole("ifd", json!(1.0)), json!(1.0));
        assert!(whole("ifd", json!(1.0)).is_f64());
    }

    #[test]
    fn a_file_as_pandas_writes_it_is_read() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("sorted.parquet");
        let schema = "message scores {
            required int64 record; required binary id (STRING); required int64 occurrence; required int64 qa_id;
            required binary kind (STRING); required binary source (STRING); required binary question (STRING);
            required binary answer (STRING); required binary content (STRING); optional double n_duo;
            optional int64 __index_level_0__; }";
        let schema = Arc::new(parse_message_type(schema).unwrap());
        let mut writer =
            SerializedFileWriter::new(File::create(&path).unwrap(), schema, Arc::default())
                .unwrap();
        let mut group = writer.next_row_group().unwrap();
        for name in [
            "record",
            "id",
            "occurrence",
            "qa_id",
            "kind",
            "source",
            "question",
            "answer",
            "content",
        ] {
            let mut column = group.next_column().unwrap().unwrap();
            if ["record", "occurrence", "qa_id"].contains(&name) {
                column
                    .typed::<Int64Type>()
                    .write_batch(&[3, 1], None, None)
                    .unwrap();
            } else {
                let text = if name == "kind" { "single" } else { name };
                let texts = [ByteArray::from(text), ByteArray::from(text)];
                column
                    .typed::<ByteArrayType>()
                    .write_batch(&texts, None, None)
                    .unwrap();
            }
            column.close().unwrap();
        }
        let mut column = group.next_column().unwrap().unwrap();
        column
            .typed::<DoubleType>()
            .write_batch(&[14.0], Some(&[1, 0]), None)
            .unwrap();
        column.close().unwrap();
        let mut column = group.next_column().unwrap().unwrap();
        column
            .typed::<Int64Type>()
            .write_batch(&[1, 0], Some(&[1, 1]), None)
            .unwrap();
        column.close().unwrap();
        group.close().unwrap();
        writer.close().unwrap();
        let table = ScoreTable::read(&path).unwrap();
        let read: Vec<_> = table
            .rows
            .iter()
            .map(|row| (row.record, row.n_duo))
            .collect();
        assert_eq!(read, [(3, Some(14)), (1, None)]);
    }
}
