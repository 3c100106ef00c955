//! Features of pictures, kept by the content of their files.

use std::{
    collections::HashMap,
    hash::{BuildHasher, RandomState},
    path::{Path, PathBuf},
    sync::{Arc, LazyLock},
};

use llavar_image::{DecodeLimits, RgbImage, decode_bytes, read_file};
use llavar_tensor::Tensor;
use rayon::prelude::*;

use crate::{Assistant, Error};

/// Pictures that are decoded side by side.
const DECODED: usize = 16;

/// What a picture file holds: its length and a hash of its bytes.
type Content = (u64, u64);

/// How much of a picture is looked at.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Part {
    /// All of it.
    Whole,
    /// The first of [`RgbImage::halves`].
    First,
    /// The second of them.
    Second,
}

/// A part of a picture.
type View = (Content, Part);

/// The hash has a key that nobody knows, so that nobody can make a picture that passes for another one's.
static KEY: LazyLock<RandomState> = LazyLock::new(RandomState::new);

/// A picture that is ready for the vision tower.
#[derive(Debug, Clone)]
pub struct Picture {
    view: View,
    square: RgbImage,
}

impl Picture {
    /// Decodes a picture file in memory and fits it to the model's input; `name` is what errors call it.
    ///
    /// # Errors
    /// When it is no readable picture within the limits, or the model takes none.
    pub fn read(
        assistant: &Assistant,
        file: &[u8],
        name: &Path,
        limits: &DecodeLimits,
    ) -> Result<Self, Error> {
        let view = (content(file), Part::Whole);
        Self::read_part(assistant, view, file, name, limits)
    }

    /// As [`Picture::read`], and both halves of it for a closer look; the picture comes first.
    ///
    /// # Errors
    /// As [`Picture::read`].
    pub fn read_with_halves(
        assistant: &Assistant,
        file: &[u8],
        name: &Path,
        limits: &DecodeLimits,
    ) -> Result<[Self; 3], Error> {
        let content = content(file);
        let whole = decode_bytes(file, name, limits)?;
        let [first, second] = whole.halves();
        Ok([
            Self::fitted(assistant, (content, Part::Whole), &whole)?,
            Self::fitted(assistant, (content, Part::First), &first)?,
            Self::fitted(assistant, (content, Part::Second), &second)?,
        ])
    }

    fn read_part(
        assistant: &Assistant,
        view: View,
        file: &[u8],
        name: &Path,
        limits: &DecodeLimits,
    ) -> Result<Self, Error> {
        let whole = decode_bytes(file, name, limits)?;
        let image = match view.1 {
            Part::Whole => whole,
            Part::First => {
                let [first, _] = whole.halves();
                first
            }
            Part::Second => {
                let [_, second] = whole.halves();
                second
            }
        };
        Self::fitted(assistant, view, &image)
    }

    fn fitted(assistant: &Assistant, view: View, image: &RgbImage) -> Result<Self, Error> {
        let square = assistant.to_square(image)?;
        Ok(Self { view, square })
    }
}

/// Features of the pictures seen last. The same bytes are encoded once, whatever their path, as long as
/// they are kept.
#[derive(Debug)]
pub struct PictureCache {
    kept: HashMap<View, (Tensor, u64)>,
    /// Contents of files, so that a file is read once.
    contents: HashMap<PathBuf, Content>,
    bytes: usize,
    limit: usize,
    clock: u64,
    counts: PictureCounts,
}

/// What a cache has done.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct PictureCounts {
    /// Pictures asked for.
    pub asked: usize,
    /// Pictures that went through the vision tower.
    pub encoded: usize,
    /// Pictures asked for that cannot be read.
    pub failed: usize,
    /// Pictures that were let go to stay within the limit.
    pub dropped: usize,
}

/// The features of one picture, or why there are none; the reason is shared by all who asked.
pub type Seen = Result<Tensor, Arc<Error>>;

impl PictureCache {
    /// A cache of at most `limit` bytes of features (one picture is kept whatever its size).
    pub fn new(limit: usize) -> Self {
        Self {
            kept: HashMap::new(),
            contents: HashMap::new(),
            bytes: 0,
            limit,
            clock: 0,
            counts: PictureCounts::default(),
        }
    }

    /// What was done so far.
    pub fn counts(&self) -> PictureCounts {
        self.counts
    }

    /// Bytes of the features that are kept.
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// Features of picture files, `[N, D]` each, in their order. New ones are read and decoded on all
    /// cores and encoded `at_once` at a time.
    ///
    /// # Errors
    /// When the model takes no pictures or fails; faults of single files are in the list.
    pub fn see_files(
        &mut self,
        assistant: &Assistant,
        paths: &[&Path],
        at_once: usize,
    ) -> Result<Vec<Seen>, Error> {
        let whole = paths.iter().map(|path| (*path, Part::Whole));
        self.see_parts(assistant, &whole.collect::<Vec<_>>(), at_once)
    }

    /// As [`PictureCache::see_files`], of parts of the pictures.
    ///
    /// # Errors
    /// As [`PictureCache::see_files`].
    pub fn see_parts(
        &mut self,
        assistant: &Assistant,
        parts: &[(&Path, Part)],
        at_once: usize,
    ) -> Result<Vec<Seen>, Error> {
        self.clock += 1;
        self.counts.asked += parts.len();
        let mut unread: Vec<&Path> = Vec::new();
        for (path, part) in parts {
            let known = self.contents.get(*path);
            if known.is_none_or(|content| !self.kept.contains_key(&(*content, *part)))
                && !unread.contains(path)
            {
                unread.push(path);
            }
        }
        type Read = Result<(Content, Vec<u8>), Error>;
        let read: Vec<Read> = unread.par_iter().map(|path| read(path)).collect();
        let mut faults: HashMap<&Path, Arc<Error>> = HashMap::new();
        let mut files: HashMap<Content, Vec<u8>> = HashMap::new();
        for (path, read) in unread.iter().zip(read) {
            match read {
                Ok((content, bytes)) => {
                    self.contents.insert(path.to_path_buf(), content);
                    files.insert(content, bytes);
                }
                Err(error) => {
                    faults.insert(path, Arc::new(error));
                }
            }
        }
        // Everything asked for now stays at hand, also what the limit lets go of.
        let mut at_hand: HashMap<View, Seen> = HashMap::new();
        let mut new: Vec<(View, &Path)> = Vec::new();
        for (path, part) in parts {
            let Some(content) = self.contents.get(*path) else {
                continue;
            };
            let view = (*content, *part);
            if let Some((features, used)) = self.kept.get_mut(&view) {
                *used = self.clock;
                at_hand.insert(view, Ok(features.clone()));
            } else if files.contains_key(content) && !new.iter().any(|(other, _)| *other == view) {
                new.push((view, path));
            }
        }
        let limits = DecodeLimits::default();
        for some in new.chunks(at_once.max(DECODED)) {
            let read: Vec<Result<Picture, Error>> = some
                .par_iter()
                .map(|(view, path)| {
                    Picture::read_part(assistant, *view, &files[&view.0], path, &limits)
                })
                .collect();
            let mut good = Vec::with_capacity(read.len());
            for ((view, _), picture) in some.iter().zip(read) {
                match picture {
                    Ok(picture) => good.push(picture),
                    Err(error) => {
                        at_hand.insert(*view, Err(Arc::new(error)));
                    }
                }
            }
            for pass in good.chunks(at_once.max(1)) {
                for (picture, own) in pass.iter().zip(self.encode(assistant, pass)?) {
                    at_hand.insert(picture.view, Ok(own));
                }
            }
        }
        self.let_go();
        let seen: Vec<Seen> = parts
            .iter()
            .map(|(path, part)| match self.contents.get(*path) {
                Some(content) if !faults.contains_key(path) => at_hand[&(*content, *part)].clone(),
                _ => Err(faults[path].clone()),
            })
            .collect();
        self.counts.failed += seen.iter().filter(|seen| seen.is_err()).count();
        Ok(seen)
    }

    /// Features of pictures, `[N, D]` each, in their order; new ones are encoded `at_once` at a time.
    ///
    /// # Errors
    /// When the model fails.
    pub fn see(
        &mut self,
        assistant: &Assistant,
        pictures: &[Picture],
        at_once: usize,
    ) -> Result<Vec<Tensor>, Error> {
        self.clock += 1;
        self.counts.asked += pictures.len();
        let mut at_hand: HashMap<View, Tensor> = HashMap::new();
        let mut new: Vec<Picture> = Vec::new();
        for picture in pictures {
            if let Some((features, used)) = self.kept.get_mut(&picture.view) {
                *used = self.clock;
                at_hand.insert(picture.view, features.clone());
            } else if !new.iter().any(|other| other.view == picture.view) {
                new.push(picture.clone());
            }
        }
        for pass in new.chunks(at_once.max(1)) {
            let features = self.encode(assistant, pass)?;
            at_hand.extend(pass.iter().map(|picture| picture.view).zip(features));
        }
        self.let_go();
        let seen = pictures.iter().map(|picture| &at_hand[&picture.view]);
        Ok(seen.cloned().collect())
    }

    /// Takes new pictures through the tower in one pass, and keeps what comes out.
    fn encode(
        &mut self,
        assistant: &Assistant,
        pictures: &[Picture],
    ) -> Result<Vec<Tensor>, Error> {
        let squares: Vec<RgbImage> = pictures.iter().map(|p| p.square.clone()).collect();
        let features = assistant.see_squares(&squares)?;
        let rows = features.rows() / squares.len();
        let mut all = Vec::with_capacity(pictures.len());
        for (i, picture) in pictures.iter().enumerate() {
            let own = features.narrow(i * rows, rows)?;
            self.counts.encoded += 1;
            self.bytes += bytes_of(&own);
            self.kept.insert(picture.view, (own.clone(), self.clock));
            all.push(own);
        }
        Ok(all)
    }

    /// Drops what was not used for the longest time until the limit holds.
    fn let_go(&mut self) {
        while self.bytes > self.limit && self.kept.len() > 1 {
            let oldest = self
                .kept
                .iter()
                .min_by_key(|(view, (_, used))| (*used, **view));
            let Some(view) = oldest.map(|(view, _)| *view) else {
                return;
            };
            if let Some((features, _)) = self.kept.remove(&view) {
                self.bytes -= bytes_of(&features);
                self.counts.dropped += 1;
            }
        }
    }
}

fn bytes_of(features: &Tensor) -> usize {
    features.numel() * features.dtype().size()
}

fn read(path: &Path) -> Result<(Content, Vec<u8>), Error> {
    let bytes = read_file(path, &DecodeLimits::default())?;
    Ok((content(&bytes), bytes))
}

fn content(file: &[u8]) -> Content {
    (file.len() as u64, KEY.hash_one(file))
}
