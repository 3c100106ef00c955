use super::*;
use crate::recipe::NAMED_RECIPES;

fn words(text: &str) -> Vec<String> {
    text.split_whitespace().map(str::to_owned).collect()
}

fn launch(text: &str) -> Launch {
    Launch::from_words(&words(text), &[]).unwrap()
}

/// What every published command has.
const COMMON: &str = "--bf16 True --tf32 True --weight_decay 0. --warmup_ratio 0.03 \
    --lr_scheduler_type cosine --logging_steps 1 --gradient_checkpointing True --dataloader_num_workers 4 \
    --lazy_preprocess True --report_to wandb --evaluation_strategy no --save_strategy steps \
    --per_device_eval_batch_size 4 --gradient_accumulation_steps 1 --mm_projector_type mlp2x_gelu \
    --vision_tower openai/clip-vit-large-patch14-336 --vision_tower_slow convnext_large_mlp.clip_laion2b_ft_320 \
    --mm_vision_select_layer -2 --mm_use_im_start_end False --mm_use_im_patch_token False \
    --is_multipath_encoder True --output_dir runs/x --data_path data.json --image_folder images";

/// The command of a stage as the README and the scripts have it (spec 6.2), for a built-in recipe.
fn command(name: &str) -> String {
    let mut parts = name.split('-');
    let (base, source) = (parts.next().unwrap(), parts.next().unwrap());
    let stage = match name.ends_with("pretrain") {
        true => {
            let (size, batch, length) = match (base, source) {
                (_, "readme") => (768, 16, 4096),
                ("phi3", _) => (384, 16, 2048),
                ("llama3", _) => (384, 4, 2048),
                _ => (384, 32, 2496),
            };
            format!(
                "--deepspeed ./scripts/zero2.json --version plain --tune_mm_mlp_adapter True --num_train_epochs 1 \
                 --input_image_size {size} --per_device_train_batch_size {batch} --model_max_length {length} \
                 --learning_rate 1e-3 --save_steps 24000 --save_total_limit 1"
            )
        }
        false => {
            let version = match base {
                "phi3" => "phi3_instruct",
                "llama3" => "llama3",
                _ => "v1",
            };
            let (size, batch, sums, length, epochs) = match (base, source) {
                (_, "readme") => (768, 8, 2, 4096, 3),
                ("phi3", _) => (1024, 16, 1, 2048, 1),
                ("llama3", _) => (1024, 4, 1, 4096, 1),
                _ => (1024, 8, 2, 2496, 1),
            };
            let (steps, limit) = match source {
                "readme" => (6000, 0),
                _ => (50000, 1),
            };
            format!(
                "--deepspeed ./scripts/zero3.json --version {version} --freeze_vision False \
                 --pretrain_mm_mlp_adapter runs/pretrain/mm_projector.bin --image_aspect_ratio pad \
                 --group_by_modality_length True --num_train_epochs {epochs} --input_image_size {size} \
                 --per_device_train_batch_size {batch} --gradient_accumulation_steps {sums} \
                 --model_max_length {length} --learning_rate 2e-5 --save_steps {steps} --save_total_limit {limit}"
            )
        }
    };
    format!("deepspeed llava/train/train_mem.py --model_name_or_path models/base {COMMON} {stage}")
}

#[test]
fn the_published_commands_are_the_built_in_recipes() {
    let named = NAMED_RECIPES.iter().filter(|r| !r.name.starts_with("nano"));
    let mut count = 0;
    for named in named {
        let launch = launch(&command(named.name));
        let mut sets = vec![
            "model_name_or_path=models/base",
            "data_path=data.json",
            "image_folder=images",
        ];
        if named.name.ends_with("sft") {
            sets.push("pretrain_mm_mlp_adapter=runs/pretrain/mm_projector.bin");
        }
        let sets: Vec<String> = sets.into_iter().map(str::to_owned).collect();
        let built_in = Recipe::resolve(named.name, &sets).unwrap();
        assert_eq!(launch.recipe, built_in, "{}", named.name);
        assert_eq!(launch.output_dir.as_deref(), Some(Path::new("runs/x")));
        count += 1;
    }
    assert_eq!(count, 12);
}

#[test]
fn every_flag_without_effect_is_named_with_the_reason() {
    let launch = launch(&command("phi3-readme-sft"));
    let named: Vec<&str> = launch.notes.iter().map(|n| n.flag.as_str()).collect();
    for flag in [
        "deepspeed llava/train/train_mem.py",
        "--deepspeed",
        "--tf32",
        "--report_to",
        "--evaluation_strategy",
        "--lazy_preprocess",
        "--vision_tower",
        "--vision_tower_slow",
        "--mm_projector_type",
        "--mm_vision_select_layer",
        "--mm_use_im_start_end",
        "--per_device_eval_batch_size",
    ] {
        assert!(named.contains(&flag), "{flag}: {named:?}");
    }
    for flag in ["--learning_rate", "--group_by_modality_length", "--bf16"] {
        assert!(!named.contains(&flag), "{flag}");
    }
    assert!(launch.notes.iter().all(|n| n.why.len() > 10));
}

#[test]
fn wrong_flags_and_values_are_all_named_with_what_is_allowed() {
    let line = "--model_name_or_path m --version plain --lerning_rate 1 --num_train_epochs 0.5 \
        --learning_rate fast --warmup_ratio 2 --lr_scheduler_type polynomial --bf16 maybe --save_steps 0 \
        --mm_use_im_start_end True --label_smoothing_factor 0.1 --data_path a b --seed --optim adafactor \
        stray=1";
    let mut all = words(line);
    all.insert(2, "--deepspeed=gone.json".into());
    let text = Launch::from_words(&all, &[]).unwrap_err().to_string();
    for want in [
        "`--lerning_rate` is an unknown key; did you mean `--learning_rate`?",
        "`--num_train_epochs` = 0.5, allowed: a whole number",
        "`--learning_rate` = fast, allowed: a number, 0 or above",
        "`--warmup_ratio` = 2, allowed: 0 to 1",
        "`--lr_scheduler_type` = polynomial, allowed: cosine, linear",
        "`--bf16` = maybe, allowed: True or False",
        "`--save_steps` = 0, allowed: a whole number, 1 or above",
        "`--mm_use_im_start_end` = True, allowed: false",
        "`--label_smoothing_factor` = 0.1, allowed: 0",
        "`--data_path` = a b, allowed: one value",
        "`--seed` = nothing, allowed: a value",
        "`--deepspeed` = gone.json, allowed: a file that is there",
        "`--optim` = adafactor stray=1",
    ] {
        assert!(text.contains(want), "{want}\n{text}");
    }
    let text = Launch::from_words(&words("--learning_rate 1"), &[])
        .unwrap_err()
        .to_string();
    assert!(text.contains("--version") && text.contains("--model_name_or_path"));
}

#[test]
fn defaults_are_those_of_the_original() {
    let line = "--model_name_or_path m --version v1 --data_path d --no_cuda --no_lazy_preprocess";
    let recipe = launch(line).recipe;
    let t = &recipe.train;
    assert_eq!((t.learning_rate, t.num_train_epochs), (5e-5, 3));
    assert_eq!((t.model_max_length, t.save_total_limit), (512, 0));
    assert_eq!(t.lr_scheduler_type, crate::recipe::LrSchedulerType::Linear);
    assert_eq!(t.precision, Some(crate::recipe::PrecisionName::F32));
    assert_eq!((t.device.as_str(), t.warmup_ratio), ("cpu", 0.0));
    // Without `--freeze_vision False` the towers stay as they are.
    assert!(recipe.model.freeze_vision);
    assert_eq!(t.freeze, ["model.vision_tower.*vision_tower.*"]);
    let more = format!(
        "{line} --freeze_vision=False --freeze_backbone --freeze_mm_mlp_adapter True --max_steps -1 \
         --save_strategy epoch --save_total_limit -1 --max_grad_norm 0.5 --resume_from_checkpoint True"
    );
    let more = launch(&more);
    assert_eq!(more.recipe.train.freeze.len(), 4);
    assert_eq!(
        (more.recipe.train.max_steps, more.recipe.train.save_steps),
        (0, 0)
    );
    assert_eq!(more.recipe.train.max_grad_norm, 0.5);
    assert_eq!(more.resume.as_deref(), Some("auto"));
}

#[test]
fn a_script_is_read_with_its_variables_and_deepspeed_file() {
    let dir = tempfile::tempdir().unwrap();
    let script = dir.path().join("train.sh");
    std::fs::write(
        dir.path().join("zero3.json"),
        r#"{"gradient_clipping": 0.7, "bf16": {"enabled": "auto"}, "zero_optimization": {"stage": 3}}"#,
    )
    .unwrap();
    let text = "#!/bin/bash\nBASE=models/phi\nmkdir -p runs\ndeepspeed --master_port 1234 \\\n  \
        llava/train/train_mem.py --deepspeed zero3.json \\\n  --model_name_or_path $BASE --version plain \\\n  \
        --bf16 True --image_folder 'a b' --data_path d.json\n";
    std::fs::write(&script, text).unwrap();
    let launch = Launch::from_script(&script, &["train.seed=7".into()]).unwrap();
    let train = &launch.recipe.train;
    assert_eq!(
        (train.zero_stage, train.max_grad_norm, train.seed),
        (3, 0.7, 7)
    );
    assert_eq!(launch.recipe.data.image_folder.list(), ["a b"]);
    assert_eq!(
        launch.recipe.model.model_name_or_path.as_deref(),
        Some("models/phi")
    );
    assert!(launch.notes[0].flag.contains("--master_port 1234"));
    std::fs::write(&script, format!("{text}\n{text}")).unwrap();
    let error = Launch::from_script(&script, &[]).unwrap_err().to_string();
    assert!(error.contains("2 training commands"), "{error}");
    std::fs::write(&script, "echo 'x").unwrap();
    let error = Launch::from_script(&script, &[]).unwrap_err().to_string();
    assert!(error.contains("line 1"), "{error}");
}

#[test]
fn the_table_is_sound() {
    let known = Recipe::default().keys();
    for (n, flag) in table::FLAGS.iter().enumerate() {
        assert!(
            table::FLAGS.iter().skip(n + 1).all(|f| f.name != flag.name),
            "{}",
            flag.name
        );
        if let Effect::Key(key) = flag.effect {
            assert!(known.iter().any(|(k, _)| k == key), "{key}");
            assert_eq!(table::of_key(key), Some(flag.name));
        }
    }
}

#[test]
fn adapters_and_four_bits_are_taken_and_their_settings_named_without_the_switch() {
    let base = "--model_name_or_path m --version v1 --data_path d.json --bf16 True";
    let on = launch(&format!(
        "{base} --lora_enable True --lora_r 128 --lora_alpha 256 --lora_dropout 0.1 --bits 4 --double_quant False \
         --quant_type nf4 --lora_bias none"
    ));
    let lora = &on.recipe.lora;
    assert!(lora.lora_enable && !lora.double_quant);
    assert_eq!((lora.lora_r, lora.lora_alpha, lora.bits), (128, 256.0, 4));
    let off = launch(&format!(
        "{base} --lora_r 128 --double_quant True --bits 16"
    ));
    assert_eq!(off.recipe.lora, crate::recipe::LoraSection::default());
    for flag in ["--lora_r", "--double_quant"] {
        assert!(
            off.notes.iter().any(|n| n.flag == flag),
            "{flag}: {:?}",
            off.notes
        );
    }
    let wrong = |flags: &str| {
        let error = Launch::from_words(&words(&format!("{base} {flags}")), &[]).unwrap_err();
        error.to_string()
    };
    assert!(wrong("--bits 8 --lora_enable True").contains("lora.bits"));
    assert!(wrong("--bits 4").contains("lora_enable"));
    assert!(wrong("--lora_enable True --lora_bias all").contains("train.trainable"));
}
