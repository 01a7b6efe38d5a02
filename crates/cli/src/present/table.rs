//! Tables that fit the terminal, and need no terminal.

use comfy_table::presets::NOTHING;
use comfy_table::{Attribute, Cell, CellAlignment, ColumnConstraint, ContentArrangement, Table};

use super::{one_line, out::Out};

/// A column of a table.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Column {
    /// Heading.
    title: &'static str,
    /// Numbers stand right.
    right: bool,
    /// Never broken over lines: ids must stay copyable.
    whole: bool,
}

impl Column {
    /// Text that may be broken over lines.
    pub(crate) const fn text(title: &'static str) -> Self {
        Self { title, right: false, whole: false }
    }

    /// Text that is never broken.
    pub(crate) const fn id(title: &'static str) -> Self {
        Self { title, right: false, whole: true }
    }

    /// A number.
    pub(crate) const fn number(title: &'static str) -> Self {
        Self { title, right: true, whole: true }
    }
}

/// Renders rows under their columns. Without rows only the heading.
pub(crate) fn table(columns: &[Column], rows: &[Vec<String>], out: &Out) -> String {
    let mut table = Table::new();
    table.load_preset(NOTHING);
    match out.width() {
        Some(width) => table.set_content_arrangement(ContentArrangement::Dynamic).set_width(width),
        None => table.set_content_arrangement(ContentArrangement::Disabled),
    };
    if out.colored() {
        // Output may be a pipe with --color always; the table itself only looks at the terminal.
        table.enforce_styling();
    } else {
        table.force_no_tty();
    }
    table.set_header(columns.iter().map(|column| {
        let cell = Cell::new(column.title);
        if out.colored() { cell.add_attribute(Attribute::Dim) } else { cell }
    }));
    for row in rows {
        table.add_row(row.iter().map(|text| out.cell(&one_line(text))));
    }
    for (index, column) in columns.iter().enumerate() {
        let Some(shape) = table.column_mut(index) else { continue };
        shape.set_padding(if index == 0 { (0, 1) } else { (1, 1) });
        if column.right {
            shape.set_cell_alignment(CellAlignment::Right);
        }
        if column.whole {
            shape.set_constraint(ColumnConstraint::ContentWidth);
        }
    }
    table.lines().map(|line| format!("{}\n", line.trim_end())).collect()
}

/// Cuts a line to a width, with an ellipsis where something was cut.
pub(crate) fn fit(line: &str, width: usize) -> String {
    if line.chars().count() <= width {
        return line.to_owned();
    }
    let mut cut: String = line.chars().take(width.saturating_sub(1)).collect();
    cut.push('…');
    cut
}

#[cfg(test)]
mod tests {
    use super::*;

    const COLUMNS: &[Column] = &[Column::id("DEVICE"), Column::number("SIZE"), Column::text("DETAIL")];

    fn rows() -> Vec<Vec<String>> {
        let row = |a: &str, b: &str, c: &str| vec![a.to_owned(), b.to_owned(), c.to_owned()];
        vec![
            row("press-0001", "1.2 kB", "The bundle is complete."),
            row("press-0002", "34 MB", "a long sentence about what the device said \u{1b}[31mwhen it was asked for its logs\nand more"),
        ]
    }

    #[test]
    fn a_wide_table() {
        insta::assert_snapshot!(table(COLUMNS, &rows(), &Out::for_test(None)));
    }

    #[test]
    fn a_narrow_table_breaks_text_and_never_ids() {
        let text = table(COLUMNS, &rows(), &Out::for_test(Some(48)));
        insta::assert_snapshot!(text);
        assert!(text.lines().all(|line| line.chars().count() <= 48), "{text}");
    }

    #[test]
    fn fitting() {
        assert_eq!(fit("abc", 3), "abc");
        assert_eq!(fit("abcd", 3), "ab…");
        assert_eq!(fit("äöüß", 3), "äö…");
    }
}
