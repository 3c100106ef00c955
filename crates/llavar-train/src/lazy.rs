//! Tensors on their way to a safetensors file, fetched from their device one by one.

use std::{borrow::Cow, cell::RefCell, fs::File, path::Path};

use llavar_tensor::{DType, Device, Tensor};
use safetensors::{Dtype, View};

use crate::TrainError;

/// What is written under a name.
#[derive(Debug)]
pub(crate) enum Stored {
    /// f32 or bf16.
    Tensor(Tensor),
    /// Elements in the bytes of the file.
    Bytes {
        dtype: Dtype,
        shape: Vec<usize>,
        bytes: Vec<u8>,
    },
}

/// Writes tensors under their names.
pub(crate) fn write_tensors(path: &Path, tensors: Vec<(String, Stored)>) -> Result<(), TrainError> {
    // The format's library cannot be told of a failure in between; it is kept here.
    let failure = RefCell::new(None);
    let views = tensors.into_iter().map(|(name, stored)| {
        let view = Lazy {
            stored,
            failure: &failure,
        };
        (name, view)
    });
    // The format's library makes files that their owner alone may read; others of the run folder may be read by all.
    let modes = File::create(path).and_then(|file| file.metadata());
    let modes = modes.map_err(|e| TrainError::save(path, e))?.permissions();
    let written = safetensors::serialize_to_file(views, None, path);
    if let Some(error) = failure.into_inner() {
        return Err(TrainError::Tensor(error));
    }
    written.map_err(|e| TrainError::save(path, e))?;
    std::fs::set_permissions(path, modes).map_err(|e| TrainError::save(path, e))
}

struct Lazy<'a> {
    stored: Stored,
    failure: &'a RefCell<Option<llavar_tensor::Error>>,
}

/// Elements as the file has them.
fn bytes(tensor: &Tensor) -> llavar_tensor::Result<Vec<u8>> {
    let here = tensor.to_device(&Device::Cpu)?;
    Ok(match here.dtype() {
        DType::BF16 => bytemuck::cast_slice(here.data::<half::bf16>()?).to_vec(),
        _ => bytemuck::cast_slice(here.data::<f32>()?).to_vec(),
    })
}

impl View for Lazy<'_> {
    fn dtype(&self) -> Dtype {
        match &self.stored {
            Stored::Tensor(tensor) if tensor.dtype() == DType::BF16 => Dtype::BF16,
            Stored::Tensor(_) => Dtype::F32,
            Stored::Bytes { dtype, .. } => *dtype,
        }
    }

    fn shape(&self) -> &[usize] {
        match &self.stored {
            Stored::Tensor(tensor) => tensor.shape(),
            Stored::Bytes { shape, .. } => shape,
        }
    }

    fn data(&self) -> Cow<'_, [u8]> {
        let tensor = match &self.stored {
            Stored::Tensor(tensor) => tensor,
            Stored::Bytes { bytes, .. } => return Cow::Borrowed(bytes),
        };
        if let Ok(values) = tensor.data::<f32>() {
            return Cow::Borrowed(bytemuck::cast_slice(values));
        }
        match bytes(tensor) {
            Ok(bytes) => Cow::Owned(bytes),
            Err(error) => {
                self.failure.borrow_mut().get_or_insert(error);
                Cow::Owned(vec![0; self.data_len()])
            }
        }
    }

    fn data_len(&self) -> usize {
        match &self.stored {
            Stored::Tensor(tensor) => tensor.numel() * tensor.dtype().size(),
            Stored::Bytes { bytes, .. } => bytes.len(),
        }
    }
}
