//! Figures of many rounds, and their table.
//!
//! A figure is the median of its rounds. A ratio is the median of the rounds'
//! own ratios to the first column, so that what a whole round suffered from
//! falls on both sides of it.

use std::fmt;

/// Figures of one kind of measurement: a column for each proxy.
#[derive(Debug)]
pub(crate) struct Table {
    title: String,
    columns: Vec<&'static str>,
    rows: Vec<Row>,
}

#[derive(Debug)]
struct Row {
    name: String,
    /// For each column, a value of each round.
    values: Vec<Vec<f64>>,
}

impl Table {
    pub(crate) fn new(title: impl Into<String>, columns: Vec<&'static str>) -> Self {
        Self {
            title: title.into(),
            columns,
            rows: Vec::new(),
        }
    }

    /// Adds one round's value; rows stand in the order they are first named.
    pub(crate) fn add(&mut self, name: &str, column: &str, value: f64) {
        let at = self.rows.iter().position(|row| row.name == name);
        let at = at.unwrap_or_else(|| {
            self.rows.push(Row {
                name: name.to_owned(),
                values: vec![Vec::new(); self.columns.len()],
            });
            self.rows.len() - 1
        });
        if let Some(column) = self.columns.iter().position(|known| *known == column) {
            self.rows[at].values[column].push(value);
        }
    }
}

impl fmt::Display for Table {
    /// As Markdown: `median (ratio to the first column)`; the last column says
    /// by how much the rounds of the widest cell differ.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(
            f,
            "\n| {} | {} | spread |",
            self.title,
            self.columns.join(" | ")
        )?;
        writeln!(f, "| --- |{} ---: |", " ---: |".repeat(self.columns.len()))?;
        for row in &self.rows {
            write!(f, "| {} |", row.name)?;
            let first = &row.values[0];
            for values in &row.values {
                if values.is_empty() {
                    write!(f, " – |")?;
                    continue;
                }
                write!(f, " {}", short(median(values.clone())))?;
                // Where the first column has no figure, or 0, there is no ratio.
                if first.iter().any(|value| *value != 0.0) {
                    let ratios = values.iter().zip(first).map(|(own, first)| own / first);
                    write!(f, " ({:.2})", median(ratios.collect()))?;
                }
                write!(f, " |")?;
            }
            let spread = row.values.iter().map(|values| spread(values));
            writeln!(f, " ±{:.0} % |", spread.fold(0.0, f64::max) * 100.0)?;
        }
        Ok(())
    }
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_unstable_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or(f64::NAN)
}

/// Half the distance between the quartiles, as a part of the median.
fn spread(values: &[f64]) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_unstable_by(f64::total_cmp);
    let count = sorted.len();
    if count < 4 {
        return 0.0;
    }
    let distance = sorted[count * 3 / 4] - sorted[count / 4];
    (distance / 2.0 / sorted[count / 2]).abs()
}

/// With about three digits.
fn short(value: f64) -> String {
    match value.abs() {
        size if size >= 100.0 => format!("{value:.0}"),
        size if size >= 10.0 => format!("{value:.1}"),
        _ => format!("{value:.2}"),
    }
}
