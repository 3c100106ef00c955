//! Every flag of the original scripts, of the argument classes of LLaVA, LLaVA-HR and LLaVAR-2, and of the
//! transformers' trainer: what it does here, or why it does nothing.

/// What values a flag takes.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) enum Kind {
    /// Any text.
    Text,
    /// One of these.
    Word(&'static [&'static str]),
    /// `True` or `False`; the flag alone stands for true.
    Bool,
    /// A whole number from this one on.
    Whole(i64),
    /// A number from this one on.
    Number(f64),
    /// One or more words.
    Words,
}

/// What a flag does.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) enum Effect {
    /// Its value becomes that of a recipe's key.
    Key(&'static str),
    /// It is looked at in code.
    Own,
    /// Nothing, and why.
    Nothing(&'static str),
    /// This value alone is possible here; what to do for another.
    Must(&'static str, &'static str),
}

/// One flag.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Flag {
    pub(super) name: &'static str,
    pub(super) kind: Kind,
    pub(super) effect: Effect,
}

use Effect::{Key, Must, Nothing, Own};
use Kind::{Bool, Number, Text, Whole, Word, Words};

const fn flag(name: &'static str, kind: Kind, effect: Effect) -> Flag {
    Flag { name, kind, effect }
}

pub(super) const IN_FOLDER: &str =
    "the model folder says which towers and projector it has, and holds their weights";
const NO_EVAL: &str = "a run does not evaluate; `llavar eval` does, on any checkpoint";
const NO_HUB: &str = "nothing is uploaded; the run folder holds the model";
const OWN_LOADER: &str = "samples are read by threads of the program, which need no such setting";
const OWN_ENGINE: &str = "a setting of PyTorch; the engine here is another";
const OWN_LOG: &str = "a run always writes its log to its folder";
const RANKS: &str = "ranks are found from what torchrun, srun or mpirun set";
const SAVES: &str = "checkpoints are always safetensors with everything that a resume needs";
const MPT: &str = "there is no MPT model here";

/// All flags.
pub(super) const FLAGS: &[Flag] = &[
    // Model.
    flag("model_name_or_path", Text, Key("model.model_name_or_path")),
    flag("version", Text, Key("model.version")),
    flag(
        "pretrain_mm_mlp_adapter",
        Text,
        Key("model.pretrain_mm_mlp_adapter"),
    ),
    flag("input_image_size", Whole(32), Key("model.input_image_size")),
    flag("freeze_vision", Bool, Own),
    flag("tune_mm_mlp_adapter", Bool, Own),
    flag("freeze_backbone", Bool, Own),
    flag("freeze_mm_mlp_adapter", Bool, Own),
    flag("vision_tower", Text, Own),
    flag("vision_tower_slow", Text, Own),
    flag("is_multipath_encoder", Bool, Nothing(IN_FOLDER)),
    flag("mm_projector_type", Text, Nothing(IN_FOLDER)),
    flag("mm_hidden_size", Whole(1), Nothing(IN_FOLDER)),
    flag("use_mm_proj", Bool, Nothing(IN_FOLDER)),
    flag("delay_load", Bool, Nothing(IN_FOLDER)),
    flag(
        "mm_vision_select_layer",
        Whole(-100),
        Nothing(
            "the tower of two paths uses its last layer, as in the original; a single tower's layer is in the model folder",
        ),
    ),
    flag(
        "mm_vision_select_feature",
        Word(&["patch", "cls_patch"]),
        Nothing(IN_FOLDER),
    ),
    flag(
        "mm_patch_merge_type",
        Text,
        Nothing("pictures are not cut into tiles"),
    ),
    flag(
        "mm_use_im_start_end",
        Bool,
        Must("false", "no marks stand around a picture"),
    ),
    flag(
        "mm_use_im_patch_token",
        Bool,
        Must("false", "pictures take no tokens of their own"),
    ),
    flag("mpt_attn_impl", Text, Nothing(MPT)),
    flag("attn_implementation", Text, Nothing(OWN_ENGINE)),
    flag("use_flash_attn", Bool, Nothing(OWN_ENGINE)),
    flag("cache_dir", Text, Nothing("nothing is downloaded")),
    flag(
        "trust_remote_code",
        Bool,
        Nothing("no code of a model folder is run"),
    ),
    flag("model_max_length", Whole(1), Key("train.model_max_length")),
    flag("bits", Whole(4), Own),
    flag("double_quant", Bool, Own),
    flag("quant_type", Word(&["nf4", "fp4"]), Own),
    flag("lora_enable", Bool, Own),
    flag("lora_r", Whole(1), Own),
    flag("lora_alpha", Whole(1), Own),
    flag("lora_dropout", Number(0.0), Own),
    flag(
        "lora_weight_path",
        Text,
        Nothing("not read by the original either"),
    ),
    flag(
        "lora_bias",
        Word(&["none", "all", "lora_only"]),
        Must(
            "none",
            "adapters have no biases of their own; train.trainable names biases that shall train",
        ),
    ),
    flag("mm_projector_lr", Number(0.0), Key("train.mm_projector_lr")),
    flag(
        "mm_vision_tower_lr",
        Number(0.0),
        Key("train.mm_vision_tower_lr"),
    ),
    // Data.
    flag("data_path", Text, Key("data.data_path")),
    flag("image_folder", Text, Key("data.image_folder")),
    flag(
        "image_aspect_ratio",
        Word(&["pad", "square"]),
        Key("data.image_aspect_ratio"),
    ),
    flag(
        "image_grid_pinpoints",
        Text,
        Nothing("pictures are not cut into tiles"),
    ),
    flag(
        "lazy_preprocess",
        Bool,
        Nothing("samples are always read when they are needed"),
    ),
    flag(
        "is_multimodal",
        Bool,
        Nothing("a sample says itself whether it has pictures"),
    ),
    flag(
        "dataloader_num_workers",
        Whole(0),
        Key("data.dataloader_num_workers"),
    ),
    flag("dataloader_pin_memory", Bool, Nothing(OWN_LOADER)),
    flag("dataloader_persistent_workers", Bool, Nothing(OWN_LOADER)),
    flag(
        "dataloader_prefetch_factor",
        Whole(0),
        Nothing("data.prefetch_bytes bounds what is read ahead"),
    ),
    flag(
        "dataloader_drop_last",
        Bool,
        Nothing("a step is always whole"),
    ),
    flag(
        "remove_unused_columns",
        Bool,
        Nothing("fields that are not known are passed over"),
    ),
    flag(
        "group_by_modality_length",
        Bool,
        Key("train.group_by_modality_length"),
    ),
    flag(
        "group_by_length",
        Bool,
        Must(
            "false",
            "--group_by_modality_length True groups by length and modality",
        ),
    ),
    flag(
        "length_column_name",
        Text,
        Nothing("lengths are those of the text itself"),
    ),
    flag("preprocessing_num_workers", Whole(0), Nothing(OWN_LOADER)),
    // Optimisation.
    flag("output_dir", Text, Own),
    flag("num_train_epochs", Number(0.0), Own),
    flag("max_steps", Whole(-1), Own),
    flag(
        "per_device_train_batch_size",
        Whole(1),
        Key("train.per_device_train_batch_size"),
    ),
    flag(
        "gradient_accumulation_steps",
        Whole(1),
        Key("train.gradient_accumulation_steps"),
    ),
    flag("learning_rate", Number(0.0), Key("train.learning_rate")),
    flag("weight_decay", Number(0.0), Key("train.weight_decay")),
    flag("warmup_ratio", Number(0.0), Key("train.warmup_ratio")),
    flag("warmup_steps", Whole(0), Key("train.warmup_steps")),
    flag(
        "lr_scheduler_type",
        Word(&["cosine", "linear", "constant", "constant_with_warmup"]),
        Key("train.lr_scheduler_type"),
    ),
    flag(
        "lr_scheduler_kwargs",
        Text,
        Nothing("the schedules have no settings of their own"),
    ),
    flag(
        "optim",
        Word(&[
            "adamw_torch",
            "adamw_torch_fused",
            "adamw_hf",
            "adamw_apex_fused",
        ]),
        Nothing("the optimizer is AdamW, updated in one kernel"),
    ),
    flag("optim_args", Text, Nothing("AdamW has no other settings")),
    flag("adafactor", Bool, Must("false", "the optimizer is AdamW")),
    flag("adam_beta1", Number(0.0), Key("train.adam_beta1")),
    flag("adam_beta2", Number(0.0), Key("train.adam_beta2")),
    flag("adam_epsilon", Number(0.0), Key("train.adam_epsilon")),
    flag("max_grad_norm", Number(0.0), Own),
    flag(
        "gradient_checkpointing",
        Bool,
        Key("train.gradient_checkpointing"),
    ),
    flag("gradient_checkpointing_kwargs", Text, Nothing(OWN_ENGINE)),
    flag(
        "label_smoothing_factor",
        Number(0.0),
        Must("0", "the loss has no label smoothing"),
    ),
    flag(
        "neftune_noise_alpha",
        Number(0.0),
        Must("0", "no noise is added to embeddings"),
    ),
    flag("seed", Whole(0), Key("train.seed")),
    flag(
        "data_seed",
        Whole(0),
        Nothing("--seed decides the order of the samples too"),
    ),
    flag(
        "full_determinism",
        Bool,
        Nothing("a run is always the same bits"),
    ),
    flag(
        "average_tokens_across_devices",
        Bool,
        Nothing(
            "train.loss_weighting=token is the mean over all supervised tokens of a step already",
        ),
    ),
    // Precision and device.
    flag("bf16", Bool, Own),
    flag("fp16", Bool, Own),
    flag(
        "tf32",
        Bool,
        Nothing("products of f32 weights are computed in f32; bf16 is what a GPU gets by default"),
    ),
    flag("bf16_full_eval", Bool, Nothing(NO_EVAL)),
    flag("fp16_full_eval", Bool, Nothing(NO_EVAL)),
    flag("fp16_opt_level", Text, Nothing(OWN_ENGINE)),
    flag("fp16_backend", Text, Nothing(OWN_ENGINE)),
    flag("half_precision_backend", Text, Nothing(OWN_ENGINE)),
    flag("no_cuda", Bool, Own),
    flag("use_cpu", Bool, Own),
    flag("use_ipex", Bool, Nothing(OWN_ENGINE)),
    flag("torch_compile", Bool, Nothing(OWN_ENGINE)),
    flag("torch_compile_backend", Text, Nothing(OWN_ENGINE)),
    flag("torch_compile_mode", Text, Nothing(OWN_ENGINE)),
    flag("jit_mode_eval", Bool, Nothing(OWN_ENGINE)),
    flag("torch_empty_cache_steps", Whole(1), Nothing(OWN_ENGINE)),
    flag(
        "auto_find_batch_size",
        Bool,
        Nothing("`llavar plan` says which batch fits"),
    ),
    // Ranks.
    flag("deepspeed", Text, Own),
    flag(
        "fsdp",
        Words,
        Nothing("ZeRO shards here: --deepspeed zero3.json, or --set train.zero_stage=3"),
    ),
    flag(
        "fsdp_config",
        Text,
        Nothing("ZeRO shards here: --deepspeed zero3.json, or --set train.zero_stage=3"),
    ),
    flag(
        "fsdp_transformer_layer_cls_to_wrap",
        Text,
        Nothing("weights are sharded by layer always"),
    ),
    flag("local_rank", Whole(-1), Nothing(RANKS)),
    flag("ddp_backend", Text, Nothing("NCCL on GPUs, MPI on CPUs")),
    flag(
        "ddp_timeout",
        Whole(0),
        Nothing("a rank that dies ends all within the program's own time-out"),
    ),
    flag(
        "ddp_find_unused_parameters",
        Bool,
        Nothing("a weight without gradient is no matter here"),
    ),
    flag(
        "ddp_bucket_cap_mb",
        Whole(0),
        Nothing("gradients are exchanged layer by layer"),
    ),
    flag(
        "ddp_broadcast_buffers",
        Bool,
        Nothing("the model has no buffers"),
    ),
    flag("accelerator_config", Text, Nothing(RANKS)),
    flag("split_batches", Bool, Nothing(RANKS)),
    // Saving and logs.
    flag("save_strategy", Word(&["no", "steps", "epoch"]), Own),
    flag("save_steps", Whole(1), Key("train.save_steps")),
    flag("save_total_limit", Whole(-1), Own),
    flag("save_safetensors", Bool, Nothing(SAVES)),
    flag("save_only_model", Bool, Nothing(SAVES)),
    flag(
        "save_on_each_node",
        Bool,
        Nothing("rank 0 publishes a checkpoint for all"),
    ),
    flag(
        "overwrite_output_dir",
        Bool,
        Nothing("nothing that is published is written over; give each run its own folder"),
    ),
    flag("resume_from_checkpoint", Text, Own),
    flag(
        "ignore_data_skip",
        Bool,
        Nothing("a resume seeks to its place and replays nothing"),
    ),
    flag(
        "restore_callback_states_from_checkpoint",
        Bool,
        Nothing(SAVES),
    ),
    flag(
        "load_best_model_at_end",
        Bool,
        Nothing("the best checkpoint is kept, and `BEST` names it"),
    ),
    flag("metric_for_best_model", Text, Own),
    flag("greater_is_better", Bool, Key("train.greater_is_better")),
    flag("logging_steps", Whole(1), Key("log.logging_steps")),
    flag("logging_strategy", Text, Nothing("--logging_steps decides")),
    flag(
        "logging_first_step",
        Bool,
        Nothing("--logging_steps decides"),
    ),
    flag("logging_dir", Text, Nothing(OWN_LOG)),
    flag(
        "logging_nan_inf_filter",
        Bool,
        Nothing("a step whose gradient is not finite is skipped and said"),
    ),
    flag("log_level", Text, Nothing(OWN_LOG)),
    flag("log_level_replica", Text, Nothing(OWN_LOG)),
    flag("log_on_each_node", Bool, Nothing(OWN_LOG)),
    flag(
        "disable_tqdm",
        Bool,
        Nothing("progress goes to stderr, and only to a terminal as a bar"),
    ),
    flag("report_to", Words, Nothing(OWN_LOG)),
    flag("run_name", Text, Nothing("a run is named by its folder")),
    flag(
        "skip_memory_metrics",
        Bool,
        Nothing("memory is in each line of the log"),
    ),
    flag(
        "include_num_input_tokens_seen",
        Bool,
        Nothing("tokens are in each line of the log"),
    ),
    flag(
        "include_tokens_per_second",
        Bool,
        Nothing("tokens a second are in each line of the log"),
    ),
    flag("debug", Text, Nothing(OWN_ENGINE)),
    // Evaluation and the hub.
    flag("do_train", Bool, Nothing("this command trains")),
    flag("do_eval", Bool, Nothing(NO_EVAL)),
    flag("do_predict", Bool, Nothing(NO_EVAL)),
    flag(
        "evaluation_strategy",
        Word(&["no", "steps", "epoch"]),
        Nothing(NO_EVAL),
    ),
    flag(
        "eval_strategy",
        Word(&["no", "steps", "epoch"]),
        Nothing(NO_EVAL),
    ),
    flag("eval_steps", Number(0.0), Nothing(NO_EVAL)),
    flag("eval_delay", Number(0.0), Nothing(NO_EVAL)),
    flag("eval_accumulation_steps", Whole(1), Nothing(NO_EVAL)),
    flag("eval_on_start", Bool, Nothing(NO_EVAL)),
    flag("per_device_eval_batch_size", Whole(1), Nothing(NO_EVAL)),
    flag("prediction_loss_only", Bool, Nothing(NO_EVAL)),
    flag("batch_eval_metrics", Bool, Nothing(NO_EVAL)),
    flag("include_inputs_for_metrics", Bool, Nothing(NO_EVAL)),
    flag("include_for_metrics", Words, Nothing(NO_EVAL)),
    flag("label_names", Words, Nothing(NO_EVAL)),
    flag("past_index", Whole(-1), Nothing(NO_EVAL)),
    flag("push_to_hub", Bool, Nothing(NO_HUB)),
    flag("hub_model_id", Text, Nothing(NO_HUB)),
    flag("hub_strategy", Text, Nothing(NO_HUB)),
    flag("hub_token", Text, Nothing(NO_HUB)),
    flag("hub_private_repo", Bool, Nothing(NO_HUB)),
    flag("hub_always_push", Bool, Nothing(NO_HUB)),
];

/// The flag of a name, with dashes for underscores too.
pub(super) fn find(name: &str) -> Option<&'static Flag> {
    let name = name.replace('-', "_");
    FLAGS.iter().find(|f| f.name == name)
}

/// The most similar flag.
pub(super) fn nearest(name: &str) -> &'static str {
    let name = name.replace('-', "_");
    FLAGS
        .iter()
        .max_by(|a, b| {
            strsim::jaro_winkler(a.name, &name).total_cmp(&strsim::jaro_winkler(b.name, &name))
        })
        .map_or("", |f| f.name)
}

/// The flag that sets a recipe's key.
pub(super) fn of_key(key: &str) -> Option<&'static str> {
    let own = [
        ("train.max_grad_norm", "max_grad_norm"),
        ("train.num_train_epochs", "num_train_epochs"),
        ("train.max_steps", "max_steps"),
        ("train.metric_for_best_model", "metric_for_best_model"),
        ("train.save_total_limit", "save_total_limit"),
    ];
    let by_key = FLAGS
        .iter()
        .find(|f| matches!(f.effect, Key(sets) if sets == key));
    by_key
        .map(|f| f.name)
        .or_else(|| own.iter().find(|o| o.0 == key).map(|o| o.1))
}
