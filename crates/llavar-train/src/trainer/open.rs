//! Making a run ready: folder, lock, checkpoint, model, data.

use std::{
    fs::{self, File, TryLockError},
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use llavar_data::{Cache, Tokenizer};
use llavar_model::{LlavaModel, config::LlmFamily};
use llavar_tensor::{collective::Group, compact};

use super::{
    Resume, Trainer, adapters,
    device::Place,
    model,
    resumed::{check_data, check_recipe, find_checkpoint, fixed, recipe_of, same_place},
};
use crate::{
    Recipe, TrainError,
    checkpoint::{FORMAT, Store, TrainState},
    data::{CutLog, Orders, Quarantine, SampleSource, lengths},
    error::chain,
    features::FeatureCache,
    guard::SpikeGuard,
    logs::{Worst, mfu::Utilisation},
    optimizer::Optimizer,
    parallel::{Sharding, Zero},
    recipe::{GradientCheckpointing, OnBadSample, PrecisionName},
    schedule::{Schedule, StepPlan},
    stage::select_trainable,
};

impl Trainer {
    pub(super) fn open(
        mut recipe: Recipe,
        given: Option<(LlavaModel, &Path)>,
        run_dir: &Path,
        resume: Resume,
        group: Arc<Group>,
    ) -> Result<Self, TrainError> {
        let problems = recipe.validate();
        if !problems.is_empty() {
            return Err(TrainError::Recipe {
                origin: "given".into(),
                problems,
            });
        }
        if group.size() > 1 {
            recipe.train.device = group.collective().device().to_string();
        }
        let opened = Self::open_in(Arc::clone(&group), recipe, given, run_dir, resume);
        if let Err(error) = &opened {
            // The others are told why; they end with it.
            let _ = group.leave(Some(&chain(error)));
        }
        opened
    }

    pub(super) fn open_in(
        group: Arc<Group>,
        mut recipe: Recipe,
        given: Option<(LlavaModel, &Path)>,
        run_dir: &Path,
        resume: Resume,
    ) -> Result<Self, TrainError> {
        let store = Store::new(run_dir);
        let mut warnings = Vec::new();
        let (mut lock, mut checkpoint) = (None, None);
        if group.is_first() {
            fs::create_dir_all(run_dir).map_err(TrainError::io(run_dir))?;
            lock = Some(self::lock(run_dir)?);
            store.clean()?;
            checkpoint = find_checkpoint(&store, run_dir, &resume, &mut warnings)?;
        }
        if group.size() > 1 {
            let said = checkpoint
                .as_ref()
                .map(|path| path.to_string_lossy().into_owned());
            let all = group.exchange(said.unwrap_or_default().as_bytes())?;
            let path = all.first().map(|p| String::from_utf8_lossy(p).into_owned());
            checkpoint = path.filter(|p| !p.is_empty()).map(PathBuf::from);
        }
        let before = match &checkpoint {
            Some(checkpoint) => Some(recipe_of(checkpoint)?),
            None => None,
        };
        // Runs older than the choice of a precision were f32.
        let precision_before = before
            .as_ref()
            .map(|r| r.train.precision.unwrap_or(PrecisionName::F32));
        let accumulation_before = before.as_ref().map(|r| r.train.gradient_accumulation_steps);
        let place = Place::choose(&recipe, precision_before)?;
        recipe.train.precision = Some(place.precision.into());
        let mut changed = Vec::new();
        if let (Some(checkpoint), Some(mut before)) = (&checkpoint, before) {
            before.train.precision = precision_before;
            changed = check_recipe(&recipe, &before, checkpoint, &mut warnings)?;
        }

        let (model, tokenizer_folder) = match (&checkpoint, given) {
            (Some(path), _) => {
                let folder = path.join("model");
                (adapters::load_checkpoint(&folder, &recipe)?, folder)
            }
            (None, Some((model, folder))) => {
                let adapters = model::makes_adapters(&recipe, &model.config);
                let model = if adapters {
                    let seed = recipe.train.seed;
                    model
                        .with_adapters(seed)
                        .map_err(|e| TrainError::model(None, e))?
                } else {
                    model
                };
                (model, folder.to_owned())
            }
            (None, None) => {
                let Some(folder) = &recipe.model.model_name_or_path else {
                    return Err(TrainError::Setting {
                        key: "model.model_name_or_path",
                        reason: "not given; name the folder of the model to start from".into(),
                    });
                };
                let folder = PathBuf::from(folder);
                (model::load(&recipe, &folder)?, folder)
            }
        };
        let model = model::with_run_settings(model, &recipe)?;
        if let (Some(checkpoint), Some(size)) = (&checkpoint, recipe.model.input_image_size)
            && changed.iter().any(|key| key == "model.input_image_size")
            && model.image_size().is_some_and(|own| own != size)
        {
            return Err(fixed(checkpoint, "model.input_image_size"));
        }
        if recipe.lora.lora_enable {
            adapters::base_folder(&recipe)?;
        }
        let model = adapters::attach(model, &recipe)?;
        let params = model.params();
        if recipe.train.compact_checkpoints && !model.has_lora() {
            // Frozen weights are saved too; what is made of them must not change with the first save.
            for param in params.iter().filter(|p| compact::is_large(p.shape())) {
                param.set_value(compact::round_weight(&param.value())?)?;
            }
        }
        select_trainable(&params, &recipe.train)?;
        if recipe.train.fp8 {
            let others = use_fp8(&model)?;
            warnings.extend(others.filter(|_| group.is_first()));
        }
        let phi3 = model.config.llm.family == LlmFamily::Phi3;
        let sharding = Sharding(if group.size() > 1 {
            recipe.zero_stage()
        } else {
            0
        });
        let (train, precision) = (&recipe.train, place.precision);
        let zero = Zero::new(
            Arc::clone(&group),
            sharding,
            &model,
            precision,
            &place.device,
        )?;
        if group.is_first()
            && zero.recomputes_all()
            && recipe.train.gradient_checkpointing != GradientCheckpointing::Switch(true)
        {
            warnings.push(
                "train.zero_stage=3 computes all activations again (gradient_checkpointing=true): what a block keeps \
                 would hold its weights"
                    .to_owned(),
            );
        }
        if group.is_first() && group.size() > 1 && recipe.zero_stage() < recipe.train.zero_stage {
            warnings.push(
                "lora.bits=4 keeps the frozen weights whole on every rank: train.zero_stage=3 runs as stage 2, which \
                 computes the same (--set train.zero_stage=2 says so)"
                    .to_owned(),
            );
        }
        let mut optimizer = match zero.pieces() {
            None => Optimizer::new(params, train, phi3, precision)?,
            Some(pieces) => {
                let (trained, group) = (zero.trained(), Arc::clone(&group));
                Optimizer::sharded(&params, pieces, trained, group, train, phi3, precision)?
            }
        };

        let tokenizer = Tokenizer::from_folder(&tokenizer_folder)?;
        let rows = model.config.llm.vocab_size;
        if tokenizer.vocab_len() > rows {
            return Err(TrainError::Setting {
                key: "model.model_name_or_path",
                reason: format!(
                    "the tokenizer in {} has {} ids, the model only {rows} embedding rows",
                    tokenizer_folder.display(),
                    tokenizer.vocab_len()
                ),
            });
        }
        let image = model.image_size().zip(model.tokens_per_image());
        let mut source = SampleSource::open(&recipe, tokenizer, image)?;
        let dtype = match place.device.is_cuda() {
            true => precision.weights(),
            false => llavar_tensor::DType::F32,
        };
        let whole = sharding.0 < 3;
        let features = FeatureCache::open(&recipe, &model, &place.device, dtype, whole)?;
        let features = features.map(Arc::new);
        let state_size = |cache: &Arc<FeatureCache>| cache.state_size(&source);
        let feature_report = features.as_ref().map(state_size).transpose()?;
        source.use_features(features.clone());
        let packed = recipe.train.pack_tokens > 0;
        let lengths = packed.then(|| lengths::measure(&source, &Cache::of_user()));
        let unusable: Vec<usize> = (0..source.len())
            .filter(|&i| lengths.as_ref().is_some_and(|l| l.get(i) == Some(&0)))
            .collect();
        if recipe.data.on_bad_sample == OnBadSample::Stop
            && let Some(fault) = unusable.first().and_then(|&i| source.text(i).err())
        {
            return Err(TrainError::BadSample {
                source: Box::new(fault),
            });
        }
        if unusable.len() == source.len()
            && let Some(fault) = unusable.last().and_then(|&i| source.text(i).err())
        {
            return Err(TrainError::NoUsableSample {
                count: unusable.len(),
                source: Box::new(fault),
            });
        }
        let saved = checkpoint.as_deref().map(TrainState::read).transpose()?;
        let base = adapters::check_base(&model, saved.as_ref(), &recipe, &mut warnings)?;
        let own = recipe.train.gradient_accumulation_steps;
        let micro_batches = match saved.as_ref().map(|state| state.micro_batches) {
            None => own * group.size(),
            // Of a run before ranks were counted.
            Some(0) => accumulation_before.unwrap_or(own),
            Some(all) => all,
        };
        if let Some(checkpoint) = &checkpoint
            && micro_batches != own * group.size()
            && accumulation_before.is_some_and(|before| before != own)
        {
            // The checkpoint's number is what counts: its samples are counted in steps of so many.
            return Err(fixed(checkpoint, "train.gradient_accumulation_steps"));
        }
        if group.is_first() && micro_batches != own * group.size() {
            warnings.push(format!(
                "the run began with {micro_batches} micro-batches in a step, which are shared out to {} rank(s)",
                group.size()
            ));
        }
        let orders = Orders::new(&recipe, &source, lengths, micro_batches)?;
        let plan = StepPlan::with_micro_batches(&recipe.train, orders.epoch_len(), micro_batches);
        let schedule = Schedule::new(&recipe.train, plan.total_steps());

        let state = match (&checkpoint, saved) {
            (Some(path), Some(state)) => {
                // Beside adapters only what trains is saved: a weight that was trained would be lost.
                let may_leave = recipe.train.allow_recipe_change && !model.has_lora();
                let left = optimizer.load(path, may_leave)?;
                if left > 0 && group.is_first() {
                    warnings.push(format!(
                        "{left} weights that trained before do not now (train.stage, train.freeze, train.trainable); \
                         what the optimizer knew of them is left behind"
                    ));
                }
                check_data(&state, &source, path, &recipe, &mut warnings)?;
                state
            }
            _ => TrainState {
                micro_batches,
                format: FORMAT,
                seed: recipe.train.seed,
                data: source.fingerprint(),
                base,
                ..TrainState::default()
            },
        };
        let mut quarantine = Quarantine::new(
            &run_dir.join("quarantine.jsonl"),
            group.is_first(),
            recipe.data.max_bad_samples,
            state.bad_samples.iter().copied(),
        );
        for fault in unusable.into_iter().filter_map(|i| source.text(i).err()) {
            quarantine.add(fault)?;
        }
        let updates = state.updates;
        let guard = SpikeGuard::new(&recipe.train);
        let own = |path: &PathBuf| same_place(path, &store.path_of(state.step));
        let held = checkpoint.as_ref().filter(|path| own(path));
        let held = held.map(|_| state.step);
        let worst = Worst::new(recipe.log.worst_samples, state.worst_samples.clone());
        let utilisation = Utilisation::new(&model, &place.device, place.precision, &recipe.log);
        if group.is_first() {
            let text = recipe.to_toml()?;
            let path = run_dir.join("recipe.toml");
            fs::write(&path, text).map_err(|e| TrainError::save(&path, e))?;
        }
        let mut trainer = Self {
            recipe,
            model,
            tokenizer_folder,
            run_dir: run_dir.to_owned(),
            store,
            held,
            source: Arc::new(source),
            features,
            feature_report,
            orders: Arc::new(orders),
            optimizer,
            group,
            zero,
            agreed: true,
            place,
            plan,
            schedule,
            state,
            guard,
            spiked: None,
            worst,
            utilisation,
            quarantine,
            cuts: CutLog::open(&run_dir.join("truncated.jsonl")),
            resumed_from: checkpoint,
            warnings,
            _lock: lock,
        };
        trainer
            .take_to_device(updates)
            .map_err(|e| trainer.explained(e))?;
        Ok(trainer)
    }

    /// Optimizer state first: master weights are the weights before they are rounded.
    fn take_to_device(&mut self, updates: u64) -> Result<(), TrainError> {
        let Place {
            device, precision, ..
        } = &self.place;
        self.optimizer.place_on(device, updates)?;
        if self.zero.stage() < 3 {
            let moved = self.model.to_device(device, *precision);
            moved.map_err(|e| TrainError::model(None, e))?;
        }
        self.zero.take_over()
    }
}

/// Lets products be FP8; says which of the language model's layers stay as they are.
fn use_fp8(model: &LlavaModel) -> Result<Option<String>, TrainError> {
    let weights = model.set_fp8(true);
    let Some(first) = weights.others.first() else {
        return Ok(None);
    };
    let all = weights.count + weights.others.len();
    let why = format!("sizes that are no multiples of 16, or 4 bits, as `{first}`");
    if weights.count == 0 {
        return Err(TrainError::Setting {
            key: "train.fp8",
            reason: format!(
                "none of the {all} weights in the language model's layers can multiply in FP8: {why}; set \
                 train.fp8=false"
            ),
        });
    }
    let others = weights.others.len();
    Ok(Some(format!(
        "train.fp8: {others} of {all} weights in the language model's layers multiply in bf16: {why}"
    )))
}

fn lock(run_dir: &Path) -> Result<File, TrainError> {
    let path = run_dir.join(".lock");
    let file = File::create(&path).map_err(TrainError::io(&path))?;
    let mut locked = file.try_lock();
    // A process that is being started holds the files of the one that starts it for a moment.
    for _ in 0..20 {
        if !matches!(locked, Err(TryLockError::WouldBlock)) {
            break;
        }
        std::thread::sleep(Duration::from_millis(50));
        locked = file.try_lock();
    }
    match locked {
        Ok(()) => Ok(file),
        Err(TryLockError::WouldBlock) => Err(TrainError::RunFolderBusy {
            path: run_dir.to_owned(),
        }),
        // File systems without locks are used at the user's own care.
        Err(TryLockError::Error(error)) if error.kind() == std::io::ErrorKind::Unsupported => {
            Ok(file)
        }
        Err(TryLockError::Error(error)) => Err(TrainError::io(&path)(error)),
    }
}
