//! Medians, bootstrap intervals, random order.

use serde_json::{Value, json};

/// A small pseudo-random generator (splitmix64, Steele and others 2014): the order of a race needs no better one, and a seed makes a
/// run repeatable.
pub struct Random(u64);

impl Random {
    pub fn new(seed: u64) -> Self {
        Self(seed)
    }

    /// A number below `bound`.
    pub fn below(&mut self, bound: usize) -> usize {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut value = self.0;
        value = (value ^ (value >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        value = (value ^ (value >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        ((value ^ (value >> 31)) % bound as u64) as usize
    }

    /// Fisher and Yates' shuffle.
    pub fn shuffle<T>(&mut self, items: &mut [T]) {
        for index in (1..items.len()).rev() {
            items.swap(index, self.below(index + 1));
        }
    }
}

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

pub fn median(values: &[u64]) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_unstable();
    let middle = sorted.len() / 2;
    if sorted.len() % 2 == 1 {
        sorted[middle] as f64
    } else {
        (sorted[middle - 1] + sorted[middle]) as f64 / 2.0
    }
}

const RESAMPLES: usize = 2000;

/// 95 % interval of `statistic` over resamples of the inputs (percentile bootstrap).
fn interval(inputs: &[&[u64]], random: &mut Random, statistic: impl Fn(&[Vec<u64>]) -> f64) -> (f64, f64) {
    let mut values: Vec<f64> = (0..RESAMPLES)
        .map(|_| {
            let resampled: Vec<Vec<u64>> = inputs
                .iter()
                .map(|input| (0..input.len()).map(|_| input[random.below(input.len())]).collect())
                .collect();
            statistic(&resampled)
        })
        .collect();
    values.sort_by(f64::total_cmp);
    (values[RESAMPLES / 40], values[RESAMPLES - 1 - RESAMPLES / 40])
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

    pub fn row(&mut self, name: &str, samples: &Samples, random: &mut Random) {
        let totals = samples.totals();
        let (low, high) = interval(&[&totals], random, |inputs| median(&inputs[0]));
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
            median(&totals) / MS,
            low / MS,
            high / MS,
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
pub fn print_ratio(all: &[(String, Samples)], of: &str, to: &str, target: f64, random: &mut Random) {
    let find = |name: &str| all.iter().find(|(one, _)| one == name).map(|(_, samples)| samples.totals());
    let (Some(numerator), Some(denominator)) = (find(of), find(to)) else { return };
    let ratio = median(&numerator) / median(&denominator);
    let (low, high) =
        interval(&[&numerator, &denominator], random, |inputs| median(&inputs[0]) / median(&inputs[1]));
    let verdict = if ratio <= target { "reached" } else { "NOT reached" };
    println!("  {of} : {to} = {ratio:.3} ({low:.3}-{high:.3}), target {target:.3} at most: {verdict}");
}
