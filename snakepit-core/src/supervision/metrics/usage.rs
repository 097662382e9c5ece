//! From a table of processes to the use of each tree.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use super::MetricsSample;

/// What is known of one process.
#[derive(Clone, Copy, Debug)]
pub(super) struct Row {
    pub(super) parent: Option<u32>,
    pub(super) start_time: u64,
    pub(super) cpu_time: Duration,
}

/// The CPU times of all processes at the last scan, by pid and start time: a pid alone may be reused.
pub(super) type CpuTimes = BTreeMap<(u32, u64), Duration>;

/// The members of each root's tree, the root first. A root that is gone has an empty tree: what it has left
/// behind has another parent by now and is not found this way.
pub(super) fn trees(
    rows: &BTreeMap<u32, Row>,
    roots: impl IntoIterator<Item = u32>,
) -> BTreeMap<u32, Vec<u32>> {
    let mut children: BTreeMap<u32, Vec<u32>> = BTreeMap::new();
    for (&pid, row) in rows {
        if let Some(parent) = row.parent {
            children.entry(parent).or_default().push(pid);
        }
    }
    roots
        .into_iter()
        .map(|root| {
            let mut members = Vec::new();
            // The table is not one instant: pids reused while it was read could close a circle.
            let mut seen = BTreeSet::new();
            if rows.contains_key(&root) {
                seen.insert(root);
                members.push(root);
            }
            let mut at = 0;
            while let Some(pid) = members.get(at) {
                at += 1;
                let below = children.get(pid).into_iter().flatten().copied();
                members.extend(below.filter(|&pid| seen.insert(pid)));
            }
            (root, members)
        })
        .collect()
}

/// The CPU time that a tree's members used since the last scan. A member that was not there then is new, and
/// all of its time counts.
pub(super) fn cpu_time(rows: &BTreeMap<u32, Row>, before: &CpuTimes, members: &[u32]) -> Duration {
    let used = members.iter().filter_map(|&pid| {
        let row = rows.get(&pid)?;
        let before = before.get(&(pid, row.start_time)).copied().unwrap_or_default();
        Some(row.cpu_time.saturating_sub(before))
    });
    used.sum()
}

/// A tree's sample; `before` is absent in the first scan.
pub(super) fn sample(
    rows: &BTreeMap<u32, Row>,
    before: Option<(&CpuTimes, Duration)>,
    members: &[u32],
    rss_bytes: u64,
) -> MetricsSample {
    let cpu = match before {
        Some((before, elapsed)) if !elapsed.is_zero() => {
            cpu_time(rows, before, members).as_secs_f32() / elapsed.as_secs_f32()
        }
        Some(_) | None => 0.0,
    };
    MetricsSample {
        rss_bytes,
        cpu,
        processes: u32::try_from(members.len()).unwrap_or(u32::MAX),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rows(table: &[(u32, u32, u64, u64)]) -> BTreeMap<u32, Row> {
        let row = |&(pid, parent, start_time, cpu_ms): &(u32, u32, u64, u64)| {
            let row = Row {
                parent: (parent != 0).then_some(parent),
                start_time,
                cpu_time: Duration::from_millis(cpu_ms),
            };
            (pid, row)
        };
        table.iter().map(row).collect()
    }

    #[test]
    fn trees_are_found_by_parent_pid() {
        let rows = rows(&[
            (1, 0, 0, 0),
            (10, 1, 0, 0),
            (11, 10, 0, 0),
            (12, 11, 0, 0),
            (20, 1, 0, 0),
        ]);
        let trees = trees(&rows, [10, 20, 99]);
        assert_eq!(trees[&10], [10, 11, 12]);
        assert_eq!(trees[&20], [20]);
        assert!(trees[&99].is_empty());
    }

    #[test]
    fn a_circle_in_a_torn_table_ends() {
        let rows = rows(&[(10, 11, 0, 0), (11, 10, 0, 0)]);
        assert_eq!(trees(&rows, [10])[&10], [10, 11]);
    }

    #[test]
    fn cpu_use_compares_with_the_last_scan() {
        let before: CpuTimes = [
            ((10, 5), Duration::from_secs(100)),
            ((11, 5), Duration::from_secs(7)),
        ]
        .into();
        // 11 is another process now, 12 is new.
        let rows = rows(&[(10, 1, 5, 101_000), (11, 10, 6, 500), (12, 10, 6, 500)]);
        let sample = sample(
            &rows,
            Some((&before, Duration::from_secs(4))),
            &[10, 11, 12],
            4096,
        );
        assert!((sample.cpu - 0.5).abs() < 1e-6, "{sample:?}");
        assert_eq!((sample.rss_bytes, sample.processes), (4096, 3));
        let first = super::sample(&rows, None, &[10], 0);
        assert!(first.cpu.abs() < f32::EPSILON);
    }
}
