//! Pictures in: decoding, pad / fit / square processing at PIL's pixels, and small encoders.
//!
//! This crate calls no other crate of the workspace.
//!
//! | Start here | For |
//! |---|---|
//! | [`decode_file`], [`decode_bytes`] | any JPEG, PNG, WebP, GIF, BMP or TIFF as RGB, as `Image.open(f).convert("RGB")` gives it |
//! | [`probe_file`], [`probe_bytes`] | format and size from the header alone |
//! | [`read_file`] | the bytes of a picture file, within limits |
//! | [`DecodeLimits`] | what is refused before a pixel is allocated |
//! | [`ImageProcessor`] | pad, fit or square, resize, crop, normalise: the input of the vision tower |
//! | [`Placement`] | where a fitted picture lies in that input |
//! | [`resize`], [`thumbnail`] | PIL's bicubic resize |
//! | [`encode_png`], [`encode_jpeg`] | pictures out, for generated documents and reports |
//! | [`as_sent`] | a picture file as servers read it |
//!
//! The kind of a file is found from its content, never from its name. A broken file is an
//! [`ImageError`] that names it; a panic inside a decoder is caught and reported the same way.
//!
//! # Example
//!
//! ```
//! use llavar_image::{Aspect, DecodeLimits, ImageProcessor, RgbImage, decode_bytes, encode_png};
//!
//! let red = RgbImage::filled(40, 30, [200, 0, 0]);
//! let file = encode_png(&red)?;
//! let image = decode_bytes(&file, "red.png".as_ref(), &DecodeLimits::default())?;
//! assert_eq!(image, red);
//!
//! let pixels = ImageProcessor::new(384, Aspect::Pad).process(&image)?;
//! assert_eq!(pixels.len(), 384 * 384 * 3);
//! # Ok::<(), llavar_image::ImageError>(())
//! ```

#![forbid(unsafe_code)]

mod codec;
mod decode;
mod encode;
mod error;
mod exif;
mod fit;
mod format;
mod halves;
mod limits;
mod probe;
mod processor;
mod resize;
mod rgb;
mod source;
mod wire;

pub use decode::{decode_bytes, decode_file};
pub use encode::{encode_jpeg, encode_png};
pub use error::ImageError;
pub use exif::exif_orientation;
pub use fit::{ENLARGE, Placement, Rect, STRETCH};
pub use format::ImageFormat;
pub use limits::DecodeLimits;
pub use probe::{ImageInfo, probe_bytes, probe_file};
pub use processor::{Aspect, CLIP_MEAN, CLIP_STD, ImageProcessor};
pub use resize::{resize, thumbnail};
pub use rgb::RgbImage;
pub use source::read as read_file;
pub use wire::as_sent;
