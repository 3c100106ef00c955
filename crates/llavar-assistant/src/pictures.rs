//! Features of pictures, kept by the content of their files.

use std::{
    collections::HashMap,
    hash::{DefaultHasher, Hash, Hasher},
    path::{Path, PathBuf},
    sync::Arc,
};

use llavar_image::{DecodeLimits, RgbImage, decode_bytes, read_file};
use llavar_tensor::Tensor;
use rayon::prelude::*;

use crate::{Assistant, Error};

/// Pictures that are decoded side by side.
const DECODED: usize = 16;

/// What a picture file holds: its length and a hash of its bytes.
type Content = (u64, u64);

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
        for some in new.chunks(at_once.max(DECODED)) {
            let squares: Vec<Result<RgbImage, Error>> = some
                .par_iter()
                .map(|(_, path, bytes)| square(assistant, path, bytes))
                .collect();
            let mut good = Vec::with_capacity(squares.len());
            for ((content, ..), square) in some.iter().zip(squares) {
                match square {
                    Ok(square) => good.push((*content, square)),
                    Err(error) => {
                        at_hand.insert(*content, Err(Arc::new(error)));
                    }
                }
            }
            for pass in good.chunks(at_once.max(1)) {
                let squares: Vec<RgbImage> = pass.iter().map(|(_, s)| s.clone()).collect();
                let features = assistant.see_squares(&squares)?;
                let rows = features.rows() / squares.len();
                for (i, (content, _)) in pass.iter().enumerate() {
                    let own = features.narrow(i * rows, rows)?;
                    self.counts.encoded += 1;
                    self.bytes += bytes_of(&own);
                    self.kept.insert(*content, (own.clone(), self.clock));
                    at_hand.insert(*content, Ok(own));
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
    let mut hash = DefaultHasher::new();
    bytes.hash(&mut hash);
    Ok(((bytes.len() as u64, hash.finish()), bytes))
}

fn square(assistant: &Assistant, path: &Path, bytes: &[u8]) -> Result<RgbImage, Error> {
    let image = decode_bytes(bytes, path, &DecodeLimits::default())?;
    assistant.to_square(&image)
}
