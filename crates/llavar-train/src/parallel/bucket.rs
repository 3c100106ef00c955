//! `Bucket`: the weights of one block as a run of elements that is cut into equal parts, one for each rank.
//!
//! A rank's part of a weight is a weight of its own, a [`Piece`], with value, gradient and moments.

use std::sync::{Mutex, MutexGuard, PoisonError};

use llavar_tensor::{
    DType, Device, Param, Tensor,
    collective::{ALIGNMENT, flatten},
};

use crate::TrainError;

/// A part of a weight that one rank keeps: elements `start ..` of `whole`.
#[derive(Debug, Clone)]
pub(crate) struct Piece {
    pub(crate) param: Param,
    /// Shape of the weight that it is a part of.
    pub(crate) whole: Vec<usize>,
    pub(crate) start: usize,
}

impl Piece {
    /// A weight that is kept whole.
    pub(crate) fn all(param: Param) -> Self {
        Self {
            whole: param.shape().to_vec(),
            param,
            start: 0,
        }
    }
}

#[derive(Debug)]
pub(crate) struct Bucket {
    slots: Vec<Slot>,
    /// Elements of the run, gaps included; a multiple of the number of ranks.
    len: usize,
    ranks: usize,
    /// This rank's part of the gradients so far.
    sum: Mutex<Option<Tensor>>,
    /// Whether any weight of it trains.
    pub(crate) trains: bool,
    /// Whether it is read only where there are pictures.
    pub(crate) vision: bool,
}

#[derive(Debug)]
struct Slot {
    param: Param,
    /// First element in the run.
    offset: usize,
    /// This rank's part of the weight, and where it lies in this rank's part of the run.
    piece: Option<(Piece, usize)>,
}

impl Bucket {
    /// Weights that are on the CPU, with the pieces of `rank` where the bucket is cut at all.
    pub(crate) fn new(
        params: &[Param],
        rank: usize,
        ranks: usize,
        is_cut: bool,
    ) -> Result<Self, TrainError> {
        let mut len = 0usize;
        let mut slots: Vec<Slot> = Vec::with_capacity(params.len());
        for param in params {
            slots.push(Slot {
                param: param.clone(),
                offset: len,
                piece: None,
            });
            len += param.numel().next_multiple_of(ALIGNMENT);
        }
        let len = len.next_multiple_of(ranks * ALIGNMENT);
        let part = len / ranks;
        let own = rank * part..(rank + 1) * part;
        for slot in slots.iter_mut().filter(|_| is_cut) {
            let end = slot.offset + slot.param.numel();
            let (from, to) = (slot.offset.max(own.start), end.min(own.end));
            if from >= to {
                continue;
            }
            let value = slot.param.value();
            let start = from - slot.offset;
            // A copy: a view would keep the whole weight.
            let values = value.reshape(&[value.numel()])?.narrow(start, to - from)?;
            let values = Tensor::from_vec(values.to_f32_vec()?, &[to - from])?;
            let param = Param::new(slot.param.name(), values);
            param.set_requires_grad(slot.param.requires_grad());
            let piece = Piece {
                param,
                whole: slot.param.shape().to_vec(),
                start,
            };
            slot.piece = Some((piece, from - own.start));
        }
        Ok(Self {
            trains: params.iter().any(Param::requires_grad),
            vision: params.iter().all(|p| is_vision(p.name())),
            slots,
            len,
            ranks,
            sum: Mutex::default(),
        })
    }

    /// Its weights.
    pub(crate) fn params(&self) -> impl Iterator<Item = &Param> {
        self.slots.iter().map(|slot| &slot.param)
    }

    /// What this rank keeps of it.
    pub(crate) fn pieces(&self) -> impl Iterator<Item = &Piece> {
        self.slots
            .iter()
            .filter_map(|slot| Some(&slot.piece.as_ref()?.0))
    }

    /// Elements of the run.
    pub(crate) fn len(&self) -> usize {
        self.len
    }

    /// This rank's part of the run, with the values that `value` gives for its pieces.
    pub(crate) fn part(
        &self,
        dtype: DType,
        device: &Device,
        value: impl Fn(&Param) -> Tensor,
    ) -> Result<Tensor, llavar_tensor::Error> {
        let pieces = self.slots.iter().filter_map(|slot| slot.piece.as_ref());
        let parts: Vec<(usize, Tensor)> = pieces.map(|(p, at)| (*at, value(&p.param))).collect();
        flatten(&parts, self.len / self.ranks, dtype, device)
    }

    /// Makes views of a run the values of the weights.
    pub(crate) fn spread(&self, run: &Tensor) -> Result<(), llavar_tensor::Error> {
        for slot in &self.slots {
            slot.param.set_value(slot.view(run)?)?;
        }
        Ok(())
    }

    /// The value of one weight in a run.
    pub(crate) fn find(
        &self,
        name: &str,
        run: &Tensor,
    ) -> Result<Option<Tensor>, llavar_tensor::Error> {
        let slot = self.slots.iter().find(|slot| slot.param.name() == name);
        slot.map(|slot| slot.view(run)).transpose()
    }

    /// Takes the gradients of the weights away as a run, zeros where there are none. `seen` hears of each.
    pub(crate) fn take_grads(
        &self,
        dtype: DType,
        device: &Device,
        mut seen: impl FnMut(&str),
    ) -> Result<Tensor, llavar_tensor::Error> {
        let mut parts = Vec::new();
        // In the middle of a backward pass some may wait.
        Param::sum_grads(self.params())?;
        for slot in &self.slots {
            if let Some(grad) = slot.param.take_grad() {
                seen(slot.param.name());
                parts.push((slot.offset, grad));
            }
        }
        flatten(&parts, self.len, dtype, device)
    }

    /// Gives the weights their gradients from a run, those that `wanted` names.
    pub(crate) fn put_grads(
        &self,
        run: &Tensor,
        wanted: impl Fn(&str) -> bool,
    ) -> Result<(), llavar_tensor::Error> {
        for slot in &self.slots {
            if wanted(slot.param.name()) {
                slot.param.add_grad(slot.view(run)?)?;
            }
        }
        Ok(())
    }

    /// Adds this rank's part of summed gradients to those that it has.
    pub(crate) fn add_part(&self, part: Tensor) -> Result<(), llavar_tensor::Error> {
        let mut sum = self.lock();
        match &mut *sum {
            // Views are made at the end alone: as long as there is one, adding copies.
            Some(sum) => sum.add_assign(&part)?,
            none => *none = Some(part),
        }
        Ok(())
    }

    /// Gives the pieces that `wanted` names their gradients.
    pub(crate) fn hand_out(
        &self,
        wanted: impl Fn(&str) -> bool,
    ) -> Result<(), llavar_tensor::Error> {
        let Some(sum) = self.lock().take() else {
            return Ok(());
        };
        for (piece, at) in self.slots.iter().filter_map(|slot| slot.piece.as_ref()) {
            let param = &piece.param;
            if param.requires_grad() && wanted(param.name()) {
                param.add_grad(sum.narrow(*at, param.numel())?)?;
            }
        }
        Ok(())
    }

    /// Lets go of all gradients.
    pub(crate) fn drop_grads(&self) {
        *self.lock() = None;
        self.params().for_each(|p| drop(p.take_grad()));
        self.pieces().for_each(|p| drop(p.param.take_grad()));
    }

    fn lock(&self) -> MutexGuard<'_, Option<Tensor>> {
        self.sum.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Slot {
    fn view(&self, run: &Tensor) -> Result<Tensor, llavar_tensor::Error> {
        run.narrow(self.offset, self.param.numel())?
            .reshape(self.param.shape())
    }
}

/// Whether a weight is read only where there are pictures.
fn is_vision(name: &str) -> bool {
    name.contains("vision_tower") || name.contains("mm_projector")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn weights() -> Vec<Param> {
        [300usize, 1, 128, 77]
            .into_iter()
            .enumerate()
            .map(|(i, n)| {
                let values = (0..n).map(|x| (1000 * i + x) as f32).collect();
                let param = Param::new(format!("w{i}"), Tensor::from_vec(values, &[n, 1]).unwrap());
                param.set_requires_grad(true);
                param
            })
            .collect()
    }

    #[test]
    fn parts_of_all_ranks_are_the_whole() {
        let cpu = Device::Cpu;
        for ranks in 1..=7 {
            let params = weights();
            let cut: Vec<Bucket> = (0..ranks)
                .map(|rank| Bucket::new(&params, rank, ranks, true).unwrap())
                .collect();
            let parts: Vec<Tensor> = cut
                .iter()
                .map(|b| b.part(DType::F32, &cpu, Param::value).unwrap())
                .collect();
            let run = Tensor::concat(&parts).unwrap();
            assert_eq!(run.numel(), cut[0].len());
            let before: Vec<Vec<f32>> = params
                .iter()
                .map(|p| p.value().to_f32_vec().unwrap())
                .collect();
            for param in &params {
                param.release();
                assert!(
                    param.value().data::<f32>().is_err(),
                    "a released value is missing"
                );
            }
            cut[0].spread(&run).unwrap();
            for (param, before) in params.iter().zip(before) {
                assert_eq!(param.value().to_f32_vec().unwrap(), before, "{ranks} ranks");
                let found = cut[0].find(param.name(), &run).unwrap().unwrap();
                assert_eq!(found.to_f32_vec().unwrap(), before);
            }
        }
    }

    #[test]
    fn gradients_reach_the_pieces_and_add_up() {
        let (params, ranks) = (weights(), 3);
        let cut: Vec<Bucket> = (0..ranks)
            .map(|rank| Bucket::new(&params, rank, ranks, true).unwrap())
            .collect();
        for _ in 0..2 {
            for param in params.iter().skip(1) {
                let values = param.value().to_f32_vec().unwrap();
                param
                    .accumulate(|grad, _| {
                        grad.copy_from_slice(&values);
                        Ok(())
                    })
                    .unwrap();
            }
            let mut seen = Vec::new();
            let run = cut[0].take_grads(DType::F32, &Device::Cpu, |n| seen.push(n.to_owned()));
            let run = run.unwrap();
            assert_eq!(seen, ["w1", "w2", "w3"]);
            assert!(params.iter().all(|p| p.grad().is_none()));
            for (rank, bucket) in cut.iter().enumerate() {
                let part = bucket.len() / ranks;
                let own = run.narrow(rank * part, part).unwrap();
                bucket.add_part(own).unwrap();
            }
        }
        for bucket in &cut {
            bucket.hand_out(|name| name != "w3").unwrap();
            for piece in bucket.pieces() {
                if piece.param.name() == "w3" {
                    assert!(piece.param.grad().is_none(), "it was not wanted");
                    continue;
                }
                let grad = piece.param.grad().unwrap().to_f32_vec().unwrap();
                let value = piece.param.value().to_f32_vec().unwrap();
                let factor = if piece.param.name() == "w0" { 0.0 } else { 2.0 };
                let want: Vec<f32> = value.iter().map(|x| factor * x).collect();
                assert_eq!(grad, want, "{}", piece.param.name());
            }
        }
    }
}
