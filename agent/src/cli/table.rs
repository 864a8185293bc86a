//! Text tables: aligned columns, two spaces apart, no lines, as kubectl prints them. Fit for eyes, grep and awk.

use std::fmt;

/// A column's title, and on which side its cells line up.
#[derive(Clone, Copy, Debug)]
pub(super) enum Column {
    /// Words.
    Left(&'static str),
    /// Numbers.
    Right(&'static str),
}

/// Rows under titles.
#[derive(Clone, Debug)]
pub(super) struct Table<const N: usize> {
    columns: [Column; N],
    rows: Vec<[String; N]>,
    indent: usize,
}

impl<const N: usize> Table<N> {
    pub(super) fn new(columns: [Column; N]) -> Self {
        Self {
            columns,
            rows: Vec::new(),
            indent: 0,
        }
    }

    /// The same, further to the right.
    pub(super) fn indented(mut self, by: usize) -> Self {
        self.indent = by;
        self
    }

    /// Appends a row. An empty cell is shown as `-`, so that every row has as many words as there are columns.
    pub(super) fn row(&mut self, cells: [String; N]) {
        self.rows.push(cells.map(|cell| {
            if cell.is_empty() {
                "-".to_owned()
            } else {
                cell
            }
        }));
    }
}

impl Column {
    fn title(self) -> &'static str {
        match self {
            Self::Left(title) | Self::Right(title) => title,
        }
    }
}

impl<const N: usize> fmt::Display for Table<N> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let titles = self.columns.map(|column| column.title().to_owned());
        let mut widths = [0; N];
        for row in std::iter::once(&titles).chain(&self.rows) {
            for (width, cell) in widths.iter_mut().zip(row) {
                *width = cell.chars().count().max(*width);
            }
        }
        for row in std::iter::once(&titles).chain(&self.rows) {
            let mut line = " ".repeat(self.indent);
            for ((column, cell), width) in self.columns.iter().zip(row).zip(widths) {
                line += &match column {
                    Column::Left(_) => format!("{cell:<width$}  "),
                    Column::Right(_) => format!("{cell:>width$}  "),
                };
            }
            writeln!(f, "{}", line.trim_end())?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_line_up_left_and_numbers_right() {
        let mut table = Table::new([
            Column::Left("NAME"),
            Column::Right("COUNT"),
            Column::Left("WHY"),
        ])
        .indented(1);
        table.row(["a".into(), "1".into(), String::new()]);
        table.row(["service".into(), "1234567".into(), "full".into()]);
        assert_eq!(
            table.to_string(),
            " NAME       COUNT  WHY\n a              1  -\n service  1234567  full\n"
        );
    }
}
