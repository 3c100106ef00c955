//! A picture on its way to an engine: its bytes, what they hash to, and its pixels once somebody asks.

use std::{
    path::{Path, PathBuf},
    sync::OnceLock,
};

use llavar_image::{DecodeLimits, RgbImage, decode_bytes};
use sha2::{Digest, Sha256};

use crate::OcrError;

/// SHA-256 of a picture's content, in hexadecimal.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct ContentHash(String);

impl ContentHash {
    /// 64 hexadecimal digits.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    fn of(parts: &[&[u8]]) -> Self {
        let mut hasher = Sha256::new();
        parts.iter().for_each(|part| hasher.update(part));
        Self(crate::hex(&hasher.finalize()))
    }
}

/// A picture that is to be read.
#[derive(Debug)]
pub struct Page {
    path: PathBuf,
    hash: ContentHash,
    bytes: Vec<u8>,
    image: OnceLock<RgbImage>,
}

impl Page {
    /// Reads the file, without decoding it.
    ///
    /// # Errors
    /// When the file cannot be read or is too large.
    pub fn open(path: &Path) -> Result<Self, OcrError> {
        let bytes = llavar_image::read_file(path, &DecodeLimits::default())?;
        Ok(Self::from_bytes(path, bytes))
    }

    /// An encoded picture in memory; `path` is its name, by which a sidecar finds it.
    pub fn from_bytes(path: &Path, bytes: Vec<u8>) -> Self {
        Self {
            path: path.to_owned(),
            hash: ContentHash::of(&[&bytes]),
            bytes,
            image: OnceLock::new(),
        }
    }

    /// Pixels in memory; `path` is their name.
    pub fn from_image(path: &Path, image: RgbImage) -> Self {
        let size = [image.width as u64, image.height as u64].map(u64::to_le_bytes);
        Self {
            path: path.to_owned(),
            hash: ContentHash::of(&[b"rgb", &size[0], &size[1], &image.data]),
            bytes: Vec::new(),
            image: OnceLock::from(image),
        }
    }

    /// The name of the picture.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// What the content hashes to; the name plays no part.
    pub fn hash(&self) -> &ContentHash {
        &self.hash
    }

    /// The pixels, decoded at the first call.
    ///
    /// # Errors
    /// When the file is no readable picture.
    pub fn image(&self) -> Result<&RgbImage, OcrError> {
        if let Some(image) = self.image.get() {
            return Ok(image);
        }
        let image = decode_bytes(&self.bytes, &self.path, &DecodeLimits::default())?;
        Ok(self.image.get_or_init(|| image))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_hash_is_that_of_the_content() {
        let page = Page::from_bytes("a.png".as_ref(), b"abc".to_vec());
        let known = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";
        assert_eq!(page.hash().as_str(), known);
        let image = RgbImage::filled(2, 3, [1, 2, 3]);
        let turned = RgbImage::filled(3, 2, [1, 2, 3]);
        let of = |image: &RgbImage| Page::from_image("x".as_ref(), image.clone()).hash().clone();
        assert_eq!(of(&image), of(&image));
        assert_ne!(of(&image), of(&turned));
    }
}
