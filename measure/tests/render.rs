//! Every renderer on one report with everything in it, hostile names included.
#![allow(clippy::unwrap_used)]

mod fixture;

use rkvm_measure::model::{Completion, Report};
use rkvm_measure::render::{csv, html, latex, markdown, number, svg, text};

/// Everything that a renderer has to show.
fn report() -> Report {
    fixture::report()
}

#[test]
fn svg_is_well_formed_with_text_alternatives_for_every_picture() {
    let report = report();
    let text = svg::render(&report);
    let document = roxmltree::Document::parse(&text).unwrap();
    let pictures: Vec<_> =
        document.descendants().filter(|node| node.attribute("role") == Some("img")).collect();
    assert_eq!(pictures.len(), 6, "waterfall, shares, distribution, ratio, two of density");
    for picture in pictures {
        for kind in ["title", "desc"] {
            let child =
                picture.children().find(|node| node.has_tag_name(("http://www.w3.org/2000/svg", kind)));
            assert!(child.unwrap().text().unwrap().len() > 10, "{kind}");
        }
    }
    assert!(text.contains("Seed: 42"));
}

#[test]
fn every_phase_is_drawn_where_the_summary_says() {
    let report = report();
    let text = svg::render(&report);
    let document = roxmltree::Document::parse(&text).unwrap();
    let waterfall = document
        .descendants()
        .find(|node| node.attribute("aria-labelledby") == Some("waterfall-t waterfall-d"))
        .unwrap();
    let bars: Vec<(f64, f64, String)> = waterfall
        .descendants()
        .filter(|node| node.has_tag_name(("http://www.w3.org/2000/svg", "rect")))
        .filter_map(|node| {
            let tip = node.first_element_child()?.text()?.to_owned();
            let number = |name: &str| node.attribute(name)?.parse::<f64>().ok();
            Some((number("x")?, number("width")?, tip))
        })
        .collect();
    let (x, width, _) = bars.iter().find(|(_, _, tip)| tip == "VM: boot 50.0 ms").unwrap();
    let (after, _, _) = bars.iter().find(|(_, _, tip)| tip == "VM: exec 20.0 ms").unwrap();
    assert!((x + width - after).abs() < 0.2, "phases touch: {bars:?}");
    let container = bars.iter().find(|(_, _, tip)| tip.starts_with("Container: exec")).unwrap();
    assert!((width / container.1 - 5.0).abs() < 0.05, "lengths are in proportion: {bars:?}");
}

#[test]
fn the_page_carries_the_whole_report() {
    let report = report();
    let page = html::render(&report).unwrap();
    let start = page.find("id=\"report\">").unwrap() + "id=\"report\">".len();
    let end = start + page[start..].find("</script>").unwrap();
    let again: Report = serde_json::from_str(&page[start..end]).unwrap();
    assert_eq!(again, report);
}

#[test]
fn names_from_outside_are_text_everywhere() {
    let mut report = report();
    report.question.image = "</script><img src=x onerror=alert(1)>\u{1b}&\"'".to_owned();
    report.subjects[0].name = "<b>Container</b>".to_owned();
    let page = html::render(&report).unwrap();
    assert!(!page.contains("<img"), "no element out of a name");
    assert!(!page.contains("<b>Container"));
    assert_eq!(page.matches("</script>").count(), 1, "the name must not end the data");
    roxmltree::Document::parse(&svg::render(&report)).unwrap();
    report.question.image = "50% of {a_b} & c\\d #1".to_owned();
    let table = latex::render(&report);
    assert!(table.contains(r"50\% of \{a\_b\} \& c\textbackslash{}d \#1"), "{table}");
}

#[test]
fn csv_has_one_line_a_start_and_empty_cells_for_absent_phases() {
    let report = report();
    let text = csv::render(&report);
    let lines: Vec<&str> = text.lines().filter(|line| !line.starts_with('#')).collect();
    assert_eq!(lines.len(), 1 + report.samples.len());
    let columns = lines[0].split(',').count();
    assert!(lines.iter().all(|line| line.split(',').count() == columns), "{text}");
    let boot = lines[0].split(',').position(|name| name == "boot_ns").unwrap();
    let of =
        |subject: &str| lines.iter().find(|line| line.starts_with(subject)).unwrap().split(',').nth(boot);
    assert_eq!(of("container,"), Some(""));
    assert_eq!(of("vm,"), Some("50000000"));
    assert!(text.contains("# Seed: 42"));
}

#[test]
fn percentiles_of_too_few_starts_are_called_so_in_every_table() {
    let report = report();
    for table in [text::report(&report), markdown::render(&report), latex::render(&report)] {
        assert!(table.contains("Not reliable: with "), "{table}");
    }
}

#[test]
fn a_partial_report_says_so_in_every_output() {
    let mut report = report();
    report.completion = Completion::Partial { reason: "interrupted".to_owned(), done: 3, planned: 20 };
    let outputs =
        [csv::render(&report), html::render(&report).unwrap(), latex::render(&report), svg::render(&report)];
    for text in outputs {
        assert!(text.contains("Partial: 3 of 20 starts were made (interrupted)."), "{text}");
    }
}

#[test]
fn a_report_without_any_start_is_still_drawn() {
    let mut report = report();
    report.samples.clear();
    report.density.clear();
    report.summary = rkvm_measure::model::Summary::default();
    roxmltree::Document::parse(&svg::render(&report)).unwrap();
    html::render(&report).unwrap();
    latex::render(&report);
    csv::render(&report);
}

#[test]
fn figures_have_three_significant_digits() {
    let shown = [0.0, 0.01234, 0.9996, 1.234, 9.996, 12.34, 99.96, 123.4, 1234.5].map(number::significant);
    assert_eq!(shown, ["0", "0.012", "1.00", "1.23", "10.0", "12.3", "100", "123", "1234"]);
}

#[test]
fn markdown_and_text_have_every_subject_phase_and_finding() {
    let report = report();
    let (table, plain) = (markdown::render(&report), text::report(&report));
    for subject in &report.summary.subjects {
        let name = report.subjects.iter().find(|one| one.id == subject.subject).unwrap().name.clone();
        let word = name.split(|c: char| !c.is_alphanumeric()).find(|word| !word.is_empty()).unwrap();
        assert!(table.contains(word) && plain.contains(word), "{word}");
        for phase in &subject.phases {
            let begins = |text: &str, line: &str| text.lines().any(|one| one.trim_start().starts_with(line));
            assert!(begins(&table, &format!("| {} |", phase.phase)), "{}", phase.phase);
            assert!(begins(&plain, &phase.phase), "{}", phase.phase);
        }
    }
    for finding in &report.findings {
        assert!(plain.contains(&finding.what), "{}", finding.what);
    }
    assert_eq!(table.matches("**warning**").count() + table.matches("- note").count(), report.findings.len());
    // Every row of a table has as many cells as its head.
    let cells = |line: &str| line.replace("\\|", "").matches('|').count();
    for block in table.split("\n\n") {
        let rows: Vec<usize> = block.lines().filter(|line| line.starts_with('|')).map(cells).collect();
        assert!(rows.windows(2).all(|pair| pair[0] == pair[1]), "{block}");
    }
}
