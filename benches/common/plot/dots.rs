//! Marks in rows over a logarithmic x: a row for each system, a mark for each condition.

use super::{
    Spread, WHISKERS, range,
    scale::{Log, label},
    style,
    svg::{Anchor, Svg},
};

/// A plot of rows.
#[derive(Debug)]
pub(crate) struct Dots<'a> {
    /// What it shows.
    pub(crate) title: &'a str,
    /// The horizontal axis: what it is, with its unit.
    pub(crate) x: &'a str,
    /// What the marks of a row stand for, in their order.
    pub(crate) marks: &'a [String],
    /// Rows from the top: name, and a spread for each mark where there is one.
    pub(crate) rows: Vec<(String, Vec<Option<Spread>>)>,
}

const WIDTH: f64 = 880.0;
const LEFT: f64 = 236.0;
const RIGHT: f64 = 850.0;
/// The first row; the legend is above it.
const TOP: f64 = 84.0;
/// Between the marks of a row, and between rows.
const MARK: f64 = 11.0;
const GAP: f64 = 14.0;

impl Dots<'_> {
    /// Draws it; `None` when there is nothing to draw.
    pub(crate) fn draw(&self) -> Option<String> {
        let spreads = self.rows.iter().flat_map(|(_, spreads)| spreads).flatten();
        let x = Log::over(spreads.flat_map(range), (LEFT, RIGHT))?;
        let row = MARK * self.marks.len() as f64 + GAP;
        let bottom = TOP + row * self.rows.len() as f64;
        let mut svg = Svg::new((WIDTH, bottom + 60.0), self.title);
        svg.text("soft", (16.0, 42.0), Anchor::Start, WHISKERS);
        let step = (RIGHT - 16.0) / self.marks.len().max(1) as f64;
        for (index, name) in self.marks.iter().enumerate() {
            let left = 22.0 + step * index as f64;
            svg.mark(NUMBERS[index % NUMBERS.len()], (left, 62.0));
            svg.text("ink", (left + 10.0, 66.0), Anchor::Start, name);
        }
        for (value, decade) in x.ticks() {
            let class = if decade { "grid" } else { "grid minor" };
            let at = x.at(value);
            svg.line(class, (at, TOP), (at, bottom));
            svg.text("soft", (at, bottom + 18.0), Anchor::Middle, &label(value));
        }
        for (index, (name, spreads)) in self.rows.iter().enumerate() {
            let top = TOP + row * index as f64;
            svg.line("grid minor", (16.0, top), (RIGHT, top));
            svg.text("ink", (LEFT - 12.0, top + row / 2.0 + 4.0), Anchor::End, name);
            for (mark, spread) in spreads.iter().enumerate() {
                let Some(spread) = spread else { continue };
                let y = top + GAP / 2.0 + MARK * (mark as f64 + 0.5);
                let number = NUMBERS[mark % NUMBERS.len()];
                let [low, high] = range(spread).map(|value| x.at(value));
                let class = format!("whisker s{}", style::class(number));
                svg.line(&class, (low, y), (high, y));
                svg.mark(number, (x.at(spread.median), y));
            }
        }
        svg.line("axis", (LEFT, bottom), (RIGHT, bottom));
        svg.text(
            "ink",
            (f64::midpoint(LEFT, RIGHT), bottom + 42.0),
            Anchor::Middle,
            self.x,
        );
        Some(svg.finish())
    }
}

/// Colours and marks that differ well from each other.
const NUMBERS: [usize; 4] = [4, 9, 6, 3];
