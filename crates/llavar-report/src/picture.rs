//! Pictures inside the page.

use std::collections::HashMap;

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

#[derive(Debug, Clone)]
struct Embedded {
    width: usize,
    height: usize,
    address: String,
}

/// The pictures of a page. One that several questions are about is embedded once.
#[derive(Debug, Clone)]
pub struct Pictures {
    max_side: usize,
    max_bytes: usize,
    bytes: usize,
    left_out: usize,
    embedded: Vec<Embedded>,
    known: HashMap<String, Thumbnail>,
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
        let made = if self.bytes >= self.max_bytes {
            Ok(None)
        } else {
            read().and_then(|image| self.embed(&image))
        };
        let thumbnail = match made {
            Ok(Some(embedded)) => {
                self.bytes += embedded.address.len();
                self.embedded.push(embedded);
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

    /// The picture's element. Only the first place of a picture (`again` false) holds its bytes; the
    /// page's script fills in the others.
    pub(crate) fn element(&self, number: usize, name: &str, again: bool) -> Markup {
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

    /// The picture for the page; none where it would not fit.
    fn embed(&self, image: &RgbImage) -> Result<Option<Embedded>, ImageError> {
        let small = thumbnail(image, self.max_side, self.max_side)?;
        // Drawings with few colours are smaller, and sharper, without loss.
        let (png, jpeg) = (encode_png(&small)?, encode_jpeg(&small, QUALITY)?);
        let (kind, file) = if png.len() <= jpeg.len() {
            ("png", png)
        } else {
            ("jpeg", jpeg)
        };
        let address = format!("data:image/{kind};base64,{}", STANDARD.encode(file));
        let fits = self.bytes + address.len() <= self.max_bytes;
        Ok(fits.then_some(Embedded {
            width: small.width,
            height: small.height,
            address,
        }))
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
