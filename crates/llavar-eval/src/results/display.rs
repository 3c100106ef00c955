//! Values as people read them.

use super::{Estimate, MetricResult};

/// How a metric's values are written.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Unit {
    /// What a value is multiplied by.
    pub scale: f64,
    /// Decimals.
    pub decimals: usize,
    /// What stands behind it.
    pub suffix: &'static str,
}

impl MetricResult {
    /// The unit: percent, a count of right answers (OCRBench), or plain (CIDEr-D, up to 10).
    pub fn unit(&self) -> Unit {
        let (scale, decimals, suffix) = match (self.aggregate.as_str(), self.metric.as_str()) {
            ("sum", _) => (1.0, 0, ""),
            (_, "cider_d") => (1.0, 3, ""),
            _ => (100.0, 1, " %"),
        };
        Unit {
            scale,
            decimals,
            suffix,
        }
    }

    /// Whether the value counts right answers.
    pub fn is_count(&self) -> bool {
        self.aggregate == "sum"
    }

    /// A value with its unit: `61.2 %`, `412 of 700`.
    pub fn shown(&self, estimate: &Estimate) -> String {
        let Unit {
            scale,
            decimals,
            suffix,
        } = self.unit();
        let value = format!("{:.decimals$}", scale * estimate.value);
        if self.is_count() {
            format!("{value} of {}", estimate.n)
        } else {
            value + suffix
        }
    }

    /// The standard error: `± 1.4`, or that there is none.
    pub fn shown_error(&self, estimate: &Estimate) -> String {
        let Unit {
            scale, decimals, ..
        } = self.unit();
        estimate.standard_error.map_or("no error".into(), |error| {
            format!("\u{B1} {:.*}", decimals.max(1), scale * error)
        })
    }
}
