//! Curves over a logarithmic x and y.

use super::{
    Spread, WHISKERS, range,
    scale::{Log, label},
    style,
    svg::{Anchor, Svg},
};

/// One curve.
#[derive(Debug)]
pub(crate) struct Series {
    /// Its name in the legend.
    pub(crate) name: String,
    /// The number that chooses its colour and mark.
    pub(crate) number: usize,
    /// Whether it is the one that the plot is about.
    pub(crate) strong: bool,
    /// x, and what was measured there.
    pub(crate) points: Vec<(f64, Spread)>,
}

/// A plot of curves.
#[derive(Debug)]
pub(crate) struct Lines<'a> {
    /// What it shows.
    pub(crate) title: &'a str,
    /// The horizontal axis: what it is, and where it has labels.
    pub(crate) x: (&'a str, &'a [(f64, String)]),
    /// The vertical axis: what it is, with its unit.
    pub(crate) y: &'a str,
    /// The curves, as in the legend.
    pub(crate) series: Vec<Series>,
}

const SIZE: (f64, f64) = (880.0, 500.0);
/// Where the curves are: left, right, top, bottom.
const LEFT: f64 = 84.0;
const RIGHT: f64 = 620.0;
const TOP: f64 = 58.0;
const BOTTOM: f64 = 440.0;
/// How far neighbours are moved apart, so that whiskers at one x do not hide each other.
const APART: f64 = 2.0;
const ROW: f64 = 20.0;

impl Lines<'_> {
    /// Draws it; `None` when there is nothing to draw.
    pub(crate) fn draw(&self) -> Option<String> {
        let spreads = self.series.iter().flat_map(|one| &one.points);
        let y = Log::over(spreads.flat_map(|(_, spread)| range(spread)), (BOTTOM, TOP))?;
        let (axis, labels) = self.x;
        let x = Log::between(labels.first()?.0, labels.last()?.0, (LEFT, RIGHT));
        let mut svg = Svg::new(SIZE, self.title);
        svg.text("soft", (16.0, 42.0), Anchor::Start, WHISKERS);
        for (value, decade) in y.ticks() {
            let class = if decade { "grid" } else { "grid minor" };
            let at = y.at(value);
            svg.line(class, (LEFT, at), (RIGHT, at));
            if decade {
                svg.text("soft", (LEFT - 8.0, at + 4.0), Anchor::End, &label(value));
            }
        }
        for (value, name) in labels {
            let at = x.at(*value);
            svg.line("grid minor", (at, TOP), (at, BOTTOM));
            svg.text("soft", (at, BOTTOM + 18.0), Anchor::Middle, name);
        }
        svg.line("axis", (LEFT, BOTTOM), (RIGHT, BOTTOM));
        svg.text(
            "ink",
            (f64::midpoint(LEFT, RIGHT), BOTTOM + 42.0),
            Anchor::Middle,
            axis,
        );
        svg.upright("ink", (22.0, f64::midpoint(TOP, BOTTOM)), self.y);
        // The strong curve is drawn last, over the others.
        let (strong, others): (Vec<_>, Vec<_>) = (0..self.series.len()).partition(|n| self.series[*n].strong);
        for index in others.into_iter().chain(strong) {
            let aside = (index as f64 - (self.series.len() as f64 - 1.0) / 2.0) * APART;
            curve(&mut svg, &self.series[index], |value| x.at(value) + aside, y);
        }
        for (index, series) in self.series.iter().enumerate() {
            legend(&mut svg, series, TOP + 8.0 + ROW * index as f64);
        }
        Some(svg.finish())
    }
}

fn curve(svg: &mut Svg, series: &Series, x: impl Fn(f64) -> f64, y: Log) {
    let class = style::class(series.number);
    let points: Vec<_> = series
        .points
        .iter()
        .map(|(at, spread)| (x(*at), y.at(spread.median)))
        .collect();
    svg.path(&line_class(series), &points);
    for ((_, spread), place) in series.points.iter().zip(points) {
        let [low, high] = range(spread).map(|value| y.at(value));
        svg.line(&format!("whisker s{class}"), (place.0, low), (place.0, high));
        svg.mark(series.number, place);
    }
}

fn legend(svg: &mut Svg, series: &Series, y: f64) {
    let x = RIGHT + 20.0;
    svg.path(&line_class(series), &[(x, y), (x + 26.0, y)]);
    svg.mark(series.number, (x + 13.0, y));
    svg.text("ink", (x + 34.0, y + 4.0), Anchor::Start, &series.name);
}

fn line_class(series: &Series) -> String {
    let strong = if series.strong { " strong" } else { "" };
    format!("line{strong} s{}", style::class(series.number))
}
