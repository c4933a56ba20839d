//! Every renderer on one report with everything in it, hostile names included.
#![allow(clippy::unwrap_used)]

mod fixture;

use rkvm_measure::model::{Completion, Report, SampleKind};
use rkvm_measure::render::{csv, html, latex, markdown, number, svg, text};
use rkvm_measure::versus::versus;

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

/// Cells of a line (RFC 4180).
fn cells(line: &str) -> Vec<String> {
    let mut cells = vec![String::new()];
    let mut is_quoted = false;
    for c in line.chars() {
        match c {
            '"' => is_quoted = !is_quoted,
            ',' if !is_quoted => cells.push(String::new()),
            _ => cells.last_mut().unwrap().push(c),
        }
    }
    cells
}

#[test]
fn csv_has_one_line_a_start_and_empty_cells_for_absent_phases() {
    let report = report();
    let text = csv::render(&report);
    let lines: Vec<Vec<String>> = text.lines().filter(|line| !line.starts_with('#')).map(cells).collect();
    let count = |kinds: &[&str]| lines.iter().filter(|line| kinds.contains(&line[1].as_str())).count();
    assert_eq!(count(&["warmup", "measured"]), report.samples.len());
    assert_eq!(count(&["density"]), report.density.len());
    for kind in ["failure", "missing", "difference", "budget"] {
        assert_eq!(count(&[kind]), 1, "{kind} in {text}");
    }
    assert!(lines.iter().all(|line| line.len() == lines[0].len()), "{text}");
    let boot = lines[0].iter().position(|name| name == "boot_ns").unwrap();
    let of = |subject: &str| lines.iter().find(|line| line[0] == subject).unwrap()[boot].as_str();
    assert_eq!(of("container"), "");
    assert_eq!(of("vm"), "50000000");
    assert!(text.contains("# Seed: 42"));
}

/// Every output with its name, whitespace as single spaces.
fn outputs(report: &Report) -> Vec<(&'static str, String)> {
    let outputs = [
        ("text", text::report(report)),
        ("csv", csv::render(report)),
        ("html", html::render(report).unwrap().split_once("<script").unwrap().0.to_owned()),
        ("latex", latex::render(report)),
        ("svg", svg::render(report)),
        ("markdown", markdown::render(report)),
    ];
    outputs.map(|(name, text)| (name, text.split_whitespace().collect::<Vec<_>>().join(" "))).into()
}

#[test]
fn every_output_has_all_that_a_reader_must_know() {
    let report = report();
    for (name, text) in outputs(&report) {
        let plain = text.replace('\\', "");
        for what in [
            "KVM here is PVM",
            "Measure on a host with VT-x or SVM too",
            "firecracker",
            "not on PATH",
            "It has no network",
            "not ready after 30 s",
            "p95=200ms",
            "Mitigation: PTI",
            "42",
            "the phase boot is longer than on hardware",
        ] {
            assert!(plain.contains(what), "{what} is not in {name}:\n{text}");
        }
        // Two sentences must not run into each other.
        assert!(!plain.contains("PVM Traps") && !plain.contains("PVM. Traps"), "{name}:\n{text}");
        assert!(plain.contains("emedy: Measure on"), "{name}:\n{text}");
    }
}

#[test]
fn every_output_has_every_start() {
    let report = report();
    let mut outputs = outputs(&report);
    // The page has them in its script.
    outputs.retain(|(name, _)| *name != "html");
    outputs.push(("html", html::render(&report).unwrap()));
    for sample in report.samples.iter().filter(|sample| sample.kind == SampleKind::Measured) {
        let (whole, exact) = (format!("{:.3}", sample.total_ns as f64 / 1e6), sample.total_ns.to_string());
        for (name, text) in &outputs {
            assert!(text.contains(&whole) || text.contains(&exact), "{whole} is not in {name}");
        }
    }
}

#[test]
fn what_was_not_started_has_no_figures() {
    let mut report = report();
    report.summary.subjects[2].total = rkvm_measure::model::Distribution::default();
    report.summary.comparisons.truncate(1);
    for (name, text) in outputs(&report) {
        assert!(!text.contains("0 (0 to 0)") && !text.contains("0 [0, 0]"), "{name}:\n{text}");
    }
    report.summary.subjects.iter_mut().for_each(|one| {
        one.total = rkvm_measure::model::Distribution::default();
        one.phases.clear();
    });
    report.summary.comparisons.clear();
    for (name, text) in outputs(&report) {
        assert!(text.contains("Nothing was measured: the 24 starts made are warm-ups"), "{name}:\n{text}");
    }
}

#[test]
fn a_phase_has_the_same_figure_everywhere() {
    let mut report = report();
    // Medians do not add up: the moments between which a phase lies are further apart than it is long.
    let exec = report.summary.subjects[0].phases.iter_mut().find(|one| one.phase == "exec").unwrap();
    exec.duration.value = 3.97e6;
    for (name, text) in outputs(&report).into_iter().filter(|(name, _)| *name != "csv") {
        assert!(text.contains("3.97"), "{name}:\n{text}");
    }
    let plain = text::report(&report);
    let bars = plain.lines().filter(|line| line.trim_start().starts_with("exec ") && line.contains('█'));
    assert!(bars.take(1).all(|line| line.ends_with(" 3.97 ms")), "{plain}");
}

#[test]
fn the_terminal_explains_phases_and_wraps_its_lines() {
    let plain = text::report(&report());
    assert!(
        plain.contains("boot: container: absent: there is no kernel to boot; vm: from the guest"),
        "{plain}"
    );
    assert!(plain.lines().skip(1).all(|line| line.chars().count() <= 100), "{plain}");
    let sentence = plain.find("vm takes 6.25 times").unwrap();
    assert!(sentence < plain.find("phase, median").unwrap(), "below the first table: {plain}");
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
        assert!(plain.contains(finding.what.trim_end_matches('.')), "{}", finding.what);
    }
    assert_eq!(table.matches("**warning**").count() + table.matches("- note").count(), report.findings.len());
    // Every row of a table has as many cells as its head.
    let cells = |line: &str| line.replace("\\|", "").matches('|').count();
    for block in table.split("\n\n") {
        let rows: Vec<usize> = block.lines().filter(|line| line.starts_with('|')).map(cells).collect();
        assert!(rows.windows(2).all(|pair| pair[0] == pair[1]), "{block}");
    }
}

#[test]
fn what_may_explain_a_difference_of_two_reports_stands_above_it() {
    let (before, mut after) = (report(), report());
    after.provenance.image_digest = "sha256:other".to_owned();
    after.provenance.mitigations.insert("meltdown".to_owned(), "Vulnerable".to_owned());
    after.provenance.governor = Some("powersave".to_owned());
    after.provenance.memory *= 2;
    after.provenance.configuration.insert("file system of the image store".to_owned(), "xfs".to_owned());
    after.completion = Completion::Partial { reason: "interrupted".to_owned(), done: 3, planned: 20 };
    let plain = text::versus(&versus(("a.json", &before), ("b.json", &after)).unwrap());
    let table = plain.find("shift ms").unwrap();
    for what in [
        "the image differs",
        "the mitigation meltdown differs: \"Mitigation: PTI\", then \"Vulnerable\"",
        "the CPU governor differs",
        "the memory differs",
        "the configuration: file system of the image store differs",
        "what was measured differs",
    ] {
        let at = plain.find(&format!("WARNING: {what}")).unwrap_or_else(|| panic!("{what} in:\n{plain}"));
        assert!(at < table, "{plain}");
    }
    assert!(!plain.contains('–') && plain.matches("95 % of").count() == 2, "{plain}");
}

#[test]
fn reports_without_starts_cannot_be_compared() {
    let (full, mut empty, mut other) = (report(), report(), report());
    empty.samples.clear();
    for pair in [(&full, &empty), (&empty, &full)] {
        let error = versus(("a.json", pair.0), ("b.json", pair.1)).unwrap_err().to_string();
        assert!(error.contains("no start that counts"), "{error}");
    }
    other.subjects.truncate(1);
    other.subjects[0].id = "other".to_owned();
    other.samples.iter_mut().for_each(|sample| sample.subject = "other".to_owned());
    let error = versus(("a.json", &full), ("b.json", &other)).unwrap_err().to_string();
    assert!(error.contains("other is only in b.json"), "{error}");
}
