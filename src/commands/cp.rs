//! `rkvm cp`.

use std::io::{self, IsTerminal};
use std::path::{Path, PathBuf};

use anyhow::{Result, bail};
use rkvm_engine::agent::Inside;
use rkvm_engine::copy::{self, Links, Ownership, Report, Root};
use rkvm_engine::format::human;
use rkvm_engine::{Container, Engine, Locked};
use rkvm_oci::Kernel;

use crate::context::Context;
use crate::output;

const EXAMPLES: &str = "\
Examples:
  rkvm cp web:/etc/nginx/nginx.conf .        from the container into this folder
  rkvm cp site/. web:/usr/share/nginx/html   what is in `site` into that folder
  rkvm cp web:/var/log - | tar t             as a tar archive on standard output
  tar c site | rkvm cp - web:/srv            unpack a tar archive from standard input

A target that is a folder receives the source under its own name; `SOURCE/.` copies what is in a folder. The container \
         need not run. A local name with a `:` is written ./NAME. Copies belong to whoever runs the command or, in a container, to \
         its root; sockets and devices are not copied.";

/// Flags of `rkvm cp`.
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub struct Args {
    /// CONTAINER:PATH, PATH, or `-` for a tar archive on standard input
    source: String,
    /// CONTAINER:PATH, PATH, or `-` for a tar archive on standard output
    target: String,
    /// Keep user and group ids and set-user-id bits
    #[arg(short, long)]
    archive: bool,
    /// Copy what SOURCE points to when it is a symbolic link
    #[arg(short = 'L', long)]
    follow_link: bool,
    /// Do not tell what was copied
    #[arg(short, long)]
    quiet: bool,
}

/// One end of a copy.
#[derive(Debug, PartialEq, Eq)]
enum End {
    Stream,
    Host(PathBuf),
    Container { name: String, path: PathBuf },
}

impl End {
    /// Docker's rule: what begins with `/` or `.` is a path of the host, otherwise the first `:` ends a container's name.
    fn parse(text: &str) -> Result<Self> {
        if text == "-" {
            return Ok(Self::Stream);
        }
        if text.is_empty() {
            bail!("an empty path cannot be copied");
        }
        match text.split_once(':') {
            Some((name, path)) if !text.starts_with(['/', '.']) => {
                if name.is_empty() || path.is_empty() {
                    bail!("{text:?} has no container or no path: write CONTAINER:PATH, or ./NAME for a local file");
                }
                Ok(Self::Container { name: name.to_owned(), path: PathBuf::from(path) })
            }
            _ => Ok(Self::Host(PathBuf::from(text))),
        }
    }
}

/// How the files of a container are reached.
enum Files<'a> {
    /// From here. The second value keeps a container that does not run from being started meanwhile.
    Here(Root, Option<Box<Locked>>),
    /// By a program inside.
    Inside(Inside<'a>),
}

impl<'a> Files<'a> {
    fn open(engine: &'a Engine, container: &'a Container) -> Result<Self> {
        let own_kernel = engine.backend(container.record.isolation)?.needs().kernel == Kernel::Own;
        if own_kernel && container.state.status.has_processes() {
            return Ok(Self::Inside(Inside::new(engine, container, "copy files of")?));
        }
        let (root, lock) = copy::container_root(engine, container)?;
        Ok(Self::Here(root, lock.map(Box::new)))
    }
}

/// Copies between the host and a container.
pub fn run(args: Args, context: &Context) -> Result<u8> {
    let ownership = if args.archive { Ownership::Preserve } else { Ownership::Destination };
    let links = if args.follow_link { Links::Follow } else { Links::Keep };
    let engine = context.engine();
    let report = match (End::parse(&args.source)?, End::parse(&args.target)?) {
        (End::Container { name, path }, End::Stream) => {
            if io::stdout().is_terminal() {
                bail!("a tar archive is not for a terminal: redirect standard output");
            }
            let mut output = io::BufWriter::with_capacity(1 << 16, io::stdout());
            match Files::open(&engine, &engine.find(&name)?)? {
                Files::Here(root, _lock) => copy::pack(&root, &path, output, links)?,
                Files::Inside(inside) => inside.pack(&path, &mut output, links)?,
            }
        }
        (End::Stream, End::Container { name, path }) => {
            match Files::open(&engine, &engine.find(&name)?)? {
                Files::Here(root, _lock) => copy::unpack(io::stdin().lock(), &root, &path, ownership)?,
                Files::Inside(inside) => inside.unpack(&mut io::stdin(), &path, ownership)?,
            }
        }
        (End::Container { name, path }, End::Host(target)) => {
            // Before the container is mounted in a namespace that shows the host as it is now.
            let host = Root::host()?;
            match Files::open(&engine, &engine.find(&name)?)? {
                Files::Here(root, _lock) => copy::copy(&root, &path, &host, &target, ownership, links)?,
                Files::Inside(inside) => inside.copy_out(&path, &host, &target, ownership, links)?,
            }
        }
        (End::Host(source), End::Container { name, path }) => {
            let host = Root::host()?;
            match Files::open(&engine, &engine.find(&name)?)? {
                Files::Here(root, _lock) => copy::copy(&host, &source, &root, &path, ownership, links)?,
                Files::Inside(inside) => inside.copy_in(&host, &source, &path, ownership, links)?,
            }
        }
        (End::Container { .. }, End::Container { .. }) => {
            bail!("copying between containers is not supported: copy to the host first")
        }
        _ => bail!("one of SOURCE and TARGET must be CONTAINER:PATH"),
    };
    tell(&report, &args, Path::new(&args.target));
    Ok(0)
}

fn tell(report: &Report, args: &Args, target: &Path) {
    for path in &report.skipped {
        output::complain(format_args!("rkvm: {} is a socket or device, and was not copied", path.display()));
    }
    if !args.quiet && args.target != "-" {
        output::complain(format_args!("Successfully copied {} to {}", human::size(report.bytes), target.display()));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ends_are_read_as_docker_reads_them() {
        let container = |name: &str, path: &str| End::Container { name: name.into(), path: path.into() };
        for (text, end) in [
            ("-", End::Stream),
            ("web:/etc", container("web", "/etc")),
            ("web:etc:x", container("web", "etc:x")),
            ("/a:b", End::Host("/a:b".into())),
            ("./a:b", End::Host("./a:b".into())),
            ("file", End::Host("file".into())),
        ] {
            assert_eq!(End::parse(text).unwrap(), end, "{text}");
        }
        for wrong in ["", ":/etc", "web:"] {
            assert!(End::parse(wrong).is_err(), "{wrong}");
        }
    }
}
