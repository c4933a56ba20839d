//! Whether the blocks of a template are closed. gotmpl takes the end of the text, and an `{{end}}` too many, for the end of
//! the template and so drops what follows; Go refuses both.

/// Words that begin a block.
const OPENERS: &[&str] = &["if", "range", "with", "block", "define"];

/// Checks `template`, which gotmpl could parse, so its actions are closed.
///
/// # Errors
/// The place (`LINE:COLUMN`) and the word that has no partner.
pub(super) fn check(template: &str) -> Result<(), String> {
    let mut open: Vec<(usize, &str)> = vec![];
    let mut position = 0;
    while let Some(start) = template[position..].find("{{").map(|found| position + found + 2) {
        let inside = &template[start..];
        let body = inside.strip_prefix('-').unwrap_or(inside).trim_start();
        let length = action_length(inside);
        let word_length = body.find(|c: char| !c.is_ascii_alphabetic()).unwrap_or(body.len());
        let word = &body[..word_length];
        let at = template.len() - body.len();
        match word {
            _ if OPENERS.contains(&word) => open.push((at, word)),
            "else" if open.is_empty() => return Err(unmatched(template, at, "else")),
            "end" if open.pop().is_none() => return Err(unmatched(template, at, "end")),
            _ => {}
        }
        position = start + length;
    }
    match open.last() {
        Some((at, word)) => {
            Err(format!("{}: {{{{{word}}}}} has no {{{{end}}}}", super::rewrite::place(template, *at)))
        }
        None => Ok(()),
    }
}

fn unmatched(template: &str, at: usize, word: &str) -> String {
    let place = super::rewrite::place(template, at);
    format!("{place}: {{{{{word}}}}} without {{{{if}}}}, {{{{range}}}} or {{{{with}}}} before it")
}

/// Bytes from the begin of an action to the one after its `}}`, which does not count inside quotes and comments.
fn action_length(inside: &str) -> usize {
    let mut quote = None;
    let mut escaped = false;
    let comment = inside.strip_prefix('-').unwrap_or(inside).trim_start().starts_with("/*");
    if comment && let Some(end) = inside.find("*/") {
        return end + inside[end..].find("}}").map_or(inside.len() - end, |close| close + 2);
    }
    for (index, c) in inside.char_indices() {
        match quote {
            _ if escaped => escaped = false,
            Some('"' | '\'') if c == '\\' => escaped = true,
            Some(open) if c == open => quote = None,
            Some(_) => {}
            None if matches!(c, '"' | '`' | '\'') => quote = Some(c),
            None if inside[index..].starts_with("}}") => return index + 2,
            None => {}
        }
    }
    inside.len()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn blocks_need_their_ends_and_ends_their_blocks() {
        for fine in [
            "",
            "{{.ID}}",
            "{{if .A}}x{{else if .B}}y{{else}}z{{end}}",
            "{{- range .A -}}{{with .}}{{end}}{{- end -}}",
            "{{\"{{if}}\"}}{{`}}{{end`}}",
            "{{\"\\\"}}{{end}}\"}}",
            "{{/* {{if}} */}}{{- /* }} */ -}}",
            "{{ended}}{{.end}}{{iffy}}",
        ] {
            assert_eq!(check(fine), Ok(()), "{fine}");
        }
        for (wrong, place) in [
            ("{{if .A}}", "1:3: {{if}}"),
            ("a\n{{range .A}}{{if .B}}{{end}}", "2:3: {{range}}"),
            ("x{{ end }}", "1:5: {{end}}"),
            ("{{if .A}}{{end}}{{end}}", "1:19: {{end}}"),
            ("{{else}}", "1:3: {{else}}"),
        ] {
            let error = check(wrong).unwrap_err();
            assert!(error.starts_with(place), "{wrong}: {error}");
        }
    }
}
