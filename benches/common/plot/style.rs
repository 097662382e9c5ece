//! Colours, for a light and a dark page.

use std::fmt::Write as _;

/// Colours of series on a light and on a dark ground. Those next to each other differ in lightness too, and each series
/// has a mark of its own shape, so that nobody depends on hue.
const SERIES: [(&str, &str); 13] = [
    ("#cf222e", "#ff7b72"),
    ("#a40e7a", "#f778ba"),
    ("#6639ba", "#d2a8ff"),
    ("#0550ae", "#79c0ff"),
    ("#218bff", "#388bfd"),
    ("#116329", "#7ee787"),
    ("#2da44e", "#2ea043"),
    ("#7d4e00", "#e3b341"),
    ("#d4a72c", "#9e6a03"),
    ("#bc4c00", "#ffa657"),
    ("#1b7c83", "#39c5cf"),
    ("#57606a", "#8b949e"),
    ("#1f2328", "#f0f6fc"),
];

/// Everything that is no series: ground, text, lesser text, lines of the grid, axes.
const PAGE: [(&str, &str, &str, &str); 5] = [
    ("ground", "fill", "#ffffff", "#0d1117"),
    ("ink", "fill", "#1f2328", "#e6edf3"),
    ("soft", "fill", "#59636e", "#9198a1"),
    ("grid", "stroke", "#d8dee4", "#30363d"),
    ("axis", "stroke", "#59636e", "#9198a1"),
];

/// The style sheet that goes into each picture: `sN` strokes and `fN` fills in the colour of series N.
pub(super) fn sheet() -> String {
    let mut sheet = String::from(
        "text{font:12px system-ui,'Segoe UI','Liberation Sans',sans-serif}.title{font-size:15px;font-weight:600}\
         .grid{stroke-width:1}.minor{stroke-width:.5}.axis{stroke-width:1}polyline{fill:none}\
         .line{stroke-width:1.5;stroke-linejoin:round}.strong{stroke-width:3}.whisker{stroke-width:1.2}",
    );
    colours(&mut sheet, false);
    sheet.push_str("@media (prefers-color-scheme:dark){");
    colours(&mut sheet, true);
    sheet.push('}');
    sheet
}

/// The class number of a series; there are as many colours as systems in the largest comparison.
pub(super) const fn class(series: usize) -> usize {
    series % SERIES.len()
}

fn colours(sheet: &mut String, dark: bool) {
    let pick = |light, night| if dark { night } else { light };
    // Writing into a string cannot fail.
    for (class, property, light, night) in PAGE {
        let _ = write!(sheet, ".{class}{{{property}:{}}}", pick(light, night));
    }
    for (index, (light, night)) in SERIES.into_iter().enumerate() {
        let colour = pick(light, night);
        let _ = write!(sheet, ".s{index}{{stroke:{colour}}}.f{index}{{fill:{colour}}}");
    }
}
