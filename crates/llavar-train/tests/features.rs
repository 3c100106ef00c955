//! Features of a frozen tower kept on disk: the same bits as without, whatever is there already.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod common;

use std::{fs, path::PathBuf, sync::atomic::AtomicBool};

use common::{World, weights};
use llavar_train::{FeatureReport, Resume, Silent, TrainError, Trainer};

/// Stage 1.
const STAGE1: [&str; 3] = [
    "train.stage=pretrain",
    "num_train_epochs=3",
    "learning_rate=1e-2",
];

fn train(world: &World, run: &str, sets: &[&str]) -> (Vec<u8>, Option<FeatureReport>) {
    let sets = [&STAGE1[..], sets].concat();
    let mut trainer = Trainer::new(world.recipe(&sets), &world.path(run), Resume::No).unwrap();
    let report = trainer.info().features;
    trainer.run(&mut Silent, &AtomicBool::new(false)).unwrap();
    (weights(&world.path(run)), report)
}

/// All files of a folder, without folders.
fn files(folder: &std::path::Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in fs::read_dir(folder).unwrap().flatten() {
        match entry.path() {
            path if path.is_dir() => found.extend(files(&path)),
            path => found.push(path),
        }
    }
    found.sort();
    found
}

#[test]
fn the_weights_are_the_same_bits_with_and_without() {
    let world = World::for_stage_1(10);
    let cache = world.path("features");
    let set = format!("vision_features_cache={}", cache.display());
    let (plain, none) = train(&world, "plain", &[]);
    assert_eq!(none, None);
    let (first, report) = train(&world, "first", &[&set]);
    assert!(first == plain, "while they are made");
    let report = report.unwrap();
    // Every third sample has no picture.
    assert_eq!((report.pictures, report.present), (7, 0));
    assert_eq!(report.to_write, 7 * report.picture_bytes);
    let kept = files(&cache);
    assert_eq!(kept.len(), 7);
    for file in &kept {
        assert_eq!(fs::metadata(file).unwrap().len(), report.picture_bytes);
    }

    // From what is there, in other batches of loading, with one file broken and the rest of one that was killed.
    let mut bytes = fs::read(&kept[0]).unwrap();
    let last = bytes.len() - 1;
    bytes[last] ^= 1;
    fs::write(&kept[0], bytes).unwrap();
    fs::write(kept[1].with_extension("1-1.partial"), "half").unwrap();
    let times: Vec<_> = kept
        .iter()
        .map(|f| fs::metadata(f).unwrap().modified().unwrap())
        .collect();
    for (run, workers) in [("second", "0"), ("third", "3")] {
        let workers = format!("dataloader_num_workers={workers}");
        let (again, report) = train(&world, run, &[&set, &workers]);
        assert!(again == plain, "{run}");
        let report = report.unwrap();
        assert_eq!((report.present, report.to_write), (7, 0));
    }
    for (n, (file, time)) in kept.iter().zip(times).enumerate() {
        let now = fs::metadata(file).unwrap().modified().unwrap();
        assert_eq!(now != time, n == 0, "the broken one alone is made again");
    }

    // A picture that is the same under another name is known; other preprocessing is another key.
    fs::copy(world.path("images/0.png"), world.path("images/1.png")).unwrap();
    let (_, report) = train(&world, "square", &[&set, "image_aspect_ratio=square"]);
    assert_eq!(report.unwrap().present, 0);
    assert_eq!(files(&cache).len(), 7 + 1 + 6);
}

#[test]
fn packs_and_resumed_runs_too() {
    let world = World::for_stage_1(10);
    let set = format!("vision_features_cache={}", world.path("features").display());
    let packs = ["group_by_modality_length=false", "pack_tokens=300"];
    let (plain, _) = train(&world, "plain", &packs);
    let with = [&packs[..], &[set.as_str()]].concat();
    assert!(train(&world, "made", &with).0 == plain);
    assert!(train(&world, "known", &with).0 == plain);
    // The switch is no change of the recipe: a run goes on with it.
    let sets = [&STAGE1[..], &with].concat();
    let mut trainer =
        Trainer::new(world.recipe(&sets), &world.path("plain"), Resume::Auto).unwrap();
    trainer.run(&mut Silent, &AtomicBool::new(false)).unwrap();
    assert!(weights(&world.path("plain")) == plain);
}

#[test]
fn a_tower_that_trains_is_refused_and_a_disk_that_fills_up_costs_nothing() {
    let world = World::for_stage_1(8);
    let set = format!("vision_features_cache={}", world.path("features").display());
    let error = Trainer::new(world.recipe(&[&set]), &world.path("sft"), Resume::No).unwrap_err();
    assert!(matches!(error, TrainError::Setting { .. }), "{error}");
    assert!(error.to_string().contains("the tower trains"), "{error}");
    let adapters = World::new(8);
    let sets = [
        "train.stage=pretrain",
        "train.freeze=[\"*align_stages_latent*\"]",
        set.as_str(),
    ];
    let error = Trainer::new(adapters.recipe(&sets), &world.path("x"), Resume::No).unwrap_err();
    assert!(error.to_string().contains("adapters"), "{error}");
    let sets = ["train.stage=pretrain", set.as_str()];
    let error = Trainer::new(adapters.recipe(&sets), &world.path("x"), Resume::No).unwrap_err();
    assert!(error.to_string().contains("adapters"), "{error}");

    // A file stands where a folder of the cache must be made: nothing is kept, the run goes on and says so.
    let (plain, _) = train(&world, "plain", &[]);
    let sets = [&STAGE1[..], &[set.as_str()]].concat();
    let mut trainer =
        Trainer::new(world.recipe(&sets), &world.path("blocked"), Resume::No).unwrap();
    let folder = trainer.info().features.unwrap().path;
    for shelf in 0..256 {
        fs::write(folder.join(format!("{shelf:02x}")), "in the way").unwrap();
    }
    #[derive(Default)]
    struct Warnings(Vec<String>);
    impl llavar_train::Observer for Warnings {
        fn on_warning(&mut self, message: &str) {
            self.0.push(message.to_owned());
        }
    }
    let mut warnings = Warnings::default();
    trainer.run(&mut warnings, &AtomicBool::new(false)).unwrap();
    assert!(weights(&world.path("blocked")) == plain);
    assert_eq!(warnings.0.len(), 1, "{:?}", warnings.0);
    assert!(
        warnings.0[0].contains("goes on without"),
        "{:?}",
        warnings.0
    );
}
