//! Ctrl-C and SIGTERM: the first asks to save and stop, the second ends the process.

use std::sync::{
    Arc,
    atomic::{AtomicBool, Ordering::SeqCst},
};

use crate::failure::{Class, Failure, Outcome};

/// Installs the handler and returns the flag that it sets.
pub(crate) fn stop_flag() -> Outcome<Arc<AtomicBool>> {
    let flag = Arc::new(AtomicBool::new(false));
    let seen = flag.clone();
    ctrlc::set_handler(move || {
        if seen.swap(true, SeqCst) {
            std::process::exit(i32::from(Class::Interrupted as u8));
        }
        crate::progress::note("stopping after the present step and saving; press Ctrl-C again to end at once");
    })
    .map_err(|error| Failure::new(Class::Failure, error))?;
    Ok(flag)
}
