//! The pictures of a folder.

use std::{
    path::{Path, PathBuf},
    sync::Arc,
};

use llavar_image::{ImageFormat, probe_bytes};
use llavar_ocr::{Line, Page, Reader, page_layout};

use crate::InstructError;

/// Names of picture files below a folder, with `/`, in order.
#[derive(Debug, Clone)]
pub struct Pictures {
    /// The folder.
    pub folder: PathBuf,
    /// Paths below it.
    pub names: Vec<String>,
}

impl Pictures {
    /// All files below `folder` that begin like a picture or are named like one; hidden ones and linked folders
    /// are passed over.
    ///
    /// # Errors
    /// [`InstructError::Io`], [`InstructError::NoPictures`].
    pub fn list(folder: &Path) -> Result<Self, InstructError> {
        let mut names = Vec::new();
        let mut folders = vec![(folder.to_path_buf(), String::new())];
        while let Some((path, prefix)) = folders.pop() {
            for entry in std::fs::read_dir(&path).map_err(InstructError::io(&path))? {
                let entry = entry.map_err(InstructError::io(&path))?;
                let Ok(name) = entry.file_name().into_string() else {
                    continue;
                };
                if name.starts_with('.') {
                    continue;
                }
                let kind = entry.file_type().map_err(InstructError::io(&path))?;
                let name = format!("{prefix}{name}");
                // A linked folder may lead back here.
                if kind.is_dir() {
                    folders.push((entry.path(), name + "/"));
                // What is named like a picture and is none is told, not passed over.
                } else if ImageFormat::is_named_so(&name) || is_picture(&entry.path()) {
                    names.push(name);
                }
            }
        }
        if names.is_empty() {
            return Err(InstructError::NoPictures {
                folder: folder.to_path_buf(),
            });
        }
        names.sort();
        Ok(Self {
            folder: folder.to_path_buf(),
            names,
        })
    }
}

fn is_picture(path: &Path) -> bool {
    use std::io::Read;
    let regular = std::fs::metadata(path).is_ok_and(|found| found.is_file());
    let mut head = [0; 16];
    regular
        && std::fs::File::open(path)
            .and_then(|mut file| file.read(&mut head))
            .is_ok_and(|n| ImageFormat::from_content(&head[..n]).is_some())
}

/// A picture with everything that is known about it before a model is asked.
#[derive(Debug)]
pub struct Picture {
    /// Path below the folder.
    pub name: String,
    /// SHA-256 of the file, hexadecimal.
    pub hash: String,
    /// px.
    pub width: u32,
    /// px.
    pub height: u32,
    /// As `image/png`.
    pub mime: &'static str,
    /// The file.
    pub bytes: Vec<u8>,
    /// What OCR found.
    pub lines: Arc<[Line]>,
    /// The same as a page of text.
    pub layout: String,
    /// What a person wrote.
    pub caption: Option<String>,
}

impl Picture {
    /// Reads a picture and its text.
    ///
    /// # Errors
    /// Why it cannot be used, in words.
    pub fn open(
        folder: &Path,
        name: &str,
        caption: Option<&str>,
        reader: &Reader,
    ) -> Result<Self, String> {
        let path = folder.join(name);
        let said = |error: std::io::Error| format!("{}: {error}", path.display());
        // A pipe would keep the run waiting for ever.
        if !std::fs::metadata(&path).map_err(said)?.is_file() {
            return Err(format!("{} is not a regular file", path.display()));
        }
        let bytes = std::fs::read(&path).map_err(said)?;
        let info = probe_bytes(&bytes, &path).map_err(|error| error.to_string())?;
        let page = Page::from_bytes(&path, bytes.clone());
        // One that is cut off must not get into a data set, whoever reads its text.
        page.image().map_err(|error| error.to_string())?;
        let lines = reader.read(&page).map_err(|error| error.to_string())?;
        Ok(Self {
            name: name.to_owned(),
            hash: page.hash().as_str().to_owned(),
            width: info.width,
            height: info.height,
            mime: mime(info.format),
            bytes,
            layout: page_layout(&lines),
            lines,
            caption: caption.map(str::to_owned),
        })
    }

    /// Lines of OCR with the part of the picture in which they stand, as `top left`.
    pub fn placed_lines(&self) -> Vec<(String, String)> {
        let lines = self.lines.iter();
        lines
            .map(|line| (self.place(line), line.text.clone()))
            .collect()
    }

    /// Where a line stands, in thirds: `top left`, `middle`, `bottom right`.
    pub fn place(&self, line: &Line) -> String {
        let [x1, y1, x2, y2] = line.bounds();
        let third = |at: f64, size: u32, names: [&'static str; 3]| {
            names[((at / f64::from(size.max(1)) * 3.0) as usize).min(2)]
        };
        let across = third((x1 + x2) / 2.0, self.width, ["left", "centre", "right"]);
        let down = third((y1 + y2) / 2.0, self.height, ["top", "middle", "bottom"]);
        match (down, across) {
            ("middle", "centre") => "middle".to_owned(),
            (down, across) => format!("{down} {across}"),
        }
    }
}

pub(crate) fn mime(format: ImageFormat) -> &'static str {
    match format {
        ImageFormat::Jpeg => "image/jpeg",
        ImageFormat::Png => "image/png",
        ImageFormat::WebP => "image/webp",
        ImageFormat::Gif => "image/gif",
        ImageFormat::Bmp => "image/bmp",
        ImageFormat::Tiff => "image/tiff",
    }
}
