//! Objects of S3, Google Cloud Storage and Azure. Keys come from the environment variables that their own tools read.

use std::{ops::Range, sync::Arc};

use object_store::{GetOptions, GetRange, ObjectMeta, ObjectStore, ObjectStoreExt, path::Path};
use tokio::runtime::{Builder, Runtime};
use url::Url;

use super::{Fetch, Identity, RemoteError};

/// One object.
#[derive(Debug)]
pub(super) struct Object {
    store: Arc<dyn ObjectStore>,
    path: Path,
    runtime: Runtime,
}

impl Object {
    pub(super) fn new(url: &str) -> Result<Self, RemoteError> {
        let fail = |reason: String| RemoteError::Transport {
            reason,
            transient: false,
        };
        let url = Url::parse(url).map_err(|e| fail(e.to_string()))?;
        // The library also takes short names (`token`, `region`), which other programs mean otherwise.
        let own = ["aws_", "google_", "azure_"];
        let variables = std::env::vars()
            .map(|(name, value)| (name.to_ascii_lowercase(), value))
            .filter(|(name, _)| own.iter().any(|start| name.starts_with(start)))
            // A name without keys must not wait for a machine of the cloud that is not there.
            .chain([("connect_timeout".to_owned(), "5 seconds".to_owned())]);
        let (store, path) = object_store::parse_url_opts(&url, variables).map_err(of_store)?;
        // One thread that runs while it is waited for.
        let runtime = Builder::new_multi_thread()
            .worker_threads(1)
            .enable_all()
            .build()
            .map_err(|e| fail(e.to_string()))?;
        Ok(Self {
            store: store.into(),
            path,
            runtime,
        })
    }
}

impl Fetch for Object {
    fn fetch(&self, range: Range<u64>) -> Result<(Vec<u8>, Identity), RemoteError> {
        let identity = |meta: &ObjectMeta| Identity {
            len: meta.size,
            version: meta
                .e_tag
                .clone()
                .unwrap_or_else(|| meta.last_modified.to_string()),
        };
        let options = GetOptions {
            range: Some(GetRange::Bounded(range.clone())),
            ..GetOptions::default()
        };
        self.runtime.block_on(async {
            match self.store.get_opts(&self.path, options).await {
                Ok(found) => {
                    let identity = identity(&found.meta);
                    let bytes = found.bytes().await.map_err(of_store)?;
                    Ok((bytes.to_vec(), identity))
                }
                // Nothing at that place, as of an empty object, or a real failure.
                Err(error) => match self.store.head(&self.path).await {
                    Ok(meta) if meta.size <= range.start => Ok((Vec::new(), identity(&meta))),
                    _ => Err(of_store(error)),
                },
            }
        })
    }

    fn fetch_all(&self, limit: u64) -> Result<Vec<u8>, RemoteError> {
        self.runtime.block_on(async {
            let found = self.store.get(&self.path).await.map_err(of_store)?;
            if found.meta.size > limit {
                return Err(RemoteError::TooLarge { limit });
            }
            Ok(found.bytes().await.map_err(of_store)?.to_vec())
        })
    }
}

/// The library has tried again itself.
fn of_store(error: object_store::Error) -> RemoteError {
    use object_store::Error as E;
    let status = match &error {
        E::NotFound { .. } => 404,
        E::PermissionDenied { .. } => 403,
        E::Unauthenticated { .. } => 401,
        _ => {
            return RemoteError::Transport {
                reason: error.to_string(),
                transient: false,
            };
        }
    };
    RemoteError::Status { status, wait: None }
}
