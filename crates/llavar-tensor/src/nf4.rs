//! NF4: weights in 4 bits, blocks of 64 with a scale each (QLoRA).
//!
//! An element is one of 16 quantiles of the normal distribution times the largest absolute value of its block.
//! Two elements share a byte, the first in its upper half. With double quantisation the scales themselves have 8
//! bits: their mean is taken off, and blocks of 256 of them are coded by the dynamic map. 4.5 bits an element, or
//! 4.127.
//!
//! # Source
//! The QLoRA paper, and bitsandbytes, whose tables, rounding and order these are.

use std::{ops::Range, sync::LazyLock};

use rayon::prelude::*;

use crate::{Device, Result, Tensor, cpu, cuda::Cuda, memory::Buffer};

/// Elements that share a scale.
pub(crate) const BLOCK: usize = 64;
/// Scales that share a scale of their own.
pub(crate) const GROUP: usize = 256;

/// The values of the 16 codes.
const CODES: [f32; 16] = [
    -1.0,
    -0.696_192_8,
    -0.525_073_05,
    -0.394_917_5,
    -0.284_441_38,
    -0.184_773_43,
    -0.091_050_036,
    0.0,
    0.079_580_3,
    0.160_930_2,
    0.246_112_3,
    0.337_915_24,
    0.440_709_83,
    0.562_617,
    0.722_956_84,
    1.0,
];

/// The dynamic map: seven decades of a sign and up to six bits of fraction, with 0 and 1.
static DYNAMIC: LazyLock<[f32; 256]> = LazyLock::new(|| {
    let mut values = vec![0.0, 1.0];
    for decade in 0..7 {
        let steps = 1 << decade;
        let scale = 10f64.powi(decade - 6);
        for i in 0..steps {
            // The middle of the i-th of `steps` equal parts of 0.1 to 1.
            let low = 0.1 + 0.9 * f64::from(i) / f64::from(steps);
            let high = 0.1 + 0.9 * f64::from(i + 1) / f64::from(steps);
            let middle = (scale * (low + high) / 2.0) as f32;
            values.extend([middle, -middle]);
        }
    }
    values.sort_by(f32::total_cmp);
    let mut map = [0.0; 256];
    map.iter_mut().zip(values).for_each(|(to, from)| *to = from);
    map
});

/// Codes and scales, all on one device.
#[derive(Debug, Clone)]
pub(crate) struct Nf4 {
    len: usize,
    /// Eight codes in an i32, bytes in their order.
    pub(crate) codes: Tensor,
    pub(crate) scales: Scales,
}

/// The largest absolute value of each block.
#[derive(Debug, Clone)]
pub(crate) enum Scales {
    /// f32.
    Plain(Tensor),
    /// 8 bits.
    Double {
        /// Four codes in an i32, bytes in their order.
        codes: Tensor,
        /// Largest absolute value of each group, f32.
        groups: Tensor,
        /// The dynamic map, f32, where the codes are.
        map: Tensor,
        /// What was taken off.
        mean: f32,
    },
}

impl Nf4 {
    /// Rounds f32 values.
    pub(crate) fn encode(values: &[f32], double: bool) -> Result<Self> {
        let scales: Vec<f32> = values
            .par_chunks(BLOCK)
            .map(|block| block.iter().fold(0.0f32, |most, x| most.max(x.abs())))
            .collect();
        let mut words = Buffer::<i32>::unspecified(values.len().div_ceil(8));
        cpu::par_chunks(&mut words, |first, words| {
            for (at, word) in (first * 8..).step_by(8).zip(words) {
                let mut bytes = [0u8; 4];
                for (i, x) in values[at..values.len().min(at + 8)].iter().enumerate() {
                    let code = nearest(&CODES, x / scales[(at + i) / BLOCK]) as u8;
                    bytes[i / 2] |= if i % 2 == 0 { code << 4 } else { code };
                }
                *word = i32::from_le_bytes(bytes);
            }
        });
        let shape = [words.len()];
        let codes = Tensor::from_buffer(words, &shape);
        let scales = match double {
            false => Scales::Plain(Tensor::from_vec(scales, &[values.len().div_ceil(BLOCK)])?),
            true => Scales::double(&scales)?,
        };
        Ok(Self {
            len: values.len(),
            codes,
            scales,
        })
    }

    /// Writes elements `start ..` as f32; on the CPU.
    pub(crate) fn decode(&self, start: usize, out: &mut [f32]) -> Result<()> {
        let (codes, range) = (self.codes.data::<i32>()?, start..start + out.len());
        let blocks = range.start / BLOCK..range.end.div_ceil(BLOCK);
        let scales = self.scales.decode(blocks.clone())?;
        for (block, scale) in blocks.zip(scales) {
            let values = CODES.map(|code| code * scale);
            let within = (block * BLOCK).max(range.start)..((block + 1) * BLOCK).min(range.end);
            for (at, out) in within.clone().zip(&mut out[within.start - start..]) {
                let byte = codes[at / 8].to_le_bytes()[at % 8 / 2];
                let code = if at % 2 == 0 { byte >> 4 } else { byte & 15 };
                *out = values[usize::from(code)];
            }
        }
        Ok(())
    }

    pub(crate) fn len(&self) -> usize {
        self.len
    }

    pub(crate) fn to_device(&self, device: &Device) -> Result<Self> {
        Ok(Self {
            len: self.len,
            codes: self.codes.to_device(device)?,
            scales: match &self.scales {
                Scales::Plain(scales) => Scales::Plain(scales.to_device(device)?),
                Scales::Double {
                    codes,
                    groups,
                    map,
                    mean,
                } => Scales::Double {
                    codes: codes.to_device(device)?,
                    groups: groups.to_device(device)?,
                    map: map.to_device(device)?,
                    mean: *mean,
                },
            },
        })
    }

    pub(crate) fn cuda(&self) -> Option<&std::sync::Arc<Cuda>> {
        self.codes.cuda()
    }

    /// Bytes of codes and scales.
    pub(crate) fn bytes(&self) -> usize {
        let scales = match &self.scales {
            Scales::Plain(scales) => scales.bytes(),
            Scales::Double {
                codes, groups, map, ..
            } => codes.bytes() + groups.bytes() + map.bytes(),
        };
        self.codes.bytes() + scales
    }
}

impl Scales {
    fn double(scales: &[f32]) -> Result<Self> {
        let mean = scales.iter().map(|s| f64::from(*s)).sum::<f64>() / scales.len().max(1) as f64;
        let mean = mean as f32;
        let (mut bytes, mut groups) = (Vec::with_capacity(scales.len()), Vec::new());
        for group in scales.chunks(GROUP) {
            let most = group
                .iter()
                .fold(0.0f32, |most, s| most.max((s - mean).abs()));
            bytes.extend(
                group
                    .iter()
                    .map(|s| nearest(&DYNAMIC[..], (s - mean) / most) as u8),
            );
            groups.push(most);
        }
        bytes.resize(bytes.len().next_multiple_of(4), 0);
        let words = bytes
            .chunks_exact(4)
            .map(|b| i32::from_le_bytes([b[0], b[1], b[2], b[3]]));
        let (words, groups_len) = (words.collect::<Vec<i32>>(), groups.len());
        let len = words.len();
        Ok(Self::Double {
            codes: Tensor::from_vec(words, &[len])?,
            groups: Tensor::from_vec(groups, &[groups_len])?,
            map: Tensor::from_vec(DYNAMIC.to_vec(), &[256])?,
            mean,
        })
    }

    fn decode(&self, blocks: Range<usize>) -> Result<Vec<f32>> {
        Ok(match self {
            Self::Plain(scales) => scales.data::<f32>()?[blocks].to_vec(),
            Self::Double {
                codes,
                groups,
                map,
                mean,
            } => {
                let (codes, groups) = (codes.data::<i32>()?, groups.data::<f32>()?);
                let map = map.data::<f32>()?;
                let scale = |block: usize| {
                    let code = codes[block / 4].to_le_bytes()[block % 4];
                    map[usize::from(code)] * groups[block / GROUP] + mean
                };
                blocks.map(scale).collect()
            }
        })
    }
}

/// The code whose value is nearest, the lower of two that are equally near; that of 0 for what is no number, as
/// in a block of zeros.
fn nearest(codes: &[f32], x: f32) -> usize {
    if x.is_nan() {
        return codes.iter().position(|code| *code == 0.0).unwrap_or(0);
    }
    let above = codes.partition_point(|code| *code < x).min(codes.len() - 1);
    match above {
        0 => 0,
        _ if x > (codes[above - 1] + codes[above]) / 2.0 => above,
        _ => above - 1,
    }
}

/// Bytes of so many elements in NF4.
pub fn nf4_bytes(elements: usize, double: bool) -> usize {
    let (words, blocks) = (elements.div_ceil(8), elements.div_ceil(BLOCK));
    let scales = match double {
        false => 4 * blocks,
        // Codes, scales of groups, and the dynamic map.
        true => 4 * blocks.div_ceil(4) + 4 * blocks.div_ceil(GROUP) + 4 * 256,
    };
    4 * words + scales
}

impl Tensor {
    /// The same values rounded to NF4; `double` codes the scales too. Operations that take weights of fewer bits
    /// (a linear layer's) take it as it is; everything else sees it through [`Tensor::to_f32_vec`].
    ///
    /// # Errors
    /// When it lives on a GPU.
    pub fn to_nf4(&self, double: bool) -> Result<Self> {
        let wide = self.cast(crate::DType::F32)?;
        Ok(Self::from_nf4(
            Nf4::encode(wide.data()?, double)?,
            self.shape(),
        ))
    }

    /// Bytes that its elements take.
    pub fn bytes(&self) -> usize {
        match self.nf4() {
            Some((nf4, _)) => nf4.bytes(),
            None => self.numel() * self.dtype().size(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        DType, Param, Tape,
        ops::testing::{Rng, check_gradients, close},
    };

    #[test]
    fn every_value_becomes_the_nearest_code_times_its_scale() {
        let mut rng = Rng::new(41);
        for len in [1, 2, 63, 64, 65, 1000, 64 * 256 + 7] {
            let values = rng.vec(len);
            let coded = Tensor::from_vec(values.clone(), &[len])
                .unwrap()
                .to_nf4(false)
                .unwrap();
            assert_eq!((coded.dtype(), coded.shape()), (DType::Nf4, &[len][..]));
            let back = coded.to_f32_vec().unwrap();
            for (block, back) in values.chunks(BLOCK).zip(back.chunks(BLOCK)) {
                let most = block.iter().fold(0.0f32, |m, x| m.max(x.abs()));
                for (x, y) in block.iter().zip(back) {
                    let best = CODES
                        .iter()
                        .map(|c| (c * most - x).abs())
                        .fold(f32::MAX, f32::min);
                    assert!((y - x).abs() <= best * 1.000_01 + 1e-9, "{x} -> {y}");
                }
            }
            // What has been rounded stays as it is.
            let again = Tensor::from_vec(back.clone(), &[len])
                .unwrap()
                .to_nf4(false)
                .unwrap();
            assert_eq!(again.to_f32_vec().unwrap(), back);
            // A part is that part of the whole.
            if len > 70 {
                let part = coded.narrow(61, 9).unwrap().to_f32_vec().unwrap();
                assert_eq!(part, back[61..70]);
            }
        }
        let zeros = Tensor::zeros(&[3, 50]).to_nf4(true).unwrap();
        assert!(zeros.to_f32_vec().unwrap().iter().all(|x| *x == 0.0));
    }

    #[test]
    fn codes_lie_as_bitsandbytes_has_them() {
        // -1 and 1 are codes 0 and 15, 0 is 7; the first element of a pair has the upper half of its byte.
        let coded = Nf4::encode(&[-1.0, 1.0, 0.0, 0.0, 1.0, -1.0, 0.0, 1.0], false).unwrap();
        let bytes = coded.codes.data::<i32>().unwrap()[0].to_le_bytes();
        assert_eq!(bytes, [0x0f, 0x77, 0xf0, 0x7f]);
        // Between two codes the middle belongs to the lower.
        let middle = (CODES[8] + CODES[9]) / 2.0;
        assert_eq!(nearest(&CODES, middle), 8);
        assert_eq!(nearest(&CODES, middle * 1.000_001), 9);
        assert_eq!((nearest(&CODES, -2.0), nearest(&CODES, 2.0)), (0, 15));
        // The dynamic map: 127 values of each sign, 0 and 1, ends as bitsandbytes prints them.
        assert!(DYNAMIC.is_sorted());
        assert_eq!((DYNAMIC[255], DYNAMIC[127]), (1.0, 0.0));
        assert!((DYNAMIC[0] + 0.992_968_8).abs() < 1e-6, "{}", DYNAMIC[0]);
        assert!((DYNAMIC[128] - 5.5e-7).abs() < 1e-12);
    }

    #[test]
    fn scales_of_eight_bits_cost_little_and_the_bytes_are_those_said() {
        let mut rng = Rng::new(42);
        // Weights as they are: normal by the sum of uniforms, rows of different size.
        let values: Vec<f32> = (0..256 * 1024)
            .map(|i| rng.vec(12).iter().sum::<f32>() * 0.02 * (1.0 + (i / 4096 % 7) as f32))
            .collect();
        let plain = Tensor::from_vec(values.clone(), &[256, 1024]).unwrap();
        let errors: Vec<f64> = [false, true]
            .map(|double| {
                let back = plain.to_nf4(double).unwrap().to_f32_vec().unwrap();
                let square: f64 = values
                    .iter()
                    .zip(&back)
                    .map(|(a, b)| f64::from(a - b).powi(2))
                    .sum();
                let norm: f64 = values.iter().map(|a| f64::from(*a).powi(2)).sum();
                (square / norm).sqrt()
            })
            .to_vec();
        // NF4's error on normal values is near 9.5 %; scales of eight bits add a little.
        assert!((0.08..0.11).contains(&errors[0]), "{errors:?}");
        assert!(errors[1] < errors[0] * 1.02, "{errors:?}");
        let n = values.len();
        for double in [false, true] {
            assert_eq!(plain.to_nf4(double).unwrap().bytes(), nf4_bytes(n, double));
        }
        assert_eq!(plain.to_nf4(false).unwrap().bytes(), n / 2 + 4 * n / 64);
        assert_eq!(
            plain.to_nf4(true).unwrap().bytes(),
            n / 2 + n / 64 + 4 * n / 64 / 256 + 1024
        );
    }

    #[test]
    fn a_linear_layer_computes_with_the_rounded_weight_and_keeps_it_in_few_bits() {
        let mut rng = Rng::new(43);
        let (rows, n, k) = (20, 192, 256);
        let (x, w) = (
            rng.tensor(&[rows, k]),
            rng.tensor(&[n, k]).to_nf4(true).unwrap(),
        );
        let wide = Param::new("w", w.cast(DType::F32).unwrap());
        let coded = Param::new("w", w);
        let tape = Tape::inference();
        let want = tape.linear(&x.clone().into(), &wide, None).unwrap();
        let got = tape.linear(&x.clone().into(), &coded, None).unwrap();
        assert_eq!(
            got.value().to_f32_vec().unwrap(),
            want.value().to_f32_vec().unwrap()
        );
        check_gradients(&[rng.tensor(&[3, k])], &[], |tape, x| {
            tape.linear(&x[0], &coded, None)
        });
        assert!(coded.value().bytes() * 7 < wide.value().bytes());
    }

    #[test]
    fn a_move_keeps_the_codes() {
        let mut rng = Rng::new(44);
        let w = rng.tensor(&[8, 64]);
        let param = Param::new("w", w.to_nf4(false).unwrap());
        param
            .to_device(&Device::Cpu, DType::F32, DType::F32)
            .unwrap();
        assert_eq!(param.dtype(), DType::Nf4, "a move keeps the codes");
        close(
            &param.value().to_f32_vec().unwrap(),
            &w.to_f32_vec().unwrap(),
            0.15,
            "rounded",
        );
    }
}
