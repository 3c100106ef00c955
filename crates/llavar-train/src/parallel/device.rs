//! Coming together, and which device a rank trains on.

use std::sync::Arc;

use llavar_tensor::{
    Device, DeviceKind,
    collective::{Group, Launch},
};

use crate::{Recipe, TrainError};

/// Comes together with the ranks that the launcher started, each on the device that the recipe gives it: MPI
/// on CPUs, NCCL on GPUs. One process alone is a group of one.
///
/// # Errors
/// [`TrainError::Setting`] for a device that cannot be used, and as [`Group::join`].
pub fn join_ranks(recipe: &Recipe, launch: &Launch) -> Result<Arc<Group>, TrainError> {
    if launch.size == 1 {
        return Ok(Arc::new(Group::single()));
    }
    let device = device_of(recipe, launch)?;
    Ok(Arc::new(Group::join(launch, &device)?))
}

/// The device of this rank: the GPU of its number on its machine, counted from the one that the recipe names.
fn device_of(recipe: &Recipe, launch: &Launch) -> Result<Device, TrainError> {
    let wrong = |e: llavar_tensor::Error| TrainError::Setting {
        key: "train.device",
        reason: format!("rank {}: {e}", launch.rank),
    };
    let kind: DeviceKind = recipe.train.device.parse().map_err(wrong)?;
    // A launcher that shows every rank its own GPU alone has counted already.
    let shown = std::env::var("CUDA_VISIBLE_DEVICES").unwrap_or_default();
    let alone = !shown.is_empty() && !shown.contains(',');
    let local = if alone { 0 } else { launch.local_rank };
    match kind {
        DeviceKind::Cpu => Ok(Device::Cpu),
        DeviceKind::Cuda(first) => Device::cuda(first + local).map_err(wrong),
        // All ranks must come to the same answer: whether there is a first GPU.
        DeviceKind::Auto => match Device::open(DeviceKind::Auto).map_err(wrong)?.0 {
            Device::Cpu => Ok(Device::Cpu),
            Device::Cuda(_) => Device::cuda(local).map_err(wrong),
        },
    }
}
