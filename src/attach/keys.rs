//! The keys that detach a client: `ctrl-p,ctrl-q` unless chosen otherwise.

use std::str::FromStr;

/// A sequence of keys, as the bytes that a terminal sends for them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DetachKeys(Vec<u8>);

impl Default for DetachKeys {
    fn default() -> Self {
        Self(vec![16, 17])
    }
}

impl FromStr for DetachKeys {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let key = |name: &str| {
            let control = match name.strip_prefix("ctrl-") {
                Some(rest) => {
                    let [byte] = rest.as_bytes() else { return None };
                    return match byte {
                        b'a'..=b'z' => Some(byte - b'a' + 1),
                        b'@' => Some(0),
                        b'[' | b'\\' | b']' | b'^' | b'_' => Some(byte - b'@'),
                        _ => None,
                    };
                }
                None => name.as_bytes(),
            };
            match control {
                [byte] if byte.is_ascii_graphic() || *byte == b' ' => Some(*byte),
                _ => None,
            }
        };
        if text.is_empty() {
            return Ok(Self::default());
        }
        let keys: Option<Vec<u8>> = text.split(',').map(key).collect();
        keys.map(Self).ok_or_else(|| {
            format!("{text:?} are no detach keys: give letters or ctrl-LETTER, with commas between, e.g. ctrl-p,ctrl-q")
        })
    }
}

/// Looks for the keys in what is typed.
#[derive(Debug)]
pub struct Scanner {
    keys: DetachKeys,
    matched: usize,
}

impl Scanner {
    /// A scanner that has seen nothing.
    pub fn new(keys: DetachKeys) -> Self {
        Self { keys, matched: 0 }
    }

    /// Takes typed bytes; gives those to pass on, and whether the keys were complete. A beginning that turns out to be something
    /// else is passed on then.
    pub fn scan(&mut self, typed: &[u8]) -> (Vec<u8>, bool) {
        let keys = &self.keys.0;
        let mut pass = Vec::with_capacity(typed.len());
        for byte in typed {
            if *byte == keys[self.matched] {
                self.matched += 1;
                if self.matched == keys.len() {
                    self.matched = 0;
                    return (pass, true);
                }
                continue;
            }
            pass.extend_from_slice(&keys[..self.matched]);
            self.matched = usize::from(*byte == keys[0] && keys.len() > 1);
            if self.matched == 0 {
                pass.push(*byte);
            }
        }
        (pass, false)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_are_found_over_reads_and_false_beginnings_pass() {
        let mut scanner = Scanner::new(DetachKeys::default());
        assert_eq!(scanner.scan(b"ab\x10"), (b"ab".to_vec(), false));
        assert_eq!(scanner.scan(b"c"), (b"\x10c".to_vec(), false));
        assert_eq!(scanner.scan(b"\x10\x10\x11rest"), (b"\x10".to_vec(), true));
    }

    #[test]
    fn key_names() {
        assert_eq!("ctrl-a,x".parse::<DetachKeys>().unwrap().0, [1, b'x']);
        assert_eq!("ctrl-]".parse::<DetachKeys>().unwrap().0, [29]);
        for text in ["ctrl-", "ctrl-1", "ab", "a,,b", "\u{e9}"] {
            assert!(text.parse::<DetachKeys>().is_err(), "{text}");
        }
    }
}
