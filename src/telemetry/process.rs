//! The process itself, under the names that every Prometheus client uses (`process_*`).
//!
//! Read from `/proc/self` when metrics are rendered; where there is no `/proc`, the metrics are not there either.

use std::fs;

/// What `/proc/self` says.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Usage {
    pub(super) resident_bytes: f64,
    pub(super) cpu_seconds: f64,
    pub(super) open_fds: f64,
    pub(super) start_time_seconds: f64,
}

/// Linux reports times to user space in hundredths of a second on every architecture we build for (`USER_HZ`).
const TICKS_PER_SECOND: f64 = 100.0;

impl Usage {
    pub(super) fn read() -> Option<Self> {
        let status = fs::read_to_string("/proc/self/status").ok()?;
        let stat = fs::read_to_string("/proc/self/stat").ok()?;
        let system = fs::read_to_string("/proc/stat").ok()?;
        let resident_kib: f64 = field(&status, "VmRSS:")?;
        let boot_seconds: f64 = field(&system, "btime")?;
        // The command may hold anything, even spaces and parentheses; numbers follow its last parenthesis.
        let (_, numbers) = stat.rsplit_once(')')?;
        let number = |index: usize| numbers.split_whitespace().nth(index)?.parse::<f64>().ok();
        // proc(5): utime, stime and starttime are fields 14, 15 and 22; the first here is field 3.
        let (user, kernel, start) = (number(11)?, number(12)?, number(19)?);
        Some(Self {
            resident_bytes: resident_kib * 1024.0,
            cpu_seconds: (user + kernel) / TICKS_PER_SECOND,
            open_fds: u32::try_from(fs::read_dir("/proc/self/fd").ok()?.count()).ok()?.into(),
            start_time_seconds: boot_seconds + start / TICKS_PER_SECOND,
        })
    }
}

fn field(text: &str, name: &str) -> Option<f64> {
    let line = text.lines().find_map(|line| line.strip_prefix(name))?;
    line.split_whitespace().next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[cfg(target_os = "linux")]
    #[test]
    fn usage_is_plausible() {
        let usage = Usage::read().unwrap();
        assert!(usage.resident_bytes > 100_000.0, "{usage:?}");
        assert!(usage.open_fds >= 3.0, "{usage:?}");
        let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap();
        let age = now.as_secs_f64() - usage.start_time_seconds;
        assert!((-5.0..86_400.0).contains(&age), "{usage:?}");
    }
}
