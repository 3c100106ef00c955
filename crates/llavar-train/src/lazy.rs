//! Tensors on their way to a safetensors file, fetched from their device one by one.

use std::{borrow::Cow, cell::RefCell, path::Path};

use llavar_tensor::{DType, Device, Tensor};
use safetensors::{Dtype, View};

use crate::TrainError;

/// Writes tensors of f32 or bf16 under their names.
pub(crate) fn write_tensors(path: &Path, tensors: Vec<(String, Tensor)>) -> Result<(), TrainError> {
    // The format's library cannot be told of a failure in between; it is kept here.
    let failure = RefCell::new(None);
    let views = tensors.into_iter().map(|(name, tensor)| {
        let view = Lazy {
            tensor,
            failure: &failure,
        };
        (name, view)
    });
    let written = safetensors::serialize_to_file(views, None, path);
    if let Some(error) = failure.into_inner() {
        return Err(TrainError::Tensor(error));
    }
    written.map_err(|e| TrainError::save(path, e))
}

struct Lazy<'a> {
    tensor: Tensor,
    failure: &'a RefCell<Option<llavar_tensor::Error>>,
}

impl Lazy<'_> {
    fn bytes(&self) -> llavar_tensor::Result<Vec<u8>> {
        let here = self.tensor.to_device(&Device::Cpu)?;
        Ok(match here.dtype() {
            DType::BF16 => here
                .data::<half::bf16>()?
                .iter()
                .flat_map(|x| x.to_le_bytes())
                .collect(),
            _ => here
                .data::<f32>()?
                .iter()
                .flat_map(|x| x.to_le_bytes())
                .collect(),
        })
    }
}

impl View for Lazy<'_> {
    fn dtype(&self) -> Dtype {
        match self.tensor.dtype() {
            DType::BF16 => Dtype::BF16,
            _ => Dtype::F32,
        }
    }

    fn shape(&self) -> &[usize] {
        self.tensor.shape()
    }

    fn data(&self) -> Cow<'_, [u8]> {
        if let (true, Ok(values)) = (cfg!(target_endian = "little"), self.tensor.data::<f32>()) {
            return Cow::Borrowed(bytemuck::cast_slice(values));
        }
        match self.bytes() {
            Ok(bytes) => Cow::Owned(bytes),
            Err(error) => {
                self.failure.borrow_mut().get_or_insert(error);
                Cow::Owned(vec![0; self.data_len()])
            }
        }
    }

    fn data_len(&self) -> usize {
        self.tensor.numel() * self.tensor.dtype().size()
    }
}
