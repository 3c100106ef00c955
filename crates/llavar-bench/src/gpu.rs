//! The work of one model shape on one GPU, with random weights.

mod docvqa;
mod generate;
mod packing;
mod select;
mod train;
mod update;
mod words;

use std::{
    sync::Arc,
    time::{Instant, SystemTime},
};

use llavar_model::{
    LlavaModel, ModelError,
    config::{ModelConfig, Preset},
};
use llavar_tensor::{
    DType, Device, Tape, Tensor,
    cuda::{Cuda, Share},
    optim::Precision,
};

use crate::{Machine, Report, Row, flops};

/// The rate that model FLOP utilisation is a share of: dense bf16 of an H100 or H200 by its data sheet.
pub(crate) const DATA_SHEET_TFLOPS: f64 = 989.0;

/// What cannot be measured.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum BenchError {
    /// The engine.
    #[error(transparent)]
    Tensor(#[from] llavar_tensor::Error),
    /// The model.
    #[error(transparent)]
    Model(#[from] ModelError),
    /// Scoring.
    #[error(transparent)]
    Select(#[from] llavar_select::SelectError),
    /// A loss that is no number: the figure would mean nothing.
    #[error("a loss is not a finite number")]
    NotFinite,
    /// The data code.
    #[error(transparent)]
    Data(#[from] llavar_data::Error),
    /// A shape without a vision tower.
    #[error("the shape {0} has no vision tower")]
    NoVision(String),
}

type Result<T> = std::result::Result<T, BenchError>;

/// A group of rows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Work {
    /// Vision tower forward.
    Vision,
    /// Prefill and decoding.
    Generate,
    /// All six scores of duos about pictures.
    Select,
    /// Questions about documents, as an evaluation asks them.
    DocVqa,
    /// Training steps with bf16 states.
    Train,
    /// Training steps with f32 master weights and moments.
    Master,
    /// Samples of real lengths, packed and padded, with bf16 states.
    Packing,
}

/// What to measure.
#[derive(Debug, Clone)]
pub struct Options {
    /// The model's shape.
    pub preset: Preset,
    /// Which rows.
    pub work: Vec<Work>,
    /// Samples of a training step.
    pub batch: usize,
    /// Text tokens of a training sample; its picture comes on top.
    pub text: usize,
    /// Training steps that are timed.
    pub steps: usize,
    /// Tell where the time of the main rows goes, kernel by kernel.
    pub profile: bool,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            preset: Preset::Phi35Mini,
            work: vec![Work::Vision, Work::Generate, Work::Train],
            batch: 8,
            text: 224,
            steps: 10,
            profile: false,
        }
    }
}

/// Measures; `progress` is told what comes next.
///
/// # Errors
/// Those of the device and of the model; what was measured before is passed to `progress` as it came.
pub fn run(device: &Device, options: &Options, mut progress: impl FnMut(&str)) -> Result<Report> {
    let Device::Cuda(cuda) = device else {
        return Err(llavar_tensor::Error::NoDevice {
            reason: "this benchmark needs one".into(),
        }
        .into());
    };
    progress("ceilings of the card");
    let machine = machine(cuda)?;
    let config = options.preset.config(None).map_err(ModelError::from)?;
    let mut bench = Bench {
        device,
        cuda,
        matmul: machine.matmul_tflops * 1e9,
        copy: machine.copy_tbs * 1e9,
        config,
        options,
        rows: Vec::new(),
    };
    // One model with bf16 states serves all rows but the last kind.
    let mut pure = None;
    for work in &options.work {
        let start = Instant::now();
        let first = bench.rows.len();
        let precision = match work {
            Work::Master => Precision::MixedBf16,
            _ => Precision::PureBf16,
        };
        let model = match pure.take() {
            Some(model) if precision == Precision::PureBf16 => model,
            old => {
                drop(old);
                progress(&format!("random weights, {precision}"));
                bench.model(precision)?
            }
        };
        match work {
            Work::Vision => bench.vision(&model, &mut progress)?,
            Work::Generate => bench.generate(&model, &mut progress)?,
            Work::Select => bench.select(&model, &mut progress)?,
            Work::DocVqa => bench.doc_vqa(&model, &mut progress)?,
            Work::Packing => bench.packing(&model, precision, &mut progress)?,
            Work::Train | Work::Master => bench.train(&model, precision, &mut progress)?,
        }
        if precision == Precision::PureBf16 {
            pure = Some(model);
        }
        for row in &bench.rows[first..] {
            progress(&format!("{}: {:.1} {}", row.work, row.rate, row.unit));
        }
        progress(&format!("{:.0} s", start.elapsed().as_secs_f64()));
    }
    let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
    Ok(Report {
        machine,
        unix_time: since.map_or(0, |t| t.as_secs()),
        shape: options.preset.name().to_owned(),
        rows: bench.rows,
    })
}

fn machine(cuda: &Arc<Cuda>) -> Result<Machine> {
    let info = cuda.info();
    Ok(Machine {
        gpu: info.name.clone(),
        memory_gib: info.memory as f64 / f64::from(1 << 30),
        driver: driver_version(),
        driver_cuda: format!("{}.{}", info.driver / 1000, info.driver % 1000 / 10),
        cublaslt: info.cublaslt,
        cudnn: info.cudnn,
        nvrtc: format!("{}.{}", info.nvrtc.0, info.nvrtc.1),
        matmul_tflops: cuda.matmul_rate(8192, 8192, 8192)?,
        copy_tbs: cuda.copy_rate(4 << 30)?,
    })
}

struct Bench<'a> {
    device: &'a Device,
    cuda: &'a Arc<Cuda>,
    /// Operations a millisecond.
    matmul: f64,
    /// Bytes a millisecond.
    copy: f64,
    config: ModelConfig,
    options: &'a Options,
    rows: Vec<Row>,
}

impl Bench<'_> {
    fn model(&self, precision: Precision) -> Result<LlavaModel> {
        let model = LlavaModel::init(self.config.clone(), 0)?;
        model.to_device(self.device, precision)?;
        Ok(model)
    }

    fn words(&self) -> words::Words {
        words::Words::of(&self.config)
    }

    fn peak_gib(&self) -> f64 {
        self.cuda.memory().reserved_peak as f64 / f64::from(1 << 30)
    }

    /// Floor of some operations: time and words.
    fn operations(&self, flops: f64) -> (f64, String) {
        (flops / self.matmul, format!("{:.1} TFLOP", flops / 1e12))
    }

    /// Percent of the data sheet's rate that `flops` in `ms` milliseconds are.
    fn mfu(&self, flops: f64, ms: f64) -> f64 {
        100.0 * flops / ms / 1e9 / DATA_SHEET_TFLOPS
    }

    /// Tells where the time of a profile went: all above a thousandth of it.
    fn show(&self, shares: &[Share], progress: &mut impl FnMut(&str)) {
        let total: f64 = shares.iter().map(|s| s.ms).sum();
        for share in shares.iter().take_while(|s| 1000.0 * s.ms >= total) {
            progress(&format!(
                "{:>9.3} ms {:>5.1} % {:>5} x {}",
                share.ms,
                100.0 * share.ms / total,
                share.count,
                share.name
            ));
        }
        progress(&format!("{total:>9.3} ms together"));
    }

    /// Random pictures `[batch, S, S, 3]`.
    fn pixels(&self, batch: usize) -> Result<Tensor> {
        let Some(vision) = &self.config.vision else {
            let name = self.options.preset.name().to_owned();
            return Err(BenchError::NoVision(name));
        };
        let size = vision.input_image_size;
        let shape = [batch, size, size, 3];
        let pixels = noise(shape.iter().product());
        Ok(Tensor::from_vec(pixels, &shape)?)
    }

    fn vision(&mut self, model: &LlavaModel, progress: &mut impl FnMut(&str)) -> Result<()> {
        for batch in [1, 8, 32] {
            progress(&format!("vision tower, {batch} pictures"));
            // As the loader gives them (`Tensor::from_rgb`), and as PyTorch's baseline has them.
            let pixels = self.pixels(batch)?.cast(DType::BF16)?;
            let pixels = pixels.to_device(self.device)?;
            self.cuda.reset_peak();
            let ms = self.cuda.time(10, || -> Result<()> {
                model.encode_images(&Tape::inference(), &pixels, false)?;
                Ok(())
            })?;
            if self.options.profile && batch == 8 {
                let shares = self.cuda.profile(|| -> Result<()> {
                    model.encode_images(&Tape::inference(), &pixels, false)?;
                    Ok(())
                })?;
                self.show(&shares, progress);
            }
            let flops = batch as f64 * flops::vision(&self.config);
            let (floor_ms, floor) = self.operations(flops);
            self.rows.push(Row {
                work: format!("vision tower + projector forward, batch {batch}"),
                rate: batch as f64 / ms * 1e3,
                unit: "img/s".into(),
                ms,
                floor_ms,
                floor,
                mfu_percent: Some(self.mfu(flops, ms)),
                peak_gib: self.peak_gib(),
                note: String::new(),
            });
        }
        Ok(())
    }
}

/// Values in [-1, 1) from a small generator.
fn noise(len: usize) -> Vec<f32> {
    let mut state = 1u32;
    (0..len)
        .map(|_| {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            f32::from((state >> 16) as i16) / 32768.0
        })
        .collect()
}

/// Version of the NVIDIA kernel module: the first number with a dot in its line.
fn driver_version() -> Option<String> {
    let text = std::fs::read_to_string("/proc/driver/nvidia/version").ok()?;
    let words = text.lines().next()?.split_whitespace();
    words
        .filter(|word| word.contains('.') && word.starts_with(|c: char| c.is_ascii_digit()))
        .map(str::to_owned)
        .next()
}
