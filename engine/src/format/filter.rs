//! `--filter KEY=VALUE`, as Docker combines them: one key's values are alternatives, different keys must all hold; only
//! labels must all hold.

use std::collections::BTreeMap;

use regex_lite::Regex;

/// Why a filter cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum FilterError {
    /// There is no `=`.
    #[error("--filter {text:?} has no value; write KEY=VALUE")]
    NoValue {
        /// The filter.
        text: String,
    },
    /// The command has no such filter.
    #[error("--filter {key}=... is not known here; choose from {}", known.join(", "))]
    UnknownKey {
        /// The key.
        key: String,
        /// The keys that there are.
        known: &'static [&'static str],
    },
    /// The key does not take this value.
    #[error("--filter {key}={value}: {reason}")]
    BadValue {
        /// The key.
        key: &'static str,
        /// The value.
        value: String,
        /// What it should be.
        reason: String,
    },
}

/// Filters as given, checked for known keys.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Filters {
    values: BTreeMap<String, Vec<String>>,
}

impl Filters {
    /// Reads the values of `--filter`; `known` are the keys that the command has.
    ///
    /// # Errors
    /// A filter without value, or with a key that the command does not have.
    pub fn parse<T: AsRef<str>>(texts: &[T], known: &'static [&'static str]) -> Result<Self, FilterError> {
        let mut values: BTreeMap<String, Vec<String>> = BTreeMap::new();
        for text in texts.iter().map(AsRef::as_ref) {
            let (key, value) =
                text.split_once('=').ok_or_else(|| FilterError::NoValue { text: text.to_owned() })?;
            let key = key.trim().to_lowercase();
            if !known.contains(&key.as_str()) {
                return Err(FilterError::UnknownKey { key, known });
            }
            values.entry(key).or_default().push(value.trim().to_owned());
        }
        Ok(Self { values })
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.values.is_empty()
    }

    /// The values given for `key`.
    pub fn get(&self, key: &str) -> &[String] {
        self.values.get(key).map(Vec::as_slice).unwrap_or_default()
    }

    /// Whether no value was given for `key`, or `accept` takes one of them.
    pub fn any(&self, key: &str, accept: impl FnMut(&String) -> bool) -> bool {
        let values = self.get(key);
        values.is_empty() || values.iter().any(accept)
    }

    /// The values of `key`, each understood by `read`.
    ///
    /// # Errors
    /// [`FilterError::BadValue`] with what `read` says is wrong.
    pub fn read<T>(
        &self,
        key: &'static str,
        read: impl Fn(&str) -> Result<T, String>,
    ) -> Result<Vec<T>, FilterError> {
        let one = |value: &String| {
            read(value).map_err(|reason| FilterError::BadValue { key, value: value.clone(), reason })
        };
        self.get(key).iter().map(one).collect()
    }

    /// The values of `key` as regular expressions that may match anywhere.
    ///
    /// # Errors
    /// [`FilterError::BadValue`] for one that cannot be parsed.
    pub fn patterns(&self, key: &'static str) -> Result<Vec<Regex>, FilterError> {
        self.read(key, |value| {
            Regex::new(value).map_err(|error| format!("is not a regular expression: {error}"))
        })
    }

    /// Whether `labels` has every label asked for with `label=KEY` or `label=KEY=VALUE`, and none of those of `label!`.
    pub fn labels_match(&self, labels: &BTreeMap<String, String>) -> bool {
        let has = |wanted: &String| match wanted.split_once('=') {
            Some((key, value)) => labels.get(key).is_some_and(|found| found == value),
            None => labels.contains_key(wanted),
        };
        self.get("label").iter().all(has) && !self.get("label!").iter().any(has)
    }
}

/// Reads a truth value as Docker does: `true`, `1`, `false`, `0`.
///
/// # Errors
/// What it should have been.
pub fn truth(text: &str) -> Result<bool, String> {
    match text.to_lowercase().as_str() {
        "true" | "1" | "t" => Ok(true),
        "false" | "0" | "f" => Ok(false),
        _ => Err("give `true` or `false`".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const KNOWN: &[&str] = &["label", "label!", "name", "status"];

    fn labels(pairs: &[(&str, &str)]) -> BTreeMap<String, String> {
        pairs.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect()
    }

    #[test]
    fn alternatives_within_a_key() {
        let filters = Filters::parse(&["status=running", "status=paused"], KNOWN).unwrap();
        assert!(filters.any("status", |status| status == "paused"));
        assert!(!filters.any("status", |status| status == "created"));
        assert!(filters.any("name", |_| false), "a key without values accepts all");
    }

    #[test]
    fn labels_must_all_hold() {
        let filters = Filters::parse(&["label=a", "label=b=2", "label!=c"], KNOWN).unwrap();
        assert!(filters.labels_match(&labels(&[("a", "x"), ("b", "2")])));
        assert!(!filters.labels_match(&labels(&[("a", "x"), ("b", "3")])));
        assert!(!filters.labels_match(&labels(&[("b", "2")])));
        assert!(!filters.labels_match(&labels(&[("a", "x"), ("b", "2"), ("c", "")])));
    }

    #[test]
    fn mistakes_are_named() {
        let error = |text: &str| Filters::parse(&[text], KNOWN).unwrap_err().to_string();
        assert!(error("running").contains("KEY=VALUE"));
        let unknown = error("colour=red");
        assert!(unknown.contains("colour") && unknown.contains("status"), "{unknown}");
        let pattern = Filters::parse(&["name=["], KNOWN).unwrap().patterns("name").unwrap_err().to_string();
        assert!(pattern.contains("name=["), "{pattern}");
    }
}
