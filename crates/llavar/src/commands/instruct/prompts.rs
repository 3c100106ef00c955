//! `llavar instruct prompts`.

use std::path::PathBuf;

use llavar_instruct::Prompts;

use crate::{
    commands::{print, write_file},
    failure::{Failure, Outcome},
};

/// Write the prompts to a folder, to change them.
#[derive(Debug, clap::Args)]
#[command(after_help = "Example: llavar instruct prompts --out prompts\n\
A file is a Jinja template; system(), user() and assistant() begin a message. Raise the version in its first\n\
comment when you change it. examples.json holds few-shot examples of both. Use them with\n\
llavar instruct run --prompts prompts; files that the folder lacks are ours.")]
pub(crate) struct Args {
    /// Folder to write to.
    #[arg(long, short)]
    out: PathBuf,
    /// Write over files that are there already.
    #[arg(long)]
    force: bool,
}

/// Runs the command.
pub(crate) fn run(args: Args) -> Outcome {
    for (name, _) in Prompts::FILES {
        let path = args.out.join(name);
        if path.exists() && !args.force {
            let message = format!("{} exists already", path.display());
            return Err(Failure::usage(message)
                .hint("choose another --out, or give --force to write over it"));
        }
    }
    for (name, text) in Prompts::FILES {
        write_file(&args.out.join(name), text.as_bytes())?;
    }
    print(format!(
        "{}: {}\n",
        args.out.display(),
        Prompts::FILES.map(|(name, _)| name).join(", ")
    ))
}
