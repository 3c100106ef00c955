//! Parts cut out of whole models make those models again.

use llavar_tensor::{Tape, Tensor, Var};

use super::*;
use crate::{
    config::VisionTower,
    weights::{
        adapters_present, parity_folders, parity_shared,
        tests_support::{Sample, state_dict, zip},
        write_safetensors,
    },
};

type Tensors = Vec<(String, Vec<usize>, Vec<f32>)>;

const FAST: &str = "model.vision_tower.fast_vision_tower.vision_tower.";
const SLOW: &str = "model.vision_tower.slow_vision_tower.vision_tower.";

/// The tensors of a model that begin with `prefix`, without it.
fn cut(files: &WeightFiles, keep: impl Fn(&str) -> Option<String>) -> Tensors {
    let found = files.entries().filter_map(|entry| {
        let name = keep(&entry.name)?;
        Some((
            name,
            entry.shape.clone(),
            files.read_f32(&entry.name).unwrap(),
        ))
    });
    found.collect()
}

fn safetensors(path: &Path, tensors: &Tensors) {
    let specs: Vec<TensorSpec> = tensors
        .iter()
        .map(|(name, shape, _)| TensorSpec::new(name, Dtype::F32, shape.as_slice()))
        .collect();
    write_safetensors(path, &specs, None, |spec, sink| {
        sink.write_f32(&tensors.iter().find(|t| t.0 == spec.name).unwrap().2)
    })
    .unwrap();
}

/// A file as `torch.save` writes it.
fn torch(path: &Path, tensors: &[(String, Vec<usize>, Vec<f32>)]) {
    let keys: Vec<String> = (0..tensors.len()).map(|i| i.to_string()).collect();
    let narrow = |numbers: &[usize]| numbers.iter().map(|n| *n as u32).collect::<Vec<u32>>();
    let shapes: Vec<(Vec<u32>, Vec<u32>)> = tensors
        .iter()
        .map(|(_, shape, _)| {
            let strides: Vec<usize> = (0..shape.len())
                .map(|i| shape[i + 1..].iter().product())
                .collect();
            (narrow(shape), narrow(&strides))
        })
        .collect();
    let samples: Vec<Sample<'_>> = tensors
        .iter()
        .zip(&shapes)
        .zip(&keys)
        .map(|(((name, _, values), (shape, strides)), key)| Sample {
            name,
            dtype: Dtype::F32,
            key,
            numel: values.len() as u32,
            offset: 0,
            shape,
            strides,
        })
        .collect();
    let pickle = state_dict(&samples);
    let data: Vec<(String, Vec<u8>)> = tensors
        .iter()
        .zip(&keys)
        .map(|((.., values), key)| {
            let bytes = values.iter().flat_map(|x| x.to_le_bytes()).collect();
            (format!("a/data/{key}"), bytes)
        })
        .collect();
    let mut members: Vec<(&str, &[u8])> = vec![("a/data.pkl", &pickle)];
    members.extend(
        data.iter()
            .map(|(name, bytes)| (name.as_str(), bytes.as_slice())),
    );
    fs::write(path, zip(&members)).unwrap();
}

fn json_file(path: &Path, value: &Value) {
    fs::write(path, value.to_string()).unwrap();
}

/// A language model's folder, in one of three layouts.
fn write_llm(folder: &Path, config: &ModelConfig, tensors: &Tensors, layout: usize) {
    fs::create_dir_all(folder).unwrap();
    let mut keys = config.as_json().clone();
    keys.retain(|key, _| {
        let vision = [
            "mm_",
            "vision_",
            "clip_",
            "convnext_",
            "image_",
            "input_image",
            "freeze_",
            "is_multi",
        ];
        !vision.iter().any(|start| key.starts_with(start))
    });
    let kind = match config.llm.family {
        LlmFamily::Llama => "llama",
        LlmFamily::Phi3 => "phi3",
    };
    keys.insert("model_type".into(), kind.into());
    keys.insert("auto_map".into(), json!({"AutoModel": "code.py"}));
    json_file(&folder.join("config.json"), &Value::Object(keys));
    fs::write(folder.join("tokenizer.json"), "{}").unwrap();
    json_file(
        &folder.join("generation_config.json"),
        &json!({"eos_token_id": [2, 7]}),
    );
    if layout == 0 {
        return safetensors(&folder.join("model.safetensors"), tensors);
    }
    let mut map = Map::new();
    let shards: Vec<&[_]> = tensors.chunks(tensors.len().div_ceil(3)).collect();
    let (stem, end) = [("model", "safetensors"), ("pytorch_model", "bin")][layout - 1];
    for (n, shard) in shards.iter().enumerate() {
        let name = format!("{stem}-{:05}-of-{:05}.{end}", n + 1, shards.len());
        match layout {
            1 => safetensors(&folder.join(&name), &shard.to_vec()),
            _ => torch(&folder.join(&name), shard),
        }
        map.extend(
            shard
                .iter()
                .map(|t| (t.0.clone(), Value::from(name.clone()))),
        );
    }
    let index = json!({"metadata": {}, "weight_map": map});
    json_file(&folder.join(format!("{stem}.{end}.index.json")), &index);
}

#[test]
fn parts_of_every_parity_model_make_it_again() {
    let Some(parity) = parity_shared("parts_of_every_parity_model_make_it_again") else {
        return;
    };
    let (dir, mut seen) = (tempfile::tempdir().unwrap(), 0);
    for source in parity_folders(&parity) {
        let whole = source
            .join("config.json")
            .is_file()
            .then(|| ModelConfig::read(&source).unwrap());
        let Some(config) = whole.filter(|config| config.vision.is_some()) else {
            continue;
        };
        let files = WeightFiles::open(&source).unwrap();
        let vision = config.vision.as_ref().unwrap();
        let VisionTower::Multipath { convnext, .. } = &vision.tower else {
            continue;
        };
        let llm = cut(&files, |name| {
            let own = [
                "model.embed_tokens.",
                "model.layers.",
                "model.norm.",
                "lm_head.",
            ];
            own.iter()
                .any(|start| name.starts_with(start))
                .then(|| name.to_owned())
        });
        let mut clip = cut(&files, |name| name.strip_prefix(FAST).map(str::to_owned));
        for name in [
            "text_model.final_layer_norm.weight",
            "logit_scale",
            "visual_projection.weight",
        ] {
            clip.push((name.to_owned(), vec![2], vec![0.5, 0.25]));
        }
        let slow = |prefix: &str| {
            let mut tensors = cut(&files, |name| {
                let rest = name.strip_prefix(SLOW)?;
                let scale = rest.strip_suffix(".weight").filter(|block| {
                    block
                        .rsplit_once('.')
                        .is_some_and(|(_, n)| n.parse::<usize>().is_ok())
                        && block.contains("blocks")
                });
                Some(match scale {
                    Some(block) => format!("{prefix}{block}.gamma"),
                    None => format!("{prefix}{rest}"),
                })
            });
            tensors.push((format!("{prefix}head.fc.weight"), vec![2], vec![1.0, 2.0]));
            tensors.push(("token_embedding.weight".into(), vec![1], vec![1.0]));
            tensors
        };
        let latent = adapters_present(&files);
        for layout in 0..3 {
            let folder = dir.path().join(format!("{seen}-{layout}"));
            let (llm_dir, clip_dir) = (folder.join("llm"), folder.join("clip-tiny"));
            write_llm(&llm_dir, &config, &llm, layout);
            fs::create_dir_all(&clip_dir).unwrap();
            let own = &config.as_json()["clip_vision_config"];
            let clip_config = match layout {
                0 => json!({"model_type": "clip", "vision_config": own, "text_config": {}}),
                _ => own.clone(),
            };
            json_file(&clip_dir.join("config.json"), &clip_config);
            let (clip_path, slow_path) = match layout {
                0 => {
                    safetensors(&clip_dir.join("model.safetensors"), &clip);
                    let path = folder.join("convnext_tiny.safetensors");
                    safetensors(&path, &slow(""));
                    (clip_dir, path)
                }
                _ => {
                    // The vision model alone, as transformers 5 saves it.
                    let bare = clip
                        .iter()
                        .filter(|t| layout == 1 || t.0.starts_with("vision_model."));
                    let bare: Tensors = bare
                        .cloned()
                        .map(|(name, shape, values)| match layout {
                            1 => (name, shape, values),
                            _ => (name.replace("vision_model.", ""), shape, values),
                        })
                        .collect();
                    torch(&clip_dir.join("pytorch_model.bin"), &bare);
                    let path = folder.join("open_clip_pytorch_model.bin");
                    torch(&path, &slow("visual.trunk."));
                    (clip_dir.join("pytorch_model.bin"), path)
                }
            };
            let size = Some(vision.input_image_size);
            let parts = Parts::open(&llm_dir, &clip_path, Some(&slow_path), size).unwrap();
            assert!(parts.notes().is_empty(), "{:?}", parts.notes());
            let got = parts.config();
            assert_eq!(got.llm, config.llm);
            let tower = got.vision.as_ref().unwrap();
            assert_eq!(tower.clip(), vision.clip());
            assert!(
                matches!(&tower.tower, VisionTower::Multipath { convnext: c, .. } if c == convnext)
            );
            assert_eq!(got.projector, config.projector);
            assert!(!got.as_json().contains_key("auto_map"));

            let out = folder.join("out");
            let report = parts.write(&out, latent, None, 3).unwrap();
            assert_eq!(report.dtype, Dtype::F32);
            let (made, whole) = (
                LlavaModel::load(&out).unwrap(),
                LlavaModel::load(&source).unwrap(),
            );
            let memory = parts.load(latent, 3).unwrap();
            assert_eq!(made.params().len(), whole.params().len());
            let mut new = 0;
            for ((a, b), c) in made
                .params()
                .iter()
                .zip(whole.params())
                .zip(memory.params())
            {
                assert_eq!((a.name(), a.shape()), (b.name(), b.shape()));
                let [a_values, b_values, c_values] =
                    [a, &b, &c].map(|p| p.value().to_f32_vec().unwrap());
                assert!(a_values == c_values, "{}", a.name());
                match Parts::is_new(a.name()) {
                    true => new += a.numel(),
                    false => assert!(a_values == b_values, "{}", a.name()),
                }
            }
            assert_eq!(report.new_parameters, new);
            assert!(out.join("tokenizer.json").is_file());
            let generation = GenerationConfig::read(&out).unwrap().unwrap();
            assert_eq!(generation.as_json()["eos_token_id"], json!([2, 7]));
            // In half the room, and without adapters, as stage 1 takes it.
            let small = folder.join("small");
            parts.write(&small, false, Some(Dtype::BF16), 3).unwrap();
            assert!(!adapters_present(&WeightFiles::open(&small).unwrap()));
            let small = ModelConfig::read(&small).unwrap();
            assert_eq!(small.as_json()["freeze_vision"], json!(true));
            assert_eq!(small.as_json()["torch_dtype"], json!("bfloat16"));
        }
        // The CLIP alone, as LLaVA has it.
        let first = dir.path().join(format!("{seen}-0"));
        let alone = Parts::open(&first.join("llm"), &first.join("clip-tiny"), None, None).unwrap();
        let model = alone.load(false, 1).unwrap();
        assert_eq!(
            model.image_size(),
            vision.clip().map(|clip| clip.image_size)
        );
        // The ConvNeXt alone: its features are those of the slow path of the whole.
        let (file, size) = (
            first.join("convnext_tiny.safetensors"),
            vision.input_image_size,
        );
        let alone = Parts::open(&first.join("llm"), &file, None, Some(size)).unwrap();
        let out = first.join("convnext-alone");
        alone.write(&out, false, None, 1).unwrap();
        let config = ModelConfig::read(&out).unwrap();
        assert!(matches!(&config.vision.unwrap().tower, VisionTower::ConvNext(c) if c == convnext));
        let stages = |folder: &Path| {
            let model = LlavaModel::load(folder).unwrap();
            let pixels = (0..size * size * 3).map(|i| (i as f32 * 0.37).sin());
            let pixels = Tensor::from_vec(pixels.collect(), &[1, size, size, 3]).unwrap();
            let mut seen = BTreeMap::new();
            let mut note = |name: &str, value: &Var| {
                seen.insert(name.to_owned(), value.value().to_f32_vec().unwrap());
            };
            let tape = Tape::inference();
            model
                .encode_images_observed(&tape, &pixels, false, &mut note)
                .unwrap();
            seen
        };
        let (alone, whole) = (stages(&out), stages(&source));
        assert!(alone["vision_tower"] == whole["slow.stage3"]);
        assert!(alone["slow.stem"] == whole["slow.stem"]);
        let error = Parts::open(&first.join("llm"), &file, Some(&file), None);
        assert!(
            error
                .unwrap_err()
                .to_string()
                .contains("takes no other beside it")
        );
        seen += 1;
    }
    assert!(seen > 0);
}

#[test]
fn what_is_no_such_part_is_named() {
    let dir = tempfile::tempdir().unwrap();
    let config = ModelConfig::from_json("tiny", &json!({
        "model_type": "llama", "vocab_size": 8, "hidden_size": 8, "intermediate_size": 8, "num_hidden_layers": 1,
        "num_attention_heads": 2, "max_position_embeddings": 32, "rms_norm_eps": 1e-5, "tie_word_embeddings": true,
    }).to_string()).unwrap();
    let llm: Tensors = parameters(&config, false)
        .into_iter()
        .map(|p| (p.name.clone(), p.shape.clone(), vec![0.5; p.numel()]))
        .collect();
    let folder = dir.path().join("llm");
    write_llm(&folder, &config, &llm, 0);
    let tensor = |name: &str, shape: &[usize]| {
        vec![(
            name.to_owned(),
            shape.to_vec(),
            vec![0.0; shape.iter().product()],
        )]
    };
    let file = |name: &str, tensors: &Tensors| {
        let path = dir.path().join(name);
        safetensors(&path, tensors);
        path
    };
    let open_clip = file(
        "oc.safetensors",
        &tensor("visual.transformer.resblocks.0.ln_1.weight", &[4]),
    );
    let other = file("other.safetensors", &tensor("weight", &[4]));
    let open =
        |llm: &Path, clip: &Path| Parts::open(llm, clip, None, None).unwrap_err().to_string();
    let error = open(&folder, &open_clip);
    assert!(
        error.contains("oc.safetensors") && error.contains("open_clip"),
        "{error}"
    );
    assert!(open(&folder, &other).contains("patch_embedding"));
    assert!(open(&other, &other).contains("a language model"));

    let d = 64;
    let mut clip = tensor(
        "vision_model.embeddings.patch_embedding.weight",
        &[d, 3, 4, 4],
    );
    clip.extend(tensor(
        "vision_model.embeddings.position_embedding.weight",
        &[17, d],
    ));
    clip.extend(tensor(
        "vision_model.encoder.layers.0.mlp.fc1.weight",
        &[128, d],
    ));
    clip.extend(tensor(
        "vision_model.encoder.layers.3.mlp.fc1.weight",
        &[128, d],
    ));
    let clip = file("clip.safetensors", &clip);
    let parts = Parts::open(&folder, &clip, None, None).unwrap();
    assert!(parts.notes()[0].contains("1 heads"), "{:?}", parts.notes());
    let vision = parts.config().vision.as_ref().unwrap();
    assert_eq!(
        vision.clip().map(|c| (c.num_hidden_layers, c.image_size)),
        Some((4, 16))
    );
    // Tensors that are not there are all named when the weights are wanted.
    let error = parts.load(false, 0).unwrap_err().to_string();
    assert!(
        error.contains("class_embedding") && error.contains("layers.2"),
        "{error}"
    );
    let error = Parts::open(&folder, &clip, Some(&other), None)
        .unwrap_err()
        .to_string();
    assert!(
        error.contains("a ConvNeXt") && error.contains("stages.0"),
        "{error}"
    );

    let json = fs::read_to_string(folder.join("config.json")).unwrap();
    fs::write(
        folder.join("config.json"),
        json.replace("\"llama\"", "\"mistral\""),
    )
    .unwrap();
    assert!(open(&folder, &clip).contains("mistral"));
    let text = json.replace("\"vocab_size\"", "\"mm_vision_tower\":\"x\",\"vocab_size\"");
    fs::write(folder.join("config.json"), text).unwrap();
    assert!(open(&folder, &clip).contains("vision tower already"));
}
