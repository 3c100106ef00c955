//! The small form of a run's state: weights in bf16, AdamW's moments in 8 bits.
//!
//! A moment is cut into blocks of 256 values. A block has its largest magnitude as an f32, and for each value a
//! code on a logarithmic scale below it, so that values of any size keep the same relative precision: 3.6 % for the
//! first moment, which has a sign, and 4.6 % for the second, 2.3 % of its root. Rare tokens, whose moments lie
//! thousands of times below those of their neighbours, are stepped as well as frequent ones. A second moment that is
//! not 0 never becomes 0: what is divided by its root would blow up.
//!
//! What has been rounded once is rounded to itself, so that a run takes over the rounded values and goes on as one
//! that reads them back.

use std::sync::LazyLock;

use rayon::prelude::*;

use crate::{DType, Result, Tensor};

/// Values that share a scale.
pub const BLOCK: usize = 256;

/// Weights of fewer elements stay as they are, moments too: norms and biases cost next to nothing. The limit is that
/// of bitsandbytes' 8-bit optimizers.
pub const WHOLE_BELOW: usize = 4096;

/// A block whose largest magnitude lies below it is 0, so that no level of any block is a subnormal number.
const LEAST_SCALE: f32 = 8.077_936e-28; // 2^-90

/// Whether a weight of that shape is kept in the small form.
pub fn is_large(shape: &[usize]) -> bool {
    shape.iter().product::<usize>() >= WHOLE_BELOW
}

/// Rounds a weight to bf16, in its element type and on its device.
///
/// # Errors
/// When the device fails.
pub fn round_weight(weight: &Tensor) -> Result<Tensor> {
    weight.cast(DType::BF16)?.cast(weight.dtype())
}

/// The two ways to code moments.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Code {
    /// A sign and 127 levels, each 2^(1/10) times the one below: 3.8 decades.
    Signed,
    /// 255 levels, each 2^(1/8) times the one below: 9.5 decades.
    Unsigned,
}

/// Levels of a code, 0 first, then up to 1, with the bounds between them.
struct Levels {
    values: Vec<f32>,
    bounds: Vec<f32>,
}

/// Products of one constant, so that the levels are the same bits on every machine.
static LEVELS: LazyLock<[Levels; 2]> = LazyLock::new(|| {
    [
        (127, 0.933_032_991_536_807_4),
        (255, 0.917_004_043_204_671_2),
    ]
    .map(|(count, ratio): (usize, f64)| {
        let mut values = vec![1.0f64];
        while values.len() < count {
            values.push(values[values.len() - 1] * ratio);
        }
        values.push(0.0);
        values.reverse();
        let between = values.windows(2).map(|pair| (pair[0] + pair[1]) / 2.0);
        Levels {
            bounds: between.map(|x| x as f32).collect(),
            values: values.into_iter().map(|x| x as f32).collect(),
        }
    })
});

/// Scale of a block; 0 where all of it counts as 0.
fn scale_of(block: &[f32]) -> f32 {
    let largest = block.iter().fold(0.0f32, |most, x| most.max(x.abs()));
    match largest < LEAST_SCALE {
        true => 0.0,
        false => largest.min(f32::MAX),
    }
}

impl Code {
    fn levels(self) -> &'static Levels {
        match self {
            Self::Signed => &LEVELS[0],
            Self::Unsigned => &LEVELS[1],
        }
    }

    fn encode(self, levels: &Levels, value: f32, scale: f32) -> u8 {
        if scale == 0.0 {
            return 0;
        }
        let ratio = value.abs() / scale;
        let level = levels.bounds.partition_point(|bound| *bound <= ratio) as u8;
        match self {
            Self::Signed => level | (u8::from(value < 0.0 && level > 0) << 7),
            Self::Unsigned => level.max(u8::from(value > 0.0)),
        }
    }

    fn decode(self, levels: &Levels, code: u8, scale: f32) -> f32 {
        match self {
            Self::Signed if code >= 128 => -levels.values[usize::from(code & 127)] * scale,
            _ => levels.values[usize::from(code)] * scale,
        }
    }

    /// Scales of the blocks and a code for each value.
    pub fn pack(self, values: &[f32]) -> (Vec<f32>, Vec<u8>) {
        let levels = self.levels();
        let scales: Vec<f32> = values.par_chunks(BLOCK).map(scale_of).collect();
        let mut codes = vec![0; values.len()];
        let blocks = codes.par_chunks_mut(BLOCK).zip(values.par_chunks(BLOCK));
        blocks.zip(&scales).for_each(|((codes, values), scale)| {
            for (code, value) in codes.iter_mut().zip(values) {
                *code = self.encode(levels, *value, *scale);
            }
        });
        (scales, codes)
    }

    /// The values of codes; `None` where there is not one scale for each block.
    pub fn unpack(self, scales: &[f32], codes: &[u8]) -> Option<Vec<f32>> {
        let levels = self.levels();
        let blocks = codes.chunks(BLOCK);
        (scales.len() == blocks.len()).then(|| {
            let values = blocks.zip(scales).flat_map(|(codes, scale)| {
                codes.iter().map(|code| self.decode(levels, *code, *scale))
            });
            values.collect()
        })
    }

    /// The tensor that is read back of one that is packed, in its element type and on its device.
    ///
    /// # Errors
    /// When the device fails.
    pub fn round(self, moment: &Tensor) -> Result<Tensor> {
        let levels = self.levels();
        let mut values = moment.to_f32_vec()?;
        values.par_chunks_mut(BLOCK).for_each(|block| {
            let scale = scale_of(block);
            for value in block {
                *value = self.decode(levels, self.encode(levels, *value, scale), scale);
            }
        });
        let rounded = Tensor::from_vec(values, moment.shape())?;
        rounded.cast(moment.dtype())?.to_device(&moment.device())
    }
}

#[cfg(test)]
mod tests {
    use half::bf16;

    use super::*;

    /// Values over many decades, with zeros, in an order that depends on `seed` alone.
    fn values(n: usize, seed: u64, signed: bool) -> Vec<f32> {
        let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
        let mut next = || {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            (state >> 40) as f32 / (1u32 << 24) as f32
        };
        (0..n)
            .map(|_| {
                let size = 10f32.powf(-7.0 * next() - 2.0);
                match (next() < 0.05, signed && next() < 0.5) {
                    (true, _) => 0.0,
                    (false, true) => -size,
                    (false, false) => size,
                }
            })
            .collect()
    }

    #[test]
    fn values_keep_their_relative_precision_and_round_to_themselves() {
        for (code, decades, relative) in [(Code::Signed, 3.7, 0.036), (Code::Unsigned, 9.4, 0.046)]
        {
            let before = values(10_000, 7, code == Code::Signed);
            let (scales, codes) = code.pack(&before);
            assert_eq!((scales.len(), codes.len()), (40, 10_000));
            let after = code.unpack(&scales, &codes).unwrap();
            for (i, (a, b)) in before.iter().zip(&after).enumerate() {
                let scale = scales[i / BLOCK];
                if a.abs() >= scale * 10f32.powf(-decades) {
                    assert!((a - b).abs() <= relative * a.abs(), "{a} {b}");
                } else {
                    assert!((a - b).abs() <= scale * 10f32.powf(-decades), "{a} {b}");
                    let vanishes = code == Code::Signed || *a == 0.0;
                    assert!(vanishes || *b > 0.0, "{a} became 0");
                }
            }
            assert_eq!(code.pack(&after), (scales, codes));
            let tensor = Tensor::from_vec(before, &[100, 100]).unwrap();
            let once = code.round(&tensor).unwrap();
            assert_eq!(once.to_f32_vec().unwrap(), after);
            // What is kept in bf16 is rounded once more, and that too is the end of it.
            let narrow = code.round(&tensor.cast(DType::BF16).unwrap()).unwrap();
            assert_eq!(narrow.dtype(), DType::BF16);
            let (scales, codes) = code.pack(&narrow.to_f32_vec().unwrap());
            let read: Vec<bf16> = code
                .unpack(&scales, &codes)
                .unwrap()
                .into_iter()
                .map(bf16::from_f32)
                .collect();
            assert_eq!(narrow.data::<bf16>().unwrap(), read);
        }
    }

    #[test]
    fn the_ends_of_f32_are_no_trouble() {
        for code in [Code::Signed, Code::Unsigned] {
            let mut all = vec![1e-30; 300];
            all[299] = f32::INFINITY;
            all[258] = 1.0;
            let (scales, codes) = code.pack(&all);
            assert_eq!(scales, [0.0, f32::MAX]);
            let back = code.unpack(&scales, &codes).unwrap();
            assert_eq!(back[299], f32::MAX);
            assert!(back.iter().all(|x| x.is_finite()) && back[..256] == [0.0; 256]);
            assert_eq!(code.pack(&back), (scales.clone(), codes.clone()));
            assert!(code.unpack(&scales[1..], &codes).is_none());
        }
    }
}
