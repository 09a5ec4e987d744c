//! Which cells there are.

use clap::ValueEnum;
use serde::Serialize;

use crate::cell::Workload;

/// The groups of workloads, each a table.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, ValueEnum, Serialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Group {
    /// Durable appends, each thread waiting for each record.
    Durable,
    /// Durable appends of one thread that has many outstanding.
    Outstanding,
    /// Appends flat out, one sync at the end.
    Flat,
    /// Appends flat out, a sync every 10 ms.
    Synced,
    /// Opening what a killed process left.
    Reopen,
    /// Random reads by address, cold.
    Read,
    /// A sequential scan, cold.
    Scan,
    /// From acknowledged to seen by a reader that follows the log.
    Tail,
    /// Durable appends and random reads at a time.
    Mixed,
}

impl Group {
    /// All of them, in the order of the report.
    pub(crate) const ALL: [Self; 9] = [
        Self::Durable,
        Self::Outstanding,
        Self::Flat,
        Self::Synced,
        Self::Reopen,
        Self::Read,
        Self::Scan,
        Self::Tail,
        Self::Mixed,
    ];

    pub(crate) fn title(self) -> &'static str {
        match self {
            Self::Durable => "Durable appends, each thread waiting for each record",
            Self::Outstanding => "Durable appends, one thread with many outstanding",
            Self::Flat => "Appends flat out, one sync at the end",
            Self::Synced => "Appends flat out, a sync every 10 ms",
            Self::Reopen => "Opening what a killed process left, cold",
            Self::Read => "Random reads by address, cold",
            Self::Scan => "Sequential scan, cold",
            Self::Tail => "From acknowledged to seen by a reader that follows the log",
            Self::Mixed => "Half of the threads append durably, half read",
        }
    }

    /// Whether its figure is records per second, not MB/s.
    pub(crate) fn counts_records(self) -> bool {
        matches!(
            self,
            Self::Durable | Self::Outstanding | Self::Read | Self::Tail | Self::Mixed
        )
    }
}

/// How many sizes and counts of threads are measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Grid {
    /// Those that tell most.
    Quick,
    /// Two sizes, all counts.
    Usual,
    /// All of them.
    Full,
}

/// How much is measured.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Extent {
    pub(crate) mebibytes: u64,
    pub(crate) reopen_mebibytes: u64,
    pub(crate) milliseconds: u64,
    pub(crate) grid: Grid,
}

/// One line of a table.
#[derive(Clone, Debug)]
pub(crate) struct Line {
    pub(crate) group: Group,
    pub(crate) label: String,
    pub(crate) threads: usize,
    pub(crate) record: usize,
    /// What the store is filled with before, in MiB.
    pub(crate) fill: Option<u64>,
    pub(crate) workload: Workload,
}

/// The lines of a group.
pub(crate) fn lines(group: Group, extent: Extent) -> Vec<Line> {
    let Extent {
        mebibytes,
        reopen_mebibytes,
        milliseconds,
        grid: how_many,
    } = extent;
    let sizes: &[usize] = match how_many {
        Grid::Full => &[64, 256, 1024, 4096],
        Grid::Usual => &[256, 1024],
        Grid::Quick => &[256],
    };
    // Flat out it is the size that tells most.
    let flat_sizes: &[usize] = match how_many {
        Grid::Quick => &[1024],
        Grid::Usual | Grid::Full => sizes,
    };
    let line = |label: String, threads, record, workload| Line {
        group,
        label,
        threads,
        record,
        fill: match workload {
            Workload::Reopen { mebibytes } | Workload::Scan { mebibytes, .. } => Some(mebibytes),
            Workload::Read { .. } => Some(mebibytes),
            _ => None,
        },
        workload,
    };
    let grid = |sizes: &[usize], counts: &[usize], workload: &dyn Fn(usize, usize) -> Workload| {
        let counts: Vec<usize> = match how_many {
            // One, eight and the most: what lies between lies between.
            Grid::Quick => counts
                .iter()
                .copied()
                .filter(|count| ![2, 4].contains(count))
                .collect(),
            Grid::Usual | Grid::Full => counts.to_vec(),
        };
        sizes
            .iter()
            .flat_map(|&record| counts.iter().map(move |&threads| (record, threads)))
            .collect::<Vec<_>>()
            .into_iter()
            .map(|(record, threads)| {
                let label = format!("{record} B, {threads} thr");
                line(label, threads, record, workload(record, threads))
            })
            .collect()
    };
    match group {
        Group::Durable => grid(sizes, &[1, 2, 4, 8, 64], &|record, threads| {
            Workload::Durable {
                threads,
                record,
                milliseconds,
            }
        }),
        Group::Outstanding => {
            let outstanding = 64;
            vec![line(
                format!("256 B, {outstanding} outstanding"),
                1,
                256,
                Workload::Outstanding {
                    outstanding,
                    record: 256,
                    milliseconds,
                },
            )]
        }
        Group::Flat => grid(flat_sizes, &[1, 2, 4, 8], &|record, threads| {
            Workload::Flat {
                threads,
                record,
                mebibytes,
                sync_every_ms: None,
            }
        }),
        Group::Synced => grid(flat_sizes, &[1, 8], &|record, threads| Workload::Flat {
            threads,
            record,
            mebibytes,
            sync_every_ms: Some(10),
        }),
        Group::Reopen => vec![line(
            format!("{reopen_mebibytes} MiB of 1 KiB"),
            1,
            1024,
            Workload::Reopen {
                mebibytes: reopen_mebibytes,
            },
        )],
        Group::Read => [1, 8, 32]
            .into_iter()
            .map(|depth| {
                line(
                    format!("1 KiB, {depth} at a time"),
                    depth,
                    1024,
                    Workload::Read {
                        record: 1024,
                        depth,
                        milliseconds,
                    },
                )
            })
            .collect(),
        Group::Scan => vec![line(
            format!("{mebibytes} MiB of 1 KiB"),
            1,
            1024,
            Workload::Scan {
                record: 1024,
                mebibytes,
            },
        )],
        Group::Tail => vec![line(
            "256 B, one writer, one reader".to_owned(),
            2,
            256,
            Workload::Tail {
                record: 256,
                milliseconds,
            },
        )],
        Group::Mixed => [2, 8]
            .into_iter()
            .map(|threads| {
                line(
                    format!("256 B, {threads} thr"),
                    threads,
                    256,
                    Workload::Mixed {
                        threads,
                        record: 256,
                        milliseconds,
                    },
                )
            })
            .collect(),
    }
}
