//! One folder of reference values: files, batch, distances.

use std::io::Write as _;
use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
};

use llavar_image::{Aspect, DecodeLimits, ImageProcessor, decode_file};
use llavar_model::{
    LlavaModel,
    config::ImageAspectRatio,
    expand_image_tokens,
    weights::{Dtype, WeightFiles},
};
use llavar_tensor::{Segments, Tensor};

/// The shared folder; `None`, with a loud line, where it is absent.
pub(crate) fn shared(test: &str) -> Option<PathBuf> {
    let default = concat!(env!("CARGO_MANIFEST_DIR"), "/../../../shared");
    let root = std::env::var_os("LLAVAR_SHARED").map_or(PathBuf::from(default), PathBuf::from);
    if !root.join("parity").is_dir() {
        let _ = writeln!(std::io::stderr(), "SKIPPED {test}: LLAVAR_SHARED not found");
        return None;
    }
    Some(root)
}

/// Folders below `parity` that hold `file`.
pub(crate) fn folders_with(root: &Path, file: &str) -> Vec<PathBuf> {
    let mut folders: Vec<PathBuf> = std::fs::read_dir(root.join("parity"))
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|folder| folder.join(file).is_file())
        .collect();
    folders.sort();
    folders
}

/// Relative L2 distance; absolute where the reference is zero.
pub(crate) fn distance(got: &[f32], want: &[f32]) -> f64 {
    assert_eq!(got.len(), want.len(), "lengths");
    let square = |x: f64| x * x;
    let norm: f64 = want
        .iter()
        .map(|x| square(f64::from(*x)))
        .sum::<f64>()
        .sqrt();
    let diff: f64 = got
        .iter()
        .zip(want)
        .map(|(a, b)| square(f64::from(*a) - f64::from(*b)))
        .sum::<f64>()
        .sqrt();
    if norm == 0.0 { diff } else { diff / norm }
}

/// The largest deviation of each kind, for the report, and a check against its tolerance.
#[derive(Debug, Default)]
pub(crate) struct Report(BTreeMap<&'static str, (f64, String)>);

impl Report {
    pub(crate) fn check(&mut self, kind: &'static str, what: &str, deviation: f64, tolerance: f64) {
        let entry = self.0.entry(kind).or_default();
        if deviation >= entry.0 {
            *entry = (deviation, what.to_owned());
        }
        assert!(
            deviation <= tolerance,
            "{kind} {what}: deviation {deviation:e} above {tolerance:e} (NaN counts)"
        );
    }

    pub(crate) fn print(&self, folder: &Path) {
        println!("{}", folder.file_name().unwrap().to_string_lossy());
        for (kind, (deviation, what)) in &self.0 {
            println!("  {kind:<14} {deviation:.2e}  ({what})");
        }
    }
}

/// Reference values by name.
pub(crate) struct Reference(WeightFiles);

impl Reference {
    pub(crate) fn open(path: &Path) -> Self {
        Self(WeightFiles::open(path).unwrap())
    }

    pub(crate) fn names(&self) -> Vec<String> {
        self.0.entries().map(|e| e.name.clone()).collect()
    }

    pub(crate) fn floats(&self, name: &str) -> Vec<f32> {
        self.0.read_f32(name).unwrap()
    }

    pub(crate) fn shape(&self, name: &str) -> Vec<usize> {
        self.0.get(name).unwrap().shape.clone()
    }

    /// An `[rows, columns]` table of integers.
    pub(crate) fn table(&self, name: &str) -> Vec<Vec<i32>> {
        let entry = self.0.get(name).unwrap();
        assert_eq!(entry.dtype, Dtype::I64, "{name}");
        let columns = *entry.shape.last().unwrap();
        let bytes = self.0.bytes(name).unwrap();
        let ids: Vec<i32> = bytes
            .chunks_exact(8)
            .map(|b| i64::from_le_bytes(b.try_into().unwrap()) as i32)
            .collect();
        ids.chunks(columns).map(<[i32]>::to_vec).collect()
    }
}

/// The batch of one folder: ids expanded, without padding.
pub(crate) struct Batch {
    pub(crate) ids: Vec<Vec<i32>>,
    pub(crate) labels: Vec<Vec<i32>>,
    /// Length of the reference's rows, padding included.
    pub(crate) padded: usize,
    /// The pictures that the text shows, in order.
    pub(crate) pixels: Option<Tensor>,
    /// Whether the text shows the picture and its mirror, in this order.
    pub(crate) shows_both: bool,
    /// The picture and its mirror.
    pub(crate) both_pixels: Tensor,
}

impl Batch {
    pub(crate) fn read(folder: &Path, model: &LlavaModel, io: &Reference) -> Self {
        let n = model.tokens_per_image().unwrap();
        let masks = io.table("attention_mask");
        let keep = |name: &str| -> Vec<Vec<i32>> {
            let rows = io.table(name).into_iter().zip(&masks);
            rows.map(|(row, mask)| {
                let kept = row.into_iter().zip(mask).filter(|(_, m)| **m != 0);
                kept.map(|(x, _)| x).collect()
            })
            .collect()
        };
        let raw = keep("input_ids");
        let labels = keep("labels")
            .iter()
            .zip(&raw)
            .map(|(labels, ids)| {
                let repeated = |(label, id): (&i32, &i32)| {
                    if *id < 0 { vec![-100; n] } else { vec![*label] }
                };
                labels.iter().zip(ids).flat_map(repeated).collect()
            })
            .collect();
        let both_pixels = pixels(folder, model);
        let shown: Vec<usize> = (0..raw.len())
            .flat_map(|row| raw[row].iter().filter(|id| **id < 0).map(move |_| row))
            .collect();
        let pixels = match shown.as_slice() {
            [] => None,
            [0, 1] => Some(both_pixels.clone()),
            rows => {
                let data: Vec<f32> = rows
                    .iter()
                    .flat_map(|row| both_pixels.narrow(*row, 1).unwrap().to_f32_vec().unwrap())
                    .collect();
                let mut shape = both_pixels.shape().to_vec();
                shape[0] = rows.len();
                Some(Tensor::from_vec(data, &shape).unwrap())
            }
        };
        Self {
            ids: raw.iter().map(|ids| expand_image_tokens(ids, n)).collect(),
            labels,
            padded: io.shape("logits_row_sum")[1],
            shows_both: shown == [0, 1],
            pixels,
            both_pixels,
        }
    }

    /// Ids, labels and segments: rows one behind the other, or padded on the right as the reference's.
    pub(crate) fn layout(&self, padded: bool) -> (Vec<i32>, Vec<i32>, Segments) {
        let fill = |rows: &[Vec<i32>], pad: i32| -> Vec<i32> {
            let lengths = |row: &Vec<i32>| if padded { self.padded } else { row.len() };
            rows.iter()
                .flat_map(|row| {
                    let padding = std::iter::repeat_n(pad, lengths(row) - row.len());
                    row.iter().copied().chain(padding)
                })
                .collect()
        };
        let lengths = self
            .ids
            .iter()
            .map(|row| if padded { self.padded } else { row.len() });
        (
            fill(&self.ids, 0),
            fill(&self.labels, -100),
            Segments::from_lengths(lengths),
        )
    }
}

/// The picture of a folder and its left-right mirror, `[2, S, S, 3]`.
fn pixels(folder: &Path, model: &LlavaModel) -> Tensor {
    let image = decode_file(&folder.join("image.png"), &DecodeLimits::default()).unwrap();
    let aspect = match model.config.image_aspect_ratio {
        ImageAspectRatio::Pad => Aspect::Pad,
        ImageAspectRatio::Fit => Aspect::Fit,
        ImageAspectRatio::Square => Aspect::Square,
    };
    let size = model.image_size().unwrap();
    let processor = ImageProcessor::new(size, aspect);
    // Mirrored after processing, as the reference's batch was.
    let one = processor.process(&image).unwrap();
    let mirrored = one.chunks_exact(size * 3).flat_map(|row| {
        row.chunks_exact(3)
            .rev()
            .flatten()
            .copied()
            .collect::<Vec<f32>>()
    });
    let both: Vec<f32> = one.iter().copied().chain(mirrored).collect();
    Tensor::from_vec(both, &[2, size, size, 3]).unwrap()
}
