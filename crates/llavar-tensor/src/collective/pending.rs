//! `Pending`: the result of a collective operation that may still be under way.

use crate::{Result, Tensor};

/// Orders the device's own work behind a collective operation.
pub(crate) trait Fence: Send + std::fmt::Debug {
    /// Everything that is queued from now on comes after the operation; the host does not wait.
    fn pass(&mut self) -> Result<()>;
}

/// A tensor that a collective operation fills. Dropping it is as good as waiting.
#[derive(Debug)]
#[must_use]
pub struct Pending {
    result: Option<Tensor>,
    /// Read by the operation, so kept until it is over.
    _source: Option<Tensor>,
    fence: Option<Box<dyn Fence>>,
}

impl Pending {
    /// A result that is there.
    pub(crate) fn ready(result: Tensor) -> Self {
        Self {
            result: Some(result),
            _source: None,
            fence: None,
        }
    }

    /// A result that is there for everything that comes after `fence`.
    pub(crate) fn behind(result: Tensor, source: Tensor, fence: Box<dyn Fence>) -> Self {
        Self {
            result: Some(result),
            _source: Some(source),
            fence: Some(fence),
        }
    }

    /// The result; work queued from now on finds it complete.
    ///
    /// # Errors
    /// When the device refuses.
    pub fn wait(mut self) -> Result<Tensor> {
        if let Some(mut fence) = self.fence.take() {
            fence.pass()?;
        }
        Ok(self.result.take().unwrap_or_else(|| Tensor::zeros(&[0])))
    }
}

impl Drop for Pending {
    fn drop(&mut self) {
        // Memory must not go back to its pool while the operation may still touch it.
        if let Some(mut fence) = self.fence.take() {
            let _ = fence.pass();
        }
    }
}
