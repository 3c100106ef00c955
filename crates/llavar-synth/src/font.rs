//! Fonts: parsed once into outlines, shared by all threads.
//!
//! The embedded set (DejaVu Sans, Sans Bold, Serif, Serif Bold, Mono and Ubuntu Light, about 2.9 MB,
//! from registry crates; DejaVu is under the free Bitstream Vera licence, Ubuntu under the Ubuntu Font
//! Licence 1.0, both allow embedding) and our own pen-stroke face are the default, so that one
//! seed gives one set on every machine. Folders and the system's fonts are added only on request:
//! they widen the set of faces, and with it the pictures; [`FontSet::hash`] tells sets apart and is
//! written into the card of every data set.

use std::collections::{BTreeSet, HashMap};
use std::path::{Path, PathBuf};

use zeno::{Command, Vector};

use crate::error::SynthError;
use crate::rng::{FNV_START, Rng, fnv1a};
use crate::stroke_font;

/// Characters beyond printable ASCII that the writer may print.
const EXTRA_CHARS: &str = "äöüÄÖÜßéèêëàâáíîóôúùûñçÉ€£°";

/// Largest font file read from a folder, bytes: fonts of whole scripts, useless here, are larger.
const MAX_FONT_BYTES: u64 = 8 << 20;

/// Most files taken from the given folders, so that a huge font folder cannot fill the memory.
const MAX_FILES: usize = 200;

/// What a face looks like.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Class {
    Sans,
    Bold,
    Serif,
    SerifBold,
    Mono,
    Hand,
}

/// One letter: advance in em and its path in em, y upwards.
#[derive(Clone)]
pub(crate) struct Glyph {
    pub(crate) advance: f32,
    pub(crate) path: Vec<Command>,
}

/// One face, outlines parsed.
pub(crate) struct Face {
    pub(crate) name: String,
    pub(crate) class: Class,
    pub(crate) glyphs: HashMap<char, Glyph>,
}

impl Face {
    /// True for the face whose paths are pen strokes and not filled outlines.
    pub(crate) fn is_stroked(&self) -> bool {
        self.class == Class::Hand
    }

    /// Letter of `code`; every face of a set has all letters that the writer prints.
    pub(crate) fn glyph(&self, code: char) -> Option<&Glyph> {
        self.glyphs.get(&code)
    }
}

/// A set of fonts, ready to draw from any number of threads.
pub struct FontSet {
    faces: Vec<Face>,
    hash: u64,
}

impl std::fmt::Debug for FontSet {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("FontSet")
            .field("faces", &self.names())
            .field("hash", &self.hash())
            .finish()
    }
}

impl FontSet {
    /// The fonts built into the program, the same on every machine.
    ///
    /// # Errors
    /// [`SynthError::NoFont`] when none of them could be parsed, which a sound build never meets.
    pub fn embedded() -> Result<Self, SynthError> {
        let files: [(&str, Class, &[u8]); 6] = [
            ("DejaVu Sans", Class::Sans, dejavu::sans::regular()),
            ("DejaVu Sans Bold", Class::Bold, dejavu::sans::bold()),
            ("DejaVu Serif", Class::Serif, dejavu::serif::regular()),
            ("DejaVu Serif Bold", Class::SerifBold, dejavu::serif::bold()),
            (
                "DejaVu Sans Mono",
                Class::Mono,
                dejavu::sans_mono::regular(),
            ),
            (
                "Ubuntu Light",
                Class::Sans,
                epaint_default_fonts::UBUNTU_LIGHT,
            ),
        ];
        let mut set = Self {
            faces: Vec::new(),
            hash: FNV_START,
        };
        for (name, class, bytes) in files {
            set.add(name.to_owned(), Some(class), bytes, 0);
        }
        let mut glyphs = HashMap::new();
        for glyph in stroke_font::glyphs() {
            set.hash = fnv1a(set.hash, format!("{:?}", glyph.path).as_bytes());
            glyphs.insert(
                glyph.code,
                Glyph {
                    advance: glyph.advance,
                    path: glyph.path,
                },
            );
        }
        set.faces.push(Face {
            name: "Pen".to_owned(),
            class: Class::Hand,
            glyphs,
        });
        if set.faces.len() < 2 {
            return Err(SynthError::NoFont {
                wanted: "the embedded fonts".to_owned(),
            });
        }
        Ok(set)
    }

    /// The embedded fonts and every usable `.ttf`, `.otf` and `.ttc` below `folders` (at most 200
    /// files of at most 8 MiB, in the order of their paths). Fonts without the Latin letters, symbol
    /// fonts and broken files are passed over.
    ///
    /// # Errors
    /// [`SynthError::Input`] for a folder that cannot be listed.
    pub fn with_folders<P: AsRef<Path>>(folders: &[P]) -> Result<Self, SynthError> {
        let mut files = BTreeSet::new();
        for folder in folders {
            let folder = folder.as_ref();
            let listing = std::fs::read_dir(folder)
                .map_err(|source| SynthError::input("list the font folder", folder, source))?;
            walk(listing, 0, &mut files);
        }
        let mut set = Self::embedded()?;
        for path in files.into_iter().take(MAX_FILES) {
            let small = std::fs::metadata(&path).is_ok_and(|m| m.len() <= MAX_FONT_BYTES);
            // An unreadable font is no reason to stop: the hash tells which fonts were in fact used.
            let Some(bytes) = small.then(|| std::fs::read(&path).ok()).flatten() else {
                continue;
            };
            for index in 0..ttf_parser::fonts_in_collection(&bytes).unwrap_or(1).min(8) {
                let name = font_name(&bytes, index).unwrap_or_else(|| stem(&path));
                if !set.faces.iter().any(|f| f.name == name) {
                    set.add(name, None, &bytes, index);
                }
            }
        }
        Ok(set)
    }

    /// The system's usual font folders that exist, for [`FontSet::with_folders`]. Pictures then depend
    /// on what the machine has installed.
    pub fn system_folders() -> Vec<PathBuf> {
        let mut folders: Vec<PathBuf> = ["/usr/share/fonts", "/usr/local/share/fonts"]
            .into_iter()
            .chain([
                "/Library/Fonts",
                "/System/Library/Fonts",
                "C:\\Windows\\Fonts",
            ])
            .map(PathBuf::from)
            .collect();
        if let Some(home) = std::env::var_os("HOME") {
            let home = PathBuf::from(home);
            folders.extend([".fonts", ".local/share/fonts", "Library/Fonts"].map(|f| home.join(f)));
        }
        folders.retain(|f| f.is_dir());
        folders
    }

    /// Names of all faces, in the order in which they are drawn from.
    pub fn names(&self) -> Vec<&str> {
        self.faces.iter().map(|f| f.name.as_str()).collect()
    }

    /// 16 hex digits over the font files used: equal sets draw equal pictures.
    pub fn hash(&self) -> String {
        format!("{:016x}", self.hash)
    }

    /// The first face of a class.
    pub(crate) fn of_class(&self, class: Class) -> Option<&Face> {
        self.faces.iter().find(|f| f.class == class)
    }

    /// A face of one of the `classes` among those `allowed` (all when empty); any allowed face when
    /// none has that class, so that a config with one font prints everything in it.
    pub(crate) fn pick(&self, allowed: &[String], classes: &[Class], rng: &mut Rng) -> &Face {
        let ok = |f: &&Face| {
            if allowed.is_empty() {
                true
            } else {
                allowed.contains(&f.name)
            }
        };
        let fit: Vec<&Face> = self
            .faces
            .iter()
            .filter(ok)
            .filter(|f| classes.contains(&f.class))
            .collect();
        let fit = if fit.is_empty() {
            self.faces.iter().filter(ok).collect()
        } else {
            fit
        };
        let fit = if fit.is_empty() {
            self.faces.iter().collect()
        } else {
            fit
        };
        rng.pick::<&Face>(&fit)
    }

    /// Parses one file and keeps it if it has every character that the writer prints.
    fn add(&mut self, name: String, class: Option<Class>, bytes: &[u8], index: u32) {
        let Ok(face) = ttf_parser::Face::parse(bytes, index) else {
            return;
        };
        let mut glyphs = HashMap::new();
        for code in (' '..='~').chain(EXTRA_CHARS.chars()) {
            match letter(&face, code) {
                Some(glyph) => {
                    glyphs.insert(code, glyph);
                }
                // A face that lacks a letter would print something else than the texts say.
                None => return,
            }
        }
        let lower = name.to_lowercase();
        let guess = || match (
            face.is_monospaced(),
            face.is_bold(),
            lower.contains("serif"),
        ) {
            (true, _, _) => Class::Mono,
            (_, bold, serif) if serif && !lower.contains("sans") => {
                if bold {
                    Class::SerifBold
                } else {
                    Class::Serif
                }
            }
            (_, true, _) => Class::Bold,
            _ => Class::Sans,
        };
        let class = class.unwrap_or_else(guess);
        self.hash = fnv1a(fnv1a(self.hash, bytes), &index.to_le_bytes());
        self.faces.push(Face {
            name,
            class,
            glyphs,
        });
    }
}

/// Collects font files below a folder, five levels deep, following no loop.
fn walk(listing: std::fs::ReadDir, depth: usize, files: &mut BTreeSet<PathBuf>) {
    for entry in listing.flatten() {
        let path = entry.path();
        let extension = path
            .extension()
            .and_then(|e| e.to_str())
            .unwrap_or("")
            .to_lowercase();
        if entry.file_type().is_ok_and(|t| t.is_dir()) {
            if let (true, Ok(inner)) = (depth < 5, std::fs::read_dir(&path)) {
                walk(inner, depth + 1, files);
            }
        } else if matches!(extension.as_str(), "ttf" | "otf" | "ttc") {
            files.insert(path);
        }
    }
}

/// The font's own full name (name id 4).
fn font_name(bytes: &[u8], index: u32) -> Option<String> {
    let face = ttf_parser::Face::parse(bytes, index).ok()?;
    face.names()
        .into_iter()
        .find(|n| n.name_id == 4 && n.is_unicode())
        .and_then(|n| n.to_string())
}

/// File name without its extension.
fn stem(path: &Path) -> String {
    path.file_stem()
        .map(|s| s.to_string_lossy().into_owned())
        .unwrap_or_default()
}

/// Collects an outline in em.
struct Outline {
    scale: f32,
    path: Vec<Command>,
}

/// The letter of `code` in a parsed face; `None` where the face has nothing to draw for it.
pub(crate) fn letter(face: &ttf_parser::Face<'_>, code: char) -> Option<Glyph> {
    let em = f32::from(face.units_per_em());
    let id = face.glyph_index(code)?;
    let path = Vec::new();
    let mut outline = Outline {
        scale: 1.0 / em,
        path,
    };
    let inked = face.outline_glyph(id, &mut outline).is_some();
    (inked || code == ' ').then_some(Glyph {
        advance: f32::from(face.glyph_hor_advance(id)?) / em,
        path: outline.path,
    })
}

impl Outline {
    fn at(&self, x: f32, y: f32) -> Vector {
        Vector::new(x * self.scale, y * self.scale)
    }
}

impl ttf_parser::OutlineBuilder for Outline {
    fn move_to(&mut self, x: f32, y: f32) {
        self.path.push(Command::MoveTo(self.at(x, y)));
    }
    fn line_to(&mut self, x: f32, y: f32) {
        self.path.push(Command::LineTo(self.at(x, y)));
    }
    fn quad_to(&mut self, x1: f32, y1: f32, x: f32, y: f32) {
        self.path
            .push(Command::QuadTo(self.at(x1, y1), self.at(x, y)));
    }
    fn curve_to(&mut self, x1: f32, y1: f32, x2: f32, y2: f32, x: f32, y: f32) {
        self.path.push(Command::CurveTo(
            self.at(x1, y1),
            self.at(x2, y2),
            self.at(x, y),
        ));
    }
    fn close(&mut self) {
        self.path.push(Command::Close);
    }
}
