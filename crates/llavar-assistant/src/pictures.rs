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

/// The hash has a key that nobody knows, so that nobody can make a picture that passes for another one's.
static KEY: LazyLock<RandomState> = LazyLock::new(RandomState::new);

/// A picture that is ready for the vision tower.
#[derive(Debug, Clone)]
pub struct Picture {
    content: Content,
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
        let image = decode_bytes(file, name, limits)?;
        Ok(Self {
            content: content(file),
            square: assistant.to_square(&image)?,
        })
    }
}

/// Features of the pictures seen last. The same bytes are encoded once, whatever their path, as long as
/// they are kept.
#[derive(Debug)]
pub struct PictureCache {
    kept: HashMap<Content, (Tensor, u64)>,
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
        self.clock += 1;
        self.counts.asked += paths.len();
        let mut unread: Vec<&Path> = Vec::new();
        for path in paths {
            let known = self.contents.get(*path);
            if known.is_none_or(|content| !self.kept.contains_key(content))
                && !unread.contains(path)
            {
                unread.push(path);
            }
        }
        type Read = Result<(Content, Vec<u8>), Error>;
        let read: Vec<Read> = unread.par_iter().map(|path| read(path)).collect();
        let mut faults: HashMap<&Path, Arc<Error>> = HashMap::new();
        let mut new: Vec<(Content, &Path, Vec<u8>)> = Vec::new();
        for (path, read) in unread.iter().zip(read) {
            match read {
                Ok((content, bytes)) => {
                    self.contents.insert(path.to_path_buf(), content);
                    let known = self.kept.contains_key(&content);
                    if !known && !new.iter().any(|(other, ..)| *other == content) {
                        new.push((content, path, bytes));
                    }
                }
                Err(error) => {
                    faults.insert(path, Arc::new(error));
                }
            }
        }
        // Everything asked for now stays at hand, also what the limit lets go of.
        let mut at_hand: HashMap<Content, Seen> = HashMap::new();
        for path in paths {
            if let Some(content) = self.contents.get(*path)
                && let Some((features, used)) = self.kept.get_mut(content)
            {
                *used = self.clock;
                at_hand.insert(*content, Ok(features.clone()));
            }
        }
        let limits = DecodeLimits::default();
        for some in new.chunks(at_once.max(DECODED)) {
            let read: Vec<Result<Picture, Error>> = some
                .par_iter()
                .map(|(_, path, bytes)| Picture::read(assistant, bytes, path, &limits))
                .collect();
            let mut good = Vec::with_capacity(read.len());
            for ((content, ..), picture) in some.iter().zip(read) {
                match picture {
                    Ok(picture) => good.push(picture),
                    Err(error) => {
                        at_hand.insert(*content, Err(Arc::new(error)));
                    }
                }
            }
            for pass in good.chunks(at_once.max(1)) {
                for (picture, own) in pass.iter().zip(self.encode(assistant, pass)?) {
                    at_hand.insert(picture.content, Ok(own));
                }
            }
        }
        self.let_go();
        let seen: Vec<Seen> = paths
            .iter()
            .map(|path| match self.contents.get(*path) {
                Some(content) if !faults.contains_key(path) => at_hand[content].clone(),
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
        let mut at_hand: HashMap<Content, Tensor> = HashMap::new();
        let mut new: Vec<Picture> = Vec::new();
        for picture in pictures {
            if let Some((features, used)) = self.kept.get_mut(&picture.content) {
                *used = self.clock;
                at_hand.insert(picture.content, features.clone());
            } else if !new.iter().any(|other| other.content == picture.content) {
                new.push(picture.clone());
            }
        }
        for pass in new.chunks(at_once.max(1)) {
            let features = self.encode(assistant, pass)?;
            at_hand.extend(pass.iter().map(|picture| picture.content).zip(features));
        }
        self.let_go();
        let seen = pictures.iter().map(|picture| &at_hand[&picture.content]);
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
            self.kept.insert(picture.content, (own.clone(), self.clock));
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
                .min_by_key(|(content, (_, used))| (*used, **content));
            let Some(content) = oldest.map(|(content, _)| *content) else {
                return;
            };
            if let Some((features, _)) = self.kept.remove(&content) {
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
