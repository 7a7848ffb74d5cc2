//! Upper limits of settings. A value beyond them is a typing error that would otherwise fail late, for lack
//! of time or memory.

/// Threads.
pub const THREADS: usize = 1024;
/// Rows of a batch.
pub const BATCH: usize = 1 << 16;
/// Batches of a step.
pub const ACCUMULATE: usize = 1 << 16;
/// Tokens of a row.
pub const LENGTH: usize = 1 << 20;
/// Passes over the data.
pub const EPOCHS: usize = 100_000;
/// Tokens of a vocabulary that is made here.
pub const VOCABULARY: usize = 1 << 20;
/// Layers of a model that is made here.
pub const LAYERS: usize = 1024;
/// Width of a model that is made here.
pub const WIDTH: usize = 1 << 16;

/// Bytes of memory that this process can have, as far as the operating system says.
pub fn memory() -> Option<u64> {
    let machine = std::fs::read_to_string("/proc/meminfo").ok();
    let machine = machine.and_then(|text| {
        let kibibytes = |name| first_number(&text, name);
        Some(1024 * (kibibytes("MemTotal:")? + kibibytes("SwapTotal:").unwrap_or(0)))
    });
    let process = std::fs::read_to_string("/proc/self/limits").ok();
    let process = process.and_then(|text| first_number(&text, "Max address space"));
    let group = std::fs::read_to_string("/sys/fs/cgroup/memory.max").ok();
    let group = group.and_then(|text| text.trim().parse().ok());
    [machine, process, group].into_iter().flatten().min()
}

/// The number behind a name at the start of a line.
fn first_number(text: &str, name: &str) -> Option<u64> {
    let line = text.lines().find_map(|line| line.strip_prefix(name))?;
    line.split_whitespace().next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_read_from_the_system_s_tables() {
        let text =
            "MemFree:  7 kB\nMemTotal:       16 kB\nMax address space         unlimited   9\n";
        assert_eq!(first_number(text, "MemTotal:"), Some(16));
        assert_eq!(first_number(text, "Max address space"), None);
        if cfg!(target_os = "linux") {
            assert!(memory().unwrap() > 1 << 20);
        }
    }
}
