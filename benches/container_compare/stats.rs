//! Medians, bootstrap intervals, random order.

use serde_json::{Value, json};

pub use rkvm_measure::stats::{Bootstrap, Random};

/// Times of one contestant, nanoseconds: one row a run, one column a part.
#[derive(Debug, Default)]
pub struct Samples {
    names: Vec<&'static str>,
    rows: Vec<Vec<u64>>,
}

impl Samples {
    pub fn add(&mut self, parts: Vec<(&'static str, u64)>) {
        self.names = parts.iter().map(|(name, _)| *name).collect();
        self.rows.push(parts.into_iter().map(|(_, time)| time).collect());
    }

    pub fn totals(&self) -> Vec<u64> {
        self.rows.iter().map(|row| row.iter().sum()).collect()
    }

    pub fn to_json(&self) -> Value {
        json!({ "parts": self.names, "rows": self.rows })
    }
}

fn floats(values: &[u64]) -> Vec<f64> {
    values.iter().map(|value| *value as f64).collect()
}

pub fn median(values: &[u64]) -> f64 {
    rkvm_measure::stats::median(&floats(values))
}

const MS: f64 = 1e6;

/// A table of contestants.
pub struct Table {
    title: String,
    lines: Vec<String>,
}

impl Table {
    pub fn new(title: &str) -> Self {
        let header =
            format!("  {:<36} {:>8} {:>17} {:>8} {:>8}  median of parts", "", "median", "95 %", "min", "max");
        Self { title: title.to_owned(), lines: vec![header] }
    }

    pub fn row(&mut self, name: &str, samples: &Samples, bootstrap: &mut Bootstrap) {
        let totals = samples.totals();
        let middle = bootstrap.quantile(&floats(&totals), 0.5);
        let parts: Vec<String> = (0..samples.names.len())
            .filter(|_| samples.names.len() > 1)
            .map(|part| {
                let times: Vec<u64> = samples.rows.iter().map(|row| row[part]).collect();
                format!("{} {:.2}", samples.names[part], median(&times) / MS)
            })
            .collect();
        let (min, max) = (totals.iter().min().unwrap_or(&0), totals.iter().max().unwrap_or(&0));
        self.lines.push(format!(
            "  {name:<36} {:>8.2} {:>8.2}-{:<8.2} {:>8.2} {:>8.2}  {}",
            middle.value / MS,
            middle.low / MS,
            middle.high / MS,
            *min as f64 / MS,
            *max as f64 / MS,
            parts.join(", ")
        ));
    }

    pub fn print(&self) {
        println!("\n{}", self.title);
        self.lines.iter().for_each(|line| println!("{}", line.trim_end()));
    }
}

/// Prints the ratio of two contestants' medians beside its target, an upper bound. Says nothing when one did not run.
pub fn print_ratio(all: &[(String, Samples)], of: &str, to: &str, target: f64, bootstrap: &mut Bootstrap) {
    let find =
        |name: &str| all.iter().find(|(one, _)| one == name).map(|(_, samples)| floats(&samples.totals()));
    let (Some(numerator), Some(denominator)) = (find(of), find(to)) else { return };
    let Some(ratio) = bootstrap.ratio_of_medians(&numerator, &denominator) else { return };
    let verdict = if ratio.value <= target { "reached" } else { "NOT reached" };
    println!(
        "  {of} : {to} = {:.3} ({:.3}-{:.3}), target {target:.3} at most: {verdict}",
        ratio.value, ratio.low, ratio.high
    );
}
