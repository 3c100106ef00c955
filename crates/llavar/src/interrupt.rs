//! Ctrl-C and SIGTERM: the first asks to save and stop, the second ends the process.

use std::sync::{
    Arc, OnceLock,
    atomic::{AtomicBool, Ordering::SeqCst},
};

use crate::failure::{Class, Failure, Outcome};

/// Writing past `ulimit -f` is an error like a full disk, not the end of the process.
pub(crate) fn file_size_limit_is_an_error() {
    // The default action of the signal ends the process; with any handler the write fails instead.
    #[cfg(unix)]
    let _ = signal_hook::flag::register(signal_hook::consts::SIGXFSZ, Arc::default());
}

/// The flag that the first signal sets; installs the handler on the first call.
pub(crate) fn stop_flag() -> Outcome<Arc<AtomicBool>> {
    stop_flag_saying(
        "stopping after the present step and saving; press Ctrl-C again to end at once",
    )
}

/// As [`stop_flag`], for work that stops in another way; the first call decides what is said.
pub(crate) fn stop_flag_saying(note: &'static str) -> Outcome<Arc<AtomicBool>> {
    static FLAG: OnceLock<Arc<AtomicBool>> = OnceLock::new();
    if let Some(flag) = FLAG.get() {
        return Ok(flag.clone());
    }
    let flag = FLAG.get_or_init(Arc::default).clone();
    let seen = flag.clone();
    ctrlc::set_handler(move || {
        if seen.swap(true, SeqCst) {
            std::process::exit(i32::from(Class::Interrupted as u8));
        }
        crate::progress::note(note);
    })
    .map_err(|error| Failure::new(Class::Failure, error))?;
    Ok(flag)
}
