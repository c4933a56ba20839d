//! Where a report goes.

use std::path::PathBuf;

use anyhow::Result;
use rkvm_measure::file::{self, Output};
use rkvm_measure::model::Report;
use rkvm_measure::render;

use crate::output;

/// Flags that name files.
#[derive(Debug, clap::Args)]
pub struct Flags {
    /// Write the report, all samples included, to this file; - is standard output
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
}

/// Files that are known to be writable.
#[derive(Debug)]
pub struct Outputs {
    json: Option<Output>,
    text: Text,
}

/// Whether the report is also printed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Text {
    Printed,
    /// Standard output is another form's.
    Not,
}

impl Flags {
    /// Checks every file before anything is measured.
    ///
    /// # Errors
    /// One cannot be written.
    pub fn reserve(&self) -> Result<Outputs> {
        let takes_stdout = self.json.as_ref().is_some_and(|path| path.as_os_str() == "-");
        Ok(Outputs {
            json: self.json.as_deref().map(Output::reserve).transpose()?,
            text: if takes_stdout { Text::Not } else { Text::Printed },
        })
    }
}

impl Outputs {
    /// Writes all of them.
    ///
    /// # Errors
    /// One cannot be written.
    pub fn write(self, report: &Report) -> Result<()> {
        if let Some(output) = self.json {
            output.write(&file::to_json(report)?)?;
        }
        if self.text == Text::Printed {
            output::print(&render::text::report(report))?;
        }
        Ok(())
    }
}
