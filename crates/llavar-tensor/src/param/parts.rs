//! Gradients that come as parts of a sum, from reductions over rows, and wait until many can be summed with one launch.
//!
//! Whoever reads or changes a gradient before that sums it alone, so that nobody sees the difference.

use std::{ops::DerefMut, sync::TryLockError};

use super::{Grad, Param};
use crate::{DType, Error, Result, Tensor, cuda::ops::PartSums};

/// Bytes of parts from which on they are summed: little beside activations, and still in the card's cache in part.
const BYTES: usize = 32 << 20;

/// What a gradient lacks: it is `beta gradient + sum over parts of part [parts, ..]`.
#[derive(Debug)]
pub(super) struct Parts {
    pub(super) part: Tensor,
    pub(super) parts: usize,
    pub(super) beta: f32,
}

impl Grad {
    /// Queues the sum of the parts that wait, if there are any.
    ///
    /// # Errors
    /// When it cannot be queued; the parts wait on.
    pub(super) fn sum(&mut self) -> Result<()> {
        sum_together(&mut [self])
    }

    /// The gradient, if there is any. Where its parts cannot be summed it has no elements: whoever asks for them gets
    /// an error.
    pub(super) fn read(&mut self) -> Option<Tensor> {
        let summed = self.sum().is_ok();
        let grad = self.buffer.as_ref().filter(|_| self.filled)?;
        Some(match summed {
            true => grad.clone(),
            false => Tensor::hollow(grad.shape()),
        })
    }
}

/// Queues the sums of what waits in at most a list's gradients.
fn sum_together<G: DerefMut<Target = Grad>>(grads: &mut [G]) -> Result<()> {
    let mut sums = None;
    for grad in grads.iter_mut() {
        let Grad {
            buffer: Some(buffer),
            waiting: Some(Parts { part, parts, beta }),
            ..
        } = &mut **grad
        else {
            continue;
        };
        let cuda = part.cuda().ok_or_else(|| Error::DeviceMismatch {
            op: "sum of parts",
            expected: "a GPU".into(),
            got: part.device().to_string(),
        })?;
        let sums = sums.get_or_insert_with(|| PartSums::new(cuda));
        sums.push(part, *parts, buffer, *beta)?;
    }
    sums.map_or(Ok(()), PartSums::launch)?;
    // Their memory is freed behind the sums on the stream.
    grads.iter_mut().for_each(|grad| grad.waiting = None);
    Ok(())
}

impl Param {
    /// Adds the sum of `parts` parts, `part [parts, ..]` in f32 where the weight is, to the gradient. It is queued by
    /// [`Param::sum_grads`], or alone as soon as somebody asks for the gradient.
    ///
    /// # Errors
    /// When the device has no room for the gradient.
    pub(crate) fn accumulate_parts(&self, part: Tensor, parts: usize) -> Result<()> {
        self.accumulation()?.finish_later(part, parts);
        Ok(())
    }

    /// Queues the sums of all parts of gradients that wait, many with one launch. Nothing else changes: a gradient
    /// that somebody reads is summed in any case.
    ///
    /// # Errors
    /// When they cannot be queued, or are on different devices.
    pub fn sum_grads<'a>(params: impl IntoIterator<Item = &'a Self>) -> Result<()> {
        let mut open = Vec::new();
        for param in params {
            let grad = match param.0.grad.try_lock() {
                Ok(grad) => grad,
                Err(TryLockError::Poisoned(grad)) => grad.into_inner(),
                // It is open already, or in the hands of somebody who sums it himself.
                Err(TryLockError::WouldBlock) => continue,
            };
            if grad.waiting.is_some() {
                open.push(grad);
            }
            if open.len() == PartSums::MOST {
                sum_together(&mut open)?;
                open.clear();
            }
        }
        sum_together(&mut open)
    }

    /// Whether parts of its gradient wait.
    #[cfg(test)]
    pub(crate) fn waits(&self) -> bool {
        self.grad_slot().waiting.is_some()
    }
}

/// The weights whose gradients wait during a backward pass.
#[derive(Debug, Default)]
pub(crate) struct Waiting {
    params: Vec<Param>,
    bytes: usize,
}

impl Waiting {
    /// As [`Param::accumulate_parts`]. What waits is summed as soon as it is a whole list or much memory.
    ///
    /// # Errors
    /// When the device has no room for the gradient, or the sums cannot be queued.
    pub(crate) fn add(&mut self, param: &Param, part: Tensor, parts: usize) -> Result<()> {
        self.bytes += part.numel() * DType::F32.size();
        param.accumulate_parts(part, parts)?;
        self.params.push(param.clone());
        match self.params.len() == PartSums::MOST || self.bytes >= BYTES {
            true => self.sum(),
            false => Ok(()),
        }
    }

    /// Queues all sums.
    ///
    /// # Errors
    /// When they cannot be queued.
    pub(crate) fn sum(&mut self) -> Result<()> {
        let Self { params, .. } = std::mem::take(self);
        Param::sum_grads(&params)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// On the CPU nothing sums parts, which shows what happens where that fails.
    fn waiting() -> Param {
        let param = Param::new("p", Tensor::zeros(&[2]));
        let part = Tensor::from_vec(vec![1.0, 2.0, 3.0, 4.0], &[2, 2]).unwrap();
        param.accumulate_parts(part, 2).unwrap();
        assert!(param.waits());
        param
    }

    #[test]
    fn a_gradient_whose_sum_fails_is_never_taken_for_one() {
        let param = waiting();
        for grad in [param.grad(), param.measured_grad().map(|(grad, _)| grad)] {
            let grad = grad.expect("there is a gradient");
            assert_eq!(grad.shape(), [2]);
            assert!(grad.data::<f32>().is_err());
            assert!(grad.to_f32_vec().is_err() && grad.cast(DType::BF16).is_err());
            assert!(grad.narrow(0, 1).and_then(|one| one.item()).is_err());
        }
        assert!(param.accumulate(|_, _| Ok(())).is_err());
        assert!(param.update(|_, _| Ok(())).is_err());
        assert!(param.add_grad(Tensor::zeros(&[2])).is_err());
        assert!(param.accumulate_parts(Tensor::zeros(&[2]), 1).is_err());
        assert!(Param::sum_grads([&param]).is_err());
        assert!(crate::optim::global_grad_norm([&param]).is_err());
        // The parts wait on.
        assert!(param.waits());
        let taken = param.take_grad().expect("there is a gradient");
        assert!(taken.data::<f32>().is_err());
        assert!(!param.waits() && param.grad().is_none());
    }

    #[test]
    fn parts_are_forgotten_with_their_gradient() {
        let forget: [fn(&Param); 4] = [
            Param::zero_grad,
            |p| drop(p.take_grad()),
            |p| p.set_requires_grad(false),
            |p| p.release_to(&crate::Device::Cpu, DType::F32, DType::F32),
        ];
        for forget in forget {
            let param = waiting();
            forget(&param);
            assert!(!param.waits() && param.grad().is_none());
            param
                .accumulate(|grad, beta| {
                    assert_eq!(beta, 0.0);
                    grad.fill(3.0);
                    Ok(())
                })
                .unwrap();
        }
        let param = waiting();
        param.zero_grad();
        param.add_grad(Tensor::zeros(&[2])).unwrap();
        assert_eq!(param.grad().unwrap().data::<f32>().unwrap(), [0.0; 2]);
    }

    #[test]
    fn what_waits_is_summed_when_the_list_is_full() {
        let mut list = Waiting::default();
        let part = || Tensor::from_vec(vec![1.0f32], &[1, 1]).unwrap();
        let params: Vec<Param> = (0..PartSums::MOST)
            .map(|_| Param::new("p", Tensor::zeros(&[1])))
            .collect();
        for (i, param) in params.iter().enumerate() {
            // On the CPU the sum is an error.
            let full = i + 1 == PartSums::MOST;
            assert_eq!(list.add(param, part(), 1).is_err(), full, "{i}");
        }
        assert!(list.params.is_empty() && list.bytes == 0);
        let large = Param::new("p", Tensor::zeros(&[1024]));
        let parts = BYTES / 4096;
        assert!(
            list.add(&large, Tensor::zeros(&[parts, 1024]), parts)
                .is_err()
        );
        // A weight twice, and none that waits.
        params[0].zero_grad();
        list.add(&params[0], part(), 1).unwrap();
        params[0].zero_grad();
        list.add(&params[0], part(), 1).unwrap();
        params[0].zero_grad();
        list.sum().unwrap();
    }
}
