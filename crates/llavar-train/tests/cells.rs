//! Letters of a picture's grid as labels of its image tokens.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod common;

use std::{fs, sync::atomic::AtomicBool};

use common::World;
use llavar_data::Tokenizer;
use llavar_model::config::{ModelConfig, Pathways};
use llavar_train::{
    Observer, Resume, StepReport, Trainer,
    doctor::{Doctor, Options, Report},
};

#[derive(Default)]
struct Steps(Vec<StepReport>);

impl Observer for Steps {
    fn on_step(&mut self, report: &StepReport) {
        self.0.push(report.clone());
    }
}

fn train(world: &World, run: &str, sets: &[&str]) -> Result<Vec<StepReport>, String> {
    let mut steps = Steps::default();
    let mut all = vec!["group_by_modality_length=false"];
    all.extend(sets);
    Trainer::new(world.recipe(&all), &world.path(run), Resume::No)
        .and_then(|mut trainer| trainer.run(&mut steps, &AtomicBool::new(false)))
        .map_err(|e| e.to_string())?;
    Ok(steps.0)
}

/// Every picture of the world gets cells of which `letters` are none of a blank; the number of pictures.
fn tell_cells(world: &World, letters: usize, cells: usize) -> usize {
    let text = fs::read_to_string(world.path("data.json")).unwrap();
    let mut records: Vec<serde_json::Value> = serde_json::from_str(&text).unwrap();
    let mut pictures = 0;
    for record in records.iter_mut().filter(|r| r.get("image").is_some()) {
        // The toy vocabulary has one letter: a full stop.
        record["cells"] = format!("{}{}", ".".repeat(letters), " ".repeat(cells - letters)).into();
        pictures += 1;
    }
    let text = serde_json::to_string(&records).unwrap();
    fs::write(world.path("data.json"), text).unwrap();
    pictures
}

fn image_tokens(world: &World) -> usize {
    let config = ModelConfig::read(&world.path("model/config.json")).unwrap();
    config.image_tokens().unwrap()
}

/// One step over the whole set without learning.
const LOOK: [&str; 4] = [
    "max_steps=1",
    "learning_rate=0",
    "per_device_train_batch_size=1",
    "gradient_accumulation_steps=6",
];

#[test]
fn every_cell_is_one_more_supervised_token() {
    let world = World::new(6);
    let plain = train(&world, "plain", &LOOK).unwrap();
    let pictures = tell_cells(&world, 3, image_tokens(&world));
    let told = train(&world, "told", &LOOK).unwrap();
    assert_eq!(
        told[0].supervised_tokens,
        plain[0].supervised_tokens + 3 * pictures
    );
    assert_ne!(told[0].loss, plain[0].loss);
    let mut off = LOOK.to_vec();
    off.push("data.cells=false");
    let off = train(&world, "off", &off).unwrap();
    assert_eq!(off[0].loss, plain[0].loss);
    // Packs and single samples are the same sum.
    let packed = [
        "max_steps=1",
        "learning_rate=0",
        "pack_tokens=160",
        "per_device_train_batch_size=64",
        "gradient_accumulation_steps=1",
    ];
    let packed = train(&world, "packed", &packed).unwrap();
    assert_eq!(packed[0].supervised_tokens, told[0].supervised_tokens);
    let apart = (packed[0].loss - told[0].loss).abs();
    assert!(apart < 1e-4 * told[0].loss, "{apart}");
}

#[test]
fn cells_are_learned() {
    let world = World::new(6);
    tell_cells(&world, 2, image_tokens(&world));
    let steps = train(&world, "run", &["num_train_epochs=40"]).unwrap();
    let (first, last) = (steps[0].loss, steps.last().unwrap().loss);
    assert!(last < 0.5 * first, "{first} -> {last}");
}

#[test]
fn one_pathway_learns_the_cells_of_its_own_grid() {
    // 64 px: 2 x 2 places of the ConvNeXt; CLIP has 8 x 8 at its own size.
    for (pathways, tokens) in [(Pathways::Fast, 64), (Pathways::Slow, 4)] {
        let world = World::of_pathways(6, pathways);
        assert_eq!(image_tokens(&world), tokens, "{}", pathways.name());
        tell_cells(&world, 2, tokens);
        let steps = train(&world, "run", &["num_train_epochs=40"]).unwrap();
        let (first, last) = (steps[0].loss, steps.last().unwrap().loss);
        assert!(last < 0.5 * first, "{}: {first} -> {last}", pathways.name());
        // What was trained is a model folder of the same tower, and its checkpoint is gone on from.
        let trained = ModelConfig::read(&world.path("run/model")).unwrap();
        assert_eq!(trained.image_tokens(), Some(tokens));
        assert!(!trained.vision.unwrap().is_multipath());
        tell_cells(&world, 2, 68 - tokens);
        let error = train(&world, "other", &LOOK).map(|_| ()).unwrap_err();
        let said = format!(
            "`cells` has {} characters and a picture {tokens} tokens",
            68 - tokens
        );
        assert!(error.contains(&said), "{error}");
    }
}

#[test]
fn a_grid_of_another_size_is_a_bad_sample() {
    let world = World::new(6);
    let tokens = image_tokens(&world);
    tell_cells(&world, 1, tokens + 1);
    let error = train(&world, "run", &LOOK).map(|_| ()).unwrap_err();
    let said = format!(
        "`cells` has {} characters and a picture {tokens} tokens",
        tokens + 1
    );
    assert!(
        error.contains(&said) && error.contains("data.cells"),
        "{error}"
    );
    let mut skip = LOOK.to_vec();
    skip.push("on_bad_sample=skip");
    train(&world, "skipped", &skip).unwrap();
    let quarantine = fs::read_to_string(world.path("skipped/quarantine.jsonl")).unwrap();
    assert!(quarantine.contains("cells"), "{quarantine}");
}

#[test]
fn the_doctor_sees_cells_as_training_does() {
    let world = World::new(6);
    let tokens = image_tokens(&world);
    let examine = || -> Report {
        let tokenizer = Tokenizer::from_folder(&world.path("model")).unwrap();
        let options = Options {
            pixels: false,
            threads: 1,
            image_tokens: tokens,
        };
        let doctor = Doctor::open(&world.recipe(&[]), Some(tokenizer), options).unwrap();
        doctor.examine(None, &mut |_| true).unwrap().unwrap()
    };
    let plain = examine();
    let pictures = tell_cells(&world, 3, tokens);
    let told = examine();
    assert_eq!((told.good, told.unknown_fields.len()), (6, 0));
    assert_eq!(
        told.supervised_tokens.unwrap(),
        plain.supervised_tokens.unwrap() + 3 * pictures as u64
    );
    tell_cells(&world, 1, tokens + 1);
    assert_eq!(examine().bad, pictures);
}
