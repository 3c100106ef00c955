//! The losses that are measured and the ratios made of them.
//!
//! `s(T | C)` is the mean over the tokens of T of `-ln p(token | C, previous tokens of T)`, in nats.
//! `IFD = s(A|Q) / s(A)`, `VFD = s(Q,A|I) / s(Q,A)`, `mIFD = IFD x VFD`,
//! `FFD = s(Qs,As|I,Qe,Ae) / s(Qs,As|I)`.

use std::{fmt, str::FromStr};

use serde::{Deserialize, Serialize};

use crate::SelectError;

/// A conditional loss. `s(Qs,As|I)` of a duo is [`Loss::QaGivenImage`] of its second pair.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Loss {
    /// `s(A|Q)`.
    AGivenQ,
    /// `s(A)`.
    A,
    /// `s(Q,A|I)`.
    QaGivenImage,
    /// `s(Q,A)`.
    Qa,
    /// `s(Qs,As|I,Qe,Ae)`.
    Duo,
}

impl Loss {
    /// All of them, in the order of [`Losses`].
    pub const ALL: [Self; 5] = [
        Self::AGivenQ,
        Self::A,
        Self::QaGivenImage,
        Self::Qa,
        Self::Duo,
    ];

    /// As the formulas write it.
    pub fn symbol(self) -> &'static str {
        match self {
            Self::AGivenQ => "s(A|Q)",
            Self::A => "s(A)",
            Self::QaGivenImage => "s(Q,A|I)",
            Self::Qa => "s(Q,A)",
            Self::Duo => "s(Qs,As|I,Qe,Ae)",
        }
    }
}

/// Mean and number of tokens of each loss of a pair, as far as they were measured.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Losses([Option<(f64, u32)>; 5]);

impl Losses {
    /// Mean (nats a token) and number of tokens.
    pub fn get(&self, loss: Loss) -> Option<(f64, u32)> {
        self.0[loss as usize]
    }

    pub(crate) fn set(&mut self, loss: Loss, mean: f64, tokens: u32) {
        self.0[loss as usize] = Some((mean, tokens));
    }

    fn ratio(&self, over: Loss, under: Loss) -> Option<f64> {
        let (over, under) = (self.get(over)?.0, self.get(under)?.0);
        Some(over / under).filter(|ratio| ratio.is_finite())
    }

    /// Instruction-following difficulty.
    pub fn ifd(&self) -> Option<f64> {
        self.ratio(Loss::AGivenQ, Loss::A)
    }

    /// Visual-following difficulty.
    pub fn vfd(&self) -> Option<f64> {
        self.ratio(Loss::QaGivenImage, Loss::Qa)
    }

    /// Their product.
    pub fn mifd(&self) -> Option<f64> {
        Some(self.ifd()? * self.vfd()?)
    }

    /// Fact-following difficulty of the second pair of a duo.
    pub fn ffd(&self) -> Option<f64> {
        self.ratio(Loss::Duo, Loss::QaGivenImage)
    }
}

/// Which scores are wanted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct ScoreSet {
    /// IFD, by text alone.
    pub ifd: bool,
    /// VFD.
    pub vfd: bool,
    /// FFD.
    pub ffd: bool,
}

impl ScoreSet {
    /// Everything.
    pub const ALL: Self = Self {
        ifd: true,
        vfd: true,
        ffd: true,
    };
    /// What a model without vision can give.
    pub const TEXT: Self = Self {
        ifd: true,
        vfd: false,
        ffd: false,
    };

    /// Whether pictures are needed.
    pub fn needs_images(self) -> bool {
        self.vfd || self.ffd
    }

    pub(crate) fn wants(self, loss: Loss) -> bool {
        match loss {
            Loss::AGivenQ | Loss::A => self.ifd,
            Loss::QaGivenImage => self.vfd || self.ffd,
            Loss::Qa => self.vfd,
            Loss::Duo => self.ffd,
        }
    }
}

impl fmt::Display for ScoreSet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let all = [("ifd", self.ifd), ("vfd", self.vfd), ("ffd", self.ffd)];
        let names = all.into_iter().filter_map(|(name, on)| on.then_some(name));
        f.write_str(&names.collect::<Vec<_>>().join(","))
    }
}

impl FromStr for ScoreSet {
    type Err = SelectError;

    /// A list as in `mifd,ffd`; mIFD stands for IFD and VFD.
    fn from_str(list: &str) -> Result<Self, SelectError> {
        let mut set = Self {
            ifd: false,
            vfd: false,
            ffd: false,
        };
        for name in list.split(',').map(str::trim) {
            match name.to_ascii_lowercase().as_str() {
                "ifd" => set.ifd = true,
                "vfd" => set.vfd = true,
                "mifd" => (set.ifd, set.vfd) = (true, true),
                "ffd" => set.ffd = true,
                _ => {
                    return Err(SelectError::UnknownScore {
                        name: name.to_owned(),
                    });
                }
            }
        }
        Ok(set)
    }
}

/// Which spans the losses are taken over.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Compat {
    /// The spans that the formulas mean.
    #[default]
    Exact,
    /// The spans of the LLaVAR-2 release: both losses of IFD over every token after the first, the first
    /// loss of FFD from one token earlier. Its prompts of other models are not reproduced: the texts are
    /// those of the model's own template.
    Llavar2,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ratios_need_both_losses() {
        let mut losses = Losses::default();
        losses.set(Loss::AGivenQ, 1.0, 3);
        assert_eq!(losses.ifd(), None);
        losses.set(Loss::A, 2.0, 3);
        losses.set(Loss::QaGivenImage, 3.0, 5);
        losses.set(Loss::Qa, 4.0, 5);
        assert_eq!((losses.ifd(), losses.mifd()), (Some(0.5), Some(0.375)));
        losses.set(Loss::A, 0.0, 3);
        assert_eq!(losses.ifd(), None, "an infinite ratio is none");
    }

    #[test]
    fn lists_of_scores() {
        let set: ScoreSet = "mIFD, ffd".parse().unwrap();
        assert_eq!(set, ScoreSet::ALL);
        let set: ScoreSet = "ffd".parse().unwrap();
        assert!(set.wants(Loss::QaGivenImage) && !set.wants(Loss::Qa) && !set.wants(Loss::A));
        assert!("ifd,efd".parse::<ScoreSet>().is_err());
    }
}
