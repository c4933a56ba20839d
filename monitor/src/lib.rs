//! The per-container process: keeps standard streams and logs, waits, records the exit code.
