//! Copies of blocks with a stride: a run of tokens of every picture, and rows put one behind the other.

use std::sync::Arc;

use crate::{
    DType, Result, Tensor,
    cuda::{Arg, Cuda, Grid, Kernel, Source, args},
    ops::Span,
};

pub(in crate::cuda) static SOURCE: Source = Source {
    name: "blocks",
    code: include_str!("../kernels/blocks.cu"),
};
const COPY_16: Kernel = SOURCE.kernel("copy_blocks_16");
const COPY_2: Kernel = SOURCE.kernel("copy_blocks_2");

/// `count` blocks of `bytes` bytes, at strides of their own on both sides.
struct Blocks {
    from: u64,
    from_stride: usize,
    to: u64,
    to_stride: usize,
    bytes: usize,
    count: usize,
}

impl Blocks {
    fn copy(&self, cuda: &Arc<Cuda>) -> Result<()> {
        if self.bytes == 0 || self.count == 0 {
            return Ok(());
        }
        let sizes = [self.from_stride, self.to_stride, self.bytes];
        let wide =
            (self.from | self.to).is_multiple_of(16) && sizes.iter().all(|s| s.is_multiple_of(16));
        // Every element type has an even size, and so has every address.
        let (kernel, unit) = if wide { (&COPY_16, 16) } else { (&COPY_2, 2) };
        let [from_stride, to_stride, width] = sizes.map(|s| (s / unit) as i64);
        cuda.launch(
            kernel,
            DType::F32,
            Grid::items(self.count * self.bytes / unit),
            args![
                Arg::Address(self.from),
                Arg::Address(self.to),
                self.count as i64,
                width,
                from_stride,
                to_stride
            ],
        )
    }
}

/// `x [b, n, c]` -> `[b, len, c]`.
pub(crate) fn narrow_tokens(cuda: &Arc<Cuda>, x: &Tensor, span: Span) -> Result<Tensor> {
    let Span {
        b,
        n,
        c,
        start,
        len,
    } = span;
    let size = x.dtype().size();
    let mut out = cuda.empty(&[b, len, c], x.dtype())?;
    Blocks {
        from: x.cuda_address()? + (start * c * size) as u64,
        from_stride: n * c * size,
        to: out.cuda_address_mut()?,
        to_stride: len * c * size,
        bytes: len * c * size,
        count: b,
    }
    .copy(cuda)?;
    Ok(out)
}

/// `dy [b, len, c]` -> `[b, n, c]`, zero outside of the span.
pub(crate) fn widen_tokens(cuda: &Arc<Cuda>, dy: &Tensor, span: Span) -> Result<Tensor> {
    let Span {
        b,
        n,
        c,
        start,
        len,
    } = span;
    let size = dy.dtype().size();
    let mut dx = cuda.zeros(&[b, n, c], dy.dtype())?;
    Blocks {
        from: dy.cuda_address()?,
        from_stride: len * c * size,
        to: dx.cuda_address_mut()? + (start * c * size) as u64,
        to_stride: n * c * size,
        bytes: len * c * size,
        count: b,
    }
    .copy(cuda)?;
    Ok(dx)
}

/// The elements of `parts` one behind the other, as a tensor of `shape` that has as many.
pub(crate) fn concat(cuda: &Arc<Cuda>, parts: &[&Tensor], shape: &[usize]) -> Result<Tensor> {
    let dtype = parts.first().map_or(DType::F32, |part| part.dtype());
    let mut out = cuda.empty(shape, dtype)?;
    let mut to = out.cuda_address_mut()?;
    for part in parts {
        let bytes = part.numel() * dtype.size();
        Blocks {
            from: part.cuda_address()?,
            from_stride: 0,
            to,
            to_stride: 0,
            bytes,
            count: 1,
        }
        .copy(cuda)?;
        to += bytes as u64;
    }
    Ok(out)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        cuda::testing::{compare, gpu},
        ops::testing::Rng,
    };

    #[test]
    #[ignore = "needs a GPU"]
    fn narrow_tokens_agrees_with_the_cpu() {
        let mut rng = Rng::new(570);
        for ([b, n, c], start, len) in [
            ([1, 1, 1], 0, 1),
            ([3, 5, 7], 1, 4),
            ([2, 10, 8], 1, 9),
            ([8, 577, 64], 1, 576),
            ([2, 4, 16], 2, 0),
        ] {
            compare(
                "narrow_tokens",
                &[rng.tensor(&[b, n, c])],
                &[],
                |tape, x, _| Ok(vec![tape.narrow_tokens(&x[0], start, len)?]),
            );
        }
    }

    #[test]
    #[ignore = "needs a GPU"]
    fn concat_agrees_with_the_cpu() {
        let device = gpu();
        let mut rng = Rng::new(571);
        for width in [1, 3, 64] {
            let parts: Vec<Tensor> = [2, 0, 5, 1]
                .iter()
                .map(|n| rng.tensor(&[*n, width]))
                .collect();
            let want = Tensor::concat(&parts).unwrap();
            for dtype in [DType::F32, DType::BF16] {
                let there: Vec<Tensor> = parts
                    .iter()
                    .map(|p| p.cast(dtype).unwrap().to_device(&device).unwrap())
                    .collect();
                let got = Tensor::concat(&there).unwrap();
                assert_eq!(got.shape(), [8, width]);
                let want = want.cast(dtype).unwrap().to_f32_vec().unwrap();
                assert_eq!(got.to_f32_vec().unwrap(), want, "{width} {dtype}");
            }
        }
    }
}
