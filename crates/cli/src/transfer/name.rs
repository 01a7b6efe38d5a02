//! File names for objects. A device chooses the names of its objects, and a hostile one chooses `../../.ssh/authorized_keys`.

use std::path::PathBuf;

use sha2::{Digest as _, Sha256};

use super::MANIFEST;

/// Longest file name made, in bytes; file systems allow 255, and a temporary name adds some.
const MAX_COMPONENT_BYTES: usize = 200;
/// Deepest directory made below the bundle's own; deeper names are folded into their last level.
const MAX_DEPTH: usize = 16;

/// The path below a bundle's directory for an object's name. Different names give different paths, and no path leaves the directory.
pub(crate) fn safe_path(object: &str) -> PathBuf {
    let mut components: Vec<String> = object.splitn(MAX_DEPTH, '/').map(safe_component).collect();
    if components[0].eq_ignore_ascii_case(MANIFEST) {
        // The manifest of the bundle is ours; an object of that name stands beside it under an escaped one.
        components[0] = format!("%{:02X}{}", components[0].as_bytes()[0], &components[0][1..]);
    }
    components.iter().collect()
}

/// One level: percent escapes for what a file system, a shell or a terminal could read as something else.
fn safe_component(text: &str) -> String {
    if text.is_empty() {
        // No other name starts with a bare percent sign: it is always escaped itself.
        return "%".to_owned();
    }
    let mut safe = String::with_capacity(text.len());
    for (index, c) in text.char_indices() {
        let keep = match c {
            '.' => text != "." && text != ".." && !(index == 0 || index + 1 == text.len()),
            '-' => index > 0,
            ' ' => index > 0 && index + 1 < text.len(),
            '_' | '+' | ',' | '=' | '@' | '(' | ')' | '[' | ']' | '~' => true,
            _ => c.is_alphanumeric(),
        };
        if keep {
            safe.push(c);
        } else {
            let mut buffer = [0; 4];
            for byte in c.encode_utf8(&mut buffer).bytes() {
                safe.push_str(&format!("%{byte:02X}"));
            }
        }
    }
    if safe.len() <= MAX_COMPONENT_BYTES {
        return safe;
    }
    // Too long for a file system: the beginning, and a digest that keeps two long names apart.
    let digest = Sha256::digest(text.as_bytes());
    let mut cut = MAX_COMPONENT_BYTES - 2 - 32;
    while !safe.is_char_boundary(cut) {
        cut -= 1;
    }
    let hex: String = digest[..16].iter().map(|byte| format!("{byte:02x}")).collect();
    // `%~` is no escape of a byte, so no short name looks like this.
    format!("{}%~{hex}", &safe[..cut])
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashSet;
    use std::path::Component;

    #[test]
    fn ordinary_names_stay_as_they_are() {
        for name in ["hub.azure-devices.net/press-0042/support-bundle-2026-01-02--03-04-05.zip", "edgeAgent.log", "größe.json"] {
            assert_eq!(safe_path(name), PathBuf::from(name));
        }
    }

    #[test]
    fn hostile_names_stay_inside_and_apart() {
        let hostile = [
            "",
            "/",
            "//",
            ".",
            "..",
            "../..",
            "../../etc/passwd",
            "/etc/passwd",
            "a/../../b",
            "a/./b",
            "a//b",
            "a/",
            "/a",
            "..%2f",
            "%2e%2e",
            "%",
            "%25",
            "C:\\windows\\x",
            "\\\\host\\share",
            "nul\0l",
            "new\nline",
            "esc\u{1b}[2J",
            ".bashrc",
            "-rf",
            "~/x",
            "a b ",
            " a",
            "trailing.",
            "a:b",
            "a?b",
            "a*b",
            "manifest.json",
            "MANIFEST.JSON",
            "%6Danifest.json",
            ".hidden.part",
            "\u{202e}gpj.exe",
            "$(reboot)",
            "`x`",
            "a|b",
        ];
        let mut seen = HashSet::new();
        for name in hostile {
            let path = safe_path(name);
            assert!(path.components().all(|component| matches!(component, Component::Normal(_))), "{name:?} became {path:?}");
            let text = path.to_str().expect("unicode");
            assert!(!text.chars().any(|c| c.is_control() || "\\:*?\"<>|$`".contains(c)), "{name:?} became {path:?}");
            assert!(text != MANIFEST && !text.eq_ignore_ascii_case(MANIFEST), "{name:?} became the manifest");
            assert!(!text.starts_with(['.', '-']), "{name:?} became {path:?}");
            assert!(seen.insert(text.to_owned()), "{name:?} became {path:?}, like another");
        }
    }

    #[test]
    fn long_and_deep_names_fit_a_file_system() {
        let (a, b) = ("ä".repeat(5000), format!("{}b", "ä".repeat(4999)));
        assert_ne!(safe_path(&a), safe_path(&b));
        for name in [a, b, "%".repeat(500), format!("{}x", "d/".repeat(3000))] {
            let path = safe_path(&name);
            assert!(path.components().count() <= MAX_DEPTH);
            assert!(path.components().all(|component| component.as_os_str().len() <= MAX_COMPONENT_BYTES), "{path:?}");
        }
    }
}
