//! Sizes, CPUs, ulimits, log rotation.

use super::invalid;
use crate::error::Result;
use crate::record::{LogConfig, Ulimit};

/// Least memory that a container can be given, bytes (Docker's).
const MIN_MEMORY: i64 = 6 << 20;

/// A number of bytes: `512`, `64k`, `1.5m`, `2GB`, `1gib`; powers of 1024.
///
/// # Errors
/// The text has another form, or is too large.
pub fn size(text: &str) -> Result<i64> {
    let error = || invalid("size", text, "give a number with an optional unit b, k, m, g or t, e.g. 512m");
    let lower = text.trim().to_ascii_lowercase();
    let end = lower.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(lower.len());
    let (number, unit) = lower.split_at(end);
    let number: f64 = number.parse().map_err(|_| error())?;
    let power = match unit.trim() {
        "" | "b" => 0,
        "k" | "kb" | "kib" => 1,
        "m" | "mb" | "mib" => 2,
        "g" | "gb" | "gib" => 3,
        "t" | "tb" | "tib" => 4,
        "p" | "pb" | "pib" => 5,
        _ => return Err(error()),
    };
    let bytes = number * 1024_f64.powi(power);
    if bytes.is_finite() && bytes < i64::MAX as f64 { Ok(bytes as i64) } else { Err(error()) }
}

/// A memory limit; 0 is none.
///
/// # Errors
/// No size, or too small for any process.
pub fn memory(text: &str) -> Result<Option<i64>> {
    match size(text)? {
        0 => Ok(None),
        bytes if bytes < MIN_MEMORY => Err(invalid("memory limit", text, "at least 6m is needed")),
        bytes => Ok(Some(bytes)),
    }
}

/// `--memory-swap` for a given `--memory`: -1 is unlimited swap.
///
/// # Errors
/// No size, smaller than the memory limit, or without one.
pub fn swap(text: &str, memory: Option<i64>) -> Result<Option<i64>> {
    let error = |reason: &str| invalid("memory and swap limit", text, reason);
    if text.trim() == "-1" {
        return Ok(Some(-1));
    }
    match (size(text)?, memory) {
        (0, _) => Ok(None),
        (_, None) => Err(error("give --memory too")),
        (bytes, Some(memory)) if bytes < memory => {
            Err(error("it includes the memory, so it cannot be less than --memory"))
        }
        (bytes, Some(_)) => Ok(Some(bytes)),
    }
}

/// `--cpus`: how many CPUs' time, in billionths.
///
/// # Errors
/// No number, or out of range.
pub fn cpus(text: &str) -> Result<Option<i64>> {
    let available = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    let number: f64 = text.parse().map_err(|_| invalid("number of CPUs", text, "give a number, e.g. 1.5"))?;
    if number == 0.0 {
        return Ok(None);
    }
    if !(0.01..=available as f64).contains(&number) {
        return Err(invalid("number of CPUs", text, format!("this host has 0.01 to {available} to give")));
    }
    Ok(Some((number * 1e9).round() as i64))
}

/// A list of CPUs or memory nodes, `0-3,5`.
///
/// # Errors
/// The text has another form.
pub fn cpuset(text: &str) -> Result<String> {
    let error = || invalid("CPU or node list", text, "give numbers and ranges, e.g. 0-3,5");
    for part in text.split(',') {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        let first: u16 = first.trim().parse().map_err(|_| error())?;
        let last: u16 = last.trim().parse().map_err(|_| error())?;
        if last < first {
            return Err(error());
        }
    }
    Ok(text.to_owned())
}

/// Names of limits as Docker has them.
const ULIMITS: [&str; 15] = [
    "core",
    "cpu",
    "data",
    "fsize",
    "locks",
    "memlock",
    "msgqueue",
    "nice",
    "nofile",
    "nproc",
    "rss",
    "rtprio",
    "rttime",
    "sigpending",
    "stack",
];

/// One `--ulimit`: `NAME=SOFT[:HARD]`, -1 for unlimited.
///
/// # Errors
/// The name is unknown, a number is none, or soft is above hard.
pub fn ulimit(text: &str) -> Result<Ulimit> {
    let error = |reason: String| invalid("ulimit", text, reason);
    let (name, values) =
        text.split_once('=').ok_or_else(|| error("the form is NAME=SOFT[:HARD]".to_owned()))?;
    if !ULIMITS.contains(&name) {
        return Err(error(format!("the names are {}", ULIMITS.join(", "))));
    }
    let number = |text: &str| match text {
        "-1" => Ok(u64::MAX),
        digits => digits.parse().map_err(|_| error(format!("{digits:?} is not a number"))),
    };
    let (soft, hard) = values.split_once(':').unwrap_or((values, values));
    let (soft, hard) = (number(soft)?, number(hard)?);
    if soft > hard {
        return Err(error("the soft limit cannot be above the hard one".to_owned()));
    }
    Ok(Ulimit { name: name.to_owned(), soft, hard })
}

/// `--log-driver` and `--log-opt`.
///
/// # Errors
/// Another driver than `json-file`, `local` (the same here) and `none`, or an option that it does not have.
pub fn log_options(driver: Option<&str>, options: &[String]) -> Result<LogConfig> {
    let mut config = LogConfig::default();
    match driver {
        None | Some("json-file" | "local") => {}
        Some("none") => config.enabled = false,
        Some(other) => {
            return Err(invalid("log driver", other, "there are json-file, local (the same) and none"));
        }
    }
    for option in options {
        let error = |reason: &str| invalid("log option", option, reason);
        let (name, value) = option.split_once('=').ok_or_else(|| error("the form is NAME=VALUE"))?;
        match name {
            "max-size" => {
                // -1 is Docker's way to say unlimited.
                let bytes = if value == "-1" { i64::MAX } else { size(value)? };
                config.max_size = u64::try_from(bytes).unwrap_or_default();
                if config.max_size == 0 {
                    return Err(error("it must be at least 1"));
                }
            }
            "max-file" => {
                config.max_files = value
                    .parse()
                    .ok()
                    .filter(|count| (1..=1000).contains(count))
                    .ok_or_else(|| error("give a number from 1 to 1000"))?;
            }
            _ => return Err(error("there are max-size and max-file")),
        }
    }
    Ok(config)
}
