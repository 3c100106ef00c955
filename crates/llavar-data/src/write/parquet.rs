//! Parquet as Hugging Face's `datasets` reads it: the picture is an `Image` feature.

use std::{fs::File, path::Path, sync::Arc};

use ::parquet::{
    basic::Compression,
    data_type::{ByteArray, ByteArrayType},
    errors::ParquetError,
    file::{
        metadata::KeyValue,
        properties::{EnabledStatistics, WriterProperties},
        writer::{SerializedFileWriter, SerializedRowGroupWriter},
    },
    schema::{parser::parse_message_type, types::ColumnPath},
};
use serde_json::json;

use super::{aside, replaceable};
use crate::{Error, Sample};

/// Bytes of pictures in a row group: what a reader holds at once.
const GROUP_BYTES: usize = 64 << 20;
/// Rows of a row group at most.
const GROUP_ROWS: usize = 4096;

/// Writes samples, each with the bytes of its picture, as `id`, `image` (struct of `bytes` and `path`),
/// `conversations` (list of `from` and `value`) and `source`. Returns how many.
///
/// Ids become text. Memory is bounded by a row group of 64 MiB.
///
/// # Errors
/// [`Error::Io`], [`Error::Container`], and what `samples` gives.
pub fn write_parquet(
    path: &Path,
    samples: impl IntoIterator<Item = Result<(Sample, Vec<u8>), Error>>,
) -> Result<usize, Error> {
    let io = |source| Error::Io {
        path: path.to_path_buf(),
        source,
    };
    let path = &replaceable(path).map_err(io)?;
    let aside = aside(path);
    let written = write(path, &aside, samples);
    match written {
        Ok(count) => {
            std::fs::rename(&aside, path).map_err(io)?;
            Ok(count)
        }
        Err(error) => {
            // Best effort: the fault itself is what the caller must hear of.
            let _ = std::fs::remove_file(&aside);
            Err(error)
        }
    }
}

fn write(
    path: &Path,
    aside: &Path,
    samples: impl IntoIterator<Item = Result<(Sample, Vec<u8>), Error>>,
) -> Result<usize, Error> {
    let io = |source| Error::Io {
        path: path.to_path_buf(),
        source,
    };
    let fail = |error: ParquetError| {
        let reason = error.to_string();
        // A full disk is no fault of the file.
        if let ParquetError::External(cause) = error
            && let Ok(source) = cause.downcast::<std::io::Error>()
        {
            return io(*source);
        }
        Error::Container {
            path: path.to_path_buf(),
            form: "Parquet file",
            reason,
        }
    };
    let file = File::create(aside).map_err(io)?;
    let mut writer = open(file).map_err(fail)?;
    let (mut rows, mut bytes, mut count) = (Vec::new(), 0, 0);
    for sample in samples {
        let (sample, picture) = sample?;
        bytes += picture.len();
        count += 1;
        rows.push((sample, picture));
        if bytes >= GROUP_BYTES || rows.len() >= GROUP_ROWS {
            group(&mut writer, std::mem::take(&mut rows)).map_err(fail)?;
            bytes = 0;
        }
    }
    if !rows.is_empty() || count == 0 {
        group(&mut writer, rows).map_err(fail)?;
    }
    let file = writer.into_inner().map_err(fail)?;
    file.sync_all().map_err(io)?;
    Ok(count)
}

fn open(file: File) -> Result<SerializedFileWriter<File>, ParquetError> {
    // All fields may be null, though none is: `datasets` takes a struct for a picture only if it is as its
    // own writer makes it.
    let schema = "message schema {
        optional binary id (STRING);
        optional group image { optional binary bytes; optional binary path (STRING); }
        optional group conversations (LIST) { repeated group list { optional group element {
            optional binary from (STRING); optional binary value (STRING); } } }
        optional binary source (STRING);
    }";
    // What tells `datasets` that the struct is a picture.
    let text = json!({"dtype": "string", "_type": "Value"});
    let features = json!({"info": {"features": {
        "id": text,
        "image": {"_type": "Image"},
        "conversations": [{"from": text, "value": text}],
        "source": text,
    }}});
    let pictures = ColumnPath::from(vec!["image".to_owned(), "bytes".to_owned()]);
    let properties = WriterProperties::builder()
        .set_compression(Compression::SNAPPY)
        // Pictures are compressed already, never repeat, and say nothing by their least and greatest.
        .set_column_compression(pictures.clone(), Compression::UNCOMPRESSED)
        .set_column_dictionary_enabled(pictures.clone(), false)
        .set_column_statistics_enabled(pictures, EnabledStatistics::None)
        // One picture is read by reading its page.
        .set_write_batch_size(1)
        .set_key_value_metadata(Some(vec![KeyValue::new(
            "huggingface".to_owned(),
            features.to_string(),
        )]))
        .build();
    SerializedFileWriter::new(
        file,
        Arc::new(parse_message_type(schema)?),
        Arc::new(properties),
    )
}

fn group(
    writer: &mut SerializedFileWriter<File>,
    rows: Vec<(Sample, Vec<u8>)>,
) -> Result<(), ParquetError> {
    let mut out = writer.next_row_group()?;
    let text = |value: String| ByteArray::from(value.into_bytes());
    let each = |of: &dyn Fn(&Sample) -> String| -> Vec<ByteArray> {
        rows.iter().map(|(sample, _)| text(of(sample))).collect()
    };
    let ids = each(&|sample| sample.id.to_string());
    let names = each(&|sample| sample.images.first().cloned().unwrap_or_default());
    let sources = each(&|sample| {
        let source = sample.extra.get("source").and_then(|value| value.as_str());
        source.unwrap_or_default().to_owned()
    });
    // Lists lie flat: repetition 0 begins a row; of four levels a value defines all, an empty list one.
    let (mut from, mut value) = (Vec::new(), Vec::new());
    let (mut definitions, mut repetitions) = (Vec::new(), Vec::new());
    for (sample, _) in &rows {
        if sample.conversations.is_empty() {
            definitions.push(1);
            repetitions.push(0);
        }
        for (i, turn) in sample.conversations.iter().enumerate() {
            definitions.push(4);
            repetitions.push(i16::from(i > 0));
            from.push(text(turn.from.as_str().to_owned()));
            value.push(text(turn.value.clone()));
        }
    }
    let pictures: Vec<ByteArray> = rows
        .into_iter()
        .map(|(_, bytes)| ByteArray::from(bytes))
        .collect();
    let plain = |level: i16| vec![level; ids.len()];
    column(&mut out, &ids, &plain(1), None)?;
    column(&mut out, &pictures, &plain(2), None)?;
    column(&mut out, &names, &plain(2), None)?;
    column(&mut out, &from, &definitions, Some(&repetitions))?;
    column(&mut out, &value, &definitions, Some(&repetitions))?;
    column(&mut out, &sources, &plain(1), None)?;
    out.close()?;
    Ok(())
}

fn column(
    out: &mut SerializedRowGroupWriter<'_, File>,
    values: &[ByteArray],
    definitions: &[i16],
    repetitions: Option<&[i16]>,
) -> Result<(), ParquetError> {
    let Some(mut column) = out.next_column()? else {
        return Err(ParquetError::General("a column too many".to_owned()));
    };
    column
        .typed::<ByteArrayType>()
        .write_batch(values, Some(definitions), repetitions)?;
    column.close()
}
