//! Unix sockets have paths: with permissions, in the way of one another, and left behind.

use std::fs;
use std::io;
use std::os::unix::fs::{FileTypeExt, PermissionsExt};
use std::path::Path;

use nix::errno::Errno;
use nix::unistd::{Gid, Group};
use socket2::Socket;

use super::address::Address;
use super::listeners::ListenError;
use crate::config::ListenerConfig;

/// Binds a Unix socket so that at no moment more people can connect than in the end.
pub(super) fn bind(
    config: &ListenerConfig,
    address: &Address,
    path: &Path,
) -> Result<Socket, ListenError> {
    let refused = |what, source| ListenError::Refused {
        name: config.name.clone(),
        what,
        address: address.clone(),
        source,
    };
    let group = config.group.as_deref().map(|g| group_id(config, g));
    let group = group.transpose()?;
    let mode = config.mode.as_deref().map(|m| mode_bits(config, m));
    let mode = mode.transpose()?.or(group.map(|_| 0o660));

    remove_stale(config, address, path)?;
    let (socket, to) = address.socket().map_err(|e| refused("open", e))?;
    if mode.is_some() {
        // bind(2) gives the path the socket's own mode.
        rustix::fs::fchmod(&socket, 0o600.into()).map_err(|e| refused("open", e.into()))?;
    }
    socket.bind(&to).map_err(|e| refused("bind", e))?;
    let set = || -> Result<(), ListenError> {
        if let Some(group) = group {
            nix::unistd::chown(path, None, Some(group))
                .map_err(|e| refused("set the group of", e.into()))?;
        }
        if let Some(mode) = mode {
            fs::set_permissions(path, fs::Permissions::from_mode(mode))
                .map_err(|e| refused("set the mode of", e))?;
        }
        Ok(())
    };
    set().inspect_err(|_| {
        let _ = fs::remove_file(path);
    })?;
    Ok(socket)
}

/// Removes the path of a socket that nobody listens on any more. One that somebody answers on is in
/// use; what is no socket is not ours to remove.
fn remove_stale(
    config: &ListenerConfig,
    address: &Address,
    path: &Path,
) -> Result<(), ListenError> {
    let refused = |what, source| ListenError::Refused {
        name: config.name.clone(),
        what,
        address: address.clone(),
        source,
    };
    match fs::symlink_metadata(path) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(e) => return Err(refused("look at", e)),
        Ok(meta) if !meta.file_type().is_socket() => {
            return Err(ListenError::NotASocket {
                name: config.name.clone(),
                path: path.into(),
            });
        }
        Ok(_) => {}
    }
    // Non-blocking: a full queue is an answer, too.
    let (probe, to) = address.socket().map_err(|e| refused("open", e))?;
    match probe.connect(&to).map_err(|e| e.raw_os_error()) {
        Err(Some(code)) if code == Errno::ECONNREFUSED as i32 => match fs::remove_file(path) {
            Err(e) if e.kind() != io::ErrorKind::NotFound => {
                Err(refused("remove the stale socket at", e))
            }
            _ => Ok(()),
        },
        Err(Some(code)) if code == Errno::ENOENT as i32 => Ok(()),
        _ => Err(refused("bind", Errno::EADDRINUSE.into())),
    }
}

fn mode_bits(config: &ListenerConfig, text: &str) -> Result<u32, ListenError> {
    u32::from_str_radix(text, 8)
        .ok()
        .filter(|mode| *mode <= 0o777)
        .ok_or_else(|| ListenError::Setting {
            name: config.name.clone(),
            key: "mode",
            value: text.into(),
            expected: "octal permissions like \"0660\"",
        })
}

fn group_id(config: &ListenerConfig, text: &str) -> Result<Gid, ListenError> {
    if let Ok(number) = text.parse::<u32>() {
        return Ok(number.into());
    }
    match Group::from_name(text) {
        Ok(Some(group)) => Ok(group.gid),
        _ => Err(ListenError::Setting {
            name: config.name.clone(),
            key: "group",
            value: text.into(),
            expected: "the name or number of a group of this system",
        }),
    }
}
