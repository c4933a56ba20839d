//! `rkvm inspect`.

use anyhow::{Error, Result};
use clap::ValueEnum;
use rkvm_engine::format::Template;
use rkvm_engine::view::inspect::Inspect;
use rkvm_engine::view::ps::Measure;
use rkvm_engine::view::volume;
use rkvm_engine::volume::{VolumeError, VolumeStore};
use serde::Serialize;

use crate::context::Context;
use crate::output;

const EXAMPLES: &str = "\
Examples:
  rkvm inspect web
  rkvm inspect --format '{{.State.Status}} {{.NetworkSettings.IPAddress}}' web
  rkvm inspect --format '{{range .Mounts}}{{.Source}} -> {{.Destination}}{{println}}{{end}}' web
  rkvm inspect --format '{{(index (index .NetworkSettings.Ports \"80/tcp\") 0).HostPort}}' web
  rkvm inspect --format '{{index .Config.Labels \"com.example.owner\"}}' web
  rkvm inspect --format '{{json .State}}' web
  rkvm inspect --type volume data";

/// Flags of `rkvm inspect`.
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub struct Args {
    /// Containers, images or volumes, looked for in this order
    #[arg(required = true, value_name = "NAME|ID")]
    names: Vec<String>,
    /// `json`, or a Go template for each object
    #[arg(short, long, value_name = "FORMAT")]
    format: Option<String>,
    /// Look only for objects of this kind
    #[arg(long = "type", value_name = "TYPE")]
    kind: Option<Kind>,
    /// Add the size of a container's write layer and of all of it (SizeRw, SizeRootFs)
    #[arg(short, long)]
    size: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(super) enum Kind {
    Container,
    Image,
    Volume,
}

impl Args {
    /// The same for containers only (`rkvm container inspect`).
    pub(super) fn of_containers(mut self) -> Self {
        self.kind = Some(Kind::Container);
        self
    }
}

/// Prints everything that is known of the objects.
pub fn run(args: Args, context: &Context) -> Result<u8> {
    let mut shown = Shown::new(args.format.as_deref())?;
    for name in &args.names {
        match args.kind {
            Some(Kind::Container) => shown.add(container(context, name, args.size))?,
            Some(Kind::Image) => shown.add(image(context, name))?,
            Some(Kind::Volume) => shown.add(volume(context, name))?,
            None => any(context, name, args.size, &mut shown)?,
        }
    }
    shown.finish()
}

fn any(context: &Context, name: &str, size: bool, shown: &mut Shown) -> Result<()> {
    match container(context, name, size) {
        Err(error) if is_missing_container(&error) => {}
        found => return shown.add(found),
    }
    match image(context, name) {
        Err(error) if is_missing_image(&error) => {}
        found => return shown.add(found),
    }
    match volume(context, name) {
        Err(error) if is_missing_volume(&error) => {
            shown.add::<()>(Err(Error::msg(format!("no such object: {name} (no container, image or volume)"))))
        }
        found => shown.add(found),
    }
}

fn is_missing_container(error: &Error) -> bool {
    matches!(error.downcast_ref(), Some(rkvm_engine::Error::NoSuchContainer(_)))
}

fn is_missing_image(error: &Error) -> bool {
    use rkvm_image::Error::{InvalidReference, NotFound};
    matches!(error.downcast_ref(), Some(NotFound { .. } | InvalidReference { .. }))
}

fn is_missing_volume(error: &Error) -> bool {
    matches!(error.downcast_ref(), Some(VolumeError::NotFound { .. } | VolumeError::InvalidName { .. }))
}

fn container(context: &Context, name: &str, size: bool) -> Result<Inspect> {
    let engine = context.engine();
    let measure = if size { Measure::Size } else { Measure::Skip };
    Ok(Inspect::new(&engine.find(name)?, &engine.paths, measure))
}

fn image(context: &Context, name: &str) -> Result<serde_json::Value> {
    let store = rkvm_image::Store::open(&context.lib_dir);
    Ok(super::image::inspect::describe(&store, &store.resolve(name)?)?)
}

fn volume(context: &Context, name: &str) -> Result<volume::Inspect> {
    let store = VolumeStore::new(&context.lib_dir);
    Ok(volume::Inspect::new(&store, &store.get(name)?))
}

/// Objects on their way to standard output: as one JSON list, or each through a template.
#[derive(Debug)]
pub(super) struct Shown {
    template: Option<Template>,
    objects: usize,
    text: String,
    code: u8,
}

impl Shown {
    /// With the value of `--format`.
    pub(super) fn new(format: Option<&str>) -> Result<Self> {
        let text = match format {
            None | Some("") => None,
            Some("json") => Some("{{json .}}"),
            other => other,
        };
        let template = text.map(Template::parse).transpose()?;
        Ok(Self { template, objects: 0, text: String::new(), code: 0 })
    }

    /// Adds an object, or reports that it cannot be shown and goes on.
    pub(super) fn add<T: Serialize>(&mut self, object: Result<T>) -> Result<()> {
        match object {
            Ok(object) => match &self.template {
                Some(template) => {
                    self.text.push_str(&template.render_serializable(&object)?);
                    self.text.push('\n');
                }
                None => {
                    self.text.push_str(if self.objects == 0 { "[\n" } else { ",\n" });
                    let json = output::pretty_json(&object)?;
                    let lines: Vec<_> = json.lines().map(|line| format!("    {line}")).collect();
                    self.text.push_str(&lines.join("\n"));
                    self.objects += 1;
                }
            },
            Err(error) => {
                output::complain(format_args!("rkvm: {error:#}"));
                self.code = 1;
            }
        }
        Ok(())
    }

    /// Prints what was added and gives the exit code.
    pub(super) fn finish(self) -> Result<u8> {
        match (&self.template, self.objects) {
            (Some(_), _) => output::print(&self.text)?,
            (None, 0) => output::print("[]\n")?,
            (None, _) => output::print(&format!("{}\n]\n", self.text))?,
        }
        Ok(self.code)
    }
}
