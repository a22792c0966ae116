//! Paths of the host, as flags, config files and requests name them.

use std::path::PathBuf;

use serde::de::Error as _;
use serde::{Deserialize, Deserializer};

/// Checks a path: an empty one means nothing or, for a socket, one that has no
/// name in the file system and is open to everybody.
///
/// # Errors
/// The fault as text, without the name of the flag.
pub fn check_path(path: impl Into<PathBuf>) -> Result<PathBuf, String> {
    let path = path.into();
    match path.as_os_str().as_encoded_bytes() {
        [] => Err("the path is empty".to_owned()),
        bytes if bytes.contains(&0) => Err("the path contains a NUL byte".to_owned()),
        _ => Ok(path),
    }
}

/// The same for a socket's, of which some write '@' for having no name.
///
/// # Errors
/// As for [`check_path`].
pub fn check_socket(path: impl Into<PathBuf>) -> Result<PathBuf, String> {
    let path = check_path(path)?;
    match path.as_os_str().as_encoded_bytes() {
        [b'@', ..] => Err(format!(
            "'{0}': abstract sockets are open to every user; use './{0}' for a file",
            path.display()
        )),
        _ => Ok(path),
    }
}

/// Reads a path of a config file or a request.
pub(crate) fn path<'de, D: Deserializer<'de>>(from: D) -> Result<PathBuf, D::Error> {
    check_path(String::deserialize(from)?).map_err(D::Error::custom)
}

/// The same where there may be none.
pub(crate) fn some_path<'de, D: Deserializer<'de>>(from: D) -> Result<Option<PathBuf>, D::Error> {
    let path = Option::<String>::deserialize(from)?;
    path.map(check_path).transpose().map_err(D::Error::custom)
}
