//! Training of LLaVAR-2 models: both stages, recipes, exact resume.
//!
//! This crate may call `llavar-tensor`, `llavar-image`, `llavar-data` and `llavar-model`. It prints
//! nothing: an [`Observer`] receives what happens.
//!
//! # Tour
//!
//! 1. [`Recipe`] decides everything that a run computes; [`NAMED_RECIPES`] are built in.
//! 2. [`Trainer::new`] opens model, data and run folder and resumes if asked; [`Trainer::run`] trains.
//! 3. [`stage`] says which weights train, [`schedule`] how fast, [`checkpoint`] what is kept.
//!
//! ```no_run
//! use std::{path::Path, sync::atomic::AtomicBool};
//! use llavar_train::{Outcome, Recipe, Resume, Silent, Trainer};
//!
//! # fn main() -> Result<(), llavar_train::TrainError> {
//! let recipe = Recipe::resolve("nano-sft", &[
//!     "model_name_or_path=models/nano".into(),
//!     "data_path=data/train.json".into(),
//!     "image_folder=data/images".into(),
//! ])?;
//! let mut trainer = Trainer::new(recipe, Path::new("runs/sft"), Resume::Auto)?;
//! match trainer.run(&mut Silent, &AtomicBool::new(false))? {
//!     Outcome::Finished { model, .. } => assert!(model.ends_with("model")),
//!     Outcome::Interrupted { checkpoint, .. } => assert!(checkpoint.exists()),
//! }
//! # Ok(()) }
//! ```
#![forbid(unsafe_code)]

pub mod checkpoint;
mod data;
pub mod doctor;
mod error;
mod features;
mod guard;
mod lazy;
mod learning_rates;
mod logs;
mod memory_plan;
mod observer;
mod optimizer;
mod parallel;
pub mod recipe;
pub mod runs;
pub mod schedule;
pub mod stage;
mod trainer;

pub use error::{SampleFault, TrainError};
pub use features::FeatureReport;
pub use guard::{GuardState, Seen};
pub use logs::WorstSample;
pub use memory_plan::{MemoryPlan, Planner, Spread};
pub use observer::{Observer, PackingReport, ParamGroup, RunInfo, Silent, StepReport};
pub use parallel::join_ranks;
pub(crate) use recipe::recipe_list;
pub use recipe::{NAMED_RECIPES, NamedRecipe, Recipe};
pub use trainer::{Outcome, Resume, TraceSummary, Trainer};
