//! Pictures inside the page.

use std::{
    collections::{HashMap, HashSet},
    sync::{Mutex, PoisonError},
};

use base64::{Engine, engine::general_purpose::STANDARD};
use llavar_image::{ImageError, RgbImage, encode_jpeg, encode_png, thumbnail};
use maud::{Markup, html};

/// Quality of embedded JPEGs: small print stays readable.
const QUALITY: u8 = 80;

/// A place for a picture on the page.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Thumbnail {
    /// An embedded picture: its number in [`Pictures`].
    Shown(usize),
    /// There is none to show, and why.
    Missing(String),
    /// The part has no picture.
    None,
}

/// A picture as it stands in the file.
#[derive(Debug, Clone)]
pub struct Prepared {
    width: usize,
    height: usize,
    address: String,
}

/// The pictures of a page. One that several questions are about is embedded once.
#[derive(Debug)]
pub struct Pictures {
    max_side: usize,
    max_bytes: usize,
    bytes: usize,
    left_out: usize,
    embedded: Vec<Prepared>,
    known: HashMap<String, Thumbnail>,
    /// Those whose bytes are on the page.
    placed: Mutex<HashSet<usize>>,
}

impl Pictures {
    /// Pictures shrunk to fit into `max_side` x `max_side` px, of at most `max_bytes` altogether as they
    /// stand in the file.
    pub fn new(max_side: usize, max_bytes: usize) -> Self {
        Self {
            max_side: max_side.max(1),
            max_bytes,
            bytes: 0,
            left_out: 0,
            embedded: Vec::new(),
            known: HashMap::new(),
            placed: Mutex::default(),
        }
    }

    /// The picture called `name`, read with `read` where it is not known yet. One that cannot be read is
    /// a [`Thumbnail::Missing`] with the reason; so is one for which there is no room left.
    pub fn get(
        &mut self,
        name: &str,
        read: impl FnOnce() -> Result<RgbImage, ImageError>,
    ) -> Thumbnail {
        if let Some(known) = self.known.get(name) {
            return known.clone();
        }
        let made = if self.is_full() {
            None
        } else {
            Some(read().and_then(|image| self.prepare(&image)))
        };
        self.keep(name, made)
    }

    /// Whether the limit is reached, so that nothing more need be prepared.
    pub fn is_full(&self) -> bool {
        self.bytes >= self.max_bytes
    }

    /// Whether the picture called `name` has its place.
    pub fn knows(&self, name: &str) -> bool {
        self.known.contains_key(name)
    }

    /// A picture shrunk and encoded, for [`Pictures::place`]: the slow part, for which threads can share
    /// `self`.
    ///
    /// # Errors
    /// When it cannot be encoded.
    pub fn prepare(&self, image: &RgbImage) -> Result<Prepared, ImageError> {
        let small = thumbnail(image, self.max_side, self.max_side)?;
        // Drawings with few colours are smaller, and sharper, without loss.
        let (png, jpeg) = (encode_png(&small)?, encode_jpeg(&small, QUALITY)?);
        let (kind, file) = if png.len() <= jpeg.len() {
            ("png", png)
        } else {
            ("jpeg", jpeg)
        };
        Ok(Prepared {
            width: small.width,
            height: small.height,
            address: format!("data:image/{kind};base64,{}", STANDARD.encode(file)),
        })
    }

    /// Gives a picture that was prepared elsewhere its place; the order of calls is the order of places.
    pub fn place(&mut self, name: &str, made: Result<Prepared, ImageError>) -> Thumbnail {
        match self.known.get(name) {
            Some(known) => known.clone(),
            None => self.keep(name, Some(made)),
        }
    }

    fn keep(&mut self, name: &str, made: Option<Result<Prepared, ImageError>>) -> Thumbnail {
        let room = self.max_bytes.saturating_sub(self.bytes);
        let fits = made.map(|made| made.map(|made| (made.address.len() <= room).then_some(made)));
        let thumbnail = match fits.unwrap_or(Ok(None)) {
            Ok(Some(made)) => {
                self.bytes += made.address.len();
                self.embedded.push(made);
                Thumbnail::Shown(self.embedded.len() - 1)
            }
            Ok(None) => {
                self.left_out += 1;
                Thumbnail::Missing(format!(
                    "left out: the pictures of a page may take {} MiB",
                    self.max_bytes >> 20
                ))
            }
            Err(error) => Thumbnail::Missing(error.to_string()),
        };
        self.known.insert(name.to_owned(), thumbnail.clone());
        thumbnail
    }

    /// Pictures on the page.
    pub fn len(&self) -> usize {
        self.embedded.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.embedded.is_empty()
    }

    /// Pictures for which there was no room.
    pub fn left_out(&self) -> usize {
        self.left_out
    }

    /// The picture's element. The first one that is made of a picture holds its bytes; the page's script
    /// fills in the others, in whichever cards of the page they are.
    pub(crate) fn element(&self, number: usize, name: &str) -> Markup {
        let mut placed = self.placed.lock().unwrap_or_else(PoisonError::into_inner);
        let again = !placed.insert(number);
        let Some(picture) = self.embedded.get(number) else {
            return html! {};
        };
        let (width, height) = (picture.width, picture.height);
        let alt = crate::text::shown(name);
        html! {
            @if again {
                img alt=(alt) width=(width) height=(height) data-of=(format!("picture-{number}"));
            } @else {
                img alt=(alt) width=(width) height=(height) id=(format!("picture-{number}")) src=(picture.address);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_picture_is_embedded_once_and_within_the_limit() {
        let noise: Vec<u8> = (0..64 * 64 * 3u32)
            .map(|i| (i * i * 37 % 251) as u8)
            .collect();
        let image = RgbImage::new(64, 64, noise).unwrap();
        let mut pictures = Pictures::new(32, 5000);
        assert_eq!(pictures.get("a", || Ok(image.clone())), Thumbnail::Shown(0));
        assert_eq!(
            pictures.get("a", || panic!("read twice")),
            Thumbnail::Shown(0)
        );
        assert_eq!(pictures.embedded[0].width, 32);
        let mut more = 0;
        while pictures.left_out() == 0 {
            more += 1;
            assert!(more < 50, "the limit holds");
            let kept = pictures.get(&format!("b{more}"), || Ok(image.clone()));
            assert_eq!(
                matches!(kept, Thumbnail::Missing(_)),
                pictures.left_out() == 1
            );
        }
        assert!(pictures.bytes <= 5000 && pictures.len() == more);
        let absent = || {
            Err(ImageError::NotFound {
                path: "no.png".into(),
            })
        };
        let Thumbnail::Missing(why) = Pictures::new(32, 5000).get("no.png", absent) else {
            panic!("shown");
        };
        assert!(why.contains("no.png"), "{why}");
    }
}
