//! Cases that mean nothing in a machine with a kernel of its own, each with the reason.

/// Topic, case, reason.
const CASES: &[(&str, &str, &str)] = &[];

/// Why a case is not asked of the microVM backend, if it is not.
pub fn reason(topic: &str, name: &str) -> Option<&'static str> {
    CASES.iter().find(|(one, case, _)| (*one, *case) == (topic, name)).map(|(.., why)| *why)
}
