//! Resized pictures that stay in memory from one epoch to the next.

use std::{
    collections::HashMap,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError},
};

use llavar_image::RgbImage;

/// Keeps the first pictures that fit. Nothing is ever pushed out: epochs visit every picture once, and
/// any replacement rule would push out each picture shortly before its next use.
#[derive(Debug)]
pub(crate) struct ImageCache {
    limit: usize,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    bytes: usize,
    images: HashMap<PathBuf, Arc<RgbImage>>,
}

impl ImageCache {
    /// A cache of at most `limit` bytes; 0 keeps nothing.
    pub(crate) fn new(limit: usize) -> Self {
        Self {
            limit,
            state: Mutex::default(),
        }
    }

    /// The picture of a path, if kept.
    pub(crate) fn get(&self, path: &Path) -> Option<Arc<RgbImage>> {
        let state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        state.images.get(path).cloned()
    }

    /// Keeps a picture if there is room.
    pub(crate) fn put(&self, path: &Path, image: &Arc<RgbImage>) {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let bytes = state.bytes + image.data.len();
        if bytes <= self.limit && !state.images.contains_key(path) {
            state.bytes = bytes;
            state.images.insert(path.to_owned(), Arc::clone(image));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn holds_no_more_than_its_limit() {
        let cache = ImageCache::new(2 * 300);
        let image = Arc::new(RgbImage::filled(10, 10, [1, 2, 3]));
        for name in ["a", "a", "b", "c"] {
            cache.put(Path::new(name), &image);
        }
        assert!(cache.get(Path::new("a")).is_some() && cache.get(Path::new("b")).is_some());
        assert!(cache.get(Path::new("c")).is_none());
    }
}
