//! Plots as SVG, written here: a plotting crate would be compiled by every `cargo test` and puts fixed colours into each
//! element, while these follow the reader's light or dark scheme by one style sheet.

pub(crate) mod dots;
pub(crate) mod lines;
mod scale;
mod style;
mod svg;

use super::spread::Spread;

/// A plot and the file it belongs in.
#[derive(Debug)]
pub(crate) struct Plot {
    /// Name of the file, as in `calls.svg`.
    pub(crate) file: String,
    /// What it shows, for those who do not see it.
    pub(crate) alt: String,
    /// The picture.
    pub(crate) svg: String,
}

impl Plot {
    /// Where the files are, from the document.
    pub(crate) const DIRECTORY: &'static str = "benchmarks";
}

/// What follows every title.
const WHISKERS: &str = "marks: medians over rounds; whiskers: quartiles";

/// The whole range that a spread covers.
fn range(spread: &Spread) -> [f64; 2] {
    [spread.p25, spread.p75]
}
