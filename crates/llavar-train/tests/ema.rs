//! The moving average of the weights: its formula, through interruptions, on every number of ranks.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod common;

use std::{
    collections::BTreeMap,
    fs,
    path::Path,
    sync::atomic::{AtomicBool, Ordering::Relaxed},
};

use common::World;
use llavar_model::LlavaModel;
use llavar_train::{Observer, Outcome, Resume, Silent, StepReport, Trainer};

fn values(folder: &Path) -> BTreeMap<String, Vec<f32>> {
    let model = LlavaModel::load(folder).unwrap();
    let params = model.params().into_iter();
    params
        .map(|p| (p.name().to_owned(), p.value().to_f32_vec().unwrap()))
        .collect()
}

struct StopAt<'a>(u64, &'a AtomicBool);

impl Observer for StopAt<'_> {
    fn on_step(&mut self, report: &StepReport) {
        self.1.store(report.step >= self.0, Relaxed);
    }
}

#[test]
fn the_average_follows_the_weights_and_resumes_bit_by_bit() {
    let world = World::new(8);
    let sets = [
        "ema_decay=0.7",
        "num_train_epochs=3",
        "save_steps=1",
        "save_total_limit=0",
        r#"freeze=["model.embed_tokens.*"]"#,
    ];
    let run = |name: &str, resume| {
        let mut trainer = Trainer::new(world.recipe(&sets), &world.path(name), resume).unwrap();
        trainer.run(&mut Silent, &AtomicBool::new(false)).unwrap()
    };
    assert!(matches!(
        run("whole", Resume::No),
        Outcome::Finished { step: 6, .. }
    ));
    let whole = world.path("whole");
    // From the weights of every step, which the checkpoints have.
    let start = values(&world.path("model"));
    let mut want: BTreeMap<String, Vec<f64>> =
        values(&whole.join("checkpoints/step-00000001/model"))
            .into_keys()
            .map(|name| {
                // Fresh adapters are those of the first checkpoint, whose learning rate was 0.
                let fresh = values(&whole.join("checkpoints/step-00000001/model"));
                let from = start.get(&name).unwrap_or(&fresh[&name]);
                let wide = from.iter().map(|x| f64::from(*x)).collect();
                (name, wide)
            })
            .collect();
    for step in 1..=6 {
        let now = values(&whole.join(format!("checkpoints/step-{step:08}/model")));
        for (name, average) in &mut want {
            for (average, value) in average.iter_mut().zip(&now[name]) {
                *average += (1.0 - 0.7) * (f64::from(*value) - *average);
            }
        }
    }
    let got = values(&whole.join("model-ema"));
    let trained = values(&whole.join("model"));
    let mut moved = 0;
    for (name, want) in &want {
        for (got, want) in got[name].iter().zip(want) {
            assert!(
                (f64::from(*got) - want).abs() < 1e-5,
                "{name}: {got} {want}"
            );
        }
        moved += usize::from(got[name] != trained[name]);
    }
    assert!(moved > 20, "{moved}");
    assert_eq!(
        got["model.embed_tokens.weight"],
        start["model.embed_tokens.weight"]
    );
    assert!(whole.join("model-ema/tokenizer.json").is_file());

    let stop = AtomicBool::new(false);
    let mut trainer = Trainer::new(world.recipe(&sets), &world.path("parts"), Resume::No).unwrap();
    trainer.run(&mut StopAt(3, &stop), &stop).unwrap();
    drop(trainer);
    run("parts", Resume::Auto);
    let file = "model-ema/model.safetensors";
    let bytes = |name: &str| fs::read(world.path(name).join(file)).unwrap();
    assert!(bytes("parts") == bytes("whole"));
}
