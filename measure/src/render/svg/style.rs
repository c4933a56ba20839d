//! Colours and type of all pictures, in light and dark.
//!
//! Fills are classes, so that one picture serves both themes. Phase colours are Paul Tol's "muted" scheme, distinct with colour
//! vision deficiencies; labels and tables carry the same facts without colour.

/// Rules that an SVG file carries itself and an HTML page once.
pub const CSS: &str = "\
.rkvm-chart{--ink:#1b1f24;--soft:#59636e;--grid:#d8dee4;--ground:#ffffff;font:13px system-ui,-apple-system,'Segoe UI',sans-serif}
.rkvm-chart text{fill:var(--ink)}
.rkvm-chart .soft{fill:var(--soft)}
.rkvm-chart .on-dark{fill:#ffffff}
.rkvm-chart .on-light{fill:#1b1f24}
.rkvm-chart .strong{font-weight:600}
.rkvm-chart .ground{fill:var(--ground)}
.rkvm-chart .grid{stroke:var(--grid);stroke-width:1}
.rkvm-chart .axis{stroke:var(--soft);stroke-width:1}
.rkvm-chart .mark{stroke:var(--ink);stroke-width:2;fill:none}
.rkvm-chart .line{stroke-width:2;fill:none}
.rkvm-chart .dot{fill-opacity:.55}
.rkvm-chart .ring{stroke:var(--ink);stroke-width:1.2;fill:none}
.rkvm-chart .p-command{fill:#999999}.rkvm-chart .p-image{fill:#332288}.rkvm-chart .p-rootfs{fill:#88ccee}
.rkvm-chart .p-network{fill:#44aa99}.rkvm-chart .p-sandbox{fill:#117733}.rkvm-chart .p-boot{fill:#cc6677}
.rkvm-chart .p-process{fill:#ddcc77}.rkvm-chart .p-exec{fill:#aa4499}.rkvm-chart .p-ready{fill:#882255}
.rkvm-chart .p-whole{fill:#6e7781}
.rkvm-chart .s0{fill:#0072b2;stroke:#0072b2}.rkvm-chart .s1{fill:#d55e00;stroke:#d55e00}.rkvm-chart .s2{fill:#009e73;stroke:#009e73}
.rkvm-chart .s3{fill:#cc79a7;stroke:#cc79a7}.rkvm-chart .s4{fill:#8c6d1f;stroke:#8c6d1f}.rkvm-chart .s5{fill:#56b4e9;stroke:#56b4e9}
.rkvm-chart .s6{fill:#7f7f7f;stroke:#7f7f7f}
@media (prefers-color-scheme:dark){.rkvm-chart{--ink:#e6edf3;--soft:#9da7b1;--grid:#30363d;--ground:#0d1117}
.rkvm-chart .p-image{fill:#5a48c8}.rkvm-chart .p-sandbox{fill:#1a7f3f}.rkvm-chart .p-ready{fill:#a83a6d}
.rkvm-chart .dot{fill-opacity:.9}.rkvm-chart .s0{fill:#4aa3df;stroke:#4aa3df}.rkvm-chart .s4{fill:#c9a03c;stroke:#c9a03c}}
";

/// Number of subject colours; further subjects begin again, and are told apart by their labels.
pub const SUBJECT_COLOURS: usize = 7;

/// Class of the text that can be read on a phase's fill.
pub fn text_on(phase: &str) -> &'static str {
    match phase {
        "image" | "sandbox" | "exec" | "ready" | "whole" => "on-dark",
        _ => "on-light",
    }
}
