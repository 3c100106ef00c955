//! Constant integers: equal content is uploaded once and shared.

use std::{
    collections::HashMap,
    hash::{DefaultHasher, Hash, Hasher},
    sync::Arc,
};

use cudarc::driver::sys as cu;

use super::{DeviceBuffer, Origin, lock};
use crate::{DType, Result, Tensor, cuda::Cuda};

/// Constants kept on the device; the least recently used goes first.
const CONSTANTS: usize = 256;

#[derive(Default)]
pub(super) struct Constants {
    pub(super) by_hash: HashMap<u64, Constant>,
    clock: u64,
}

pub(super) struct Constant {
    content: Vec<i32>,
    pub(super) address: u64,
    used: u64,
    /// Tensors that look at it; it is not freed before they are gone.
    lease: Arc<()>,
}

impl Cuda {
    /// A tensor of constant integers: equal content is uploaded once and shared.
    pub(crate) fn constant(self: &Arc<Self>, content: &[i32]) -> Result<Tensor> {
        let mut hasher = DefaultHasher::new();
        content.hash(&mut hasher);
        let hash = hasher.finish();
        let mut constants = lock(&self.memory.constants);
        constants.clock += 1;
        let clock = constants.clock;
        let found = match constants.by_hash.get_mut(&hash) {
            Some(found) if found.content == content => {
                found.used = clock;
                Some((found.address, found.lease.clone()))
            }
            _ => None,
        };
        let (address, lease) = match found {
            Some(found) => found,
            None => {
                if constants.by_hash.contains_key(&hash) {
                    // Two contents with one hash: this one is not shared.
                    drop(constants);
                    return self.upload(content, &[content.len()]);
                }
                self.bind()?;
                let address = self.pooled(size_of_val(content).max(16))?;
                self.send(content, address)?;
                let lease = Arc::new(());
                constants.make_room(self.stream());
                let constant = Constant {
                    content: content.to_vec(),
                    address,
                    used: clock,
                    lease: lease.clone(),
                };
                constants.by_hash.insert(hash, constant);
                (address, lease)
            }
        };
        let buffer = DeviceBuffer {
            cuda: self.clone(),
            address,
            bytes: 0,
            len: content.len(),
            dtype: DType::I32,
            origin: Origin::Constant(lease),
        };
        Ok(Tensor::from_device(buffer, &[content.len()]))
    }
}

impl Constants {
    /// Frees the least recently used constants that no tensor looks at.
    fn make_room(&mut self, stream: cu::CUstream) {
        if self.by_hash.len() < CONSTANTS {
            return;
        }
        let mut idle: Vec<(u64, u64)> = self
            .by_hash
            .iter()
            .filter(|(_, c)| Arc::strong_count(&c.lease) == 1)
            .map(|(hash, c)| (c.used, *hash))
            .collect();
        idle.sort_unstable();
        for (_, hash) in idle.into_iter().take(CONSTANTS / 4) {
            if let Some(constant) = self.by_hash.remove(&hash) {
                // SAFETY: allocated on this stream, freed once; queued work on it comes first.
                let _ = unsafe { cu::cuMemFreeAsync(constant.address, stream) };
            }
        }
    }
}
