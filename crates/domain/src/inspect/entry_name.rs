//! Names of archive entries. We write none of them anywhere, but whoever downloads a bundle will unpack it.

/// Longest name of an entry, in bytes.
pub(super) const MAX_NAME_BYTES: usize = 1024;

/// Why a name is not safe to unpack.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(super) enum UnsafeName {
    /// No name at all.
    #[error("an entry has no name")]
    Nothing,
    /// More than [`MAX_NAME_BYTES`].
    #[error("an entry's name has more than {MAX_NAME_BYTES} bytes")]
    TooLong,
    /// A NUL, a line break or another control character.
    #[error("an entry's name has a control character")]
    Control,
    /// `/etc/passwd`.
    #[error("an entry's name is an absolute path")]
    Absolute,
    /// `a\b`: a separator to some, a character to others.
    #[error("an entry's name has a backslash")]
    Backslash,
    /// `C:x`.
    #[error("an entry's name begins with a drive")]
    Drive,
    /// `a/../b`.
    #[error("an entry's name leads out of the archive")]
    Parent,
}

/// Whether an archive entry of this name stays inside the directory it is unpacked into, on any system.
pub(super) fn check(name: &[u8]) -> Result<(), UnsafeName> {
    match name {
        [] => return Err(UnsafeName::Nothing),
        [b'/', ..] => return Err(UnsafeName::Absolute),
        [drive, b':', ..] if drive.is_ascii_alphabetic() => return Err(UnsafeName::Drive),
        _ if name.len() > MAX_NAME_BYTES => return Err(UnsafeName::TooLong),
        _ => {}
    }
    if name.iter().any(u8::is_ascii_control) {
        return Err(UnsafeName::Control);
    }
    if name.contains(&b'\\') {
        return Err(UnsafeName::Backslash);
    }
    // Some systems drop trailing dots and blanks of a component, so ".. " and "..." count as well.
    let leads_out = |part: &[u8]| part.starts_with(b"..") && part.iter().all(|c| matches!(c, b'.' | b' '));
    if name.split(|c| *c == b'/').any(leads_out) {
        return Err(UnsafeName::Parent);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_real_bundles_pass() {
        for name in ["check.json", "logs/edge Agent_log.txt", "network/azure-iot-edge.json", "a/b/..c/.d", "dir/", "ümlaut.txt", "ab:c"] {
            assert_eq!(check(name.as_bytes()), Ok(()), "{name}");
        }
        assert_eq!(check(&[b'n'; MAX_NAME_BYTES]), Ok(()));
    }

    #[test]
    fn names_that_lead_elsewhere_do_not() {
        for (name, why) in [
            ("", UnsafeName::Nothing),
            ("/etc/passwd", UnsafeName::Absolute),
            ("//server/share", UnsafeName::Absolute),
            ("..", UnsafeName::Parent),
            ("../x", UnsafeName::Parent),
            ("a/../../x", UnsafeName::Parent),
            ("a/..", UnsafeName::Parent),
            ("a/.. /x", UnsafeName::Parent),
            ("a/.../x", UnsafeName::Parent),
            ("..\\x", UnsafeName::Backslash),
            ("a\\b", UnsafeName::Backslash),
            ("C:\\x", UnsafeName::Drive),
            ("c:x", UnsafeName::Drive),
            ("a\0b", UnsafeName::Control),
            ("a\nb", UnsafeName::Control),
        ] {
            assert_eq!(check(name.as_bytes()), Err(why), "{name:?}");
        }
        assert_eq!(check(&[b'n'; MAX_NAME_BYTES + 1]), Err(UnsafeName::TooLong));
    }
}
