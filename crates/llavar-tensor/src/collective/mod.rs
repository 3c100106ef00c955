//! Work of many processes on one model: the collective operations, and who takes part.
//!
//! - [`Launch`]: what the launcher (`torchrun`, Slurm, `mpirun`) says about this process.
//! - [`Collective`]: sums and copies of tensors between ranks. Backends: one rank alone, MPI on CPUs
//!   (`mpi`), NCCL on GPUs (`crate::cuda`). There is no transport of our own for tensors.
//! - [`Group`]: a collective together with the control channel, over which ranks agree on small things and
//!   notice when one of them is gone.
//!
//! Every rank calls the same operations in the same order with tensors of the same size and type.

mod control;
mod flat;
mod group;
mod launch;
mod mpi;
mod mpi_library;
mod pending;

pub use flat::{ALIGNMENT, flatten};
pub use group::Group;
pub use launch::{Launch, Launcher};
pub use pending::Pending;
pub(crate) use {control::Watch, pending::Fence};

use crate::{Device, Error, Result, Tensor};

/// Operations in which all ranks take part. Tensors are f32 (on GPUs bf16 too) and live on
/// [`Collective::device`].
///
/// # Errors
/// All operations give [`Error::RankLost`] where another rank is gone, [`Error::Collective`] for what the
/// library says. After an error the group is of no more use.
pub trait Collective: Send + Sync + std::fmt::Debug {
    /// Number of this process, from 0.
    fn rank(&self) -> usize;

    /// Processes that take part.
    fn size(&self) -> usize;

    /// `single`, `mpi` or `nccl`.
    fn backend(&self) -> &'static str;

    /// Where the tensors live.
    fn device(&self) -> Device;

    /// Replaces a tensor by its sum over all ranks; all ranks get the same bits.
    ///
    /// # Errors
    /// As the trait says.
    fn all_reduce(&self, tensor: &mut Tensor) -> Result<()>;

    /// Puts the parts of all ranks together, in their order. On a GPU it runs beside what is queued later.
    ///
    /// # Shapes
    /// `part [n]` -> `[size * n]`.
    ///
    /// # Errors
    /// As the trait says.
    fn all_gather(&self, part: &Tensor) -> Result<Pending>;

    /// Sums a tensor over all ranks and gives each its part. On a GPU it runs beside what is queued later.
    ///
    /// # Shapes
    /// `whole [size * n]` -> `[n]`: the sum of elements `rank * n ..`.
    ///
    /// # Errors
    /// As the trait says, and when the length is no multiple of the number of ranks.
    fn reduce_scatter(&self, whole: Tensor) -> Result<Pending>;

    /// Replaces a tensor by that of `root`.
    ///
    /// # Errors
    /// As the trait says.
    fn broadcast(&self, tensor: &mut Tensor, root: usize) -> Result<()>;

    /// Waits until every rank has come here.
    ///
    /// # Errors
    /// As the trait says.
    fn barrier(&self) -> Result<()>;

    /// Ends without errors: every rank has come to this point.
    ///
    /// # Errors
    /// As the trait says.
    fn close(&self) -> Result<()> {
        Ok(())
    }
}

/// One process alone: everything is there already.
#[derive(Debug, Clone)]
pub(crate) struct Single(pub(crate) Device);

impl Collective for Single {
    fn rank(&self) -> usize {
        0
    }
    fn size(&self) -> usize {
        1
    }
    fn backend(&self) -> &'static str {
        "single"
    }
    fn device(&self) -> Device {
        self.0.clone()
    }
    fn all_reduce(&self, _tensor: &mut Tensor) -> Result<()> {
        Ok(())
    }
    fn all_gather(&self, part: &Tensor) -> Result<Pending> {
        Ok(Pending::ready(part.reshape(&[part.numel()])?))
    }
    fn reduce_scatter(&self, whole: Tensor) -> Result<Pending> {
        Ok(Pending::ready(whole.reshape(&[whole.numel()])?))
    }
    fn broadcast(&self, _tensor: &mut Tensor, root: usize) -> Result<()> {
        check_root(root, 1)
    }
    fn barrier(&self) -> Result<()> {
        Ok(())
    }
}

/// Length of one rank's part of `whole`.
pub(crate) fn part_len(whole: &Tensor, size: usize) -> Result<usize> {
    match whole.numel().is_multiple_of(size.max(1)) {
        true => Ok(whole.numel() / size.max(1)),
        false => Err(Error::InvalidArgument {
            op: "reduce_scatter",
            reason: format!("{} elements do not divide by {size} ranks", whole.numel()),
        }),
    }
}

pub(crate) fn check_root(root: usize, size: usize) -> Result<()> {
    match root < size {
        true => Ok(()),
        false => Err(Error::InvalidArgument {
            op: "broadcast",
            reason: format!("there is no rank {root} among {size}"),
        }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_rank_keeps_what_it_has() {
        let group = Group::single();
        let all = group.collective();
        let x = Tensor::from_vec(vec![1.0f32, 2.0, 3.0, 4.0], &[2, 2]).unwrap();
        let mut sum = x.clone();
        all.all_reduce(&mut sum).unwrap();
        all.broadcast(&mut sum, 0).unwrap();
        all.barrier().unwrap();
        assert_eq!(sum.to_f32_vec().unwrap(), x.to_f32_vec().unwrap());
        let whole = all.all_gather(&x).unwrap().wait().unwrap();
        assert_eq!(whole.shape(), [4]);
        let part = all.reduce_scatter(whole).unwrap().wait().unwrap();
        assert_eq!(part.to_f32_vec().unwrap(), x.to_f32_vec().unwrap());
        assert!(all.broadcast(&mut sum, 1).is_err());
        assert!(part_len(&x, 3).is_err());
        assert_eq!(group.exchange(b"x").unwrap(), [b"x".to_vec()]);
    }
}
