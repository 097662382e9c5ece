//! What of a process's standard error says best why it ended.

/// How faulthandler begins its report of a crash.
const FATAL: &str = "Fatal Python error: ";

/// The last line that says something; of a crash that faulthandler reports, what it was and the innermost frame of it.
pub(crate) fn last_words(stderr: &str) -> Option<String> {
    let lines = || stderr.lines().map(str::trim_end).filter(|line| !line.is_empty());
    let crash = lines().rev().find(|line| line.starts_with(FATAL));
    let Some(crash) = crash else {
        return lines().next_back().map(str::to_owned);
    };
    let report = lines().skip_while(|line| *line != crash);
    let mut frames = report
        .map(str::trim_start)
        .filter(|line| line.starts_with("File "));
    Some(match frames.next() {
        Some(frame) => format!("{crash}, {frame}"),
        None => crash.to_owned(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn they_are_the_last_line_or_what_crashed() {
        assert_eq!(last_words(" \n\n"), None);
        assert_eq!(last_words("one\ntwo \n\n").as_deref(), Some("two"));
        let crash = "before\nFatal Python error: Segmentation fault\n\nCurrent thread 0x1 (most recent call first):\n  \
                     File \"bad.py\", line 9 in segv\n  File \"<string>\", line 1 in <module>\n";
        let expected = "Fatal Python error: Segmentation fault, File \"bad.py\", line 9 in segv";
        assert_eq!(last_words(crash).as_deref(), Some(expected));
        assert_eq!(
            last_words("Fatal Python error: Aborted\n").as_deref(),
            Some("Fatal Python error: Aborted")
        );
    }
}
