//! What a mutant may cost: no panic, 1 GB beyond what was in use, and 10 seconds.

use std::{
    alloc::{GlobalAlloc, Layout, System},
    error::Error,
    panic::{AssertUnwindSafe, catch_unwind},
    path::{Path, PathBuf},
    sync::{
        Mutex,
        atomic::{AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use super::mutate::Random;

const BYTES: usize = 1_000_000_000;
const SECONDS: u64 = 10;
/// Bytes in use at which the system says no: the machine survives what the test then reports.
const LIMIT: usize = 4 * BYTES;

static LIVE: AtomicUsize = AtomicUsize::new(0);
static PEAK: AtomicUsize = AtomicUsize::new(0);

struct Counting;

#[global_allocator]
static ALLOCATOR: Counting = Counting;

// SAFETY: every call goes to the system's allocator with its own arguments.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        let live = LIVE.fetch_add(layout.size(), Ordering::Relaxed) + layout.size();
        PEAK.fetch_max(live, Ordering::Relaxed);
        if live > LIMIT {
            return std::ptr::null_mut();
        }
        // SAFETY: as above.
        unsafe { System.alloc(layout) }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        let live = LIVE.fetch_add(layout.size(), Ordering::Relaxed) + layout.size();
        PEAK.fetch_max(live, Ordering::Relaxed);
        if live > LIMIT {
            return std::ptr::null_mut();
        }
        // SAFETY: as above.
        unsafe { System.alloc_zeroed(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        LIVE.fetch_sub(layout.size(), Ordering::Relaxed);
        // SAFETY: as above.
        unsafe { System.dealloc(pointer, layout) }
    }
}

/// What a reader says of a mutant.
pub type Read = Result<(), Box<dyn Error + Send + Sync>>;

/// Mutants of a format, unless `AILORA_MUTANTS` says how many.
const MUTANTS: u64 = 150;

/// Gives `read` a folder with a mutant, `AILORA_MUTANTS` times; `make` writes the mutant there and
/// says what it is. A mutant that panics or costs too much fails the test, and stays in its folder,
/// which the message names; one that ends the process stays there too.
///
/// Returns how many were read and refused.
pub fn campaign(
    format: &str,
    mut make: impl FnMut(&mut Random, &Path),
    mut read: impl FnMut(&Path) -> Read,
) -> Counts {
    static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());
    let _guard = ONE_AT_A_TIME.lock().unwrap_or_else(|e| e.into_inner());
    let count = std::env::var("AILORA_MUTANTS").map_or(MUTANTS, |n| n.parse().unwrap());
    let folder = PathBuf::from(env!("CARGO_TARGET_TMPDIR"))
        .join("campaign")
        .join(format);
    let (mut taken, mut refused) = (0, 0);
    for seed in 0..count {
        let _ = std::fs::remove_dir_all(&folder);
        std::fs::create_dir_all(&folder).unwrap();
        make(&mut Random::new(seed), &folder);
        let before = LIVE.load(Ordering::Relaxed);
        PEAK.store(before, Ordering::Relaxed);
        let watched = Watch::new(format, seed);
        let start = Instant::now();
        let result = catch_unwind(AssertUnwindSafe(|| read(&folder)));
        let took = start.elapsed();
        drop(watched);
        let bytes = PEAK.load(Ordering::Relaxed).saturating_sub(before);
        let what = format!("{format}, mutant {seed}, in {}", folder.display());
        match result {
            Err(_) => panic!("{what}: panicked"),
            Ok(Ok(())) => taken += 1,
            Ok(Err(error)) => {
                let error = error.to_string();
                refused += 1;
                assert!(!error.trim().is_empty(), "{what}: an error without a word");
                assert!(!error.contains("missing field"), "{what}: {error}");
            }
        }
        assert!(bytes <= BYTES, "{what}: {bytes} bytes");
        assert!(took <= Duration::from_secs(SECONDS), "{what}: {took:?}");
    }
    println!("{format}: {taken} of {count} mutants read, {refused} refused");
    Counts { taken, refused }
}

/// How many mutants were read, and refused.
#[derive(Debug)]
pub struct Counts {
    pub taken: u64,
    pub refused: u64,
}

impl Counts {
    /// Mutants all of which are alike test nothing.
    pub fn some_of_both(&self) {
        assert!(self.taken > 0 && self.refused > 0, "{self:?}");
    }
}

/// Ends the process when a mutant is read for far too long.
struct Watch {
    _ends: std::sync::mpsc::Sender<()>,
}

impl Watch {
    fn new(format: &str, seed: u64) -> Self {
        let (sender, receiver) = std::sync::mpsc::channel::<()>();
        let what = format!("{format}, mutant {seed}");
        std::thread::spawn(move || {
            let limit = Duration::from_secs(3 * SECONDS);
            if receiver.recv_timeout(limit) == Err(std::sync::mpsc::RecvTimeoutError::Timeout) {
                eprintln!("{what}: not ended after {limit:?}");
                std::process::abort();
            }
        });
        Self { _ends: sender }
    }
}
