//! A plan in words.

use std::fmt::Write as _;

use super::{GIB, Plan};

/// Smaller models than this, elements, do not reach the rates that were measured.
const MEASURED_SHAPE: usize = 2_000_000_000;

/// A number of parameters in words.
fn count(parameters: usize) -> String {
    match parameters {
        0..1_000_000_000 => format!("{:.1} M", parameters as f64 / 1e6),
        _ => format!("{:.2} G", parameters as f64 / 1e9),
    }
}

impl Plan {
    pub(super) fn table(&self) -> String {
        let mut text = String::new();
        // Writing to a string cannot fail.
        let _ = self.write(&mut text);
        text
    }

    fn write(&self, f: &mut String) -> std::fmt::Result {
        let gib = |bytes: usize| bytes as f64 / GIB;
        writeln!(
            f,
            "{} on {}: {} parameters ({} train) in {}; {} GPU(s) of {:.1} GiB",
            self.recipe,
            self.model,
            count(self.parameters),
            count(self.trainable_parameters),
            self.precision,
            self.gpus,
            gib(self.memory_bytes),
        )?;
        writeln!(
            f,
            "a micro-batch: {} tokens with {} pictures; what one GPU holds, GiB:",
            self.micro_batch[0], self.micro_batch[1]
        )?;
        writeln!(
            f,
            "{:<8} {:>8} {:>9} {:>8} {:>11} {:>9} {:>8}  {:<12} {:>22}",
            "ZeRO",
            "weights",
            "gradients",
            "states",
            "activations",
            "workspace",
            "together",
            "",
            "largest micro-batch"
        )?;
        for s in &self.stages {
            let budget = |tokens: Option<usize>| match tokens {
                Some(tokens) => tokens.to_string(),
                None => "-".into(),
            };
            writeln!(
                f,
                "{:<8} {:>8.2} {:>9.2} {:>8.2} {:>11.2} {:>9.2} {:>8.2}  {:<12} {:>22}",
                format!(
                    "{}{}",
                    s.zero_stage,
                    if s.zero_stage == self.zero_stage {
                        " <--"
                    } else {
                        ""
                    }
                ),
                gib(s.weights),
                gib(s.gradients),
                gib(s.optimizer_states),
                gib(s.activations),
                gib(s.workspace),
                gib(s.together),
                if s.fits { "fits" } else { "does not fit" },
                format!(
                    "{} / {} tokens",
                    budget(s.most_tokens),
                    budget(s.most_tokens_kept)
                ),
            )?;
        }
        writeln!(
            f,
            "largest micro-batch: everything recomputed / nothing recomputed; 8 % of a GPU is left for what is not \
             counted"
        )?;
        if let Some(d) = &self.data {
            write!(
                f,
                "data: {} samples, {:.1} M tokens an epoch, {:.0} on average, {:.0} pictures",
                d.samples,
                d.tokens / 1e6,
                d.tokens / d.samples.max(1) as f64,
                d.images
            )?;
            match d.packs {
                Some(packs) => writeln!(f, ", {packs} packs")?,
                None => writeln!(f)?,
            }
        }
        if let Some(t) = &self.time {
            writeln!(
                f,
                "time: {} steps of {:.0} tokens, {:.3} s each: {:.0} tokens/s, {:.0} img/s over all GPUs",
                t.steps,
                t.tokens_per_step,
                t.step_seconds,
                t.tokens_per_second,
                t.images_per_second
            )?;
            write!(f, "      {:.1} h, {:.1} GPU-hours", t.hours, t.gpu_hours)?;
            match t.cost {
                Some(cost) => writeln!(f, ", cost {cost:.0}")?,
                None => writeln!(f)?,
            }
            if self.parameters < MEASURED_SHAPE {
                writeln!(
                    f,
                    "      the rates are those of a 3.8B model: a smaller one keeps a GPU less busy and takes longer"
                )?;
            }
            let exchange = match self.gpus {
                1 => "",
                _ => "; what GPUs exchange is taken as hidden behind the work",
            };
            writeln!(
                f,
                "      rates: {} ({}){exchange}",
                t.rates.source, t.rates.gpu
            )?;
        }
        if !self.suggestions.is_empty() {
            writeln!(f, "ways to make it fit, alone or together:")?;
            for way in &self.suggestions {
                writeln!(f, "  {way}")?;
            }
        }
        Ok(())
    }
}
