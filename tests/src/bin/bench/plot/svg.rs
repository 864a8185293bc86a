//! As much SVG as plots need.

use std::fmt::Write as _;

use super::colour;
use crate::contender::Contender;

const INK: &str = "#1f2933";
const FAINT: &str = "#e4e7eb";
pub(super) const QUIET: &str = "#7b8794";

/// A drawing that is being made. Lengths are in pixels, from the upper left.
pub(super) struct Svg {
    width: f64,
    height: f64,
    body: String,
}

/// Where a text stands relative to its point.
#[derive(Clone, Copy)]
pub(super) enum Anchor {
    Start,
    Middle,
    End,
}

/// How a text looks.
#[derive(Clone, Copy)]
pub(super) enum Style<'a> {
    Title,
    Heading,
    Plain,
    Small(&'a str),
}

impl Svg {
    pub(super) fn new(width: f64, height: f64) -> Self {
        Self {
            width,
            height,
            body: String::new(),
        }
    }

    pub(super) fn text(&mut self, x: f64, y: f64, anchor: Anchor, style: Style<'_>, text: &str) {
        let anchor = match anchor {
            Anchor::Start => "start",
            Anchor::Middle => "middle",
            Anchor::End => "end",
        };
        let (size, weight, colour) = match style {
            Style::Title => (17, 600, INK),
            Style::Heading => (13, 600, INK),
            Style::Plain => (12, 400, INK),
            Style::Small(colour) => (11, 400, colour),
        };
        self.add(format_args!(
            r#"<text x="{x:.1}" y="{y:.1}" text-anchor="{anchor}" font-size="{size}" font-weight="{weight}" fill="{colour}">{}</text>"#,
            escaped(text)
        ));
    }

    pub(super) fn line(&mut self, from: (f64, f64), to: (f64, f64), colour: &str, width: f64) {
        self.add(format_args!(
            r#"<line x1="{:.1}" y1="{:.1}" x2="{:.1}" y2="{:.1}" stroke="{colour}" stroke-width="{width}" stroke-linecap="round"/>"#,
            from.0, from.1, to.0, to.1
        ));
    }

    /// A thin line behind what is shown.
    pub(super) fn grid(&mut self, from: (f64, f64), to: (f64, f64)) {
        self.line(from, to, FAINT, 1.0);
    }

    /// The line of what all is compared with.
    pub(super) fn reference(&mut self, from: (f64, f64), to: (f64, f64)) {
        self.line(from, to, colour(Contender::Direct), 1.6);
    }

    pub(super) fn dot(&mut self, x: f64, y: f64, radius: f64, colour: &str) {
        self.add(format_args!(
            r##"<circle cx="{x:.1}" cy="{y:.1}" r="{radius}" fill="{colour}" stroke="#ffffff" stroke-width="1"/>"##
        ));
    }

    /// A triangle at an edge: what it stands for lies beyond.
    pub(super) fn beyond(&mut self, x: f64, y: f64, right: bool, colour: &str) {
        let tip = if right { 5.0 } else { -5.0 };
        self.add(format_args!(
            r#"<path d="M{x:.1},{:.1} L{:.1},{y:.1} L{x:.1},{:.1} Z" fill="{colour}"/>"#,
            y - 4.5,
            x + tip,
            y + 4.5
        ));
    }

    pub(super) fn band(&mut self, x: f64, y: f64, width: f64, height: f64) {
        self.add(format_args!(
            r##"<rect x="{x:.1}" y="{y:.1}" width="{width:.1}" height="{height:.1}" fill="#f5f7fa"/>"##
        ));
    }

    pub(super) fn path(&mut self, points: &[(f64, f64)], colour: &str) {
        let mut path = String::new();
        for (number, (x, y)) in points.iter().enumerate() {
            let command = if number == 0 { 'M' } else { 'L' };
            // Writing to a string does not fail.
            let _ = write!(path, "{command}{x:.1},{y:.1} ");
        }
        self.add(format_args!(
            r#"<path d="{}" fill="none" stroke="{colour}" stroke-width="2" stroke-linejoin="round" stroke-linecap="round"/>"#,
            path.trim_end()
        ));
    }

    /// What each colour stands for, from left to right.
    pub(super) fn legend(&mut self, mut x: f64, y: f64, contenders: &[Contender], reference: &str) {
        for &contender in contenders {
            self.dot(x + 5.0, y - 4.0, 5.0, colour(contender));
            let title = contender.title();
            self.text(x + 15.0, y, Anchor::Start, Style::Plain, title);
            x += 35.0 + 7.0 * title.len() as f64;
        }
        if !reference.is_empty() {
            self.reference((x, y - 4.0), (x + 18.0, y - 4.0));
            self.text(x + 24.0, y, Anchor::Start, Style::Plain, reference);
        }
    }

    /// The whole document.
    pub(super) fn finish(self) -> String {
        let Self {
            width,
            height,
            body,
        } = self;
        format!(
            r##"<svg xmlns="http://www.w3.org/2000/svg" width="{width:.0}" height="{height:.0}" viewBox="0 0 {width:.0} {height:.0}" font-family="Inter, 'Helvetica Neue', Helvetica, Arial, 'Liberation Sans', 'DejaVu Sans', sans-serif">
<rect width="100%" height="100%" fill="#ffffff"/>
{body}</svg>
"##
        )
    }

    fn add(&mut self, element: std::fmt::Arguments<'_>) {
        // Writing to a string does not fail.
        let _ = writeln!(self.body, "{element}");
    }
}

fn escaped(text: &str) -> String {
    text.replace('&', "&amp;")
        .replace('<', "&lt;")
        .replace('>', "&gt;")
}
