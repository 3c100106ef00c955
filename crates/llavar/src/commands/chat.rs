//! `llavar chat`: several turns in the terminal.

use std::{
    io::{BufRead, IsTerminal},
    ops::ControlFlow,
    path::{Path, PathBuf},
};

use llavar_assistant::Conversation;
use llavar_image::DecodeLimits;

use super::{
    ask::{Decoding, note_turned},
    print,
};
use crate::{
    failure::{Class, Failure, Outcome},
    progress::note,
    sampling::CloserFlag,
    shipped::ModelFlag,
};

const HELP: &str = "/image FILE shows a picture, /new starts over, /quit (or an empty line) ends";

/// Talk about pictures in the terminal; answers stream.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Picture to begin with.
    #[arg(conflicts_with = "image")]
    picture: Option<PathBuf>,
    /// The same as a flag.
    #[arg(long, short)]
    image: Option<PathBuf>,
    #[command(flatten)]
    model: ModelFlag,
    #[command(flatten)]
    ocr: super::ocr::OcrFlag,
    #[command(flatten)]
    decoding: Decoding,
    #[command(flatten)]
    closer: CloserFlag,
}

/// Runs the command.
pub(crate) fn run(args: Args) -> Outcome {
    let model = args.model.folder()?;
    let reader = args.ocr.open(&model)?;
    let assistant = args.decoding.load(&model)?;
    let options = args.decoding.options(&assistant);
    let mut conversation = Conversation::default();
    // Text of the pictures that the next question is about.
    let mut ocr = String::new();
    // The last picture shown, where a closer look may be taken.
    let mut last = None;
    let see = |path: &Path| -> Outcome<_> {
        note_turned(path);
        let text = super::ocr::prefix(reader.as_ref(), path)?;
        let image = llavar_image::decode_file(path, &DecodeLimits::default());
        let image = image.map_err(llavar_assistant::Error::from)?;
        Ok((assistant.see(&image)?, image, text))
    };
    if let Some(path) = args.picture.as_ref().or(args.image.as_ref()) {
        let (picture, image, text) = see(path)?;
        conversation.show(picture);
        last = args.closer.closer.then_some(image);
        ocr += &text;
    }
    note(HELP);
    let interactive = std::io::stdin().is_terminal();
    for line in std::io::stdin().lock().split(b'\n') {
        let line = line.map_err(|error| Failure::new(Class::Failure, error))?;
        // A byte that is no UTF-8 must not end the conversation.
        let line = String::from_utf8_lossy(&line);
        let line = line.trim();
        match line
            .split_once(' ')
            .map_or((line, ""), |(word, rest)| (word, rest.trim()))
        {
            ("", _) if interactive => break,
            ("", _) => {}
            ("/quit" | "/exit", _) => break,
            ("/help", _) => note(HELP),
            ("/new", _) => {
                conversation = Conversation::default();
                last = None;
                ocr.clear();
            }
            ("/image", "") => note("error: /image needs a file"),
            // A mistyped path must not end the conversation.
            ("/image", path) => match see(Path::new(path)) {
                Ok((picture, image, text)) => {
                    conversation.show(picture);
                    last = args.closer.closer.then_some(image);
                    ocr += &text;
                    note(format!("{path}: ask about it"));
                    if args.closer.closer && conversation.pictures() == 2 {
                        note("no closer look at several pictures; /new starts over with one");
                    }
                }
                Err(error) => note(error.to_string()),
            },
            (word, _) if word.starts_with('/') => {
                note(format!("error: unknown command {word}; {HELP}"))
            }
            _ => {
                let mut shown = Ok(());
                let question = format!("{ocr}{line}");
                let mut show = |piece: &str| {
                    shown = print(piece);
                    match shown {
                        Ok(()) => ControlFlow::Continue(()),
                        Err(_) => ControlFlow::Break(()),
                    }
                };
                let asked = match &last {
                    Some(image) if conversation.pictures() == 1 => {
                        let asked =
                            conversation.ask_closely(&assistant, image, &question, &options);
                        asked.map(|(answer, _)| {
                            let _ = show(&answer.text);
                            answer
                        })
                    }
                    _ => conversation.ask(&assistant, &question, &options, show),
                };
                shown?;
                print("\n")?;
                match asked {
                    Ok(answer) => {
                        args.decoding.doubt(&answer);
                        ocr.clear();
                    }
                    // The pictures still wait for a question, and so does their text.
                    Err(error) => note(Failure::from(error).to_string()),
                }
            }
        }
    }
    Ok(())
}
