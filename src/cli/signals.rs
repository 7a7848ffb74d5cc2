//! Signals that ask a run to stop: Ctrl-C, what schedulers send, and a terminal that is closed.

use std::{
    io,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
};

use signal_hook::{
    consts::{SIGINT, SIGTERM},
    flag,
};

/// Which signal came, if one did.
#[derive(Clone, Debug)]
pub struct Signals(Arc<AtomicUsize>);

impl Signals {
    /// From now on the first signal is noted; the second ends the process at once.
    ///
    /// # Errors
    /// The operating system refused.
    pub fn watch() -> io::Result<Self> {
        let (came, which) = (Arc::new(AtomicBool::new(false)), Arc::default());
        for signal in stopping() {
            // In this order, so that the first one does not see itself.
            flag::register_conditional_shutdown(signal, 128 + signal, Arc::clone(&came))?;
            flag::register(signal, Arc::clone(&came))?;
            flag::register_usize(signal, Arc::clone(&which), signal.unsigned_abs() as usize)?;
        }
        Ok(Self(which))
    }

    /// The number of the last signal.
    pub fn came(&self) -> Option<u8> {
        let signal = self.0.load(Ordering::SeqCst);
        u8::try_from(signal).ok().filter(|&signal| signal > 0)
    }
}

#[cfg(unix)]
fn stopping() -> Vec<i32> {
    use signal_hook::consts::SIGHUP;
    let mut signals = vec![SIGINT, SIGTERM];
    // Under `nohup` a closed terminal stops nothing.
    if !is_ignored(SIGHUP) {
        signals.push(SIGHUP);
    }
    signals
}

#[cfg(not(unix))]
fn stopping() -> Vec<i32> {
    vec![SIGINT, SIGTERM]
}

/// Whether a signal does nothing, as whoever started the process wanted.
#[cfg(unix)]
fn is_ignored(signal: i32) -> bool {
    let mut action = std::mem::MaybeUninit::<libc::sigaction>::uninit();
    // SAFETY: with no new action this only writes the present one, which is read if it did.
    unsafe {
        libc::sigaction(signal, std::ptr::null(), action.as_mut_ptr()) == 0
            && action.assume_init().sa_sigaction == libc::SIG_IGN
    }
}
