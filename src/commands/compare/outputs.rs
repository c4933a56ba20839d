//! Where a report goes.

use std::path::PathBuf;

use anyhow::{Result, bail};
use rkvm_measure::file::{self, Output};
use rkvm_measure::model::Report;
use rkvm_measure::render;

use crate::output;

/// Flags that name files.
#[derive(Debug, clap::Args)]
pub struct Flags {
    /// Write the report, all samples included, to this file; - is standard output, for each of these flags
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    /// Write one self-contained page with pictures
    #[arg(long, value_name = "FILE")]
    html: Option<PathBuf>,
    /// Write all samples as a table
    #[arg(long, value_name = "FILE")]
    csv: Option<PathBuf>,
    /// Write all pictures as one
    #[arg(long, value_name = "FILE")]
    svg: Option<PathBuf>,
    /// Write the tables for a paper
    #[arg(long, value_name = "FILE")]
    latex: Option<PathBuf>,
    /// Write the tables for documentation
    #[arg(long, value_name = "FILE")]
    markdown: Option<PathBuf>,
}

/// Makes the content of a file.
type Form = fn(&Report) -> serde_json::Result<String>;

/// Files that are known to be writable.
pub struct Outputs {
    files: Vec<(Output, Form)>,
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
    /// Those that were given.
    pub fn given(&self) -> Vec<&'static str> {
        let all = [
            ("--json", &self.json),
            ("--html", &self.html),
            ("--csv", &self.csv),
            ("--svg", &self.svg),
            ("--latex", &self.latex),
            ("--markdown", &self.markdown),
        ];
        all.into_iter().filter_map(|(name, path)| path.as_ref().map(|_| name)).collect()
    }

    /// Checks every file before anything is measured.
    ///
    /// # Errors
    /// One cannot be written, or two are the same.
    pub fn reserve(&self) -> Result<Outputs> {
        let forms: [(&Option<PathBuf>, Form); 6] = [
            (&self.json, file::to_json),
            (&self.html, render::html::render),
            (&self.csv, |report| Ok(render::csv::render(report))),
            (&self.svg, |report| Ok(render::svg::render(report))),
            (&self.latex, |report| Ok(render::latex::render(report))),
            (&self.markdown, |report| Ok(render::markdown::render(report))),
        ];
        let named: Vec<(&PathBuf, Form)> =
            forms.into_iter().filter_map(|(path, form)| Some((path.as_ref()?, form))).collect();
        for (index, (path, _)) in named.iter().enumerate() {
            if named[..index].iter().any(|(other, _)| other == path) {
                bail!("{} is named twice: give each form a file of its own", path.display());
            }
        }
        let takes_stdout = named.iter().any(|(path, _)| path.as_os_str() == "-");
        let mut files = vec![];
        for (path, form) in named {
            files.push((Output::reserve(path)?, form));
        }
        Ok(Outputs { files, text: if takes_stdout { Text::Not } else { Text::Printed } })
    }
}

impl Outputs {
    /// Writes all of them. One that cannot be written keeps none of the others back: a measurement takes long to make again.
    ///
    /// # Errors
    /// Names each that cannot be written.
    pub fn write(self, report: &Report) -> Result<()> {
        let mut failed: Vec<String> = vec![];
        for (output, form) in self.files {
            let written = form(report).map_err(anyhow::Error::from).and_then(|text| Ok(output.write(&text)?));
            failed.extend(written.err().map(|error| format!("{error:#}")));
        }
        if self.text == Text::Printed {
            let printed = output::print(&render::text::report(report));
            failed.extend(printed.err().map(|error| format!("{error:#}")));
        }
        if failed.is_empty() {
            return Ok(());
        }
        bail!("{}", failed.join("\n"))
    }
}
