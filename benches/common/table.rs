//! Tables that can be read in a terminal and pasted into a README.

use std::time::Duration;

use super::{process, release};

/// Rows below heads.
#[derive(Debug)]
pub struct Table {
    rows: Vec<Vec<String>>,
}

impl Table {
    pub fn new(heads: &[&str]) -> Self {
        Self {
            rows: vec![heads.iter().map(ToString::to_string).collect()],
        }
    }

    pub fn row(&mut self, cells: impl IntoIterator<Item = String>) {
        self.rows.push(cells.into_iter().collect());
    }

    pub fn print(&self) {
        let columns = self.rows.iter().map(Vec::len).max().unwrap_or(0);
        let width = |column: usize| {
            let cells = self.rows.iter().filter_map(|row| row.get(column));
            cells
                .map(|cell| cell.chars().count())
                .max()
                .unwrap_or(0)
                .max(3)
        };
        let widths: Vec<usize> = (0..columns).map(width).collect();
        for (n, row) in self.rows.iter().enumerate() {
            let mut line = String::from("|");
            for (column, width) in widths.iter().enumerate() {
                let cell = row.get(column).map_or("", String::as_str);
                let pad = " ".repeat(width - cell.chars().count());
                line += &if column == 0 {
                    format!(" {cell}{pad} |")
                } else {
                    format!(" {pad}{cell} |")
                };
            }
            println!("{line}");
            if n == 0 {
                let rule = widths.iter().enumerate().map(|(column, width)| {
                    let end = if column == 0 { "-" } else { ":" };
                    format!("{}{end}|", "-".repeat(width + 1))
                });
                println!("|{}", rule.collect::<String>());
            }
        }
        println!();
    }
}

/// When, where and what.
pub fn headline(what: &str) {
    let cores = std::thread::available_parallelism().map_or(0, usize::from);
    let now = jiff::Timestamp::now().strftime("%Y-%m-%d %H:%MZ");
    let read = |path: &str| std::fs::read_to_string(path).unwrap_or_default();
    let load = read("/proc/loadavg");
    let load = load.split(' ').next().unwrap_or("?");
    let kernel = read("/proc/sys/kernel/osrelease");
    let build = if release() { "release" } else { "DEBUG" };
    let peers = [("nginx", "-v"), ("haproxy", "-v")]
        .into_iter()
        .filter_map(|(name, flag)| process::version(name, flag))
        .collect::<Vec<_>>()
        .join(", ");
    println!("# {what}");
    println!(
        "{now}; {cores} cores, shared with the load; Linux {}; load {load} before; {build} builds; {peers}\n",
        kernel.trim(),
    );
}

/// Milliseconds with a sensible number of digits.
pub fn ms(time: Duration) -> String {
    let ms = time.as_secs_f64() * 1e3;
    match ms {
        ms if ms < 10.0 => format!("{ms:.2}"),
        ms if ms < 100.0 => format!("{ms:.1}"),
        ms => format!("{ms:.0}"),
    }
}

/// The same for what may be missing.
pub fn ms_or_dash(time: Option<Duration>) -> String {
    time.map_or("-".into(), ms)
}

/// How a figure stands to its aim.
pub fn verdict(name: &str, figure: f64, aim: f64, less_is_better: bool, unit: &str) {
    let met = if less_is_better {
        figure <= aim
    } else {
        figure >= aim
    };
    let how = if met {
        "met".to_owned()
    } else {
        format!("MISSED, {:.2} times the aim", figure / aim)
    };
    let than = if less_is_better {
        "at most"
    } else {
        "at least"
    };
    println!("aim: {name} {than} {aim} {unit}: {figure:.2} {unit}, {how}");
}
