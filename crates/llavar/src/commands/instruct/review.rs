//! `llavar instruct review`.

use std::path::PathBuf;

use llavar_instruct::review::ReviewServer;

use crate::{
    commands::print,
    failure::{Failure, Outcome},
    interrupt,
    progress::note,
};

/// Serve a local page on which people accept, edit or reject duos.
#[derive(Debug, clap::Args)]
#[command(after_help = "Example: llavar instruct review runs/posters\n\
Open the address that it prints. Decisions go to the run's journal as they are made; stop with Ctrl-C, then\n\
`llavar instruct export runs/posters` writes the data set with them. Two people review the same run one after\n\
the other, each under a name; the card then says how far they agree (Cohen's kappa).\n\
The page can be opened from this machine alone.")]
pub(crate) struct Args {
    /// Run folder.
    run: PathBuf,
    /// Port on 127.0.0.1; a free one by default.
    #[arg(long, default_value_t = 0)]
    port: u16,
}

/// Runs the command.
pub(crate) fn run(args: Args) -> Outcome {
    if !args.run.is_dir() {
        let message = format!("there is no run folder {}", args.run.display());
        return Err(Failure::usage(message).hint("`llavar instruct run --out` makes one"));
    }
    let server = ReviewServer::open(&args.run, args.port)?;
    let stop = interrupt::stop_flag_saying("answers under way are finished")?;
    note(format!(
        "{} pictures with duos; Ctrl-C ends",
        server.pictures()
    ));
    print(server.url() + "\n")?;
    server.serve(&stop);
    note(format!(
        "decisions are kept; `llavar instruct export {}` applies them",
        args.run.display()
    ));
    Ok(())
}
