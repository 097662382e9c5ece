//! The few elements of SVG that a plot needs.

use std::fmt::Write as _;

use super::style;

/// A picture being drawn. Places are in CSS pixels from the upper left.
#[derive(Debug)]
pub(super) struct Svg {
    width: f64,
    height: f64,
    title: String,
    body: String,
}

/// Which end of a text is at its place.
#[derive(Clone, Copy, Debug)]
pub(super) enum Anchor {
    /// Its beginning.
    Start,
    /// Its middle.
    Middle,
    /// Its end.
    End,
}

/// Half the height of a mark.
const MARK: f64 = 4.0;

// Writing into a string cannot fail, so its results are passed over here.
impl Svg {
    /// An empty picture with a title, which is also what a screen reader says.
    pub(super) fn new((width, height): (f64, f64), title: &str) -> Self {
        let mut svg = Self {
            width,
            height,
            title: escape(title),
            body: String::new(),
        };
        svg.text("ink title", (16.0, 24.0), Anchor::Start, title);
        svg
    }

    /// A text on one line.
    pub(super) fn text(&mut self, class: &str, (x, y): (f64, f64), anchor: Anchor, text: &str) {
        let anchor = match anchor {
            Anchor::Start => "start",
            Anchor::Middle => "middle",
            Anchor::End => "end",
        };
        let text = escape(text);
        let _ = writeln!(
            self.body,
            r#"<text class="{class}" x="{x:.1}" y="{y:.1}" text-anchor="{anchor}">{text}</text>"#
        );
    }

    /// A text that reads upwards, centred on its place.
    pub(super) fn upright(&mut self, class: &str, (x, y): (f64, f64), text: &str) {
        let text = escape(text);
        let _ = writeln!(
            self.body,
            r#"<text class="{class}" transform="translate({x:.1} {y:.1}) rotate(-90)" text-anchor="middle">{text}</text>"#
        );
    }

    /// A straight line.
    pub(super) fn line(&mut self, class: &str, (x1, y1): (f64, f64), (x2, y2): (f64, f64)) {
        let _ = writeln!(
            self.body,
            r#"<line class="{class}" x1="{x1:.1}" y1="{y1:.1}" x2="{x2:.1}" y2="{y2:.1}"/>"#
        );
    }

    /// A line through points.
    pub(super) fn path(&mut self, class: &str, points: &[(f64, f64)]) {
        let points: Vec<_> = points.iter().map(|(x, y)| format!("{x:.1},{y:.1}")).collect();
        let points = points.join(" ");
        let _ = writeln!(self.body, r#"<polyline class="{class}" points="{points}"/>"#);
    }

    /// The mark of a series: its colour, and a shape that differs from those with like colours.
    pub(super) fn mark(&mut self, series: usize, (x, y): (f64, f64)) {
        let class = style::class(series);
        let corners: &[(f64, f64)] = match series % 4 {
            0 => {
                let _ = writeln!(
                    self.body,
                    r#"<circle class="f{class}" cx="{x:.1}" cy="{y:.1}" r="{MARK}"/>"#
                );
                return;
            }
            1 => &[(-0.9, -0.9), (0.9, -0.9), (0.9, 0.9), (-0.9, 0.9)],
            2 => &[(0.0, -1.2), (1.1, 0.8), (-1.1, 0.8)],
            _ => &[(0.0, -1.3), (1.3, 0.0), (0.0, 1.3), (-1.3, 0.0)],
        };
        let corners = corners
            .iter()
            .map(|(right, down)| format!("{:.1},{:.1}", x + right * MARK, y + down * MARK));
        let corners = corners.collect::<Vec<_>>().join(" ");
        let _ = writeln!(self.body, r#"<polygon class="f{class}" points="{corners}"/>"#);
    }

    /// The whole file.
    pub(super) fn finish(self) -> String {
        let Self {
            width,
            height,
            title,
            body,
        } = self;
        let style = style::sheet();
        format!(
            "<svg xmlns=\"http://www.w3.org/2000/svg\" role=\"img\" width=\"{width}\" height=\"{height}\" \
             viewBox=\"0 0 {width} {height}\">\n<title>{title}</title>\n<style>{style}</style>\n\
             <rect class=\"ground\" width=\"{width}\" height=\"{height}\" rx=\"6\"/>\n{body}</svg>\n"
        )
    }
}

fn escape(text: &str) -> String {
    text.replace('&', "&amp;")
        .replace('<', "&lt;")
        .replace('>', "&gt;")
}
