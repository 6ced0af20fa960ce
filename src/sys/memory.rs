//! Memory of processes, as `/proc` and control groups tell of it.

use std::fs;

use super::process;

/// What these processes and all that they started hold by themselves, in bytes: memory without a file,
/// and swap. What several of them share since a fork counts once. It is looked at closely, which holds a
/// process up, only when it may be more than `limit`.
#[must_use]
pub fn held(processes: &[u32], limit: u64) -> u64 {
    let all = process::with_descendants(processes.to_vec());
    let read = |pid: u32, file: &str| fs::read_to_string(format!("/proc/{pid}/{file}")).ok();
    let whole = |pid| {
        let text = read(pid, "status").unwrap_or_default();
        kib(&text, &["RssAnon:", "RssShmem:", "VmSwap:"])
    };
    let most = 1024 * all.iter().map(|pid| whole(*pid)).sum::<u64>();
    if most <= limit {
        return most;
    }
    // Of one that may not be looked at so closely (prctl(2), PR_SET_DUMPABLE) all counts.
    let share = |pid| match read(pid, "smaps_rollup") {
        Some(text) => kib(&text, &["Pss_Anon:", "Pss_Shmem:", "SwapPss:"]),
        None => whole(pid),
    };
    1024 * all.iter().map(|pid| share(*pid)).sum::<u64>()
}

/// Lines such as `RssAnon:     1234 kB`.
fn kib(text: &str, keys: &[&str]) -> u64 {
    let value = |line: &str| {
        let mut words = line.split_ascii_whitespace();
        let is_meant = words.next().is_some_and(|key| keys.contains(&key));
        words.next().filter(|_| is_meant)?.parse::<u64>().ok()
    };
    text.lines().filter_map(value).sum()
}

/// How many processes the kernel has ended for want of memory: those of our control group, or all of this
/// machine where no group of ours counts them. `None`: it does not say.
#[must_use]
pub fn oom_kills() -> Option<u64> {
    let groups = fs::read_to_string("/proc/self/cgroup").unwrap_or_default();
    counts_of(&groups).find_map(|file| events_of(&fs::read_to_string(file).ok()?))
}

/// The files that may have the number, the one that is most about us first: of control groups of version
/// 2, of version 1, and of proc(5).
fn counts_of(groups: &str) -> impl Iterator<Item = String> {
    let of = |line: &str| {
        let (_, rest) = line.split_once(':')?;
        match rest.split_once(':')? {
            ("", path) => Some(format!("/sys/fs/cgroup{path}/memory.events")),
            ("memory", path) => Some(format!("/sys/fs/cgroup/memory{path}/memory.oom_control")),
            _ => None,
        }
    };
    let mut files: Vec<String> = groups.lines().filter_map(of).collect();
    files.sort_unstable_by_key(|file| !file.ends_with("memory.events"));
    files.into_iter().chain(["/proc/vmstat".to_owned()])
}

fn events_of(events: &str) -> Option<u64> {
    let line = events
        .lines()
        .find_map(|line| line.strip_prefix("oom_kill "))?;
    line.trim().parse().ok()
}

/// Should memory run out, the kernel ends this process rather than us.
///
/// # Errors
/// When it has ended, or may not be changed.
pub fn goes_before_us(process: u32) -> std::io::Result<()> {
    let ours = fs::read_to_string("/proc/self/oom_score_adj")?;
    let ours: i32 = ours.trim().parse().unwrap_or_default();
    let theirs = (ours + FIRST).min(WORST);
    fs::write(format!("/proc/{process}/oom_score_adj"), theirs.to_string())
}

/// A fifth of the machine's memory: who holds so much more than others goes first anyway.
const FIRST: i32 = 200;
const WORST: i32 = 1000;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_lines_that_are_meant_are_summed() {
        let status = "Name:\tx\nRssAnon:\t    1200 kB\nRssFile:\t 900 kB\nVmSwap:\t 34 kB\n";
        assert_eq!(kib(status, &["RssAnon:", "VmSwap:"]), 1234);
        assert_eq!(kib("RssAnon:\n", &["RssAnon:"]), 0);
        let events = "low 0\noom 3\noom_kill 2\noom_group_kill 0\n";
        assert_eq!(events_of(events), Some(2));
        assert_eq!(events_of("low 0\n"), None);
        let control = "oom_kill_disable 0\nunder_oom 0\noom_kill 3\n";
        assert_eq!(events_of(control), Some(3));
    }

    #[test]
    fn the_group_of_ours_is_asked_before_the_machine() {
        let hybrid = "5:devices:/\n4:memory:/a/b\n0::/c.service\n";
        let files: Vec<_> = counts_of(hybrid).collect();
        assert_eq!(
            files,
            [
                "/sys/fs/cgroup/c.service/memory.events",
                "/sys/fs/cgroup/memory/a/b/memory.oom_control",
                "/proc/vmstat",
            ]
        );
        assert_eq!(counts_of("").collect::<Vec<_>>(), ["/proc/vmstat"]);
        assert!(oom_kills().is_some());
    }

    #[test]
    fn a_process_that_takes_memory_is_seen_to_hold_it() {
        let before = held(&[std::process::id()], u64::MAX);
        assert!(before > 0);
        let taken = vec![1_u8; 64 << 20];
        for limit in [0, u64::MAX] {
            let now = held(&[std::process::id()], limit);
            assert!(now > 60 << 20, "{now}");
        }
        assert_eq!(taken.iter().map(|b| u64::from(*b)).sum::<u64>(), 64 << 20);
    }
}
