//! `rkvm logs`.

use std::io::{self, Write};
use std::os::fd::AsFd;
use std::str::FromStr;
use std::time::{Duration, SystemTime};

use anyhow::{Context as _, Result};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::inotify::{AddWatchFlags, InitFlags, Inotify};
use rkvm_engine::format::human;
use rkvm_engine::log::{Entry, Reader, Selection, Stream, Tail};
use rkvm_engine::{Container, Engine, Error};
use rkvm_oci::runtime::rfc3339;

use crate::context::Context;

/// Flags of `rkvm logs`.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Go on as output comes, until the container ends
    #[arg(short, long)]
    follow: bool,
    /// Only so many entries of the end, or `all`
    #[arg(short = 'n', long, default_value = "all", value_name = "NUMBER", allow_hyphen_values = true)]
    tail: TailArg,
    /// Not before this time: RFC 3339, seconds since 1970, or how long ago (`10m`)
    #[arg(long, value_name = "TIME")]
    since: Option<String>,
    /// Not after this time
    #[arg(long, value_name = "TIME")]
    until: Option<String>,
    /// Show when each entry was written
    #[arg(short, long)]
    timestamps: bool,
    /// Name, id or beginning of the id
    container: String,
}

#[derive(Debug, Clone, Copy)]
struct TailArg(Tail);

impl FromStr for TailArg {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "all" | "-1" => Ok(Self(Tail::All)),
            digits => digits
                .parse()
                .map(|count| Self(Tail::Last(count)))
                .map_err(|_| format!("{text:?} is no number of entries: give a number or `all`")),
        }
    }
}

/// Prints what a container wrote.
pub fn run(args: Args, context: &Context) -> Result<u8> {
    let engine = context.engine();
    let container = engine.find(&args.container)?;
    if !container.record.log.enabled {
        return Err(Error::Invalid {
            what: "log driver",
            value: "none".to_owned(),
            reason: "this container keeps no log".to_owned(),
        }
        .into());
    }
    let now = SystemTime::now();
    let moment = |text: &Option<String>| {
        text.as_ref()
            .map(|text| {
                human::parse_moment(text, now).map(rfc3339).with_context(|| {
                    format!("{text:?} is no time: give RFC 3339, seconds since 1970, or a duration like 10m")
                })
            })
            .transpose()
    };
    let selection =
        Selection { tail: args.tail.0, since: moment(&args.since)?, until: moment(&args.until)? };
    let mut reader = Reader::new(&container.paths.log());
    let show = |entry: Entry| print(&entry, args.timestamps);
    let done = if args.follow {
        follow(&engine, &container, &mut reader, &selection, show)
    } else {
        reader.read(&selection, show).map_err(anyhow::Error::from)
    };
    match done {
        // Whoever reads this has enough.
        Err(error) if is_broken_pipe(&error) => Ok(0),
        Err(error) => Err(error),
        Ok(()) => Ok(0),
    }
}

fn is_broken_pipe(error: &anyhow::Error) -> bool {
    error.downcast_ref::<io::Error>().is_some_and(|error| error.kind() == io::ErrorKind::BrokenPipe)
}

fn print(entry: &Entry, timestamps: bool) -> io::Result<()> {
    let time = if timestamps { format!("{} ", entry.time) } else { String::new() };
    match entry.stream {
        Stream::Stdout => write!(io::stdout(), "{time}{}", entry.log),
        Stream::Stderr => write!(io::stderr(), "{time}{}", entry.log),
    }
}

fn follow(
    engine: &Engine,
    container: &Container,
    reader: &mut Reader,
    selection: &Selection,
    mut show: impl FnMut(Entry) -> io::Result<()>,
) -> Result<()> {
    let folder = container.paths.dir();
    // Watched before the first look, so that nothing can come between unseen.
    let inotify = Inotify::init(InitFlags::IN_CLOEXEC)?;
    let events = AddWatchFlags::IN_MODIFY
        | AddWatchFlags::IN_CREATE
        | AddWatchFlags::IN_MOVED_TO
        | AddWatchFlags::IN_DELETE_SELF;
    inotify.add_watch(folder, events)?;
    let mut is_active = is_active(engine, container)?;
    reader.read(selection, &mut show)?;
    io::stdout().flush()?;
    while is_active {
        // A monitor that is killed writes no state: look whether it lives now and then.
        let mut fds = [PollFd::new(inotify.as_fd(), PollFlags::POLLIN)];
        let timeout = PollTimeout::try_from(Duration::from_secs(2)).unwrap_or(PollTimeout::MAX);
        match poll(&mut fds, timeout) {
            Ok(0) | Err(_) => {}
            Ok(_) => drop(inotify.read_events()?),
        }
        is_active = self::is_active(engine, container)?;
        reader.read_more(selection, &mut show)?;
        io::stdout().flush()?;
        let past = selection.until.as_ref().is_some_and(|until| rfc3339(SystemTime::now()) > *until);
        if past {
            break;
        }
    }
    Ok(())
}

fn is_active(engine: &Engine, container: &Container) -> Result<bool> {
    match engine.find(container.id()) {
        Ok(now) => Ok(now.state.status.is_active()),
        Err(Error::NoSuchContainer(_)) => Ok(false),
        Err(error) => Err(error.into()),
    }
}
