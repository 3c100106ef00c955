//! What is sharded and where a run goes on change nothing of what is learned.

use std::path::Path;

use llavar_model::{LlavaModel, config::ModelConfig};
use llavar_train::Resume;

use crate::{
    alone,
    common::{World, weights},
    curve, has_mpirun, job, note, run_on, same_curve,
};

#[test]
fn every_number_of_ranks_and_zero_stage_has_the_same_losses() {
    if !has_mpirun("every_number_of_ranks_and_zero_stage_has_the_same_losses") {
        return;
    }
    // Four micro-batches of one sample a step, every third of them without picture; an epoch of 14 does not
    // end with a step. Gradients are clipped.
    let world = World::new(14);
    let common = [
        "per_device_train_batch_size=1",
        "num_train_epochs=3",
        "max_grad_norm=0.5",
    ];
    let with = |more: &[&'static str]| [&common[..], more].concat();
    let want = alone(
        &world,
        "alone",
        &with(&["gradient_accumulation_steps=4"]),
        Resume::No,
    );
    assert_eq!(want.len(), 9);
    assert!(want.iter().any(|(_, norm)| *norm > 0.5) && want[8].0 < want[0].0);
    let model = LlavaModel::load(&world.path("alone/model")).unwrap();
    let stages = [
        "zero_stage=0",
        "zero_stage=1",
        "zero_stage=2",
        "zero_stage=3",
    ];
    for (ranks, share) in [
        (1, "gradient_accumulation_steps=4"),
        (2, "gradient_accumulation_steps=2"),
        (4, "gradient_accumulation_steps=1"),
    ] {
        let name = |stage: usize| format!("n{ranks}-z{stage}");
        let jobs: Vec<_> = stages
            .iter()
            .enumerate()
            .map(|(stage, set)| job(&name(stage), &with(&[share, *set]), None))
            .collect();
        run_on(&world, ranks, &jobs);
        for stage in 0..4 {
            let run = world.path(&name(stage));
            same_curve(&curve(&run), &want, &name(stage));
            // What rank 0 publishes is the whole model, and every weight has learned.
            let got = LlavaModel::load(&run.join("model")).unwrap();
            for (got, want) in got.params().iter().zip(model.params()) {
                assert_eq!(got.name(), want.name());
                let (a, b) = (
                    got.value().to_f32_vec().unwrap(),
                    want.value().to_f32_vec().unwrap(),
                );
                let far = a
                    .iter()
                    .zip(&b)
                    .map(|(a, b)| (a - b).abs())
                    .fold(0.0, f32::max);
                assert!(
                    far < 2e-3,
                    "{}: {} is off by {far}",
                    name(stage),
                    got.name()
                );
            }
        }
    }
}

#[test]
fn a_checkpoint_resumes_bit_by_bit_on_as_many_ranks_and_alike_on_others() {
    if !has_mpirun("a_checkpoint_resumes_bit_by_bit_on_as_many_ranks_and_alike_on_others") {
        return;
    }
    let world = World::new(14);
    let sets = |stage| {
        [
            "per_device_train_batch_size=1",
            "num_train_epochs=3",
            "gradient_accumulation_steps=2",
            "save_steps=3",
            "save_total_limit=0",
            stage,
        ]
    };
    let middle = |run: &str| world.path(run).join("checkpoints/step-00000003");
    let (z3, z1) = (sets("zero_stage=3"), sets("zero_stage=1"));
    run_on(
        &world,
        2,
        &[
            job("z3", &z3, None),
            job("z3-again", &z3, Some(&middle("z3"))),
            job("z1", &z1, None),
            job("z1-again", &z1, Some(&middle("z1"))),
        ],
    );
    for run in ["z3", "z1"] {
        let again = format!("{run}-again");
        assert!(
            weights(&world.path(run)) == weights(&world.path(&again)),
            "{run}"
        );
        assert_eq!(
            curve(&world.path(run))[3..],
            curve(&world.path(&again)),
            "{run}"
        );
    }
    let want = curve(&world.path("z3"));
    // On more ranks under another stage, and on one.
    run_on(
        &world,
        4,
        &[job("on-4", &sets("zero_stage=2"), Some(&middle("z3")))],
    );
    same_curve(&curve(&world.path("on-4")), &want[3..], "on 4 ranks");
    let one = alone(&world, "on-1", &z3, Resume::From(middle("z3")));
    same_curve(&one, &want[3..], "on one rank");
    // And from one rank to several.
    run_on(
        &world,
        2,
        &[job(
            "back-on-2",
            &z3,
            Some(&world.path("on-1/checkpoints/step-00000006")),
        )],
    );
    same_curve(
        &curve(&world.path("back-on-2")),
        &want[6..],
        "back on 2 ranks",
    );
}

#[test]
fn compact_checkpoints_resume_bit_by_bit_on_as_many_ranks_and_alike_on_others() {
    let test = "compact_checkpoints_resume_bit_by_bit_on_as_many_ranks_and_alike_on_others";
    if !has_mpirun(test) {
        return;
    }
    let world = World::wide(8, false);
    let sets = |stage, micro| {
        [
            "per_device_train_batch_size=1",
            "num_train_epochs=2",
            "save_steps=2",
            "save_total_limit=0",
            "compact_checkpoints=true",
            "max_shard_bytes=65536",
            micro,
            stage,
        ]
    };
    let middle = |run: &str| world.path(run).join("checkpoints/step-00000002");
    let mut jobs = Vec::new();
    for (run, stage) in [("z2", "zero_stage=2"), ("z3", "zero_stage=3")] {
        let sets = sets(stage, "gradient_accumulation_steps=2");
        jobs.push(job(run, &sets, None));
        jobs.push(job(&format!("{run}-again"), &sets, Some(&middle(run))));
    }
    run_on(&world, 2, &jobs);
    for run in ["z2", "z3"] {
        let (whole, again) = (world.path(run), world.path(&format!("{run}-again")));
        assert_eq!(curve(&whole)[2..], curve(&again), "{run}");
        let bits = |run: &Path| {
            let model = LlavaModel::load(&run.join("model")).unwrap();
            let values = model
                .params()
                .into_iter()
                .map(|p| p.value().to_f32_vec().unwrap());
            values.collect::<Vec<_>>()
        };
        assert!(bits(&whole) == bits(&again), "{run}");
    }
    let alone_sets = sets("zero_stage=3", "gradient_accumulation_steps=4");
    let from = Resume::From(middle("z3"));
    let one = alone(
        &world,
        "on-1",
        &[&alone_sets[..], &["allow_recipe_change=true"]].concat(),
        from,
    );
    let want = curve(&world.path("z3"));
    // What was packed in other blocks is read back as it was; later saves have other blocks.
    same_curve(&one[..2], &want[2..4], "on one rank");
}

#[test]
fn zero_3_keeps_its_share_of_the_states_and_no_more() {
    if !has_mpirun("zero_3_keeps_its_share_of_the_states_and_no_more") {
        return;
    }
    let world = World::new(8);
    let config = ModelConfig::read(&world.path("model")).unwrap();
    let deep = serde_json::json!({
        "hidden_size": 128, "intermediate_size": 256, "num_hidden_layers": 40,
        "num_attention_heads": 2, "num_key_value_heads": 2,
    });
    let changes: Vec<_> = deep.as_object().unwrap().clone().into_iter().collect();
    let model = LlavaModel::init(config.with(changes).unwrap(), 5).unwrap();
    let elements: usize = model.params().iter().map(|p| p.numel()).sum();
    model
        .save(&world.path("deep"), Some(&world.path("model")))
        .unwrap();
    let deep = format!("model_name_or_path={}", world.path("deep").display());
    let sets = |share, stage| {
        [
            deep.as_str(),
            "per_device_train_batch_size=1",
            "max_steps=2",
            "prefetch_bytes=100000",
            "gradient_checkpointing=true",
            share,
            stage,
        ]
    };
    // Weight, gradient and two moments.
    let states = 16.0 * elements as f64;
    let peak = |run: &str, rank| note(&world.path(run), rank)["peak"].as_f64().unwrap();
    let all = "gradient_accumulation_steps=4";
    run_on(&world, 1, &[job("one", &sets(all, "zero_stage=0"), None)]);
    let activations = peak("one", 0) - states;
    assert!(activations > 0.0);
    for (ranks, share) in [
        (2, "gradient_accumulation_steps=2"),
        (4, "gradient_accumulation_steps=1"),
    ] {
        let run = format!("z3-{ranks}");
        run_on(
            &world,
            ranks,
            &[job(&run, &sets(share, "zero_stage=3"), None)],
        );
        let allowed = states / ranks as f64 + activations;
        for rank in 0..ranks {
            let got = peak(&run, rank);
            println!(
                "rank {rank} of {ranks}: {:.2} MiB at most, states / {ranks} + activations are {:.2} MiB: {:+.1} %",
                got / f64::from(1 << 20),
                allowed / f64::from(1 << 20),
                100.0 * (got / allowed - 1.0),
            );
            assert!(
                got <= 1.15 * allowed,
                "rank {rank} of {ranks}: {got} bytes of {allowed}"
            );
        }
    }
}
