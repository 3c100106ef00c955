//! Finding CUDA's shared libraries, also where pip put them.
//!
//! The loader only looks into its own path. A library that was loaded once by its full path is found
//! again by its name, so everything that lies elsewhere is loaded here first: folders of
//! `LLAVAR_CUDA_PATH` (separated by `:`), `$CUDA_PATH/lib64`, `/usr/local/cuda/lib64`, and the `nvidia-*`
//! packages of the active Python environment.

use std::{
    env,
    path::{Path, PathBuf},
    sync::OnceLock,
};

use libloading::Library;

use crate::{Error, Result};

/// A library, the names it goes by, and what it is for.
struct Wanted {
    name: &'static str,
    files: &'static [&'static str],
    purpose: &'static str,
}

const DRIVER: Wanted = Wanted {
    name: "the NVIDIA driver (libcuda)",
    files: &["libcuda.so", "libcuda.so.1"],
    purpose: "install the NVIDIA driver",
};
const NVRTC: Wanted = Wanted {
    name: "NVRTC (libnvrtc)",
    files: &["libnvrtc.so", "libnvrtc.so.13", "libnvrtc.so.12"],
    purpose: "it comes with the CUDA toolkit and with `pip install nvidia-cuda-nvrtc`",
};
const CUBLASLT: Wanted = Wanted {
    name: "cuBLASLt (libcublasLt)",
    files: &["libcublasLt.so", "libcublasLt.so.13", "libcublasLt.so.12"],
    purpose: "it comes with the CUDA toolkit and with `pip install nvidia-cublas`",
};
const CUDNN: Wanted = Wanted {
    name: "cuDNN 9 (libcudnn)",
    files: &["libcudnn.so", "libcudnn.so.9"],
    purpose: "without it attention is slower but for heads of 64, 96 and 128 on Hopper; `pip install nvidia-cudnn-cu13`",
};
const NCCL: Wanted = Wanted {
    name: "NCCL (libnccl)",
    files: &["libnccl.so.2", "libnccl.so"],
    purpose: "it is needed to train on several GPUs: `pip install nvidia-nccl-cu13`, or the package libnccl2",
};

/// Loads what every GPU operation needs.
///
/// # Errors
/// [`Error::NoDevice`] that names the first missing library and where it comes from.
pub(super) fn require() -> Result<()> {
    static FOUND: OnceLock<Result<()>> = OnceLock::new();
    FOUND
        .get_or_init(|| {
            for wanted in [&DRIVER, &NVRTC, &CUBLASLT] {
                if !load(wanted) {
                    return Err(Error::NoDevice {
                        reason: format!("{} was not found: {}", wanted.name, wanted.purpose),
                    });
                }
            }
            Ok(())
        })
        .clone()
}

/// Whether NVRTC can be loaded: it compiles without a GPU.
#[cfg(test)]
pub(super) fn nvrtc() -> bool {
    load(&NVRTC)
}

/// Whether cuDNN 9 can be loaded.
pub(super) fn cudnn() -> bool {
    static FOUND: OnceLock<bool> = OnceLock::new();
    *FOUND.get_or_init(|| load(&CUDNN))
}

/// NCCL's library.
///
/// # Errors
/// [`Error::Collective`] that says where it comes from.
pub(super) fn nccl() -> Result<Library> {
    let found = places(&NCCL).find_map(|path| open(&path));
    found.ok_or_else(|| Error::Collective {
        op: "NCCL",
        reason: format!("{} was not found: {}", NCCL.name, NCCL.purpose),
    })
}

/// Where a library may be: anywhere under its names, then in the folders beyond the loader's path.
fn places(wanted: &Wanted) -> impl Iterator<Item = PathBuf> {
    let by_name = wanted.files.iter().map(PathBuf::from);
    let by_path = folders()
        .iter()
        .flat_map(|folder| wanted.files.iter().map(move |file| folder.join(file)));
    by_name.chain(by_path)
}

/// Whether a library stands ready under one of its names. It stays loaded for good.
fn load(wanted: &Wanted) -> bool {
    for path in places(wanted) {
        if path.is_absolute() && !path.exists() {
            continue;
        }
        // NVRTC opens its second half by name, from wherever the loader looks.
        for companion in companions(&path) {
            if let Some(library) = open(&companion) {
                std::mem::forget(library);
            }
        }
        if let Some(library) = open(&path) {
            // Unloading CUDA libraries at exit is known to crash; the process keeps them.
            std::mem::forget(library);
            return true;
        }
    }
    false
}

/// Libraries beside `path` that it opens by name later.
fn companions(path: &Path) -> Vec<PathBuf> {
    let (Some(folder), Some(name)) = (path.parent(), path.file_name()) else {
        return Vec::new();
    };
    if !path.is_absolute() || !name.to_string_lossy().starts_with("libnvrtc.") {
        return Vec::new();
    }
    let files = std::fs::read_dir(folder).into_iter().flatten().flatten();
    files
        .filter(|f| {
            let name = f.file_name();
            let name = name.to_string_lossy();
            name.starts_with("libnvrtc-builtins.so")
        })
        .map(|f| f.path())
        .collect()
}

/// Opens a library so that others that need it find it.
#[cfg(unix)]
fn open(path: &Path) -> Option<Library> {
    use libloading::os::unix::{Library as Unix, RTLD_GLOBAL, RTLD_NOW};
    // SAFETY: loading one of NVIDIA's libraries, whose initialisers have no precondition.
    unsafe { Unix::open(Some(path), RTLD_NOW | RTLD_GLOBAL) }
        .ok()
        .map(Library::from)
}

/// Opens a library.
#[cfg(not(unix))]
fn open(path: &Path) -> Option<Library> {
    // SAFETY: loading one of NVIDIA's libraries, whose initialisers have no precondition.
    unsafe { Library::new(path) }.ok()
}

/// Folders beyond the loader's own path, most explicit first.
fn folders() -> &'static [PathBuf] {
    static FOLDERS: OnceLock<Vec<PathBuf>> = OnceLock::new();
    FOLDERS.get_or_init(|| {
        let mut found = Vec::new();
        if let Some(paths) = env::var_os("LLAVAR_CUDA_PATH") {
            found.extend(env::split_paths(&paths));
        }
        if let Some(path) = env::var_os("CUDA_PATH") {
            found.push(Path::new(&path).join("lib64"));
        }
        found.push("/usr/local/cuda/lib64".into());
        found.push("/usr/local/nvidia/lib64".into());
        for variable in ["VIRTUAL_ENV", "CONDA_PREFIX"] {
            if let Some(root) = env::var_os(variable) {
                found.extend(packages(Path::new(&root)));
            }
        }
        // A `python3` on the path that belongs to an environment says where its packages are.
        let path = env::var_os("PATH").unwrap_or_default();
        for folder in env::split_paths(&path) {
            if let (true, Some(root)) = (folder.join("python3").exists(), folder.parent()) {
                found.extend(packages(root));
            }
        }
        found
    })
}

/// `lib` folders of the `nvidia-*` packages under the root of a Python environment.
fn packages(root: &Path) -> Vec<PathBuf> {
    let entries = |folder: PathBuf| {
        let found = std::fs::read_dir(folder).into_iter().flatten().flatten();
        found.map(|entry| entry.path()).collect::<Vec<_>>()
    };
    let mut found: Vec<PathBuf> = entries(root.join("lib"))
        .into_iter()
        .map(|python| python.join("site-packages").join("nvidia"))
        .filter(|nvidia| nvidia.is_dir())
        .flat_map(entries)
        .map(|package| package.join("lib"))
        .filter(|lib| lib.is_dir())
        .collect();
    found.sort();
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pip_folders_are_found_in_an_environment() {
        let root = std::env::temp_dir().join(format!("llavar-lib-test-{}", std::process::id()));
        let lib = root.join("lib/python3.12/site-packages/nvidia/cu13/lib");
        std::fs::create_dir_all(&lib).unwrap();
        assert_eq!(packages(&root), [lib]);
        std::fs::remove_dir_all(&root).unwrap();
        assert!(packages(&root).is_empty());
    }

    #[test]
    fn what_to_do_about_a_missing_library_is_no_flag() {
        // Not every command that needs it has the flag.
        for wanted in [&DRIVER, &NVRTC, &CUBLASLT, &CUDNN, &NCCL] {
            assert!(!wanted.purpose.contains("--"), "{}", wanted.name);
        }
    }

    #[test]
    fn a_missing_library_is_no_panic() {
        let none = Wanted {
            name: "none",
            files: &["libno-such-library-of-anyone.so"],
            purpose: "",
        };
        assert!(!load(&none));
    }
}
