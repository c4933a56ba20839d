//! Container names: what is allowed, and those that are made up.

use crate::error::{Error, Result};

/// Checks a name against Docker's rule, `[a-zA-Z0-9][a-zA-Z0-9_.-]+`.
///
/// # Errors
/// [`Error::InvalidName`].
pub fn validate(name: &str) -> Result<()> {
    let mut chars = name.chars();
    let legal = chars.next().is_some_and(|c| c.is_ascii_alphanumeric())
        && name.len() >= 2
        && name.len() <= 255
        && chars.all(|c| c.is_ascii_alphanumeric() || matches!(c, '_' | '.' | '-'));
    if legal { Ok(()) } else { Err(Error::InvalidName { name: name.to_owned() }) }
}

/// A name made up from a random id: `adjective_surname`, followed by a digit after the first `attempt`.
pub fn generate(id: &str, attempt: u32) -> String {
    let number = |range: std::ops::Range<usize>| {
        id.get(range).and_then(|digits| usize::from_str_radix(digits, 16).ok()).unwrap_or_default()
    };
    // Later digits for later attempts, so that a collision does not repeat itself.
    let at = (attempt as usize % 7) * 8;
    let adjective = ADJECTIVES[number(at..at + 4) % ADJECTIVES.len()];
    let surname = SURNAMES[number(at + 4..at + 8) % SURNAMES.len()];
    match attempt {
        0 => format!("{adjective}_{surname}"),
        _ => format!("{adjective}_{surname}{}", attempt % 10),
    }
}

const ADJECTIVES: [&str; 64] = [
    "able", "agile", "amber", "apt", "avid", "bold", "brave", "breezy", "bright", "brisk", "calm", "candid",
    "cheery", "civil", "clear", "clever", "cosy", "crisp", "curious", "daring", "deft", "eager", "early",
    "fair", "fleet", "fond", "frank", "fresh", "gentle", "glad", "golden", "grand", "happy", "hardy",
    "honest", "humble", "jolly", "keen", "kind", "lively", "loyal", "lucid", "merry", "mild", "modest",
    "neat", "nimble", "noble", "patient", "placid", "plucky", "polite", "proud", "quick", "quiet", "ready",
    "serene", "sharp", "steady", "sunny", "swift", "tidy", "warm", "witty",
];

const SURNAMES: [&str; 64] = [
    "abel",
    "ampere",
    "archimedes",
    "babbage",
    "bell",
    "bohr",
    "boole",
    "born",
    "bose",
    "boyle",
    "cantor",
    "carson",
    "cerf",
    "church",
    "curie",
    "darwin",
    "dijkstra",
    "dirac",
    "euclid",
    "euler",
    "faraday",
    "fermat",
    "fermi",
    "feynman",
    "franklin",
    "galileo",
    "galois",
    "gauss",
    "germain",
    "godel",
    "goodall",
    "hamilton",
    "hawking",
    "hertz",
    "hilbert",
    "hodgkin",
    "hopper",
    "hypatia",
    "jacobi",
    "joule",
    "kepler",
    "knuth",
    "kovalevskaya",
    "lagrange",
    "lamarr",
    "laplace",
    "leibniz",
    "lovelace",
    "maxwell",
    "meitner",
    "mendel",
    "newton",
    "noether",
    "pascal",
    "pasteur",
    "planck",
    "ritchie",
    "shannon",
    "tesla",
    "thompson",
    "torvalds",
    "turing",
    "volta",
    "wiles",
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_that_docker_refuses_are_refused() {
        for name in ["", "a", "-a", ".a", "a b", "a/b", "\u{e9}a", "_x"] {
            assert!(validate(name).is_err(), "{name:?}");
        }
        for name in ["ab", "web-1", "A_b.c"] {
            validate(name).unwrap();
        }
    }

    #[test]
    fn a_second_attempt_gives_another_name() {
        let id = crate::ids::random().unwrap();
        for attempt in 0..10 {
            validate(&generate(&id, attempt)).unwrap();
        }
        assert_ne!(generate(&id, 0), generate(&id, 1));
    }
}
