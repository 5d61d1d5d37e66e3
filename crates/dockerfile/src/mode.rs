//! `--chmod`: octal and symbolic file modes.

use std::fmt;

use crate::error::DockerfileError;

/// A change of file mode bits.
#[derive(Clone, PartialEq, Eq, Debug, Hash)]
pub enum ModeChange {
    /// Exactly these 12 bits.
    Octal(u32),
    /// Clauses that build on the mode a file has.
    Symbolic(Vec<ModeClause>),
}

/// One `who op perms` of a symbolic mode, for example `go=u`.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Hash)]
pub struct ModeClause {
    /// Classes that change: 4 = user, 2 = group, 1 = other.
    classes: u32,
    operator: Operator,
    permissions: Permissions,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug, Hash)]
enum Operator {
    Add,
    Remove,
    Set,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug, Hash)]
enum Permissions {
    /// rwx bits for one class, `X`, `s` and `t`.
    Bits { rwx: u32, search: bool, set_id: bool, sticky: bool },
    /// The bits another class has: shift of that class.
    Like { shift: u32 },
}

const MODE_BITS: u32 = 0o7777;

impl ModeChange {
    /// Parses the value of `--chmod`.
    ///
    /// # Errors
    /// If the text is neither an octal number up to 07777 nor a symbolic mode.
    pub fn parse(text: &str) -> Result<Self, DockerfileError> {
        let invalid = || {
            DockerfileError::syntax(format!(
                "invalid chmod parameter: '{text}'. it should be octal string and between 0 and 07777"
            ))
        };
        if text.starts_with(|c: char| c.is_ascii_digit()) {
            let bits = u32::from_str_radix(text, 8).map_err(|_| invalid())?;
            return if bits <= MODE_BITS { Ok(Self::Octal(bits)) } else { Err(invalid()) };
        }
        let mut clauses = Vec::new();
        for clause in text.split(',') {
            parse_clause(clause, &mut clauses).ok_or_else(invalid)?;
        }
        Ok(Self::Symbolic(clauses))
    }

    /// The 12 mode bits of a file that had `mode` and is, or is not, a directory.
    #[must_use]
    pub fn apply(&self, mode: u32, kind: FileKind) -> u32 {
        match self {
            Self::Octal(bits) => *bits,
            Self::Symbolic(clauses) => {
                clauses.iter().fold(mode & MODE_BITS, |mode, clause| clause.apply(mode, kind))
            }
        }
    }
}

/// Whether a mode belongs to a directory, which `X` asks about.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum FileKind {
    /// A directory.
    Directory,
    /// Anything else.
    Other,
}

fn parse_clause(text: &str, clauses: &mut Vec<ModeClause>) -> Option<()> {
    let mut rest = text.chars().peekable();
    let mut classes = 0;
    while let Some(who) = rest.peek() {
        classes |= match who {
            'u' => 4,
            'g' => 2,
            'o' => 1,
            'a' => 7,
            _ => break,
        };
        rest.next();
    }
    if classes == 0 {
        classes = 7;
    }
    rest.peek()?;
    while let Some(sign) = rest.next() {
        let operator = match sign {
            '+' => Operator::Add,
            '-' => Operator::Remove,
            '=' => Operator::Set,
            _ => return None,
        };
        let (mut rwx, mut search, mut set_id, mut sticky) = (0, false, false, false);
        let mut like = None;
        while let Some(permission) = rest.peek() {
            match permission {
                'r' => rwx |= 4,
                'w' => rwx |= 2,
                'x' => rwx |= 1,
                'X' => search = true,
                's' => set_id = true,
                't' => sticky = true,
                'u' => like = Some(6),
                'g' => like = Some(3),
                'o' => like = Some(0),
                '+' | '-' | '=' => break,
                _ => return None,
            }
            rest.next();
        }
        let permissions = match like {
            Some(shift) => Permissions::Like { shift },
            None => Permissions::Bits { rwx, search, set_id, sticky },
        };
        clauses.push(ModeClause { classes, operator, permissions });
    }
    Some(())
}

impl ModeClause {
    fn apply(self, mode: u32, kind: FileKind) -> u32 {
        let mut rwx_all = 0;
        let mut special = 0;
        match self.permissions {
            Permissions::Like { shift } => rwx_all = (mode >> shift) & 7,
            Permissions::Bits { rwx, search, set_id, sticky } => {
                rwx_all |= rwx;
                if search && (kind == FileKind::Directory || mode & 0o111 != 0) {
                    rwx_all |= 1;
                }
                if set_id {
                    special |= if self.classes & 4 != 0 { 0o4000 } else { 0 };
                    special |= if self.classes & 2 != 0 { 0o2000 } else { 0 };
                }
                special |= if sticky { 0o1000 } else { 0 };
            }
        }
        let spread = |bits: u32| {
            let mut spread = 0;
            for (class, shift) in [(4, 6), (2, 3), (1, 0)] {
                if self.classes & class != 0 {
                    spread |= bits << shift;
                }
            }
            spread
        };
        let wanted = spread(rwx_all) | special;
        match self.operator {
            Operator::Add => mode | wanted,
            Operator::Remove => mode & !wanted,
            Operator::Set => {
                let mut cleared = spread(7);
                cleared |= if self.classes & 4 != 0 { 0o4000 } else { 0 };
                cleared |= if self.classes & 2 != 0 { 0o2000 } else { 0 };
                (mode & !cleared) | wanted
            }
        }
    }
}

impl fmt::Display for ModeChange {
    /// Prints a text that parses to the same change; cache keys are made of it.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Octal(bits) => write!(f, "{bits:o}"),
            Self::Symbolic(clauses) => {
                for (index, clause) in clauses.iter().enumerate() {
                    write!(f, "{}{clause}", if index == 0 { "" } else { "," })?;
                }
                Ok(())
            }
        }
    }
}

impl fmt::Display for ModeClause {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut text = String::new();
        let mut add = |wanted: bool, c: char| text.extend(wanted.then_some(c));
        add(self.classes & 4 != 0, 'u');
        add(self.classes & 2 != 0, 'g');
        add(self.classes & 1 != 0, 'o');
        add(self.operator == Operator::Add, '+');
        add(self.operator == Operator::Remove, '-');
        add(self.operator == Operator::Set, '=');
        match self.permissions {
            Permissions::Like { shift } => add(true, ['o', 'g', 'u'][(shift / 3) as usize % 3]),
            Permissions::Bits { rwx, search, set_id, sticky } => {
                add(rwx & 4 != 0, 'r');
                add(rwx & 2 != 0, 'w');
                add(rwx & 1 != 0, 'x');
                add(search, 'X');
                add(set_id, 's');
                add(sticky, 't');
            }
        }
        f.write_str(&text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(change: &str, mode: u32, kind: FileKind, expected: u32) {
        let change = ModeChange::parse(change).expect(change);
        assert_eq!(change.apply(mode, kind), expected, "{change:?} of {mode:o}");
    }

    #[test]
    fn octal_replaces_all_twelve_bits() {
        check("755", 0o4600, FileKind::Other, 0o755);
        check("07777", 0, FileKind::Other, 0o7777);
        check("0", 0o777, FileKind::Directory, 0);
    }

    #[test]
    fn changes_print_as_what_they_parse_from() {
        for text in ["755", "0", "u=rwX,go=rX", "go=u", "ugo-w", "u+s", "ugo+t,o=g"] {
            assert_eq!(ModeChange::parse(text).expect(text).to_string(), text);
        }
        assert_eq!(ModeChange::parse("a+x").expect("a mode").to_string(), "ugo+x");
        assert_eq!(ModeChange::parse("u=rw+x").expect("a mode").to_string(), "u=rw,u+x");
    }

    #[test]
    fn capital_x_depends_on_directory_or_an_execute_bit() {
        check("u=rwX,go=rX", 0o600, FileKind::Other, 0o644);
        check("u=rwX,go=rX", 0o700, FileKind::Other, 0o755);
        check("u=rwX,go=rX", 0o600, FileKind::Directory, 0o755);
    }

    #[test]
    fn classes_copy_from_each_other() {
        check("go=u", 0o740, FileKind::Other, 0o777);
        check("o=g", 0o640, FileKind::Other, 0o644);
    }

    /// BuildKit ChmodNonOctal; kaniko issue_mz798.
    #[test]
    fn bits_are_added_and_removed() {
        check("a-w", 0o666, FileKind::Other, 0o444);
        check("+x", 0o644, FileKind::Other, 0o755);
        check("u+s,g+s", 0o755, FileKind::Other, 0o6755);
        check("+t", 0o777, FileKind::Directory, 0o1777);
        check("u=rw+x", 0o000, FileKind::Other, 0o700);
    }

    /// BuildKit CopyInvalidChmod, AddInvalidChmod.
    #[test]
    fn bad_modes_quote_what_was_written() {
        for bad in ["64a", "10000", "foo", "8", "", "u", "u=rw,", "=z"] {
            let error = ModeChange::parse(bad).expect_err(bad);
            assert_eq!(
                error.message(),
                format!(
                    "invalid chmod parameter: '{bad}'. \
                     it should be octal string and between 0 and 07777"
                )
            );
        }
    }
}
