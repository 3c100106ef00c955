//! Writing data sets: LLaVA JSON, Parquet with the pictures inside, WebDataset tars.
//!
//! Files are written aside and renamed, so an interrupted run leaves the old file or none.

mod atomic;
mod parquet;
mod webdataset;

pub use atomic::{replaceable, write_whole};
pub use parquet::write_parquet;
pub use webdataset::write_webdataset;

use crate::error::Error;
use crate::record::Sample;
use std::fs::File;
use std::io::{BufWriter, Write};
use std::path::{Path, PathBuf};

/// Where a file is written before it gets its name.
fn aside(path: &Path) -> PathBuf {
    let mut name = path.file_name().unwrap_or_default().to_os_string();
    name.push(".partial");
    path.with_file_name(name)
}

/// Writes samples as a LLaVA JSON array, one sample a line. Returns how many.
///
/// # Errors
/// [`Error::Io`].
pub fn write_llava_json<'a>(
    path: &Path,
    samples: impl IntoIterator<Item = &'a Sample>,
) -> Result<usize, Error> {
    let io = |source| Error::Io {
        path: path.to_path_buf(),
        source,
    };
    let path = &replaceable(path).map_err(io)?;
    let aside = aside(path);
    let mut written = 0;
    let body = || -> std::io::Result<()> {
        let mut out = BufWriter::new(File::create(&aside)?);
        out.write_all(b"[")?;
        for sample in samples {
            out.write_all(if written == 0 { b"\n" } else { b",\n" })?;
            serde_json::to_writer(&mut out, sample)?;
            written += 1;
        }
        out.write_all(b"\n]\n")?;
        out.into_inner().map_err(|e| e.into_error())?.sync_all()?;
        std::fs::rename(&aside, path)
    };
    if let Err(source) = body() {
        // Best effort: the fault itself is what the caller must hear of.
        let _ = std::fs::remove_file(&aside);
        return Err(io(source));
    }
    Ok(written)
}
