//! Where in the source a thing was written.

use std::fmt;

/// A range of lines of the Dockerfile and the column at which it begins.
///
/// Lines and columns count from 1; a column counts Unicode scalar values.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, PartialOrd, Ord)]
pub struct Span {
    /// First line.
    pub line: u32,
    /// Last line, the same as `line` for a one-line instruction.
    pub line_end: u32,
    /// Column of the first character on the first line.
    pub column: u32,
}

impl Span {
    /// A span of one line that begins in its first column.
    #[must_use]
    pub const fn line(line: u32) -> Self {
        Self { line, line_end: line, column: 1 }
    }
}

impl fmt::Display for Span {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.line, self.column)
    }
}
