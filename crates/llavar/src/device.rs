//! `--device` and `--dtype`: where a command computes, and one line that says so.

use std::path::{Path, PathBuf};

use llavar_assistant::Assistant;
use llavar_data::TemplateName;
use llavar_tensor::{DType, Device, DeviceKind, collective::Launch};

use crate::{
    commands::no_pipe_in_model,
    failure::{Class, Failure, Outcome},
    progress::note,
};

/// Flags of the commands that answer: where they compute, and what stands on the model.
#[derive(Debug, clap::Args)]
pub(crate) struct DeviceFlags {
    /// Where to compute: auto takes the first GPU that can be used, else the CPU.
    #[arg(long, value_name = "auto|cpu|cuda|cuda:N", default_value = "auto", value_parser = kind)]
    pub(crate) device: DeviceKind,
    /// Element type of weights and activations; bf16 on a GPU and f32 on the CPU by default.
    #[arg(long, value_name = "f32|bf16", value_parser = dtype)]
    pub(crate) dtype: Option<DType>,
    /// LoRA or DoRA adapter folder on the model (PEFT's layout), merged as it is read. A --model that is an adapter
    /// folder itself is read with the base that it names.
    #[arg(long, value_name = "DIR")]
    pub(crate) adapter: Option<PathBuf>,
}

/// A device by its name.
pub(crate) fn kind(text: &str) -> Result<DeviceKind, String> {
    text.parse()
        .map_err(|e: llavar_tensor::Error| e.to_string())
}

fn dtype(text: &str) -> Result<DType, String> {
    match text {
        "f32" => Ok(DType::F32),
        "bf16" => Ok(DType::BF16),
        _ => Err("there are f32 and bf16".into()),
    }
}

impl DeviceFlags {
    /// The flags of one of several ranks: the GPU of its number on its machine, counted from the one that
    /// was asked for.
    pub(crate) fn of_rank(&self, launch: &Launch) -> Self {
        // A launcher that shows every rank its own GPU alone has counted already.
        let shown = std::env::var("CUDA_VISIBLE_DEVICES").unwrap_or_default();
        let alone = !shown.is_empty() && !shown.contains(',');
        let local = if alone { 0 } else { launch.local_rank };
        let device = match self.device {
            DeviceKind::Cuda(first) => DeviceKind::Cuda(first + local),
            DeviceKind::Auto if local > 0 && Device::cuda(local).is_ok() => DeviceKind::Cuda(local),
            other => other,
        };
        Self {
            device,
            dtype: self.dtype,
            adapter: self.adapter.clone(),
        }
    }

    /// Opens the device and says which it is, or why it is not the GPU.
    pub(crate) fn open(&self) -> Outcome<(Device, DType)> {
        let (device, why) = Device::open(self.device).map_err(unusable)?;
        let mut why = why.map(|e| e.to_string());
        let dtype = match (self.dtype, device.as_cuda()) {
            (None | Some(DType::F32), None) => DType::F32,
            (Some(other), None) => {
                return Err(Failure::usage(format!("--dtype {other} needs a GPU"))
                    .maybe_hint(why.as_deref()));
            }
            (Some(asked), Some(cuda)) => {
                cuda.check_dtype(asked).map_err(unusable)?;
                asked
            }
            (None, Some(cuda)) => match cuda.check_dtype(DType::BF16) {
                Ok(()) => DType::BF16,
                Err(error) => {
                    why = Some(error.to_string());
                    DType::F32
                }
            },
        };
        announce(&format!("{}, {dtype}", device.describe()), why.as_deref());
        Ok((device, dtype))
    }

    /// Opens a model folder, with the adapter if there is one, where the flags say.
    pub(crate) fn load(&self, model: &Path, template: Option<TemplateName>) -> Outcome<Assistant> {
        let folders = [Some(model), self.adapter.as_deref()];
        folders
            .into_iter()
            .flatten()
            .try_for_each(no_pipe_in_model)?;
        let (device, dtype) = self.open()?;
        let adapter = self.adapter.as_deref();
        Ok(Assistant::load_adapted_on(
            model, adapter, template, &device, dtype,
        )?)
    }
}

/// The one line about the device.
pub(crate) fn announce(device: &str, why: Option<&str>) {
    note(match why {
        Some(why) => format!("device: {device} ({why})"),
        None => format!("device: {device}"),
    });
}

/// A device that was asked for by name and cannot be had.
pub(crate) fn unusable(error: llavar_tensor::Error) -> Failure {
    Failure::new(Class::Usage, error).hint("`--device cpu` works everywhere")
}
