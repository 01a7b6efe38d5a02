//! The table that is printed.

use std::fmt;

/// Median, lowest and highest of several runs.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Spread {
    pub(crate) median: f64,
    pub(crate) min: f64,
    pub(crate) max: f64,
}

impl Spread {
    pub(crate) fn of(mut values: Vec<f64>) -> Self {
        values.sort_by(f64::total_cmp);
        let at = |share: f64| values.get(((values.len().saturating_sub(1)) as f64 * share) as usize).copied().unwrap_or(f64::NAN);
        Self { median: at(0.5), min: at(0.0), max: at(1.0) }
    }
}

impl fmt::Display for Spread {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let digits = if self.median.abs() >= 100.0 { 0 } else { 2 };
        write!(f, "{:.digits$} [{:.digits$}–{:.digits$}]", self.median, self.min, self.max)
    }
}

/// The verdict nobody wants.
const BELOW: &str = "BELOW";

struct Row {
    id: String,
    what: String,
    measured: String,
    goal: String,
    moonshot: String,
    verdict: &'static str,
    note: String,
}

#[derive(Default)]
pub(crate) struct Table(Vec<Row>);

/// Whether more or less is better.
#[derive(Clone, Copy)]
enum Better {
    More,
    Less,
}

/// What a number is held against.
#[derive(Clone, Copy)]
pub(crate) struct Bar {
    better: Better,
    goal: f64,
    moonshot: f64,
    unit: &'static str,
}

impl Bar {
    pub(crate) fn at_least(goal: f64, moonshot: f64, unit: &'static str) -> Self {
        Self { better: Better::More, goal, moonshot, unit }
    }

    pub(crate) fn at_most(goal: f64, moonshot: f64, unit: &'static str) -> Self {
        Self { better: Better::Less, goal, moonshot, unit }
    }
}

impl Table {
    /// Adds a row that is judged by a number.
    pub(crate) fn judged(&mut self, id: &str, what: &str, measured: String, value: f64, bar: Bar) {
        let Bar { better, goal, moonshot, unit } = bar;
        let reaches = |bound: f64| match better {
            Better::More => value >= bound,
            Better::Less => value <= bound,
        };
        let verdict = if reaches(moonshot) {
            "moonshot"
        } else if reaches(goal) {
            "goal"
        } else {
            BELOW
        };
        let sign = match better {
            Better::More => "≥",
            Better::Less => "≤",
        };
        self.0.push(Row {
            id: id.to_owned(),
            what: what.to_owned(),
            measured,
            goal: format!("{sign} {goal}{unit}"),
            moonshot: format!("{sign} {moonshot}{unit}"),
            verdict,
            note: String::new(),
        });
        eprintln!("{id}: {}", self.0.last().map(|row| format!("{} ({})", row.measured, row.verdict)).unwrap_or_default());
    }

    /// What the distance of the last row consists of; shown where it is below its goal.
    pub(crate) fn distance(&mut self, consists_of: impl Into<String>) {
        if let Some(row) = self.0.last_mut().filter(|row| row.verdict == BELOW) {
            row.note = consists_of.into();
        }
    }

    /// Adds a row that only informs.
    pub(crate) fn noted(&mut self, id: &str, what: &str, measured: String) {
        eprintln!("{id}: {what}: {measured}");
        self.0.push(Row {
            id: id.to_owned(),
            what: what.to_owned(),
            measured,
            goal: String::new(),
            moonshot: String::new(),
            verdict: "",
            note: String::new(),
        });
    }
}

impl fmt::Display for Table {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "| # | what | measured: median [min–max] | goal | moonshot | verdict | what is missing |")?;
        writeln!(f, "| --- | --- | --- | --- | --- | --- | --- |")?;
        // In the order of their numbers; those of one number as they were measured.
        let mut rows: Vec<&Row> = self.0.iter().collect();
        rows.sort_by_key(|row| row.id.trim_start_matches('P').parse::<u32>().unwrap_or(u32::MAX));
        for Row { id, what, measured, goal, moonshot, verdict, note } in rows {
            writeln!(f, "| {id} | {what} | {measured} | {goal} | {moonshot} | {verdict} | {note} |")?;
        }
        Ok(())
    }
}
