//! One command, several containers: each is tried, each that worked is printed, as Docker does.

use anyhow::Result;

use crate::commands::EXIT_FAILURE;
use crate::output;

/// Does `work` for each of `names` and prints those that worked; the exit code says whether all did.
pub fn each(names: &[String], mut work: impl FnMut(&str) -> Result<()>) -> u8 {
    let mut code = 0;
    for name in names {
        if let Err(error) = work(name).and_then(|()| output::line(name)) {
            output::complain(format_args!("rkvm: {error:#}"));
            code = EXIT_FAILURE;
        }
    }
    code
}
