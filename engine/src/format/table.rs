//! Tables: lines whose cells end with tabs, aligned as Docker aligns them.

/// Spaces between two columns.
const PADDING: usize = 3;
/// Least width of a column, padding included.
const MIN_WIDTH: usize = 10;

/// Aligns `text`: cells are separated by tabs, and each is padded to the widest of its column; the last cell of a line is
/// left as it is.
pub fn align(text: &str) -> String {
    let lines: Vec<Vec<&str>> = text.lines().map(|line| line.split('\t').collect()).collect();
    let mut widths: Vec<usize> = vec![];
    for cells in &lines {
        for (column, cell) in cells.iter().take(cells.len().saturating_sub(1)).enumerate() {
            if column == widths.len() {
                widths.push(MIN_WIDTH);
            }
            widths[column] = widths[column].max(cell.chars().count() + PADDING);
        }
    }
    let mut aligned = String::with_capacity(text.len() * 2);
    for cells in &lines {
        for (column, cell) in cells.iter().enumerate() {
            aligned.push_str(cell);
            if column + 1 < cells.len() {
                let missing = widths[column].saturating_sub(cell.chars().count());
                aligned.extend(std::iter::repeat_n(' ', missing));
            }
        }
        aligned.push('\n');
    }
    aligned
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_are_as_wide_as_their_widest_cell_and_at_least_ten() {
        let aligned = align("ID\tNAME\tPORTS\nabcdefghijkl\tw\t80/tcp\nx\tlonger-name\t\n");
        assert_eq!(
            aligned,
            "ID             NAME          PORTS\n\
             abcdefghijkl   w             80/tcp\n\
             x              longer-name   \n"
        );
        assert_eq!(align("a\tb\n"), "a         b\n");
    }

    #[test]
    fn wide_characters_count_as_one() {
        assert_eq!(align("\u{e9}\u{e9}\tx\nabcdefghij\ty\n"), "\u{e9}\u{e9}           x\nabcdefghij   y\n");
    }
}
