//! [`Failure`]: why the command ends before its work is done.

use std::error::Error;
use std::io;

/// Why the command ends before its work is done.
#[derive(Debug)]
pub(crate) enum Failure {
    /// Nobody reads the output any more: it ends quietly.
    ClosedPipe,
    /// To be said in one line: what, where, why, and what to do.
    Because(String),
}

impl Failure {
    /// `what` failed because of `error`.
    pub(crate) fn new(what: impl AsRef<str>, error: &dyn Error) -> Self {
        Self::Because(explain(what.as_ref(), error))
    }

    /// The same, with what to do about it.
    pub(crate) fn with_advice(
        what: impl AsRef<str>,
        error: &dyn Error,
        advice: impl AsRef<str>,
    ) -> Self {
        Self::Because(format!(
            "{}; {}",
            explain(what.as_ref(), error),
            advice.as_ref()
        ))
    }

    /// Writing to standard output failed.
    pub(crate) fn output(error: &io::Error) -> Self {
        if error.kind() == io::ErrorKind::BrokenPipe {
            Self::ClosedPipe
        } else {
            Self::new("cannot write to standard output", error)
        }
    }
}

/// One line of what failed and the causes behind it, each said once.
pub(crate) fn explain(what: &str, error: &dyn Error) -> String {
    let mut text = what.to_owned();
    let mut cause = Some(error);
    while let Some(error) = cause {
        let said = error.to_string();
        if !text.contains(&said) {
            if !text.is_empty() {
                text.push_str(": ");
            }
            text.push_str(&said);
        }
        cause = error.source();
    }
    text.replace('\n', " ")
}

#[cfg(test)]
mod tests {
    use std::fmt;

    use super::*;

    #[derive(Debug)]
    struct Outer(io::Error);

    impl fmt::Display for Outer {
        fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("the file is odd")
        }
    }

    impl Error for Outer {
        fn source(&self) -> Option<&(dyn Error + 'static)> {
            Some(&self.0)
        }
    }

    #[test]
    fn causes_are_said_once_and_in_one_line() {
        let error = Outer(io::Error::other("it is\nempty"));
        assert_eq!(
            explain("cannot read", &error),
            "cannot read: the file is odd: it is empty"
        );
        let said = explain("cannot read: the file is odd", &error);
        assert_eq!(said, "cannot read: the file is odd: it is empty");
    }

    #[test]
    fn a_closed_pipe_is_told_from_other_failures() {
        let closed = io::Error::from(io::ErrorKind::BrokenPipe);
        assert!(matches!(Failure::output(&closed), Failure::ClosedPipe));
        let full = io::Error::from(io::ErrorKind::StorageFull);
        assert!(matches!(Failure::output(&full), Failure::Because(_)));
    }
}
