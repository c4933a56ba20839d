//! Go templates, which Docker's users give to `--format`.
//!
//! The language is gotmpl's, a port of Go's text/template. Added here: Docker's functions, methods with arguments
//! (`{{.Label "a"}}`), `\t` and `\n` in the text between actions, and errors that name the field and its place. Fields of
//! an object are checked (Go's rule for structs), keys of an open map such as `Labels` are not (Go's rule for maps).

use std::collections::BTreeMap;
use std::sync::Arc;

use gotmpl::{FuncMap, Value};
use serde::Serialize;

use super::{balance, rewrite};

#[cfg(test)]
mod tests;

/// Objects whose keys are data: a missing one is no mistake in the template.
const OPEN_MAPS: &[&str] = &[
    "Annotations",
    "Config",
    "ExposedPorts",
    "GraphDriver",
    "Labels",
    "Networks",
    "Options",
    "PortBindings",
    "Ports",
    "Sysctls",
    "Tmpfs",
    "Volumes",
];

/// Why a template cannot be used. Each message begins with the place, `LINE:COLUMN`, where there is one.
#[derive(Debug, thiserror::Error)]
pub enum TemplateError {
    /// It cannot be parsed.
    #[error("--format {text:?} is not a template: {reason}")]
    Syntax {
        /// The template.
        text: String,
        /// Where and why.
        reason: String,
    },
    /// It does not fit the data.
    #[error("--format {text:?}: {reason}")]
    Execution {
        /// The template.
        text: String,
        /// Where and why.
        reason: String,
    },
}

/// A template that has been parsed.
#[derive(Clone)]
pub struct Template {
    text: String,
    rows: gotmpl::Template,
    headers: gotmpl::Template,
}

impl std::fmt::Debug for Template {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Template").field("text", &self.text).finish_non_exhaustive()
    }
}

impl Template {
    /// Parses `text`.
    ///
    /// # Errors
    /// [`TemplateError::Syntax`], also for a function that does not exist.
    pub fn parse(text: &str) -> Result<Self, TemplateError> {
        let syntax = |reason: String| TemplateError::Syntax { text: text.to_owned(), reason };
        let parser = gotmpl::parse::Parser::new(text, "{{", "}}");
        let (mut body, mut defines) =
            parser.and_then(|parser| parser.parse()).map_err(|error| syntax(place_first(&error)))?;
        balance::check(text).map_err(syntax)?;
        let functions = functions();
        let known = |name: &str| functions.contains_key(name) || GO_BUILTINS.contains(&name);
        rewrite::list(&mut body, text, &known).map_err(syntax)?;
        for define in &mut defines {
            rewrite::list(&mut define.body, text, &known).map_err(syntax)?;
        }
        let assemble = |functions| {
            let start = gotmpl::Template::new("").funcs(functions).add_parse_tree("", body.clone());
            let add = |template: gotmpl::Template, define: &gotmpl::parse::DefineNode| {
                template.add_parse_tree(&define.name, define.body.clone())
            };
            defines.iter().fold(start, add)
        };
        Ok(Self {
            text: text.to_owned(),
            rows: assemble(functions.clone()),
            headers: assemble(header_functions(functions)),
        })
    }

    /// The template applied to `data`.
    ///
    /// # Errors
    /// A field that `data` does not have, a function that does not fit its argument.
    pub fn render(&self, data: &Value) -> Result<String, TemplateError> {
        self.execute(&self.rows, data)
    }

    /// The template applied to anything that serializes; the names of its fields are those of its JSON.
    ///
    /// # Errors
    /// As [`Template::render`].
    pub fn render_serializable(&self, data: &impl Serialize) -> Result<String, TemplateError> {
        self.render(&gotmpl::to_value(data).map_err(|error| self.execution(&error))?)
    }

    /// The template applied to the headers of a table: functions give their argument back as it is.
    ///
    /// # Errors
    /// As [`Template::render`].
    pub fn render_headers(&self, headers: &Value) -> Result<String, TemplateError> {
        self.execute(&self.headers, headers)
    }

    fn execute(&self, template: &gotmpl::Template, data: &Value) -> Result<String, TemplateError> {
        template.execute_template_to_string("", data).map_err(|error| self.execution(&error))
    }

    fn execution(&self, error: &gotmpl::TemplateError) -> TemplateError {
        let reason = match error {
            gotmpl::TemplateError::Exec(reason) => reason.clone(),
            other => other.to_string(),
        };
        TemplateError::Execution { text: self.text.clone(), reason }
    }
}

/// gotmpl's message without its preamble.
fn place_first(error: &gotmpl::TemplateError) -> String {
    let text = error.to_string();
    text.strip_prefix("template: ").unwrap_or(&text).to_owned()
}

/// Functions that gotmpl itself has.
const GO_BUILTINS: &[&str] = &[
    "and", "call", "eq", "ge", "gt", "html", "index", "js", "le", "len", "lt", "ne", "not", "or", "print",
    "printf", "println", "slice", "urlquery",
];

/// What a function gives.
type Given = gotmpl::Result<Value>;

fn fail<T>(reason: String) -> gotmpl::Result<T> {
    Err(gotmpl::TemplateError::Exec(reason))
}

fn text(value: impl Into<Arc<str>>) -> Value {
    Value::String(value.into())
}

/// Docker's functions, and the hidden ones that [`rewrite`] puts in.
fn functions() -> FuncMap {
    let mut map = FuncMap::new();
    let mut add = |name: &str, function: fn(&[Value]) -> Given| {
        map.insert(name.to_owned(), Arc::new(function));
    };
    add(rewrite::FIELD, field);
    add(rewrite::METHOD, method);
    add("index", index);
    add("json", |args| one("json", args).map(|value| text(json(value).to_string())));
    add("lower", |args| one("lower", args).map(|value| text(value.to_string().to_lowercase())));
    add("upper", |args| one("upper", args).map(|value| text(value.to_string().to_uppercase())));
    add("title", |args| one("title", args).map(|value| text(title(&value.to_string()))));
    add("join", join);
    add("split", split);
    add("pad", pad);
    add("truncate", truncate);
    map
}

/// The same functions for the header row, where only the field counts.
fn header_functions(mut map: FuncMap) -> FuncMap {
    for name in ["json", "lower", "upper", "title", "join", "split", "pad", "truncate", "println"] {
        let first = |args: &[Value]| Ok(args.first().cloned().unwrap_or(Value::Nil));
        map.insert(name.to_owned(), Arc::new(first));
    }
    map
}

fn one<'a>(name: &str, args: &'a [Value]) -> gotmpl::Result<&'a Value> {
    match args {
        [value] => Ok(value),
        _ => fail(format!("{name} takes one argument and was given {}", args.len())),
    }
}

/// `field BASE "A.B" "LINE:COLUMN"`: the value of a chain of fields.
fn field(args: &[Value]) -> Given {
    let [base, Value::String(path), Value::String(place)] = args else {
        return fail("a field was asked for without a name".to_owned());
    };
    let mut value = base;
    let mut parent = "";
    for name in path.split('.') {
        value = match value {
            Value::Map(map) => match map.get(name) {
                Some(value) => value,
                None if OPEN_MAPS.contains(&parent) => &Value::Nil,
                None => return fail(format!("{place}: there is no field {name:?}{}", choices(parent, map))),
            },
            Value::Nil => &Value::Nil,
            other => {
                let kind = other.type_name();
                return fail(format!("{place}: {parent:?} is a {kind} and has no field {name:?}"));
            }
        };
        parent = name;
    }
    Ok(value.clone())
}

fn choices(parent: &str, map: &BTreeMap<Arc<str>, Value>) -> String {
    let names: Vec<&str> = map.keys().map(AsRef::as_ref).collect();
    match parent {
        "" => format!("; there are {}", names.join(", ")),
        parent => format!(" in {parent:?}; there are {}", names.join(", ")),
    }
}

/// `method BASE "A.B" "LINE:COLUMN" ARGUMENTS...`: calls the function that a field holds.
fn method(args: &[Value]) -> Given {
    let (Some(target), Some(rest)) = (args.get(..3), args.get(3..)) else {
        return fail("a method was asked for without a name".to_owned());
    };
    match field(target)? {
        Value::Function(function) => function(rest),
        other => {
            let (path, place) = (&args[1], &args[2]);
            fail(format!("{place}: .{path} is a {} and takes no argument", other.type_name()))
        }
    }
}

/// Go's `index`, where a key that a map of strings does not have gives the empty string.
fn index(args: &[Value]) -> Given {
    let Some((first, keys)) = args.split_first() else {
        return fail("index takes a list or map, and keys; it was given nothing".to_owned());
    };
    keys.iter().try_fold(first.clone(), |value, key| {
        let found = match (&value, key) {
            (Value::Nil, Value::String(_)) => return Ok(text("")),
            _ => value.index(key)?,
        };
        let of_strings =
            |map: &BTreeMap<Arc<str>, Value>| map.values().all(|v| matches!(v, Value::String(_)));
        Ok(match (&found, &value) {
            (Value::Nil, Value::Map(map)) if of_strings(map) => text(""),
            _ => found,
        })
    })
}

fn title(words: &str) -> String {
    let mut at_start = true;
    words
        .chars()
        .map(|c| {
            let shown = if at_start { c.to_ascii_uppercase() } else { c };
            at_start = c.is_whitespace();
            shown
        })
        .collect()
}

fn join(args: &[Value]) -> Given {
    match args {
        [Value::List(items), separator] => {
            let items: Vec<String> = items.iter().map(ToString::to_string).collect();
            Ok(text(items.join(&separator.to_string())))
        }
        [Value::Nil, _] => Ok(text("")),
        [other, _] => {
            fail(format!("join takes a list and a separator; it was given a {}", other.type_name()))
        }
        _ => fail(format!("join takes a list and a separator; it was given {} arguments", args.len())),
    }
}

fn split(args: &[Value]) -> Given {
    match args {
        [Value::String(whole), Value::String(separator)] => {
            Ok(Value::List(whole.split(separator.as_ref()).map(text).collect()))
        }
        _ => fail("split takes a text and a separator".to_owned()),
    }
}

/// Most spaces that `pad` adds on a side: enough for any terminal, too few to fill the memory.
const MAX_PAD: i64 = 4096;

fn pad(args: &[Value]) -> Given {
    let spaces = |value: &Value| {
        value.as_int().filter(|n| (0..=MAX_PAD).contains(n)).and_then(|n| usize::try_from(n).ok())
    };
    match args {
        [value, before, after] => match (value.to_string(), spaces(before), spaces(after)) {
            (value, ..) if value.is_empty() => Ok(text("")),
            (value, Some(before), Some(after)) => {
                Ok(text(format!("{}{value}{}", " ".repeat(before), " ".repeat(after))))
            }
            _ => {
                fail(format!("pad takes two numbers from 0 to {MAX_PAD}, and was given {before} and {after}"))
            }
        },
        _ => fail("pad takes a text and the spaces before and after it".to_owned()),
    }
}

fn truncate(args: &[Value]) -> Given {
    match args {
        [value, length] => match length.as_int().and_then(|n| usize::try_from(n).ok()) {
            Some(length) => Ok(text(value.to_string().chars().take(length).collect::<String>())),
            None => fail(format!("truncate takes a length of 0 or more, and was given {length}")),
        },
        _ => fail("truncate takes a text and a length".to_owned()),
    }
}

/// `value` as JSON; functions are left out as methods are in Go.
fn json(value: &Value) -> serde_json::Value {
    use serde_json::Value as Json;
    match value {
        Value::Nil | Value::Function(_) => Json::Null,
        Value::Bool(value) => Json::from(*value),
        Value::Int(value) => Json::from(*value),
        Value::Uint(value) => Json::from(*value),
        Value::Float(value) => Json::from(*value),
        Value::String(value) => Json::from(value.as_ref()),
        Value::List(items) => Json::Array(items.iter().map(json).collect()),
        Value::Map(map) => {
            let data = map.iter().filter(|(_, value)| !matches!(value, Value::Function(_)));
            Json::Object(data.map(|(key, value)| (key.to_string(), json(value))).collect())
        }
    }
}
