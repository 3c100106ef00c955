//! Errors of clients and of building data, in their classes with hints.

use llavar_client::{ClientError, ErrorClass};
use llavar_instruct::InstructError;

use crate::failure::{Class, Failure};

impl From<ClientError> for Failure {
    fn from(error: ClientError) -> Self {
        let (class, hint) = match error.class() {
            ErrorClass::Setup => (Class::Usage, None),
            ErrorClass::Auth => (
                Class::Failure,
                Some("put the key of this server into the variable that --key-var names"),
            ),
            ErrorClass::NotFound => (
                Class::Failure,
                Some("check --endpoint and --model; the server lists its models at /v1/models"),
            ),
            ErrorClass::Quota => (
                Class::Failure,
                Some("pay or raise the account's limit; the same command then goes on"),
            ),
            ErrorClass::Connect => (
                Class::Failure,
                Some("check that the server runs and that --endpoint has its address"),
            ),
            _ => (Class::Failure, None),
        };
        Self::new(class, error).maybe_hint(hint)
    }
}

impl From<InstructError> for Failure {
    fn from(error: InstructError) -> Self {
        use InstructError as E;
        let (class, hint) = match &error {
            E::Io { source, .. } => match source.kind() {
                std::io::ErrorKind::NotFound => (
                    Class::Data,
                    Some("check the path; it is taken from the present folder"),
                ),
                std::io::ErrorKind::NotADirectory => {
                    (Class::Data, Some("a folder is needed here, not a file"))
                }
                _ => (
                    Class::Resource,
                    Some("check free space and permissions; what was paid for is kept"),
                ),
            },
            E::NoPictures { .. } => (Class::Data, Some("give the folder that holds them")),
            E::Captions { .. } => (
                Class::Data,
                Some("`llavar instruct run --help` lists the forms that are read"),
            ),
            E::Prompt { .. } => (
                Class::Usage,
                Some("`llavar instruct prompts --out DIR` writes ours to start from"),
            ),
            E::Line { .. } => (
                Class::Data,
                Some("the file was changed by hand or by another program; restore it"),
            ),
            E::Locked { .. } => (
                Class::Failure,
                Some("wait for the other run, or give another --out"),
            ),
            E::ServerGone { .. } => (
                Class::Failure,
                Some("when the server is well again, the same command goes on"),
            ),
            _ => (Class::Failure, None),
        };
        match error {
            E::Client(error) => error.into(),
            E::Data(error) => error.into(),
            error => Self::new(class, error).maybe_hint(hint),
        }
    }
}
