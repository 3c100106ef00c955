//! Model FLOP utilisation: the operations that a model needs once, in the time of a step, beside the rate that its
//! device's data sheet gives.

use llavar_model::{LlavaModel, flops};
use llavar_tensor::{Device, Param, Segments, optim::Precision};

use crate::recipe::LogSection;

/// Dense bf16 rates by data sheet, TFLOP/s, by a part of the card's name; the first that fits counts.
const BF16: [(&str, f64); 14] = [
    ("H100 PCIe", 756.0),
    ("H100 NVL", 835.0),
    ("H200 NVL", 835.0),
    ("GH200", 989.0),
    ("H200", 989.0),
    ("H100", 989.0),
    ("B200", 2250.0),
    ("A100", 312.0),
    ("A40", 149.7),
    ("A10", 125.0),
    ("L40S", 362.0),
    ("L4", 121.0),
    ("RTX 4090", 165.2),
    ("RTX 3090", 71.0),
];

/// How the operations of a step are counted and what they are a share of.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Utilisation {
    /// Operations a second of the device.
    peak: f64,
    /// Passes over the language model: one forward, one for gradients of what goes in, one for those of weights.
    language: f64,
    /// The same over the towers.
    vision: f64,
}

impl Utilisation {
    /// For a model that knows what trains. None where the device's rate is not known: give `log.peak_tflops`.
    pub(crate) fn new(
        model: &LlavaModel,
        device: &Device,
        precision: Precision,
        log: &LogSection,
    ) -> Option<Self> {
        let known = || {
            let name = &device.as_cuda()?.info().name;
            let bf16 = precision != Precision::F32;
            let mut rates = BF16.iter().filter(|(part, _)| bf16 && name.contains(part));
            rates.next().map(|(_, tflops)| *tflops)
        };
        let peak = 1e12 * log.peak_tflops.or_else(known)?;
        let params = model.params();
        let trains = |of: fn(&str) -> bool| {
            params
                .iter()
                .any(|p: &Param| of(p.name()) && p.requires_grad())
        };
        let in_towers = |name: &str| name.contains("vision_tower");
        let before = |name: &str| name.contains("vision_tower") || name.contains("mm_projector");
        let in_language =
            |name: &str| !name.contains("vision_tower") && !name.contains("mm_projector");
        Some(Self {
            peak,
            language: 1.0
                + f64::from(trains(in_language))
                + f64::from(trains(before) || trains(in_language)),
            vision: 1.0 + 2.0 * f64::from(trains(in_towers)),
        })
    }

    /// Operations of a micro-batch.
    pub(crate) fn operations(
        &self,
        model: &LlavaModel,
        segments: &Segments,
        supervised: usize,
        images: usize,
    ) -> f64 {
        let lengths: Vec<usize> = segments.ranges().map(|range| range.len()).collect();
        let language = flops::language_model(&model.config, &lengths)
            + flops::read_rows(&model.config, supervised);
        self.language * language + self.vision * images as f64 * flops::vision(&model.config)
    }

    /// Percent of the device's rate.
    pub(crate) fn percent(&self, operations: f64, seconds: f64) -> f64 {
        100.0 * operations / seconds / self.peak
    }
}
