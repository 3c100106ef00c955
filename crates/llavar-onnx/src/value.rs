//! What flows between nodes.

use std::sync::Arc;

use llavar_tensor::memory::Buffer;

/// Most elements of a value: 1 GiB of floats, as 64 channels of 2048 x 2048 px.
const MOST_ELEMENTS: usize = 1 << 28;

/// Elements of a value with these sides.
///
/// # Errors
/// When they are more than is ever needed. Sides of 0 do not hide the others, by which loops run.
pub(crate) fn elements(sides: &[usize]) -> Result<usize, String> {
    let mut some = sides.iter().map(|side| (*side).max(1));
    let count = some.try_fold(1_usize, usize::checked_mul);
    match count {
        Some(count) if count <= MOST_ELEMENTS => Ok(match sides.contains(&0) {
            true => 0,
            false => count,
        }),
        _ => Err(format!(
            "too large: sides {sides:?}, at most {MOST_ELEMENTS} elements"
        )),
    }
}

/// How the elements of a value of four dimensions lie in memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Order {
    /// As the dimensions say.
    Plain,
    /// Channels last: `[N, C, H, W]` lies as `[N, H, W, C]`.
    ChannelsLast,
}

/// Elements of a value.
#[derive(Debug, Clone)]
pub(crate) enum Data {
    /// From the pool: networks ask for the same sizes again and again.
    Floats(Arc<Buffer<f32>>),
    Ints(Arc<Vec<i64>>),
}

/// A tensor: its dimensions are always those that ONNX speaks of, whatever the order in memory.
#[derive(Debug, Clone)]
pub(crate) struct Value {
    pub(crate) dims: Vec<usize>,
    pub(crate) order: Order,
    pub(crate) data: Data,
}

impl Value {
    pub(crate) fn floats(dims: Vec<usize>, data: impl Into<Buffer<f32>>) -> Self {
        Self {
            dims,
            order: Order::Plain,
            data: Data::Floats(Arc::new(data.into())),
        }
    }

    pub(crate) fn ints(dims: Vec<usize>, data: Vec<i64>) -> Self {
        Self {
            dims,
            order: Order::Plain,
            data: Data::Ints(Arc::new(data)),
        }
    }

    /// One picture `[1, C, H, W]` with its channels last.
    pub(crate) fn picture([c, h, w]: [usize; 3], data: impl Into<Buffer<f32>>) -> Self {
        Self {
            order: Order::ChannelsLast,
            ..Self::floats(vec![1, c, h, w], data)
        }
    }

    pub(crate) fn len(&self) -> usize {
        match &self.data {
            Data::Floats(data) => data.len(),
            Data::Ints(data) => data.len(),
        }
    }

    /// Elements in the order of memory.
    pub(crate) fn as_floats(&self) -> Option<&[f32]> {
        match &self.data {
            Data::Floats(data) => Some(data),
            Data::Ints(_) => None,
        }
    }

    pub(crate) fn as_ints(&self) -> Option<&[i64]> {
        match &self.data {
            Data::Ints(data) => Some(data),
            Data::Floats(_) => None,
        }
    }

    /// The only element.
    pub(crate) fn scalar(&self) -> Option<f32> {
        match &self.data {
            Data::Floats(data) if data.len() == 1 => data.first().copied(),
            Data::Ints(data) if data.len() == 1 => data.first().map(|x| *x as f32),
            _ => None,
        }
    }

    /// The elements, copied only if somebody else holds them too.
    pub(crate) fn into_floats(self) -> Option<Buffer<f32>> {
        match self.data {
            Data::Floats(data) => Some(Arc::unwrap_or_clone(data)),
            Data::Ints(_) => None,
        }
    }

    /// `[N, C, H, W]` of a value of four dimensions.
    pub(crate) fn nchw(&self) -> Option<[usize; 4]> {
        self.dims.as_slice().try_into().ok()
    }

    /// The same with other dimensions; elements stay as they lie.
    pub(crate) fn reshaped(self, dims: Vec<usize>) -> Self {
        Self {
            dims,
            order: Order::Plain,
            data: self.data,
        }
    }

    /// The same in another order.
    pub(crate) fn ordered(self, order: Order) -> Self {
        let Some([n, c, h, w]) = self.nchw() else {
            return self;
        };
        if self.order == order {
            return self;
        }
        // With one channel or one place both orders are the same.
        let data = match &self.data {
            Data::Floats(data) if c > 1 && h * w > 1 => {
                let mut turned = Buffer::unspecified(data.len());
                let (rows, cols) = match order {
                    Order::ChannelsLast => (c, h * w),
                    Order::Plain => (h * w, c),
                };
                for (from, to) in data
                    .chunks_exact(rows * cols)
                    .zip(turned.chunks_exact_mut(rows * cols))
                    .take(n)
                {
                    for row in 0..rows {
                        for col in 0..cols {
                            to[col * rows + row] = from[row * cols + col];
                        }
                    }
                }
                Data::Floats(Arc::new(turned))
            }
            same => same.clone(),
        };
        Self {
            order,
            data,
            ..self
        }
    }
}
