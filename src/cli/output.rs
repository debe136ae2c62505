//! What goes to stdout and stderr. A reader that goes away (`mpio status | head -1`) is no error.

use super::Failure;
use std::io::{self, IsTerminal, Write};

/// Writes text to stdout. A closed pipe counts as written: the reader has seen enough.
///
/// # Errors
/// When stdout cannot be written for another reason (a full disk).
pub fn print(text: &str) -> Result<(), Failure> {
    let mut stdout = io::stdout().lock();
    match stdout.write_all(text.as_bytes()).and_then(|()| stdout.flush()) {
        Ok(()) => Ok(()),
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(()),
        Err(error) => Err(Failure::failed(format!("stdout: {error}"))),
    }
}

/// Writes `mpio: …` to stderr.
pub fn error(message: &str) {
    let _ = writeln!(io::stderr().lock(), "mpio: {message}");
}

/// Writes text to stderr as it is. Nobody is left to be told when that fails.
pub fn complain(text: &str) {
    let _ = io::stderr().lock().write_all(text.as_bytes());
}

/// Writes a line of progress to stderr, only where somebody watches.
pub fn progress(message: &str) {
    let mut stderr = io::stderr().lock();
    if stderr.is_terminal() {
        let _ = writeln!(stderr, "{message}");
    }
}

/// Writes a line of progress to stderr over the last one, only where somebody watches.
pub fn progress_line(message: &str) {
    let mut stderr = io::stderr().lock();
    if stderr.is_terminal() {
        let _ = write!(stderr, "\r{message}\x1b[K");
        let _ = stderr.flush();
    }
}

/// Takes that line away.
pub fn progress_end() {
    progress_line("");
}

/// Lines of cells as a table: columns as wide as their widest cell, two spaces between them.
#[must_use]
pub fn table(indent: &str, rows: &[Vec<String>]) -> String {
    let columns = rows.iter().map(Vec::len).max().unwrap_or(0);
    let width = |c: usize| rows.iter().filter_map(|r| r.get(c)).map(|t| t.chars().count()).max();
    let widths: Vec<usize> = (0..columns).map(|c| width(c).unwrap_or(0)).collect();
    let mut out = String::new();
    for row in rows {
        let cells = row.iter().zip(&widths).map(|(text, width)| format!("{text:<width$}"));
        let line = cells.collect::<Vec<_>>().join("  ");
        out.push_str(indent);
        out.push_str(line.trim_end());
        out.push('\n');
    }
    out
}

/// Text from a target for a terminal: control characters are shown, not obeyed.
#[must_use]
pub fn safe(text: &str) -> String {
    text.chars()
        .flat_map(|c| if c.is_control() { c.escape_default().collect::<Vec<_>>() } else { vec![c] })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_line_up() {
        let rows = [vec!["A".to_owned(), "B".to_owned()], vec!["long".to_owned(), String::new()]];
        assert_eq!(table(" ", &rows), " A     B\n long\n");
    }

    #[test]
    fn escape_sequences_of_a_target_are_shown() {
        assert_eq!(safe("a\u{1b}[31mb\n"), "a\\u{1b}[31mb\\n");
    }
}
