//! What commands write to the terminal, and ask there.

use std::fmt::Display;
use std::io::{self, BufRead, IsTerminal, Write};

use anyhow::{Context as _, Result, bail};
use serde::Serialize;

/// Writes `text` to standard output. A reader that has gone (`| head`) is no error.
///
/// # Errors
/// It cannot be written, e.g. because the disk is full.
pub fn print(text: &str) -> Result<()> {
    write(text).context("cannot write to standard output")
}

/// As [`print()`], with a newline at the end.
///
/// # Errors
/// As [`print()`].
pub fn line(text: impl Display) -> Result<()> {
    print(&format!("{text}\n"))
}

/// Writes `text` to standard output. A reader that has gone (`| head`) is no error.
///
/// # Errors
/// It cannot be written, e.g. because the disk is full.
pub fn write(text: &str) -> io::Result<()> {
    let mut stdout = io::stdout().lock();
    match stdout.write_all(text.as_bytes()).and_then(|()| stdout.flush()) {
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => Err(error),
        _ => Ok(()),
    }
}

/// Writes a line to standard error. Where that cannot be written, nobody is left to be told.
pub fn complain(text: impl Display) {
    let _ = writeln!(io::stderr(), "{text}");
}

/// `value` as JSON, indented with four spaces as Docker's `inspect` does, with a newline at the end.
///
/// # Errors
/// It cannot be written as JSON.
pub fn pretty_json(value: &impl Serialize) -> Result<String> {
    let mut bytes = Vec::new();
    let formatter = serde_json::ser::PrettyFormatter::with_indent(b"    ");
    value.serialize(&mut serde_json::Serializer::with_formatter(&mut bytes, formatter))?;
    bytes.push(b'\n');
    Ok(String::from_utf8(bytes)?)
}

/// Whether a question has to be asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Confirm {
    /// Ask.
    Ask,
    /// The user has agreed on the command line (`--force`).
    Given,
}

impl Confirm {
    /// From the flag `--force`.
    pub fn unless_forced(force: bool) -> Self {
        if force { Self::Given } else { Self::Ask }
    }

    /// Shows `warning` and asks whether to go on.
    ///
    /// # Errors
    /// The answer is not yes, or there is nobody to ask.
    pub fn get(self, warning: &str) -> Result<()> {
        if self == Self::Given {
            return Ok(());
        }
        print(&format!("WARNING! {warning}\nAre you sure you want to continue? [y/N] "))?;
        let mut answer = String::new();
        io::stdin().lock().read_line(&mut answer)?;
        if !io::stdin().is_terminal() {
            print("\n")?;
        }
        match answer.trim().to_lowercase().as_str() {
            "y" | "yes" => Ok(()),
            _ => bail!("cancelled: nothing was removed (--force does without the question)"),
        }
    }
}

/// Does `each` for every one of `names`, reports failures on standard error as they come and goes on. Gives the exit code.
pub fn for_each(names: &[String], mut each: impl FnMut(&str) -> Result<()>) -> u8 {
    let mut code = 0;
    for name in names {
        if let Err(error) = each(name) {
            complain(format_args!("rkvm: {error:#}"));
            code = 1;
        }
    }
    code
}
