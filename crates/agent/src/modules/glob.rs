//! Paths with `*` and `?` in any of their components, enough to name log files.

use std::path::{Path, PathBuf};

/// Most files one pattern may name.
pub(crate) const MAX_MATCHES: usize = 1000;

/// The files a pattern names, sorted; a pattern without wildcards names itself, whether it exists or not.
pub(crate) fn expand(pattern: &str) -> Vec<PathBuf> {
    let mut found = vec![PathBuf::from(if pattern.starts_with('/') { "/" } else { "" })];
    for component in pattern.split('/').filter(|c| !c.is_empty()) {
        if !component.contains(['*', '?']) {
            for path in &mut found {
                path.push(component);
            }
            continue;
        }
        let mut next = Vec::new();
        for directory in &found {
            let directory = if directory.as_os_str().is_empty() { Path::new(".") } else { directory };
            for entry in std::fs::read_dir(directory).into_iter().flatten().flatten() {
                let name = entry.file_name();
                // Hidden names are named only by patterns that begin with a dot, as in a shell.
                if name.to_str().is_some_and(|name| matches(component, name) && (!name.starts_with('.') || component.starts_with('.'))) {
                    next.push(entry.path());
                }
            }
        }
        next.sort();
        next.truncate(MAX_MATCHES);
        found = next;
    }
    if pattern.contains(['*', '?']) {
        found.retain(|path| path.is_file());
    }
    found
}

/// Whether a name fits a pattern. Linear in the name for each star: no blow-up.
pub(crate) fn matches(pattern: &str, name: &str) -> bool {
    let (pattern, name): (Vec<char>, Vec<char>) = (pattern.chars().collect(), name.chars().collect());
    let (mut p, mut n) = (0, 0);
    let mut star: Option<(usize, usize)> = None;
    while n < name.len() {
        if p < pattern.len() && pattern[p] == '*' {
            star = Some((p, n));
            p += 1;
        } else if p < pattern.len() && (pattern[p] == '?' || pattern[p] == name[n]) {
            p += 1;
            n += 1;
        } else if let Some((at, from)) = star {
            star = Some((at, from + 1));
            p = at + 1;
            n = from + 1;
        } else {
            return false;
        }
    }
    pattern[p..].iter().all(|&c| c == '*')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patterns_match_as_in_a_shell() {
        for (pattern, name, expected) in [
            ("*", "a", true),
            ("*.log", "a.log", true),
            ("*.log", "a.log.1", false),
            ("a?c", "abc", true),
            ("a?c", "ac", false),
            ("a*b*c", "axxbyyc", true),
            ("a*b*c", "axxbyy", false),
            ("", "", true),
            ("", "a", false),
            ("**", "abc", true),
            ("é*", "été", true),
        ] {
            assert_eq!(matches(pattern, name), expected, "{pattern} {name}");
        }
        assert!(!matches(&"*a".repeat(50), &"a".repeat(40)), "and without blowing up");
    }

    #[test]
    fn expansion_finds_files_in_any_directory() {
        let root = tempfile::tempdir().expect("a directory");
        for name in ["a/x.log", "b/x.log", "b/y.log", "b/.hidden.log", "c/x.txt"] {
            let path = root.path().join(name);
            std::fs::create_dir_all(path.parent().expect("a parent")).expect("made");
            std::fs::write(path, "x").expect("written");
        }
        let root = root.path().to_str().expect("text");
        let names = |pattern: &str| {
            expand(&format!("{root}/{pattern}")).iter().map(|p| p.to_string_lossy()[root.len() + 1..].to_owned()).collect::<Vec<_>>()
        };
        assert_eq!(names("*/x.log"), ["a/x.log", "b/x.log"]);
        assert_eq!(names("b/*.log"), ["b/x.log", "b/y.log"]);
        assert_eq!(names("nothing/*.log"), Vec::<String>::new());
        assert_eq!(names("b/none.log"), ["b/none.log"], "a plain name is kept, so that its absence can be reported");
        assert_eq!(names("*"), Vec::<String>::new(), "directories are not files");
    }
}
