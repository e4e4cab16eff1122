//! What people shall read although the test passes.

use std::fmt::Display;
use std::io::Write;

/// Writes a line to the standard error at once: what `println!` writes is shown of failed tests only, at their end.
pub fn tell(line: impl Display) {
    // A test is not wrong because nobody can read what it says.
    let _ = writeln!(std::io::stderr(), "{line}");
}
