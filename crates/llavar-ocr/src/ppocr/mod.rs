//! PP-OCR: text detection, recognition line by line, and a look at the angle of lines that read badly.

mod crop;
mod ctc;
mod db;
mod geometry;
pub mod models;
pub mod pull;

use std::path::Path;

use llavar_image::RgbImage;
use llavar_onnx::Network;
use rayon::prelude::*;

use crate::{Engine, Line, OcrError, Page, order::in_reading_order};
use ctc::Alphabet;
use geometry::Point;

pub use ctc::Script;
pub use models::{ModelSet, Role};

/// How pages are read.
#[derive(Debug, Clone, PartialEq)]
pub struct Settings {
    /// The detection network sees pages whose longer side is at most this, px.
    pub longest: usize,
    /// And whose shorter side is at least this, px, where the longer allows it.
    pub shortest: usize,
    /// Lines of a lower score are left out.
    pub least_score: f64,
    /// The writing of the pages.
    pub script: Script,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            longest: 1280,
            shortest: 320,
            least_score: 0.5,
            script: Script::Latin,
        }
    }
}

/// Height of a line as the recognition network sees it, px.
const HEIGHT: usize = 48;
/// Its width is a multiple of this, px.
const WIDTH_STEP: usize = 8;
/// Narrower lines have room behind them: the network knows no shorter ones.
const LEAST_WIDTH: usize = 48;
/// Wider lines are compressed, px.
const MOST_WIDTH: usize = 3200;
/// The angle network sees this width, px.
const ANGLE_WIDTH: usize = 192;
/// Lines of a lower score may stand on their heads.
const DOUBT: f64 = 0.8;
/// How sure the angle network must be of that.
const TURNED: f32 = 0.9;
/// Sides of what the detection network sees are multiples of this, px.
const DETECTION_STEP: usize = 32;

/// PP-OCR on the CPU.
///
/// # Source
/// The published networks and their post-processing: a map of text cores (DB) is cut at 0.3, cores are
/// boxed by their rectangles of least area and grown by 1.6 of area by circumference; lines are cut out,
/// scaled to a height of 48 px and read by CTC. Where others ask the angle network about every line,
/// it is asked here about lines that read badly.
#[derive(Debug)]
pub struct PpOcr {
    detection: Network,
    recognition: Network,
    angle: Option<Network>,
    alphabet: Alphabet,
    settings: Settings,
    fingerprint: String,
}

impl PpOcr {
    /// The engine with a set of models in the user's cache.
    ///
    /// # Errors
    /// When the models have not been fetched, or are damaged.
    pub fn of_user(set: &ModelSet, settings: Settings) -> Result<Self, OcrError> {
        Self::open(set, &models::folder(set)?, settings)
    }

    /// The engine with a set of models in a folder.
    ///
    /// # Errors
    /// When they are not there, or are damaged.
    pub fn open(set: &ModelSet, folder: &Path, settings: Settings) -> Result<Self, OcrError> {
        let network = |role: Role| -> Result<Option<Network>, OcrError> {
            let Some(bytes) = models::read(set, folder, role)? else {
                return Ok(None);
            };
            let network = Network::load(&bytes);
            network.map(Some).map_err(|error| OcrError::BadModel {
                path: models::path(set, folder, role),
                reason: error.to_string(),
            })
        };
        let missing = || OcrError::NoModels {
            set: set.name,
            folder: folder.to_owned(),
        };
        let detection = network(Role::Detection)?.ok_or_else(missing)?;
        let mut recognition = network(Role::Recognition)?.ok_or_else(missing)?;
        let angle = network(Role::Angle)?;
        let dictionary = recognition.metadata("character").unwrap_or_default();
        let classes = recognition.classes().unwrap_or_default();
        let bad = |reason: &str| OcrError::BadModel {
            path: models::path(set, folder, Role::Recognition),
            reason: reason.to_owned(),
        };
        let (keep, alphabet) = Alphabet::of(dictionary, classes, settings.script)
            .ok_or_else(|| bad("its dictionary does not fit its classes"))?;
        recognition
            .keep_classes(&keep)
            .map_err(|error| bad(&error.to_string()))?;
        let fingerprint = format!("{} {settings:?} 1", set.name);
        Ok(Self {
            detection,
            recognition,
            angle,
            alphabet,
            settings,
            fingerprint,
        })
    }

    /// Boxes of lines in px of the picture, in reading order.
    fn detect(&self, image: &RgbImage) -> Result<Vec<[Point; 4]>, String> {
        let [width, height] = detection_size([image.width, image.height], &self.settings);
        let scaled;
        let seen = if [width, height] == [image.width, image.height] {
            image
        } else {
            scaled = llavar_image::resize(image, width, height).map_err(|e| e.to_string())?;
            &scaled
        };
        let mut pixels = Vec::with_capacity(seen.data.len());
        for pixel in seen.data.as_chunks::<3>().0 {
            let [r, g, b] = pixel.map(|x| f32::from(x) * (2.0 / 255.0) - 1.0);
            pixels.extend([b, g, r]);
        }
        let map = self.detection.run(pixels, [height, width], true);
        let map = map.map_err(|error| error.to_string())?;
        if map.data.len() != width * height {
            return Err(format!("detection gave {:?}", map.dims));
        }
        let scale = [
            image.width as f32 / width as f32,
            image.height as f32 / height as f32,
        ];
        let limits = [image.width as f32, image.height as f32];
        let mut quads = Vec::new();
        for rect in db::boxes(&map.data, width, &db::Reading::default()) {
            let quad = rect
                .corners()
                .map(|corner| [0, 1].map(|i| (corner[i] * scale[i]).round().clamp(0.0, limits[i])));
            let [wide, high] = crop::size(&quad);
            if wide > 3.0 && high > 3.0 {
                quads.push(quad);
            }
        }
        in_reading_order(&mut quads, |quad| quad[0].map(f64::from));
        Ok(quads)
    }

    /// Text and score of a line.
    fn recognise(&self, image: &RgbImage, quad: &[Point; 4]) -> Result<(String, f64), String> {
        let quad = crop::upright(*quad);
        let read = self.read_line(image, &quad)?;
        let Some(angle) = self.angle.as_ref().filter(|_| read.1 < DOUBT) else {
            return Ok(read);
        };
        let filled = line_width(&quad).min(ANGLE_WIDTH);
        let pixels = crop::pixels(image, &quad, [HEIGHT, ANGLE_WIDTH], filled);
        let output = angle.run(pixels, [HEIGHT, ANGLE_WIDTH], false);
        match output.map_err(|error| error.to_string())?.data[..] {
            [_, turned] if turned > TURNED => {
                let again = self.read_line(image, &crop::turned(quad))?;
                Ok(if again.1 > read.1 { again } else { read })
            }
            _ => Ok(read),
        }
    }

    fn read_line(&self, image: &RgbImage, quad: &[Point; 4]) -> Result<(String, f64), String> {
        let filled = line_width(quad);
        let width = filled.next_multiple_of(WIDTH_STEP).max(LEAST_WIDTH);
        let pixels = crop::pixels(image, quad, [HEIGHT, width], filled);
        let steps = self.recognition.run(pixels, [HEIGHT, width], false);
        let (text, score) = self
            .alphabet
            .decode(&steps.map_err(|error| error.to_string())?.data);
        Ok((text.trim().to_owned(), score))
    }
}

/// Width of a line at the height that the network sees, px.
fn line_width(quad: &[Point; 4]) -> usize {
    let [wide, high] = crop::size(quad);
    let width = (HEIGHT as f32 * wide / high.max(1.0)).ceil() as usize;
    width.clamp(1, MOST_WIDTH)
}

/// Width and height at which the detection network sees a picture.
fn detection_size(size: [usize; 2], settings: &Settings) -> [usize; 2] {
    let [long, short] = [size[0].max(size[1]), size[0].min(size[1])].map(|x| x.max(1) as f32);
    let enlarged = (settings.shortest as f32 / short).max(1.0);
    let scale = enlarged.min(settings.longest as f32 / long);
    size.map(|side| {
        let steps = (side as f32 * scale / DETECTION_STEP as f32).round();
        (steps as usize).max(1) * DETECTION_STEP
    })
}

impl Engine for PpOcr {
    fn name(&self) -> &'static str {
        "ppocr"
    }

    fn fingerprint(&self) -> Option<String> {
        Some(self.fingerprint.clone())
    }

    fn read(&self, page: &Page) -> Result<Vec<Line>, OcrError> {
        let failed = |reason: String| OcrError::Network {
            path: page.path().to_owned(),
            reason,
        };
        let image = page.image()?;
        let quads = self.detect(image).map_err(failed)?;
        let read: Result<Vec<_>, String> = quads
            .par_iter()
            .with_max_len(1)
            .map(|quad| self.recognise(image, quad))
            .collect();
        let mut lines = Vec::with_capacity(quads.len());
        for (quad, (text, score)) in quads.iter().zip(read.map_err(failed)?) {
            if score >= self.settings.least_score && !text.is_empty() {
                let quad = quad.map(|corner| corner.map(f64::from));
                lines.push(Line { quad, text, score });
            }
        }
        Ok(lines)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pages_are_seen_at_a_useful_size() {
        let settings = Settings {
            longest: 960,
            shortest: 480,
            ..Settings::default()
        };
        for (size, seen) in [
            ([400, 300], [640, 480]),
            ([300, 900], [320, 960]),
            ([700, 900], [704, 896]),
            ([3000, 1500], [960, 480]),
            ([9000, 20], [960, 32]),
            ([1, 1], [480, 480]),
        ] {
            assert_eq!(detection_size(size, &settings), seen, "{size:?}");
        }
    }
}
