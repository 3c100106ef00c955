//! Where a kernel lies on a picture: strides and padding.

/// Kernel size, stride and padding of a convolution or pooling.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Window {
    /// Height and width.
    pub(crate) kernel: [usize; 2],
    /// Down and right.
    pub(crate) stride: [usize; 2],
    /// Top, left, bottom, right; or as much as keeps the size.
    pub(crate) pads: Pads,
}

/// Rows and columns of nothing around a picture.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Pads {
    /// Top, left, bottom, right.
    Given([usize; 4]),
    /// So much that a stride of 1 keeps the size; an odd row goes to the end.
    SameUpper,
}

/// A window on a picture of a known size.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Placed {
    /// Size of the result.
    pub(crate) out: [usize; 2],
    /// Rows above and columns to the left of the picture.
    pub(crate) before: [usize; 2],
}

impl Window {
    /// The window on a picture of `size`; `None` where it does not fit.
    pub(crate) fn on(&self, size: [usize; 2]) -> Option<Placed> {
        let mut placed = Placed {
            out: [0; 2],
            before: [0; 2],
        };
        for axis in 0..2 {
            let (k, s) = (self.kernel[axis], self.stride[axis]);
            let all = match self.pads {
                Pads::Given(pads) => {
                    placed.before[axis] = pads[axis];
                    pads[axis].checked_add(pads[axis + 2])?
                }
                Pads::SameUpper => {
                    let out = size[axis].div_ceil(s);
                    let taps = out.checked_sub(1)?.checked_mul(s)?.checked_add(k)?;
                    let all = taps.saturating_sub(size[axis]);
                    placed.before[axis] = all / 2;
                    all
                }
            };
            placed.out[axis] = size[axis].checked_add(all)?.checked_sub(k)? / s + 1;
        }
        Some(placed)
    }

    /// Whether every place of the result sees its own place of the picture alone.
    pub(crate) fn is_point(&self) -> bool {
        let padded = matches!(self.pads, Pads::Given(pads) if pads != [0; 4]);
        self.kernel == [1, 1] && self.stride == [1, 1] && !padded
    }
}

/// The part of a kernel of `k` that lies on a side of `size` when it begins at `at - before`: first tap,
/// first place, number of taps.
pub(crate) fn overlap(at: usize, before: usize, k: usize, size: usize) -> (usize, usize, usize) {
    let first = before.saturating_sub(at);
    let end = (size + before).saturating_sub(at).min(k);
    (
        first,
        (at + first).saturating_sub(before),
        end.saturating_sub(first),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_and_overlaps() {
        let window = |kernel, stride, pads| Window {
            kernel: [kernel; 2],
            stride: [stride; 2],
            pads,
        };
        let same = window(2, 1, Pads::SameUpper).on([5, 7]).unwrap();
        assert_eq!((same.out, same.before), ([5, 7], [0, 0]));
        let half = window(3, 2, Pads::Given([1; 4])).on([6, 7]).unwrap();
        assert_eq!(half.out, [3, 4]);
        assert!(window(9, 1, Pads::Given([1; 4])).on([6, 7]).is_none());
        assert_eq!(overlap(0, 1, 3, 5), (1, 0, 2));
        assert_eq!(overlap(2, 1, 3, 5), (0, 1, 3));
        assert_eq!(overlap(4, 1, 3, 5), (0, 3, 2));
        assert_eq!(overlap(0, 3, 7, 2), (3, 0, 2));
    }
}
