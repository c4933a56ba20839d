//! `--format` of the commands that list: a table by default, `table TEMPLATE`, `json`, or a template for each row.

use std::collections::BTreeMap;
use std::sync::Arc;

use gotmpl::Value;

use super::table;
use super::template::{Template, TemplateError};

/// A field that a listing's rows have.
#[derive(Debug, Clone, Copy)]
pub struct Column {
    /// Its name in templates: `Names`.
    pub field: &'static str,
    /// What stands above it in a table: `NAMES`.
    pub header: &'static str,
}

/// What a listing can show.
#[derive(Debug, Clone, Copy)]
pub struct Listing {
    /// Every field, in no order.
    pub columns: &'static [Column],
    /// The template used where the user gives none, without `table`.
    pub default: &'static str,
}

/// One row: the value of each field.
#[derive(Debug, Clone, Default)]
pub struct Row {
    fields: BTreeMap<Arc<str>, Value>,
}

impl Row {
    /// Sets a field.
    #[must_use]
    pub fn with(mut self, field: &str, value: impl gotmpl::ToValue) -> Self {
        self.fields.insert(Arc::from(field), value.to_value());
        self
    }

    /// Sets `Labels`, a text, and the method `Label`, which gives the value of one.
    #[must_use]
    pub fn with_labels(mut self, labels: &BTreeMap<String, String>) -> Self {
        let text: Vec<String> = labels.iter().map(|(key, value)| format!("{key}={value}")).collect();
        let labels = labels.clone();
        self = self.with("Labels", text.join(","));
        let label = move |args: &[Value]| match args {
            [Value::String(key)] => {
                Ok(Value::String(labels.get(key.as_ref()).map(String::as_str).unwrap_or_default().into()))
            }
            _ => Err(gotmpl::TemplateError::Exec("Label takes one argument, a label's name".to_owned())),
        };
        self.fields.insert(Arc::from("Label"), Value::Function(Arc::new(label)));
        self
    }

    fn value(&self) -> Value {
        Value::Map(Arc::new(self.fields.clone()))
    }
}

/// How a listing is printed.
#[derive(Debug, Clone)]
pub enum Format {
    /// Aligned, with a header.
    Table(Template),
    /// The template once for each row, each on a line of its own.
    Lines(Template),
}

impl Format {
    /// Reads the value of `--format`; without one, `listing`'s own table.
    ///
    /// # Errors
    /// It is no template.
    pub fn parse(text: Option<&str>, listing: &Listing) -> Result<Self, TemplateError> {
        match text {
            None | Some("table" | "") => Ok(Self::Table(Template::parse(listing.default)?)),
            Some("json") => Ok(Self::Lines(Template::parse("{{json .}}")?)),
            Some(text) => match text.strip_prefix("table").filter(|rest| rest.starts_with([' ', '\t'])) {
                Some(rest) => Ok(Self::Table(Template::parse(rest.trim_start())?)),
                None => Ok(Self::Lines(Template::parse(text)?)),
            },
        }
    }

    /// The whole text for `rows`, which ends with a newline unless it is empty.
    ///
    /// # Errors
    /// The template names a field that `listing` does not have.
    pub fn print(&self, listing: &Listing, rows: &[Row]) -> Result<String, TemplateError> {
        let mut text = String::new();
        let (template, header) = match self {
            Self::Table(template) => (template, true),
            Self::Lines(template) => (template, false),
        };
        if header {
            text.push_str(&template.render_headers(&headers(listing))?);
            text.push('\n');
        }
        for row in rows {
            text.push_str(&template.render(&row.value())?);
            text.push('\n');
        }
        Ok(if header { table::align(&text) } else { text })
    }
}

fn headers(listing: &Listing) -> Value {
    let mut fields: BTreeMap<Arc<str>, Value> = listing
        .columns
        .iter()
        .map(|column| (Arc::from(column.field), Value::String(column.header.into())))
        .collect();
    if fields.contains_key("Labels") {
        // Docker heads the column of one label with the last part of its name.
        let label = |args: &[Value]| {
            let name = args.first().map(ToString::to_string).unwrap_or_default();
            let last = name.rsplit('.').next().unwrap_or_default();
            Ok(Value::String(last.replace(['-', '_'], " ").into()))
        };
        fields.insert(Arc::from("Label"), Value::Function(Arc::new(label)));
    }
    Value::Map(Arc::new(fields))
}

#[cfg(test)]
mod tests {
    use super::*;

    const LISTING: Listing = Listing {
        columns: &[
            Column { field: "ID", header: "CONTAINER ID" },
            Column { field: "Names", header: "NAMES" },
            Column { field: "Labels", header: "LABELS" },
        ],
        default: "{{.ID}}\t{{.Names}}",
    };

    fn print(format: Option<&str>) -> String {
        let labels = BTreeMap::from([("a.b-c".to_owned(), "1".to_owned()), ("d".to_owned(), "2".to_owned())]);
        let rows = [
            Row::default().with("ID", "abc").with("Names", "web").with_labels(&labels),
            Row::default().with("ID", "def").with("Names", "db").with_labels(&BTreeMap::new()),
        ];
        Format::parse(format, &LISTING).unwrap().print(&LISTING, &rows).unwrap()
    }

    #[test]
    fn every_form_of_format() {
        assert_eq!(print(None), "CONTAINER ID   NAMES\nabc            web\ndef            db\n");
        assert_eq!(
            print(Some("table {{.Names}}\\t{{.ID}}")),
            "NAMES     CONTAINER ID\nweb       abc\ndb        def\n"
        );
        assert_eq!(print(Some("{{.Names}}\\t{{.ID}}")), "web\tabc\ndb\tdef\n");
        assert_eq!(
            print(Some("json")),
            "{\"ID\":\"abc\",\"Labels\":\"a.b-c=1,d=2\",\"Names\":\"web\"}\n{\"ID\":\"def\",\"Labels\":\"\",\"Names\":\"db\"}\n"
        );
        assert_eq!(print(Some("table")), print(None));
        assert_eq!(print(Some("tables")), "tables\ntables\n");
    }

    #[test]
    fn one_label_as_a_column() {
        assert_eq!(
            print(Some(r#"table {{.ID}}\t{{.Label "a.b-c"}}"#)),
            "CONTAINER ID   b c\nabc            1\ndef            \n"
        );
        assert_eq!(print(Some(r#"{{.Label "d"}}"#)), "2\n\n");
    }

    #[test]
    fn functions_leave_headers_alone() {
        assert_eq!(
            print(Some("table {{upper .Names}}\\t{{truncate .ID 1}}")),
            "NAMES     CONTAINER ID\nWEB       a\nDB        d\n"
        );
    }

    #[test]
    fn an_unknown_field_is_an_error_even_without_rows() {
        let format = Format::parse(Some("table {{.Nope}}"), &LISTING).unwrap();
        let error = format.print(&LISTING, &[]).unwrap_err().to_string();
        assert!(error.contains("1:3") && error.contains("\"Nope\"") && error.contains("Names"), "{error}");
    }
}
