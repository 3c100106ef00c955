//! Where tensors live: in main memory or on a GPU.

use std::{fmt, str::FromStr, sync::Arc};

use crate::{Error, Result, cuda::Cuda};

/// A place for tensors and their operations. Cloning shares it.
#[derive(Debug, Clone, Default)]
pub enum Device {
    /// Main memory and the processor's cores.
    #[default]
    Cpu,
    /// One GPU with its stream and libraries.
    Cuda(Arc<Cuda>),
}

impl Device {
    /// The GPU with this number, with everything that the engine needs of it.
    ///
    /// # Errors
    /// [`Error::NoDevice`] that says what is missing: driver, library or the GPU itself.
    pub fn cuda(ordinal: usize) -> Result<Self> {
        Ok(Self::Cuda(Cuda::open(ordinal)?))
    }

    /// The device that `wanted` names; [`DeviceKind::Auto`] takes the first GPU that can be used, and the
    /// CPU where there is none, together with the reason.
    ///
    /// # Errors
    /// As [`Device::cuda`], for a GPU that was asked for by name.
    pub fn open(wanted: DeviceKind) -> Result<(Self, Option<Error>)> {
        match wanted {
            DeviceKind::Cpu => Ok((Self::Cpu, None)),
            DeviceKind::Cuda(ordinal) => Ok((Self::cuda(ordinal)?, None)),
            DeviceKind::Auto => match Self::cuda(0) {
                Ok(device) => Ok((device, None)),
                Err(why) => Ok((Self::Cpu, Some(why))),
            },
        }
    }

    /// Whether it is a GPU.
    pub fn is_cuda(&self) -> bool {
        matches!(self, Self::Cuda(_))
    }

    /// The GPU, if it is one.
    pub fn as_cuda(&self) -> Option<&Arc<Cuda>> {
        match self {
            Self::Cpu => None,
            Self::Cuda(cuda) => Some(cuda),
        }
    }

    /// Its name and what it is: `cpu`, or `cuda:0 (NVIDIA H200, 139.8 GiB)`.
    pub fn describe(&self) -> String {
        match self {
            Self::Cpu => self.to_string(),
            Self::Cuda(cuda) => {
                let info = cuda.info();
                let gib = info.memory as f64 / (1u64 << 30) as f64;
                format!("{self} ({}, {gib:.1} GiB)", info.name)
            }
        }
    }

    /// Waits until everything that was asked of it is done.
    ///
    /// # Errors
    /// When an operation failed on the device.
    pub fn synchronize(&self) -> Result<()> {
        self.as_cuda().map_or(Ok(()), |cuda| cuda.synchronize())
    }
}

impl PartialEq for Device {
    fn eq(&self, other: &Self) -> bool {
        match (self.as_cuda(), other.as_cuda()) {
            (None, None) => true,
            (Some(a), Some(b)) => Arc::ptr_eq(a, b),
            _ => false,
        }
    }
}

impl fmt::Display for Device {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Cpu => f.write_str("cpu"),
            Self::Cuda(cuda) => write!(f, "cuda:{}", cuda.ordinal()),
        }
    }
}

/// What a user asks for: `auto`, `cpu`, `cuda` or `cuda:N`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum DeviceKind {
    /// The first usable GPU, else the CPU.
    #[default]
    Auto,
    /// The CPU.
    Cpu,
    /// The GPU of this number.
    Cuda(usize),
}

impl FromStr for DeviceKind {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let kind = match text.split_once(':') {
            None if text == "auto" => Some(Self::Auto),
            None if text == "cpu" => Some(Self::Cpu),
            None if text == "cuda" => Some(Self::Cuda(0)),
            Some(("cuda", number)) => number.parse().ok().map(Self::Cuda),
            _ => None,
        };
        kind.ok_or_else(|| Error::InvalidArgument {
            op: "device",
            reason: format!("`{text}` is no device; there are auto, cpu, cuda and cuda:N"),
        })
    }
}

impl fmt::Display for DeviceKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Auto => f.write_str("auto"),
            Self::Cpu => f.write_str("cpu"),
            Self::Cuda(n) => write!(f, "cuda:{n}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_come_back() {
        for text in ["auto", "cpu", "cuda:3"] {
            assert_eq!(text.parse::<DeviceKind>().unwrap().to_string(), text);
        }
        assert_eq!("cuda".parse::<DeviceKind>().unwrap(), DeviceKind::Cuda(0));
        for text in ["gpu", "cuda:", "cuda:x", "cpu:0", ""] {
            let error = text.parse::<DeviceKind>().unwrap_err().to_string();
            assert!(error.contains("cuda:N"), "{error}");
        }
    }
}
