//! What the user can do about errors of the libraries.

use std::{
    io::{Error as IoError, ErrorKind},
    path::Path,
};

use llavar_image::ImageError;
use llavar_model::{
    ModelError,
    config::ConfigError,
    weights::{SaveError, WeightsError},
};
use llavar_tensor::Error as TensorError;

use crate::failure::{Class, Failure};

/// A missing or unreachable file.
pub(crate) fn of_io(error: &IoError) -> Option<&'static str> {
    Some(match error.kind() {
        ErrorKind::NotFound => "check the path; it is taken from the present folder",
        ErrorKind::PermissionDenied => "check the permissions",
        ErrorKind::IsADirectory => "a file is needed here, not a folder",
        ErrorKind::NotADirectory | ErrorKind::AlreadyExists => {
            "a folder is needed here, not a file"
        }
        _ => return None,
    })
}

/// A picture.
fn of_image(error: &ImageError) -> Option<&'static str> {
    use ImageError as E;
    Some(match error {
        E::NotFound { .. } => "check the path; it is taken from the present folder",
        E::IsDirectory { .. } | E::NotRegularFile { .. } => "give one picture file",
        E::Empty { .. } | E::Truncated { .. } | E::Corrupt { .. } => {
            "the file is damaged: copy or download it again"
        }
        E::TooLarge { .. } => "scale it down first",
        E::UnknownFormat { .. } => "give a picture, or convert it to PNG",
        _ => return None,
    })
}

/// A model.
fn of_model(error: &ModelError) -> Option<&'static str> {
    Some(match error {
        ModelError::Weights(weights) => match weights {
            WeightsError::NoWeights { .. } => {
                "download the weights into the folder, or make a model with `llavar init`"
            }
            WeightsError::Mismatch(_) => {
                "configuration and weights are not of the same model: take both from one folder"
            }
            WeightsError::Read { source, .. } => return of_io(source),
            WeightsError::Ambiguous { .. } | WeightsError::LfsPointer { .. } => return None,
            _ => "copy or download the file again",
        },
        ModelError::Save(SaveError::Exists { .. }) => "give another --out",
        ModelError::Save(_) => "check free space and permissions",
        ModelError::Tensor(TensorError::OutOfMemory { .. }) => {
            "free the GPU, use `--dtype bf16`, or `--device cpu`"
        }
        ModelError::Config(config) => return of_config(config),
        _ => return None,
    })
}

/// The configuration of a model.
fn of_config(error: &ConfigError) -> Option<&'static str> {
    match error {
        ConfigError::Read { path, source } => {
            // A run and a checkpoint have their model in a folder of this name.
            let folder = match path.ends_with("config.json") {
                true => path.parent().unwrap_or(path),
                false => path,
            };
            let below = folder.join("model").join("config.json");
            match below.is_file() {
                true => Some(
                    "this is the folder of a run or a checkpoint: give the folder `model` in it",
                ),
                false => of_io(source),
            }
        }
        ConfigError::UnknownPreset { .. } => None,
        _ => Some("correct the file, or take it again from where the model comes from"),
    }
}

/// A tokenizer that is not in the folder where it was looked for.
fn of_tokenizer(path: &Path, error: &IoError) -> Option<&'static str> {
    let folder = path.parent().filter(|_| path.ends_with("tokenizer.json"))?;
    if error.kind() != ErrorKind::NotFound || !folder.is_dir() {
        return None;
    }
    Some(if folder.join("model").join("tokenizer.json").is_file() {
        "this is the folder of a run or a checkpoint: give the folder `model` in it"
    } else if folder.join("tokenizer.model").is_file() {
        "tokenizer.model is not read: save it as tokenizer.json, with transformers' `AutoTokenizer` and \
         `save_pretrained`"
    } else if folder.join("config.json").is_file() {
        "the model folder has no tokenizer: copy tokenizer.json into it from where the model comes from"
    } else {
        "this is no model folder: give one with config.json, weights and tokenizer.json"
    })
}

/// The cause of an error of training.
fn of_cause(error: &(dyn std::error::Error + Send + Sync + 'static)) -> Option<&'static str> {
    if let Some(config) = error.downcast_ref() {
        return of_config(config);
    }
    error.downcast_ref().and_then(of_model)
}

impl From<llavar_image::ImageError> for Failure {
    fn from(error: ImageError) -> Self {
        let hint = of_image(&error);
        Self::new(Class::Data, error).maybe_hint(hint)
    }
}

impl From<ModelError> for Failure {
    fn from(error: ModelError) -> Self {
        let class = match &error {
            ModelError::Save(SaveError::Exists { .. }) => Class::Usage,
            ModelError::Save(_) => Class::Resource,
            ModelError::Tensor(TensorError::OutOfMemory { .. }) => Class::Resource,
            ModelError::GenerationOption { .. } => Class::Usage,
            _ => Class::Data,
        };
        let hint = of_model(&error);
        Self::new(class, error).maybe_hint(hint)
    }
}

impl From<llavar_data::Error> for Failure {
    fn from(error: llavar_data::Error) -> Self {
        let hint = match &error {
            llavar_data::Error::Io { path, .. } if llavar_data::remote::is_remote(path) => {
                Some("check the address, and that it may be read from here")
            }
            llavar_data::Error::Io { path, source } => {
                of_tokenizer(path, source).or_else(|| of_io(source))
            }
            llavar_data::Error::Syntax { .. } => Some("correct the file at that place"),
            llavar_data::Error::NoSamples { .. } => Some("give a file with at least one sample"),
            llavar_data::Error::Tokenizer { .. } => {
                Some("take tokenizer.json again from where the model comes from")
            }
            llavar_data::Error::Layout { .. } => {
                Some("give the folder as published; --split names its part")
            }
            _ => None,
        };
        Self::new(Class::Data, error).maybe_hint(hint)
    }
}

impl From<llavar_assistant::Error> for Failure {
    fn from(error: llavar_assistant::Error) -> Self {
        use llavar_assistant::Error as E;
        match error {
            E::Model(error) => error.into(),
            E::Data(error) => error.into(),
            E::Image(error) => error.into(),
            other => Self::new(Class::Data, other),
        }
    }
}

impl From<llavar_synth::SynthError> for Failure {
    fn from(error: llavar_synth::SynthError) -> Self {
        use llavar_synth::SynthError as E;
        let (class, hint) = match &error {
            E::Input { source, .. } => (Class::Data, of_io(source)),
            E::Io { source, .. } => (Class::Resource, of_io(source)),
            E::Config { .. }
            | E::UnknownProfile { .. }
            | E::NoFont { .. }
            | E::SplitTooSmall { .. } => (Class::Usage, None),
            _ => (Class::Failure, None),
        };
        Self::new(class, error).maybe_hint(hint)
    }
}

impl From<llavar_serve::ServeError> for Failure {
    fn from(error: llavar_serve::ServeError) -> Self {
        use llavar_serve::ServeError as E;
        match error {
            E::Model(error) => {
                Self::from(error).hint("fewer `--slots` or a shorter `--context` take less memory")
            }
            E::Listen { ref source, .. } => {
                let hint = match source.kind() {
                    ErrorKind::AddrInUse => {
                        "another program listens there; `--port 0` takes a free port"
                    }
                    ErrorKind::PermissionDenied => {
                        "ports below 1024 are the system's; take a higher one"
                    }
                    _ => "give `--host` a name or an address of this machine",
                };
                Self::new(Class::Usage, error).hint(hint)
            }
            other => Self::new(Class::Failure, other),
        }
    }
}

impl From<llavar_train::TrainError> for Failure {
    fn from(error: llavar_train::TrainError) -> Self {
        use llavar_train::TrainError as E;
        match error {
            E::Data(error) => return error.into(),
            E::OutOfMemory { ref advice, .. } => {
                let advice = advice.clone();
                return Self::new(Class::Resource, error).hint(advice);
            }
            error if error.is_disk_full() => return Self::new(Class::Resource, error),
            _ => {}
        }
        let mut hint = None;
        let class = match &error {
            E::Recipe { .. }
            | E::RecipeSyntax { .. }
            | E::RecipeType { .. }
            | E::UnknownRecipe { .. }
            | E::RunFolderBusy { .. }
            | E::CheckpointExists { .. }
            | E::RecipeChanged { .. }
            | E::RecipeFixed { .. } => Class::Usage,
            E::RunFolderUsed { .. } => {
                hint = Some("`--resume auto` goes on with it; another `--out` starts anew");
                Class::Usage
            }
            E::Io { source, .. } => {
                hint = of_io(source);
                match source.kind() {
                    ErrorKind::NotFound => Class::Data,
                    ErrorKind::NotADirectory | ErrorKind::AlreadyExists => Class::Usage,
                    _ => Class::Resource,
                }
            }
            E::Save { .. } => {
                hint = Some("check free space and permissions, then go on with `--resume auto`");
                Class::Resource
            }
            E::Setting { key, .. } => {
                hint = (*key == "train.device").then_some("`--device cpu` works everywhere");
                Class::Usage
            }
            E::Workers | E::RecipeWrite { .. } => Class::Failure,
            E::Model { source, .. } => {
                hint = of_cause(&**source);
                Class::Data
            }
            E::Tensor(TensorError::RankLost { .. }) => {
                hint = Some("start all ranks again with `--resume auto`");
                Class::Failure
            }
            E::Diverged { .. } => {
                hint = Some(
                    "go on with `--resume` of a checkpoint well before those steps, a lower `learning_rate`, \
                     `--set allow_recipe_change=true` and another `--out`",
                );
                Class::Failure
            }
            E::Checkpoint { .. } => {
                hint = Some("give `--resume auto`, a checkpoint folder, or another `--out`");
                Class::Data
            }
            E::NoValidCheckpoint { .. } | E::NoCheckpoint { .. } => {
                hint = Some(
                    "give `--resume` the checkpoint of another run, or another `--out` to begin again",
                );
                Class::Data
            }
            E::DataChanged { .. } => {
                hint =
                    Some("give the data as they were, or `--set train.allow_recipe_change=true`");
                Class::Data
            }
            _ => Class::Data,
        };
        Self::new(class, error).maybe_hint(hint)
    }
}
