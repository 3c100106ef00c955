//! Runs that train adapters: they learn, resume with the same bits, and are saved and read as one set.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod common;

use std::{
    collections::BTreeMap,
    fs,
    path::Path,
    sync::atomic::{AtomicBool, Ordering::Relaxed},
};

use common::World;
use llavar_model::{
    LlavaModel,
    lora::{Adapter, merge_folder},
    weights::WeightFiles,
};
use llavar_train::{Observer, Outcome, Resume, RunInfo, StepReport, TrainError, Trainer};

/// Keeps losses; sets the stop flag once `stop_at` steps are done.
struct Watch<'a> {
    losses: Vec<f64>,
    info: Option<RunInfo>,
    stop: &'a AtomicBool,
    stop_at: u64,
}

impl Observer for Watch<'_> {
    fn on_start(&mut self, info: &RunInfo) {
        self.info = Some(info.clone());
    }
    fn on_step(&mut self, report: &StepReport) {
        self.losses.push(report.loss);
        if report.step >= self.stop_at {
            self.stop.store(true, Relaxed);
        }
    }
}

fn run(
    world: &World,
    name: &str,
    sets: &[&str],
    resume: Resume,
    stop_at: u64,
) -> (Vec<f64>, RunInfo) {
    let stop = AtomicBool::new(stop_at == 0);
    let mut watch = Watch {
        losses: Vec::new(),
        info: None,
        stop: &stop,
        stop_at,
    };
    let mut trainer = Trainer::new(world.recipe(sets), &world.path(name), resume).unwrap();
    let outcome = trainer.run(&mut watch, &stop).unwrap();
    match outcome {
        Outcome::Finished { .. } => {}
        Outcome::Interrupted { step, .. } => assert_eq!(step, stop_at),
    }
    (watch.losses, watch.info.unwrap())
}

const LORA: [&str; 4] = [
    "lora_enable=true",
    "lora_r=8",
    "lora_alpha=16",
    "lora_dropout=0.1",
];

fn trained(run: &Path) -> (Vec<u8>, Vec<u8>) {
    let read = |name: &str| fs::read(run.join("model").join(name)).unwrap();
    (
        read("adapter_model.safetensors"),
        read("non_lora_trainables.safetensors"),
    )
}

/// Trains all weights on the samples of a world, then gives it other answers: the settings of runs that adapt that
/// model to them.
fn learned(world: &World) -> Vec<String> {
    run(
        world,
        "base",
        &["num_train_epochs=12"],
        Resume::No,
        u64::MAX,
    );
    let text = fs::read_to_string(world.path("data.json")).unwrap();
    fs::write(
        world.path("other.json"),
        text.replace("the total is", "is total the"),
    )
    .unwrap();
    ["base/model", "other.json"]
        .iter()
        .zip(["model_name_or_path", "data_path"])
        .map(|(name, key)| format!("{key}={}", world.path(name).display()))
        .collect()
}

#[test]
fn adapters_learn_nearly_as_well_as_all_weights() {
    let world = World::new(12);
    let start = learned(&world);
    let with = |sets: &[&'static str]| -> Vec<String> {
        start
            .iter()
            .cloned()
            .chain(sets.iter().map(|s| (*s).to_owned()))
            .collect()
    };
    let all = with(&["num_train_epochs=12"]);
    let all: Vec<&str> = all.iter().map(String::as_str).collect();
    let (full, whole) = run(&world, "full", &all, Resume::No, u64::MAX);
    for (name, more) in [("lora", "use_dora=false"), ("dora", "use_dora=true")] {
        let sets = with(
            &[
                &LORA[..],
                &[
                    "num_train_epochs=12",
                    "learning_rate=2e-2",
                    "lora_dropout=0.0",
                    more,
                ],
            ]
            .concat(),
        );
        let sets: Vec<&str> = sets.iter().map(String::as_str).collect();
        let (losses, info) = run(&world, name, &sets, Resume::No, u64::MAX);
        let (first, last) = (losses[0], losses[losses.len() - 1]);
        let want = full[full.len() - 1];
        println!("{name}: {first:.3} -> {last:.3}, all weights -> {want:.3}");
        assert!(last < 0.7 * first, "{name}: {first} {last}");
        // A good part of the way that all weights go, the output matrix among them, which is frozen here.
        assert!(
            first - last > 0.4 * (first - want),
            "{name}: {last}, all weights {want}"
        );
        // Gradients and moments are those of what trains alone.
        assert!(info.trainable_parameters * 2 < whole.trainable_parameters);
        assert!(info.memory.optimizer_states * 2 < whole.memory.optimizer_states);
        assert_eq!(info.memory.gradients, 4 * info.trainable_parameters);
        let words = info.adapters.unwrap();
        assert!(
            words.contains("rank 8") && words.contains("14 layers"),
            "{words}"
        );

        // What is saved is small, names its base, and is read as the whole model, merged.
        let folder = world.path(name).join("model");
        assert!(Adapter::is_at(&folder) && !folder.join("model.safetensors").exists());
        assert!(folder.join("tokenizer.json").is_file());
        let adapter = Adapter::open(&folder).unwrap();
        assert_eq!(adapter.base().unwrap(), world.path("base/model"));
        let merged = world.path(&format!("{name}-merged"));
        merge_folder(&world.path("base/model"), &adapter, &merged, None, false).unwrap();
        let (one, two) = (
            LlavaModel::load(&folder).unwrap(),
            LlavaModel::load(&merged).unwrap(),
        );
        let base = LlavaModel::load(&world.path("base/model")).unwrap();
        let mut moved = 0;
        for ((a, b), old) in one.params().iter().zip(two.params()).zip(base.params()) {
            let (a, b) = (
                a.value().to_f32_vec().unwrap(),
                b.value().to_f32_vec().unwrap(),
            );
            assert_eq!(a, b);
            moved += usize::from(a != old.value().to_f32_vec().unwrap());
        }
        assert!(moved > 14, "adapters, projector and fusion: {moved}");
    }
}

#[test]
fn stopped_anywhere_the_adapters_and_the_projector_are_the_same_bits() {
    let world = World::new(10);
    for dora in ["use_dora=false", "use_dora=true"] {
        let sets = [&LORA[..], &["num_train_epochs=2", "logging_steps=2", dora]].concat();
        let unbroken = format!("unbroken-{dora}");
        let (losses, _) = run(&world, &unbroken, &sets, Resume::No, u64::MAX);
        let steps = losses.len() as u64;
        let want = trained(&world.path(&unbroken));
        for at in 0..=steps {
            let name = format!("stopped-{at}-{dora}");
            let (first, _) = run(&world, &name, &sets, Resume::No, at);
            let (rest, _) = run(&world, &name, &sets, Resume::Auto, u64::MAX);
            assert_eq!([first, rest].concat(), losses, "stopped after {at}");
            assert!(trained(&world.path(&name)) == want, "stopped after {at}");
        }
    }
}

#[test]
fn recomputed_layers_drop_what_they_dropped_before() {
    let world = World::new(8);
    let sets = |last: &'static str| {
        [&LORA[..], &["lora_dropout=0.5", "num_train_epochs=3", last]].concat()
    };
    let (again, _) = run(
        &world,
        "again",
        &sets("gradient_checkpointing=true"),
        Resume::No,
        u64::MAX,
    );
    let (kept, _) = run(
        &world,
        "kept",
        &sets("gradient_checkpointing=false"),
        Resume::No,
        u64::MAX,
    );
    for (step, (a, b)) in again.iter().zip(&kept).enumerate() {
        assert!((a - b).abs() < 1e-4 * a, "step {step}: {a} {b}");
    }
    let (none, _) = run(
        &world,
        "none",
        &[&LORA[..], &["lora_dropout=0.0", "num_train_epochs=3"]].concat(),
        Resume::No,
        u64::MAX,
    );
    assert!(
        none.iter().zip(&kept).any(|(a, b)| (a - b).abs() > 1e-3),
        "dropout does something"
    );
}

#[test]
fn packs_take_adapters_too_and_other_parts_train_where_they_are_named() {
    let world = World::new(9);
    let sets = [
        &LORA[..],
        &[
            "pack_tokens=128",
            "group_by_modality_length=false",
            "per_device_train_batch_size=1",
            "trainable=[\"*.mlp.fc1.bias\"]",
        ],
    ]
    .concat();
    let (losses, info) = run(&world, "packed", &sets, Resume::No, u64::MAX);
    assert!(losses.iter().all(|loss| loss.is_finite()) && info.packing.is_some());
    let (_, others) = trained(&world.path("packed"));
    let text = String::from_utf8_lossy(&others).into_owned();
    assert!(text.contains("mlp.fc1.bias") && text.contains("mm_projector.0.weight"));
}

#[test]
fn misuse_is_named() {
    let world = World::new(6);
    let open = |sets: &[&str], name: &str, resume| {
        Trainer::new(
            world.recipe(&[&LORA[..], sets].concat()),
            &world.path(name),
            resume,
        )
    };
    let error = open(&["lora_target_modules=[\"k_prj\"]"], "a", Resume::No)
        .unwrap_err()
        .to_string();
    assert!(
        error.contains("lora.lora_target_modules") && error.contains("did you mean `k_proj`?"),
        "{error}"
    );
    // Another base than the one that the adapters were trained on.
    run(&world, "b", &LORA, Resume::No, 1);
    let other = world.path("other");
    let model = LlavaModel::load(&world.path("model")).unwrap();
    let embedding = model
        .params()
        .into_iter()
        .find(|p| p.name().contains("embed_tokens"))
        .unwrap();
    let mut value = embedding.value();
    value.data_mut::<f32>().unwrap()[0] += 1.0;
    embedding.set_value(value).unwrap();
    model.save(&other, Some(&world.path("model"))).unwrap();
    let moved = format!("model_name_or_path={}", other.display());
    let error = open(&[&moved], "b", Resume::Auto).unwrap_err().to_string();
    assert!(
        error.contains("not those that the checkpoint's adapters were trained on"),
        "{error}"
    );
    // What the checkpoint's adapters have is not changed by asking for something else.
    for set in [
        "lora_r=2",
        "lora_alpha=3",
        "use_dora=true",
        "lora_dropout=0.3",
    ] {
        let error = open(&[set, "allow_recipe_change=true"], "b", Resume::Auto).unwrap_err();
        let key = format!("lora.{}", set.split_once('=').unwrap().0);
        assert!(
            matches!(&error, TrainError::RecipeFixed { keys, .. } if *keys == [key]),
            "{set}: {error}"
        );
    }
    // Beside adapters what trained once is saved only as long as it trains.
    let norms = ["trainable=[\"*norm.weight\"]"];
    run(&world, "n", &[&LORA[..], &norms].concat(), Resume::No, 1);
    let error = open(&["allow_recipe_change=true"], "n", Resume::Auto).unwrap_err();
    assert!(
        error
            .to_string()
            .contains("belongs to no weight that trains"),
        "{error}"
    );
    // A weight in 4 bits that no adapter stands on.
    let coded = [
        "bits=4",
        "lora_target_modules=[\"q_proj\"]",
        "trainable=[\"*up_proj.weight\"]",
    ];
    let error = open(&coded, "d", Resume::No).unwrap_err().to_string();
    assert!(
        error.contains("train.trainable") && error.contains("4 bits"),
        "{error}"
    );
    // An adapter is no base.
    let adapter = world.path("b/checkpoints/step-00000001/model");
    let error = open(
        &[&format!("model_name_or_path={}", adapter.display())],
        "c",
        Resume::No,
    )
    .unwrap_err();
    assert!(
        error.to_string().contains("llavar model merge") || format!("{error:?}").contains("merge"),
        "{error:?}"
    );
}

#[test]
fn adapters_on_four_bits_learn_resume_and_take_less_memory() {
    let world = World::new(12);
    let start = learned(&world);
    let with = |more: &[&'static str]| -> Vec<String> {
        let sets = LORA.iter().chain(more).map(|s| (*s).to_owned());
        start.iter().cloned().chain(sets).collect()
    };
    let sets = with(&["num_train_epochs=8", "bits=4", "double_quant=false"]);
    let sets: Vec<&str> = sets.iter().map(String::as_str).collect();
    let (losses, info) = run(&world, "coded", &sets, Resume::No, u64::MAX);
    println!(
        "4 bits: {:.3} -> {:.3}",
        losses[0],
        losses[losses.len() - 1]
    );
    assert!(losses[losses.len() - 1] < 0.7 * losses[0], "{losses:?}");
    let words = info.adapters.unwrap();
    assert!(words.contains("in 4 bits"), "{words}");
    let plain = with(&["max_steps=1"]);
    let plain: Vec<&str> = plain.iter().map(String::as_str).collect();
    let (_, plain) = run(&world, "plain", &plain, Resume::No, u64::MAX);
    assert!(info.memory.weights < plain.memory.weights);
    let want = trained(&world.path("coded"));
    run(&world, "stopped", &sets, Resume::No, 5);
    run(&world, "stopped", &sets, Resume::Auto, u64::MAX);
    assert!(trained(&world.path("stopped")) == want);
    let refused = |sets: &[&str]| {
        let mut all: Vec<String> = vec!["data_path=x".into()];
        all.extend(sets.iter().map(|s| (*s).to_owned()));
        llavar_train::Recipe::resolve("nano-sft", &all)
            .unwrap_err()
            .to_string()
    };
    assert!(refused(&["bits=4"]).contains("lora_enable"));
    // The published recipes shard weights, which does nothing on one rank and is stage 2 on several.
    let published = ["lora_enable=true", "bits=4", "data_path=x"].map(str::to_owned);
    let recipe = llavar_train::Recipe::resolve("phi3-readme-sft", &published).unwrap();
    assert_eq!((recipe.train.zero_stage, recipe.zero_stage()), (3, 2));
    assert!(refused(&["bits=8", "quant_type=fp4", "lora_r=0"]).contains("lora.lora_r"));
}

/// Tensors of an adapter folder by their names in its files.
fn tensors(model: &Path) -> BTreeMap<String, Vec<f32>> {
    let mut all = BTreeMap::new();
    for file in ["adapter_model", "non_lora_trainables"] {
        let files = WeightFiles::open(&model.join(format!("{file}.safetensors"))).unwrap();
        for tensor in files.entries() {
            all.insert(tensor.name.clone(), files.read_f32(&tensor.name).unwrap());
        }
    }
    all
}

#[test]
fn the_average_of_adapters_is_an_adapter_of_the_same_base() {
    let world = World::new(8);
    let sets = [
        &LORA[..],
        &[
            "ema_decay=0.7",
            "num_train_epochs=3",
            "save_steps=1",
            "save_total_limit=0",
            "learning_rate=2e-2",
        ],
    ]
    .concat();
    run(&world, "whole", &sets, Resume::No, u64::MAX);
    let whole = world.path("whole");
    let saved = |step: u64| tensors(&whole.join(format!("checkpoints/step-{step:08}/model")));
    // The learning rate of the first step is 0: the checkpoint after it holds the start.
    let wide = |(name, values): (String, Vec<f32>)| {
        let values: Vec<f64> = values.into_iter().map(f64::from).collect();
        (name, values)
    };
    let mut want: BTreeMap<String, Vec<f64>> = saved(1).into_iter().map(wide).collect();
    for step in 1..=6 {
        for (name, values) in saved(step) {
            let average = want.get_mut(&name).unwrap();
            for (average, value) in average.iter_mut().zip(values) {
                *average += (1.0 - 0.7) * (f64::from(value) - *average);
            }
        }
    }
    let (got, last) = (tensors(&whole.join("model-ema")), saved(6));
    assert_eq!(got.len(), want.len());
    let (mut moved, mut adapters) = (0, 0);
    for (name, want) in &want {
        for (got, want) in got[name].iter().zip(want) {
            assert!(
                (f64::from(*got) - want).abs() < 1e-5,
                "{name}: {got} {want}"
            );
        }
        moved += usize::from(got[name] != last[name]);
        adapters += usize::from(name.contains("lora_B") && got[name] != last[name]);
    }
    assert!(moved > 28 && adapters == 14, "{moved} {adapters}");

    // It is read like any adapter: merged into its base, it is another model than the one at the end.
    let ema = Adapter::open(&whole.join("model-ema")).unwrap();
    assert_eq!(ema.base().unwrap(), world.path("model"));
    let merged = world.path("merged");
    merge_folder(&world.path("model"), &ema, &merged, None, false).unwrap();
    let values = |folder: &Path| {
        let model = LlavaModel::load(folder).unwrap();
        let values = model.params().into_iter();
        values
            .map(|p| p.value().to_f32_vec().unwrap())
            .collect::<Vec<_>>()
    };
    assert!(values(&merged) == values(&whole.join("model-ema")));
    assert!(values(&merged) != values(&whole.join("model")));

    run(&world, "parts", &sets, Resume::No, 3);
    run(&world, "parts", &sets, Resume::Auto, u64::MAX);
    for file in [
        "adapter_model.safetensors",
        "non_lora_trainables.safetensors",
    ] {
        let bytes = |run: &str| fs::read(world.path(run).join("model-ema").join(file)).unwrap();
        assert!(bytes("parts") == bytes("whole"), "{file}");
    }

    // Small checkpoints round the averages, and the adapters' moments: what resumes is the same again.
    let small = [&sets[..], &["compact_checkpoints=true"]].concat();
    run(&world, "small", &small, Resume::No, u64::MAX);
    run(&world, "small-parts", &small, Resume::No, 3);
    run(&world, "small-parts", &small, Resume::Auto, u64::MAX);
    for folder in ["model", "model-ema"] {
        let of = |run: &str| tensors(&world.path(run).join(folder));
        assert!(of("small") == of("small-parts"), "{folder}");
    }
}
