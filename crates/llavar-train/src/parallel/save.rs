//! Bringing weights that are kept in parts together on rank 0, which writes them.

use std::{cell::RefCell, collections::HashMap};

use llavar_tensor::{DType, Device, Param, Tensor};

use super::{Zero, bucket::Bucket};
use crate::TrainError;

impl Zero {
    /// Lets rank 0 do `write` with a function that gives the f32 value of any weight, the master's where
    /// `masters` has it; all other ranks give their parts meanwhile. All ranks call it.
    pub(crate) fn write_values(
        &self,
        masters: &HashMap<String, Tensor>,
        write: impl FnOnce(&dyn Fn(&Param) -> Tensor) -> Result<(), TrainError>,
    ) -> Result<(), TrainError> {
        let whole = |param: &Param| {
            let master = masters.get(param.name()).cloned();
            master.unwrap_or_else(|| param.value())
        };
        if !self.sharding.states() {
            return match self.group.is_first() {
                true => write(&whole),
                false => Ok(()),
            };
        }
        if !self.group.is_first() {
            return self.give(masters);
        }
        let (failure, held) = (RefCell::new(None), RefCell::new(None));
        let value = |param: &Param| -> Tensor {
            let buckets = self.buckets.iter();
            let number = buckets
                .clone()
                .position(|b| b.params().any(|p| p.name() == param.name()));
            let Some(number) = number else {
                return whole(param);
            };
            let mut held = held.borrow_mut();
            let found = self.value_in(number, param.name(), masters, &mut held);
            found.unwrap_or_else(|error| {
                failure.borrow_mut().get_or_insert(error);
                Tensor::zeros(param.shape())
            })
        };
        let written = write(&value);
        let failed: Option<TrainError> = failure.into_inner();
        let lost = matches!(&failed, Some(TrainError::Tensor(_)));
        if !lost && self.group.size() > 1 {
            self.group.exchange(&0u64.to_le_bytes())?;
        }
        failed.map_or(written, Err)
    }

    fn value_in(
        &self,
        number: usize,
        name: &str,
        masters: &HashMap<String, Tensor>,
        held: &mut Option<(usize, Tensor)>,
    ) -> Result<Tensor, TrainError> {
        if held.as_ref().is_none_or(|(have, _)| *have != number) {
            *held = None;
            self.group.exchange(&(number as u64 + 1).to_le_bytes())?;
            *held = Some((number, self.gather(&self.buckets[number], masters)?));
        }
        let run = held.as_ref().map(|(_, run)| run);
        let found = run
            .map(|run| self.buckets[number].find(name, run))
            .transpose()?;
        Ok(found.flatten().unwrap_or_else(|| Tensor::zeros(&[0])))
    }

    /// Gives parts to rank 0 until it says that it has all.
    fn give(&self, masters: &HashMap<String, Tensor>) -> Result<(), TrainError> {
        loop {
            let said = self.group.exchange(&[])?;
            let word = said.first().and_then(|words| words.first_chunk());
            let number = word.map_or(0, |word| u64::from_le_bytes(*word)) as usize;
            match number.checked_sub(1).and_then(|n| self.buckets.get(n)) {
                Some(bucket) => drop(self.gather(bucket, masters)?),
                None => return Ok(()),
            }
        }
    }

    /// The f32 weights of a bucket as a run in main memory.
    fn gather(
        &self,
        bucket: &Bucket,
        masters: &HashMap<String, Tensor>,
    ) -> Result<Tensor, TrainError> {
        let failure = RefCell::new(None);
        let part = bucket.part(DType::F32, &self.device, |piece| {
            let master = masters.get(piece.name()).cloned();
            let value = master.unwrap_or_else(|| piece.value()).cast(DType::F32);
            value.unwrap_or_else(|error| {
                failure.borrow_mut().get_or_insert(error);
                Tensor::zeros(&[0])
            })
        });
        if let Some(error) = failure.into_inner() {
            return Err(error.into());
        }
        let run = self.group.collective().all_gather(&part?)?.wait()?;
        Ok(match self.group.is_first() {
            true => run.to_device(&Device::Cpu)?,
            false => run,
        })
    }
}
