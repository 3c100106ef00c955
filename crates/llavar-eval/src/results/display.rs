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

impl Unit {
    /// The unit of a mean of scores: percent, or plain (CIDEr-D, up to 10).
    pub fn of_mean(metric: &str) -> Self {
        let (scale, decimals, suffix) = match metric {
            "cider_d" => (1.0, 3, ""),
            _ => (100.0, 1, " %"),
        };
        Self {
            scale,
            decimals,
            suffix,
        }
    }

    /// A standard error: `± 1.4`, or `± –` where there is none.
    pub fn shown_error(&self, error: Option<f64>) -> String {
        error.map_or("\u{B1} \u{2013}".into(), |error| {
            format!("\u{B1} {:.*}", self.decimals.max(1), self.scale * error)
        })
    }
}

impl MetricResult {
    /// The unit: that of a mean, or a count of right answers (OCRBench).
    pub fn unit(&self) -> Unit {
        match self.is_count() {
            true => Unit {
                scale: 1.0,
                decimals: 0,
                suffix: "",
            },
            false => Unit::of_mean(&self.metric),
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

    /// The standard error as [`Unit::shown_error`] writes it.
    pub fn shown_error(&self, estimate: &Estimate) -> String {
        self.unit().shown_error(estimate.standard_error)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_and_errors_have_the_unit_of_their_metric() {
        for (aggregate, metric, value, error, shown, shown_error) in [
            ("mean", "anls", 0.6123, Some(0.0141), "61.2 %", "± 1.4"),
            ("mean", "anls", 1.0, None, "100.0 %", "± –"),
            ("mean", "cider_d", 1.25, Some(0.01), "1.250", "± 0.010"),
            ("sum", "ocrbench", 4.0, Some(0.5), "4 of 7", "± 0.5"),
            ("sum", "ocrbench", 4.0, None, "4 of 7", "± –"),
        ] {
            let overall = Estimate {
                value,
                standard_error: error,
                n: 7,
                images: 1,
            };
            let result = MetricResult {
                metric: metric.into(),
                version: 1,
                aggregate: aggregate.into(),
                overall,
                answered_only: None,
                by_category: Vec::new(),
            };
            assert_eq!(result.shown(&overall), shown);
            assert_eq!(result.shown_error(&overall), shown_error);
        }
    }
}
