//! Averages and adapters of which each rank holds a part.

use llavar_model::LlavaModel;
use llavar_train::Resume;

use crate::{alone, common::World, curve, has_mpirun, job, run_on, same_curve};

/// Each rank keeps the average of its own parts; what is published is that of one rank alone.
#[test]
fn moving_averages_are_put_together_from_all_ranks() {
    if !has_mpirun("moving_averages_are_put_together_from_all_ranks") {
        return;
    }
    let world = World::new(8);
    let common = ["per_device_train_batch_size=1", "ema_decay=0.5"];
    let with = |more: &[&'static str]| [&common[..], more].concat();
    let one = with(&["gradient_accumulation_steps=2"]);
    alone(&world, "alone", &one, Resume::No);
    let want = LlavaModel::load(&world.path("alone/model-ema")).unwrap();
    let stages = ["zero_stage=0", "zero_stage=1", "zero_stage=3"];
    let jobs: Vec<_> = stages
        .iter()
        .map(|stage| {
            job(
                stage,
                &with(&["gradient_accumulation_steps=1", stage]),
                None,
            )
        })
        .collect();
    run_on(&world, 2, &jobs);
    for stage in stages {
        let got = LlavaModel::load(&world.path(stage).join("model-ema")).unwrap();
        let trained = LlavaModel::load(&world.path(stage).join("model")).unwrap();
        let mut moved = 0;
        for ((got, want), trained) in got.params().iter().zip(want.params()).zip(trained.params()) {
            let values = |param: &llavar_tensor::Param| param.value().to_f32_vec().unwrap();
            let (a, b) = (values(got), values(&want));
            let far = a.iter().zip(&b).map(|(a, b)| (a - b).abs());
            let far = far.fold(0.0, f32::max);
            assert!(far < 2e-3, "{stage}: {} is off by {far}", got.name());
            moved += usize::from(a != values(&trained));
        }
        assert!(moved > 20, "{stage}: {moved}");
    }
}

#[test]
fn adapters_on_ranks_learn_and_drop_what_one_rank_does() {
    if !has_mpirun("adapters_on_ranks_learn_and_drop_what_one_rank_does") {
        return;
    }
    let world = World::new(10);
    let common = [
        "per_device_train_batch_size=1",
        "num_train_epochs=2",
        "lora_enable=true",
        "lora_r=4",
        "lora_dropout=0.2",
        "use_dora=true",
    ];
    let with = |more: &[&'static str]| [&common[..], more].concat();
    let want = alone(
        &world,
        "alone",
        &with(&["gradient_accumulation_steps=2"]),
        Resume::No,
    );
    let model = LlavaModel::load(&world.path("alone/model")).unwrap();
    let jobs: Vec<_> = ["zero_stage=0", "zero_stage=2", "zero_stage=3"]
        .iter()
        .map(|stage| {
            job(
                stage,
                &with(&["gradient_accumulation_steps=1", *stage]),
                None,
            )
        })
        .collect();
    // 4 bits stay whole on every rank: stage 3 is stage 2.
    let coded = ["bits=4", "use_dora=false"];
    let coded_alone = [&coded[..], &["gradient_accumulation_steps=2"]].concat();
    let coded_alone = alone(&world, "coded-alone", &with(&coded_alone), Resume::No);
    let share = ["gradient_accumulation_steps=1", "zero_stage=3"];
    let sharded = with(&[&coded[..], &share].concat());
    run_on(
        &world,
        2,
        &[&jobs[..], &[job("coded", &sharded, None)]].concat(),
    );
    same_curve(&curve(&world.path("coded")), &coded_alone, "4 bits");
    for stage in ["zero_stage=0", "zero_stage=2", "zero_stage=3"] {
        let run = world.path(stage);
        same_curve(&curve(&run), &want, stage);
        // The adapters of all ranks are in the folder, and what trains beside them.
        let got = LlavaModel::load(&run.join("model")).unwrap();
        for (got, want) in got.params().iter().zip(model.params()) {
            let (a, b) = (
                got.value().to_f32_vec().unwrap(),
                want.value().to_f32_vec().unwrap(),
            );
            let far = a
                .iter()
                .zip(&b)
                .map(|(a, b)| (a - b).abs())
                .fold(0.0, f32::max);
            assert!(far < 5e-3, "{stage} {}: {far}", got.name());
        }
    }
}
