//! From a picture to the input of the vision tower.

use std::fmt;
use std::str::FromStr;

use crate::resize::{Canvas, Window, resample};
use crate::{ImageError, Placement, RgbImage};

/// Mean of R, G, B that the CLIP towers were trained with, of values 0 to 1.
pub const CLIP_MEAN: [f32; 3] = [0.481_454_66, 0.457_827_5, 0.408_210_73];
/// Standard deviation of R, G, B that the CLIP towers were trained with.
#[allow(clippy::excessive_precision)] // The digits as published.
pub const CLIP_STD: [f32; 3] = [0.268_629_54, 0.261_302_58, 0.275_777_11];

/// How a picture that is not square becomes square (`image_aspect_ratio`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Aspect {
    /// `pad`: centred on a square of the mean colour; nothing is lost. Fine-tuning and inference.
    Pad,
    /// `fit`: the empty border is cut off and the rest stretched at most [`STRETCH`](crate::STRETCH) times along its
    /// shorter side, then padded as `pad` does: small print gets all the pixels that there are. Small pictures are
    /// enlarged at most [`ENLARGE`](crate::ENLARGE) times. Not of the reference.
    Fit,
    /// `square`: the shortest edge becomes the size and the centre is cut out; what lies at the
    /// ends of the long edge is lost. The reference's first stage.
    Square,
}

impl fmt::Display for Aspect {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Pad => "pad",
            Self::Fit => "fit",
            Self::Square => "square",
        })
    }
}

impl FromStr for Aspect {
    type Err = ImageError;

    fn from_str(word: &str) -> Result<Self, ImageError> {
        match word {
            "pad" => Ok(Self::Pad),
            "fit" => Ok(Self::Fit),
            "square" => Ok(Self::Square),
            _ => Err(ImageError::BadAspect {
                got: word.to_owned(),
            }),
        }
    }
}

/// Pad, fit or square, resize (bicubic, shortest edge), centre crop, rescale by 1/255, normalise.
///
/// # Source
///
/// `expand2square` of LLaVA and `CLIPImageProcessor` of transformers, on PIL; the 8-bit pixels are
/// PIL's, the floats are those of numpy (rescale in f64, normalise in f32).
#[derive(Debug, Clone, PartialEq)]
pub struct ImageProcessor {
    /// Side S of the square output, px.
    pub size: usize,
    /// How a picture becomes square.
    pub aspect: Aspect,
    /// Mean of R, G, B, of values 0 to 1. `Pad` and `Fit` fill with it, cut to whole levels.
    pub mean: [f32; 3],
    /// Standard deviation of R, G, B.
    pub std: [f32; 3],
}

impl ImageProcessor {
    /// A processor of side `size` px with CLIP's mean and deviation.
    pub fn new(size: usize, aspect: Aspect) -> Self {
        Self {
            size,
            aspect,
            mean: CLIP_MEAN,
            std: CLIP_STD,
        }
    }

    /// Values of one output: S * S * 3.
    pub fn output_len(&self) -> usize {
        self.size * self.size * 3
    }

    /// The S x S picture before rescaling and normalisation.
    ///
    /// # Errors
    ///
    /// [`ImageError::BadSize`] for a processor of side 0 and the errors of [`RgbImage::check`].
    pub fn to_square(&self, image: &RgbImage) -> Result<RgbImage, ImageError> {
        image.check()?;
        let size = self.size;
        if size
            .checked_mul(size)
            .and_then(|n| n.checked_mul(12))
            .is_none_or(|n| n == 0)
        {
            return Err(ImageError::BadSize {
                width: size,
                height: size,
            });
        }
        let (width, height) = (image.width, image.height);
        let data = match self.aspect {
            Aspect::Pad => {
                let side = width.max(height);
                let canvas = Canvas {
                    image,
                    width: side,
                    height: side,
                    left: (side - width) / 2,
                    top: (side - height) / 2,
                    colour: self.padding(),
                };
                let window = Window {
                    left: 0,
                    top: 0,
                    width: size,
                    height: size,
                };
                resample(&canvas, size, size, &window)
            }
            Aspect::Fit => return Ok(self.fitted(image)),
            Aspect::Square => {
                let short = width.min(height);
                let scaled = |n: usize| (size as f64 * n as f64 / short as f64) as usize;
                let (to_width, to_height) = if width <= height {
                    (size, scaled(height).max(size))
                } else {
                    (scaled(width).max(size), size)
                };
                let (left, top) = ((to_width - size) / 2, (to_height - size) / 2);
                let window = Window {
                    left,
                    top,
                    width: size,
                    height: size,
                };
                resample(&Canvas::of(image), to_width, to_height, &window)
            }
        };
        Ok(RgbImage {
            width: size,
            height: size,
            data,
        })
    }

    /// The colour around a picture that does not fill the square.
    fn padding(&self) -> [u8; 3] {
        self.mean.map(|m| (f64::from(m) * 255.0) as u8)
    }

    /// The picture where [`Placement::fit`] puts it.
    fn fitted(&self, image: &RgbImage) -> RgbImage {
        let Placement { source, target, .. } = Placement::fit(image, self.size);
        let inside = image.crop(source);
        let window = Window {
            left: 0,
            top: 0,
            width: target.width,
            height: target.height,
        };
        let pixels = resample(&Canvas::of(&inside), target.width, target.height, &window);
        let mut square = RgbImage::filled(self.size, self.size, self.padding());
        let row = target.width * 3;
        for (y, from) in pixels.chunks_exact(row).enumerate() {
            let at = ((target.top + y) * self.size + target.left) * 3;
            square.data[at..at + row].copy_from_slice(from);
        }
        square
    }

    /// The normalised value of every level of R, G and B: what [`ImageProcessor::normalise_into`] looks up.
    pub fn levels(&self) -> [[f32; 256]; 3] {
        std::array::from_fn(|channel| {
            std::array::from_fn(|level| {
                let rescaled = (level as f64 * (1.0 / 255.0)) as f32;
                (rescaled - self.mean[channel]) / self.std[channel]
            })
        })
    }

    /// Rescales and normalises RGB bytes into `out`, value by value.
    ///
    /// # Shapes
    ///
    /// `rgb` and `out` both `[.., 3]`, of equal length.
    ///
    /// # Errors
    ///
    /// [`ImageError::BufferLength`] where the lengths differ.
    pub fn normalise_into(&self, rgb: &RgbImage, out: &mut [f32]) -> Result<(), ImageError> {
        if out.len() != rgb.data.len() {
            let (width, height) = (rgb.width, rgb.height);
            let (got, expected) = (out.len(), rgb.data.len());
            return Err(ImageError::BufferLength {
                got,
                expected,
                width,
                height,
            });
        }
        let [red, green, blue] = &self.levels();
        for (to, from) in out.chunks_exact_mut(3).zip(rgb.data.chunks_exact(3)) {
            to[0] = red[usize::from(from[0])];
            to[1] = green[usize::from(from[1])];
            to[2] = blue[usize::from(from[2])];
        }
        Ok(())
    }

    /// Writes the normalised picture into `out`, `[S, S, 3]` (channels last).
    ///
    /// # Errors
    ///
    /// [`ImageError::BufferLength`] where `out` has not [`ImageProcessor::output_len`] values, and
    /// those of [`ImageProcessor::to_square`].
    pub fn process_into(&self, image: &RgbImage, out: &mut [f32]) -> Result<(), ImageError> {
        self.normalise_into(&self.to_square(image)?, out)
    }

    /// The normalised picture, `[S, S, 3]` (channels last).
    ///
    /// # Errors
    ///
    /// Those of [`ImageProcessor::to_square`].
    pub fn process(&self, image: &RgbImage) -> Result<Vec<f32>, ImageError> {
        let square = self.to_square(image)?;
        let mut out = vec![0.0; square.data.len()];
        self.normalise_into(&square, &mut out)?;
        Ok(out)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn padding_has_the_mean_colour() {
        let line = RgbImage::filled(3000, 1, [255, 0, 0]);
        let square = ImageProcessor::new(64, Aspect::Pad)
            .to_square(&line)
            .unwrap();
        assert_eq!(square.pixel(0, 0), Some([122, 116, 104]));
        assert_eq!(square.pixel(63, 63), Some([122, 116, 104]));
    }

    #[test]
    fn extreme_shapes_need_little_memory() {
        // Padded, this picture would take 12.9 GB; enlarged to its shortest edge, 464 GB.
        for (width, height) in [(65_535, 1), (1, 65_535)] {
            let line = RgbImage::filled(width, height, [9, 9, 9]);
            for aspect in [Aspect::Pad, Aspect::Fit, Aspect::Square] {
                let square = ImageProcessor::new(1536, aspect).to_square(&line).unwrap();
                assert_eq!(square.data.len(), 1536 * 1536 * 3);
            }
        }
    }

    #[test]
    fn wrong_buffers_and_sizes_are_errors() {
        let image = RgbImage::filled(4, 4, [1, 2, 3]);
        let processor = ImageProcessor::new(8, Aspect::Pad);
        assert!(matches!(
            processor.process_into(&image, &mut [0.0; 5]),
            Err(ImageError::BufferLength {
                got: 5,
                expected: 192,
                ..
            })
        ));
        let none = ImageProcessor::new(0, Aspect::Square);
        assert!(matches!(
            none.process(&image),
            Err(ImageError::BadSize { .. })
        ));
        let broken = RgbImage {
            width: 4,
            height: 5,
            data: vec![0; 3],
        };
        assert!(matches!(
            processor.process(&broken),
            Err(ImageError::BufferLength { .. })
        ));
        for aspect in [Aspect::Pad, Aspect::Fit, Aspect::Square] {
            assert_eq!(aspect.to_string().parse::<Aspect>().unwrap(), aspect);
        }
        assert!("Pad".parse::<Aspect>().is_err());
    }
}
