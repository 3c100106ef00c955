//! Files that are there whole or not at all.

use std::fs;
use std::io::{self, BufWriter, Write};
use std::path::{Path, PathBuf};

/// Writes a file aside, forces it to disk and renames it; makes its folder. A reader sees the old file or all of
/// the new one, also when the process ends in between. A link stays and what it leads to is written; a device or a
/// pipe is written to.
///
/// # Errors
/// What `body` or the system says; the old file is then untouched.
pub fn write_whole(
    path: &Path,
    body: impl FnOnce(&mut dyn Write) -> io::Result<()>,
) -> io::Result<()> {
    let path = &behind_links(path)?;
    if fs::metadata(path).is_ok_and(|at| !at.is_file() && !at.is_dir()) {
        // Renaming would put a file in its place.
        let mut out = BufWriter::new(fs::OpenOptions::new().write(true).open(path)?);
        body(&mut out)?;
        return out.flush();
    }
    let folder = folder_of(path);
    fs::create_dir_all(folder)?;
    let mut builder = tempfile::Builder::new();
    #[cfg(unix)]
    {
        // Temporary files are private; a result is what the user's mask makes of any new file.
        use std::os::unix::fs::PermissionsExt;
        builder.permissions(fs::Permissions::from_mode(0o666));
    }
    let mut out = BufWriter::new(builder.tempfile_in(folder)?);
    body(&mut out)?;
    let file = out.into_inner().map_err(|error| error.into_error())?;
    file.as_file().sync_all()?;
    file.persist(path)?;
    Ok(())
}

/// Where a file is to be renamed to that replaces `path`: behind links.
///
/// # Errors
/// When there is a device or a pipe, in whose place renaming would put a file.
pub fn replaceable(path: &Path) -> io::Result<PathBuf> {
    let path = behind_links(path)?;
    match fs::metadata(&path) {
        Ok(at) if !at.is_file() && !at.is_dir() => {
            Err(io::Error::other("it is a device or a pipe, not a file"))
        }
        _ => Ok(path),
    }
}

fn folder_of(path: &Path) -> &Path {
    let parent = path.parent().filter(|p| !p.as_os_str().is_empty());
    parent.unwrap_or(Path::new("."))
}

/// What a path leads to through links, which may lead to nothing yet.
fn behind_links(path: &Path) -> io::Result<PathBuf> {
    let mut path = path.to_owned();
    // As many as the system follows.
    for _ in 0..40 {
        let Ok(next) = fs::read_link(&path) else {
            return Ok(path);
        };
        path = folder_of(&path).join(next);
    }
    Err(io::Error::other("its links lead in a circle"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[cfg(unix)]
    #[test]
    fn links_and_devices_stay_what_they_are() {
        use std::os::unix::fs::symlink;
        let dir = tempfile::tempdir().unwrap();
        let at = |name: &str| dir.path().join(name);
        symlink("second", at("first")).unwrap();
        symlink(at("file"), at("second")).unwrap();
        for text in ["new", "newer"] {
            write_whole(&at("first"), |out| out.write_all(text.as_bytes())).unwrap();
            assert!(at("first").is_symlink() && at("second").is_symlink());
            assert_eq!(fs::read_to_string(at("file")).unwrap(), text);
        }
        symlink("/dev/null", at("null")).unwrap();
        write_whole(&at("null"), |out| out.write_all(b"gone")).unwrap();
        assert!(at("null").is_symlink() && !at("null").is_file());
        let led = replaceable(&at("first")).unwrap();
        assert_eq!(led, at("file"));
        assert!(replaceable(&at("null")).is_err());
        symlink("round", at("round")).unwrap();
        assert!(write_whole(&at("round"), |out| out.write_all(b"x")).is_err());
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 5);
    }

    #[test]
    fn a_fault_leaves_the_old_file_and_nothing_else() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("new/file");
        write_whole(&path, |out| out.write_all(b"old")).unwrap();
        let error = write_whole(&path, |out| {
            out.write_all(b"half")?;
            Err(io::Error::other("no more"))
        });
        assert_eq!(error.unwrap_err().to_string(), "no more");
        assert_eq!(fs::read(&path).unwrap(), b"old");
        assert_eq!(fs::read_dir(dir.path().join("new")).unwrap().count(), 1);
        let plain = dir.path().join("plain");
        fs::write(&plain, "").unwrap();
        let rights = |path| fs::metadata(path).unwrap().permissions();
        assert_eq!(rights(&path), rights(&plain), "as any other file");
    }
}
