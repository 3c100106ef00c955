use super::*;

fn sets(list: &[&str]) -> Vec<String> {
    list.iter().map(|s| (*s).to_owned()).collect()
}

#[test]
fn every_named_recipe_is_valid_and_comes_back_from_its_own_text() {
    for named in NAMED_RECIPES {
        let recipe = Recipe::resolve(named.name, &[]).unwrap();
        let again = Recipe::from_toml("again", &recipe.to_toml().unwrap(), &[]).unwrap();
        assert_eq!(recipe, again, "{}", named.name);
        assert!(named.description().len() > 20, "{}", named.name);
        let pretrain = named.name.ends_with("pretrain");
        assert_eq!(
            recipe.train.stage == Stage::Pretrain,
            pretrain,
            "{}",
            named.name
        );
        assert_eq!(recipe.model.version == "plain", pretrain, "{}", named.name);
    }
}

#[test]
fn published_figures() {
    let sft = Recipe::resolve("phi3-readme-sft", &[]).unwrap();
    let t = &sft.train;
    assert_eq!((t.num_train_epochs, t.learning_rate), (3, 2e-5));
    assert_eq!(
        (t.per_device_train_batch_size, t.gradient_accumulation_steps),
        (8, 2)
    );
    assert_eq!(
        (t.warmup_ratio, t.weight_decay, t.save_total_limit),
        (0.03, 0.0, 0)
    );
    assert!(t.group_by_modality_length && sft.data.image_aspect_ratio == "pad");
    let script = Recipe::resolve("llama3-script-sft", &[]).unwrap();
    assert_eq!(script.model.input_image_size, Some(1024));
    assert_eq!(
        (script.train.num_train_epochs, script.train.model_max_length),
        (1, 4096)
    );
    let pretrain = Recipe::resolve("vicuna-readme-pretrain", &[]).unwrap();
    assert_eq!(
        (pretrain.train.learning_rate, pretrain.train.save_steps),
        (1e-3, 24000)
    );
    assert_eq!(pretrain.data.image_aspect_ratio, "square");
}

#[test]
fn overrides_take_numbers_text_lists_and_bare_keys() {
    let set = sets(&[
        "train.learning_rate=1",
        "data_path=/a/b c.json",
        "model.version=llama3",
        "data.image_folder=[\"x\"]",
        "mm_projector_lr = 1e-4",
        "trainable=[\"*bias\"]",
    ]);
    let recipe = Recipe::resolve("nano-sft", &set).unwrap();
    assert_eq!(recipe.train.learning_rate, 1.0);
    assert_eq!(recipe.data.data_path.list(), ["/a/b c.json"]);
    assert_eq!(recipe.data.image_folder.list(), ["x"]);
    assert_eq!(recipe.train.mm_projector_lr, Some(1e-4));
    assert_eq!(recipe.train.trainable, ["*bias"]);
}

#[test]
fn unknown_keys_name_the_nearest_known_one_all_at_once() {
    let text = "[train]\nlearning_rat = 1\n[data]\nnum_train_epoch = 2\n[modell]\nx = 1";
    let set = sets(&["train.optim=x", "model_max_lenght=7", "novalue"]);
    let message = Recipe::from_toml("r.toml", text, &set)
        .unwrap_err()
        .to_string();
    for want in [
        "`train.learning_rat` is an unknown key; did you mean `train.learning_rate`?",
        "`data.num_train_epoch` is an unknown key; did you mean `train.num_train_epochs`?",
        "`modell`",
        "`train.optim`",
        "`model_max_lenght` is an unknown key; did you mean `train.model_max_length`?",
        "novalue",
        "r.toml has 6 problem(s)",
    ] {
        assert!(message.contains(want), "{want}\n{message}");
    }
}

#[test]
fn all_bad_values_are_listed_with_what_is_allowed() {
    let text = "[train]\nlearning_rate = -1.0\nwarmup_ratio = 2.0\nper_device_train_batch_size = 0\n\
                adam_beta1 = 1.0\n[data]\nimage_aspect_ratio = 'stretch'\n[model]\nversion = 'v9'";
    let error = Recipe::from_toml("r", text, &[]).unwrap_err();
    let TrainError::Recipe { problems, .. } = &error else {
        panic!("{error}")
    };
    let keys: Vec<&str> = problems.iter().map(|p| p.key.as_str()).collect();
    for key in [
        "train.learning_rate",
        "train.warmup_ratio",
        "train.per_device_train_batch_size",
        "train.adam_beta1",
        "data.image_aspect_ratio",
        "model.version",
    ] {
        assert!(keys.contains(&key), "{key} {keys:?}");
    }
    assert_eq!(keys.len(), 6);
    assert!(
        error
            .to_string()
            .contains("= stretch, allowed: pad, fit, square")
    );
}

#[test]
fn wrong_types_and_broken_toml_are_errors_that_say_where() {
    let error = Recipe::from_toml("r", "[train]\nlearning_rate = 'fast'", &[]).unwrap_err();
    let text = crate::error::chain(&error);
    assert!(
        text.contains("learning_rate") && text.contains("fast"),
        "{text}"
    );
    let error = Recipe::from_toml("r", "[train\n", &[]).unwrap_err();
    assert!(crate::error::chain(&error).contains("line 1"));
    let error = Recipe::resolve("phi3-readme-stf", &[])
        .unwrap_err()
        .to_string();
    assert!(error.contains("did you mean `phi3-readme-sft`?"), "{error}");
}

#[test]
fn a_file_may_extend_a_named_recipe() {
    let text = "extends = 'phi3-readme-sft'\n[train]\nlearning_rate = 1e-5";
    let recipe = Recipe::from_toml("r", text, &sets(&["num_train_epochs=1"])).unwrap();
    assert_eq!(
        (recipe.train.learning_rate, recipe.train.num_train_epochs),
        (1e-5, 1)
    );
    assert_eq!(recipe.model.version, "phi3_instruct");
    assert!(Recipe::from_toml("r", "extends = 'nothing'", &[]).is_err());
}

#[test]
fn changed_keys_are_those_that_change_the_result() {
    let a = Recipe::resolve("nano-sft", &[]).unwrap();
    let free = sets(&["save_steps=1", "dataloader_num_workers=7", "data_path=x"]);
    assert!(
        Recipe::resolve("nano-sft", &free)
            .unwrap()
            .changed_keys(&a)
            .is_empty()
    );
    let b = Recipe::resolve("nano-sft", &sets(&["seed=7", "mm_projector_lr=1"])).unwrap();
    let mut keys = b.changed_keys(&a);
    keys.sort();
    assert_eq!(keys, ["train.mm_projector_lr", "train.seed"]);
    let fp8 = Recipe::resolve("nano-sft", &sets(&["fp8=true"])).unwrap();
    assert_eq!(fp8.changed_keys(&a), ["train.fp8"]);
    let both = Recipe::resolve("nano-sft", &sets(&["fp8=true", "precision=f32"]));
    let error = crate::error::chain(&both.unwrap_err());
    assert!(
        error.contains("train.fp8") && error.contains("bf16-pure"),
        "{error}"
    );
}

#[test]
fn checkpointing_device_and_precision_take_their_words_and_no_others() {
    let resolve = |set: &str| Recipe::resolve("nano-sft", &sets(&[set]));
    for (set, want) in [
        ("true", GradientCheckpointing::Switch(true)),
        ("false", GradientCheckpointing::Switch(false)),
        ("7", GradientCheckpointing::Keep(7)),
        ("auto", GradientCheckpointing::Auto),
    ] {
        let recipe = resolve(&format!("gradient_checkpointing={set}")).unwrap();
        assert_eq!(recipe.train.gradient_checkpointing, want);
        let again = Recipe::from_toml("again", &recipe.to_toml().unwrap(), &[]).unwrap();
        assert_eq!(recipe, again, "{set}");
    }
    for (set, word) in [
        ("gradient_checkpointing=some", "\"auto\""),
        ("gradient_checkpointing=-1", "\"auto\""),
        ("precision=fp16", "bf16-pure"),
        ("train.device=gpu", "cuda:N"),
    ] {
        let error = crate::error::chain(&resolve(set).unwrap_err());
        assert!(error.contains(word), "{set}: {error}");
    }
    let recipe = resolve("precision=bf16-pure").unwrap();
    assert_eq!(recipe.train.precision, Some(PrecisionName::Bf16Pure));
    let other = resolve("train.device=cuda:1").unwrap();
    assert!(
        other
            .changed_keys(&resolve("train.device=cpu").unwrap())
            .is_empty()
    );
}
