//! Element types of weights, gradients and moments in training.

use std::{fmt, str::FromStr};

use crate::{DType, Error};

/// Element types that a weight trains in.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum Precision {
    /// All of f32: 16 bytes an element.
    #[default]
    F32,
    /// Weights in bf16; gradients, moments and a master copy of the weights in f32: 18 bytes an element.
    MixedBf16,
    /// All of bf16 without a master copy: 8 bytes an element. Weight and second moment are rounded
    /// stochastically, because the change of one step is often less than half of a bf16 unit, which
    /// rounding to nearest would lose every time.
    PureBf16,
}

impl Precision {
    /// Element type of the weights that the model computes with.
    pub fn weights(self) -> DType {
        match self {
            Self::F32 => DType::F32,
            Self::MixedBf16 | Self::PureBf16 => DType::BF16,
        }
    }

    /// Element type that gradients accumulate in on a GPU (on the CPU it is always f32).
    pub fn grads(self) -> DType {
        match self {
            Self::F32 | Self::MixedBf16 => DType::F32,
            Self::PureBf16 => DType::BF16,
        }
    }

    /// Element type of the moments.
    pub fn states(self) -> DType {
        match self {
            Self::F32 | Self::MixedBf16 => DType::F32,
            Self::PureBf16 => DType::BF16,
        }
    }

    /// Whether an f32 master copy of the weights is kept beside them.
    pub fn has_master(self) -> bool {
        self == Self::MixedBf16
    }
}

impl fmt::Display for Precision {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::F32 => "f32",
            Self::MixedBf16 => "bf16",
            Self::PureBf16 => "bf16-pure",
        })
    }
}

impl FromStr for Precision {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self, Error> {
        [Self::F32, Self::MixedBf16, Self::PureBf16]
            .into_iter()
            .find(|p| p.to_string() == text)
            .ok_or_else(|| Error::InvalidArgument {
                op: "precision",
                reason: format!("`{text}` is no precision; there are f32, bf16 and bf16-pure"),
            })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_come_back_and_types_are_those_of_the_table() {
        use DType::{BF16, F32};
        for (text, weights, grads, states, master) in [
            ("f32", F32, F32, F32, false),
            ("bf16", BF16, F32, F32, true),
            ("bf16-pure", BF16, BF16, BF16, false),
        ] {
            let p: Precision = text.parse().unwrap();
            assert_eq!(p.to_string(), text);
            assert_eq!(
                (p.weights(), p.grads(), p.states(), p.has_master()),
                (weights, grads, states, master)
            );
        }
        let error = "fp16".parse::<Precision>().unwrap_err().to_string();
        assert!(error.contains("bf16-pure"), "{error}");
    }
}
