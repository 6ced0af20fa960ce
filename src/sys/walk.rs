//! The way to a directory whose path others may have a part in. Who goes there may be root, and everybody
//! who owns a part of the way could exchange that part meanwhile. So it is gone a step at a time, each
//! directory opened in the one before.

use std::ffi::{OsStr, OsString};
use std::io;
use std::os::fd::{AsFd, AsRawFd as _, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Component, Path, PathBuf};

use rustix::fs::{CWD, FileType, Mode, OFlags, Stat};
use rustix::io::Errno;

/// Where a path led.
#[derive(Debug)]
pub struct Reached {
    /// Opened with `O_PATH`.
    pub directory: OwnedFd,
    /// No link is in it.
    pub path: PathBuf,
    /// Its user.
    pub owner: u32,
}

/// Opens a directory (`O_PATH`) by an absolute path, and says which it is. Links are followed, and
/// whoever owns a part of the way may lead it into a directory of their own, but into nobody else's.
/// Root and we are trusted. Root does not go on from a directory that others than its owner may write:
/// they could exchange what is in it.
///
/// # Errors
/// When a part of the way is not there, or is somebody's who could make it lead elsewhere.
pub fn directory(path: &Path) -> io::Result<Reached> {
    let minds_writers = rustix::process::geteuid().is_root();
    walk(Path::new("/"), path, minds_writers)
}

/// `top`: where absolute paths begin.
fn walk(top: &Path, path: &Path, minds_writers: bool) -> io::Result<Reached> {
    let root = || rustix::fs::openat(CWD, top, STEP, Mode::empty());
    let writers = |directory: &OwnedFd, stat: &Stat| {
        minds_writers
            .then(|| others_who_write(stat, has_list(directory)))
            .flatten()
    };
    let (mut here, mut at) = (root()?, PathBuf::from("/"));
    let stat = rustix::fs::fstat(&here)?;
    let mut owner = stat.st_uid;
    // Asked of each directory, the first one too, when something in it is.
    let mut written_by = writers(&here, &stat);
    // Who owns the root owns all: in a user namespace that is not always uid 0.
    let mut others = Others::beside(owner);
    let mut links = 0;
    let mut steps = Vec::new();
    push(&mut steps, path);
    while let Some(step) = steps.pop() {
        if let Some(who) = written_by.take() {
            let (at, to) = (at.display(), at.join(&step));
            return Err(io::Error::other(format!(
                "{who} may write {at} and could put another directory at {to}: chmod go-w {at}, or +t",
                to = to.display()
            )));
        }
        let next = rustix::fs::openat(&here, &step, STEP, Mode::empty())?;
        let stat = rustix::fs::fstat(&next)?;
        others.meet(stat.st_uid, &at.join(&step))?;
        match FileType::from_raw_mode(stat.st_mode) {
            FileType::Directory if step == ".." => {
                at.pop();
            }
            FileType::Directory => at.push(&step),
            FileType::Symlink => {
                links += 1;
                if links > LINKS_MAX {
                    return Err(Errno::LOOP.into());
                }
                let target = rustix::fs::readlinkat(&next, "", Vec::new())?;
                let target = Path::new(OsStr::from_bytes(target.as_bytes()));
                if target.is_absolute() {
                    (here, at) = (root()?, PathBuf::from("/"));
                    let stat = rustix::fs::fstat(&here)?;
                    owner = stat.st_uid;
                    written_by = writers(&here, &stat);
                }
                push(&mut steps, target);
                continue;
            }
            _ => return Err(Errno::NOTDIR.into()),
        }
        written_by = writers(&next, &stat);
        (here, owner) = (next, stat.st_uid);
    }
    others.end(owner, &at)?;
    Ok(Reached {
        directory: here,
        path: at,
        owner,
    })
}

/// Opens the file of a Unix socket: what `/proc/self/fd` names then is this socket, whatever its path
/// leads to by the time of a connect(2). A link is none. Also who owns the directory that it is in. Only
/// root minds who has a part in the way: whom another user asks, the answer's sender tells.
///
/// # Errors
/// As [`directory`], and when it is not there, or is no socket.
pub fn socket(path: &Path) -> io::Result<(OwnedFd, u32)> {
    let path = std::path::absolute(path)?;
    let (Some(parent), Some(name)) = (path.parent(), path.file_name()) else {
        return Err(Errno::INVAL.into());
    };
    let (directory, owner) = if rustix::process::geteuid().is_root() {
        // /run of a container may be everybody's: what answers there is looked at by itself.
        let within = walk(Path::new("/"), parent, false)?;
        (within.directory, within.owner)
    } else {
        let directory = rustix::fs::open(parent, OFlags::PATH | OFlags::CLOEXEC, Mode::empty())?;
        let owner = rustix::fs::fstat(&directory)?.st_uid;
        (directory, owner)
    };
    let socket = rustix::fs::openat(&directory, name, STEP, Mode::empty())?;
    match FileType::from_raw_mode(rustix::fs::fstat(&socket)?.st_mode) {
        FileType::Socket => Ok((socket, owner)),
        _ => Err(io::Error::other("it is not a socket")),
    }
}

/// Last one first.
fn push(steps: &mut Vec<OsString>, path: &Path) {
    let named = |part: Component<'_>| match part {
        Component::Normal(name) => Some(name.to_owned()),
        Component::ParentDir => Some("..".into()),
        Component::RootDir | Component::CurDir | Component::Prefix(_) => None,
    };
    steps.extend(path.components().rev().filter_map(named));
}

/// Who beside its owner may exchange what is in a directory. A group of a person's number, or root's, is
/// that one's own (as login.defs(5), `USERGROUPS_ENAB`, has it), unless the group's bits are those of
/// an access control list, which may name anybody (acl(5)). Other groups of the system have members.
fn others_who_write(directory: &Stat, has_list: bool) -> Option<String> {
    let mode = Mode::from_raw_mode(directory.st_mode);
    if mode.contains(Mode::SVTX) {
        return None;
    }
    if mode.contains(Mode::WOTH) {
        return Some("everybody".into());
    }
    let group = directory.st_gid;
    let is_own = group == directory.st_uid && (group == 0 || group >= PEOPLE) && !has_list;
    (mode.contains(Mode::WGRP) && !is_own).then(|| format!("group {group}"))
}

/// The numbers of people begin here (login.defs(5), `UID_MIN`).
const PEOPLE: u32 = 1000;

/// Whether an opened directory has an access control list. One that cannot be asked may have one; a file
/// system without lists has none.
fn has_list(directory: impl AsFd) -> bool {
    let path = format!("/proc/self/fd/{}", directory.as_fd().as_raw_fd());
    let asked = rustix::fs::getxattr(path, "system.posix_acl_access", &mut [0_u8; 0]);
    !matches!(asked, Err(Errno::NODATA | Errno::OPNOTSUPP))
}

/// Who could make a path lead elsewhere, beside root and us.
#[derive(Debug)]
struct Others {
    trusted: [u32; 3],
    met: Option<(u32, PathBuf)>,
}

impl Others {
    fn beside(root: u32) -> Self {
        Self {
            trusted: [0, root, rustix::process::geteuid().as_raw()],
            met: None,
        }
    }

    fn meet(&mut self, owner: u32, at: &Path) -> io::Result<()> {
        if self.trusted.contains(&owner) {
            return Ok(());
        }
        match &self.met {
            Some((first, _)) if *first == owner => Ok(()),
            Some(_) => self.refuse(owner, at),
            None => {
                self.met = Some((owner, at.into()));
                Ok(())
            }
        }
    }

    fn end(&self, owner: u32, at: &Path) -> io::Result<()> {
        match &self.met {
            Some((other, _)) if *other != owner => self.refuse(owner, at),
            _ => Ok(()),
        }
    }

    fn refuse(&self, owner: u32, at: &Path) -> io::Result<()> {
        let Some((other, theirs)) = &self.met else {
            return Ok(());
        };
        Err(io::Error::other(format!(
            "{theirs} belongs to uid {other}, who could make it lead elsewhere than to {at} of uid \
             {owner}: chown one of them",
            theirs = theirs.display(),
            at = at.display()
        )))
    }
}

const STEP: OFlags = OFlags::PATH.union(OFlags::NOFOLLOW).union(OFlags::CLOEXEC);

/// As many as `path_resolution(7)` follows.
const LINKS_MAX: usize = 40;

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;
    use std::os::unix::fs::{chown, lchown, symlink};

    fn scene() -> tempfile::TempDir {
        let dir = tempfile::tempdir().unwrap();
        for release in ["1", "2"] {
            fs::create_dir(dir.path().join(release)).unwrap();
        }
        symlink("1", dir.path().join("current")).unwrap();
        dir
    }

    #[test]
    fn a_path_of_links_and_dots_leads_where_it_says() {
        let dir = scene();
        let real = dir.path().canonicalize().unwrap();
        symlink("../", dir.path().join("1/up")).unwrap();
        symlink(&real, dir.path().join("2/all")).unwrap();
        for path in [
            "current",
            "1/up/current",
            "2/all/1/../current",
            "current/../current",
        ] {
            let path = dir.path().join(path);
            let reached = directory(path.parent().unwrap()).unwrap();
            assert_eq!(reached.path, real, "{}", path.display());
        }
        symlink("round", dir.path().join("round")).unwrap();
        let error = directory(&dir.path().join("round")).unwrap_err();
        assert_eq!(error.raw_os_error(), Some(Errno::LOOP.raw_os_error()));
        let error = directory(Path::new("/dev/null")).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::NotADirectory);
    }

    #[test]
    fn whoever_owns_a_part_of_the_way_leads_into_their_own_directory_alone() {
        let refused = |owners: &[u32], last: u32| {
            let mut others = Others::beside(0);
            let met = owners
                .iter()
                .try_for_each(|uid| others.meet(*uid, Path::new("/a")));
            met.and_then(|()| others.end(last, Path::new("/b")))
                .is_err()
        };
        let me = rustix::process::geteuid().as_raw();
        assert!(!refused(&[0, 0, me], me));
        assert!(!refused(&[0, 4242, 4242, 0, 4242], 4242));
        assert!(refused(&[0, 4242, 0], 0));
        assert!(refused(&[0, 4242, me], me));
        assert!(refused(&[0, 4242, 4343], 4343));
    }

    #[test]
    fn root_does_not_follow_a_link_of_somebody_into_another_ones_directory() {
        if !rustix::process::geteuid().is_root() {
            eprintln!("skipped: only root can make files of somebody else");
            return;
        }
        let dir = scene();
        let theirs = dir.path().join("1");
        chown(&theirs, Some(4242), None).unwrap();
        assert_eq!(directory(&theirs).unwrap().owner, 4242);
        let site = theirs.join("site");
        symlink(dir.path(), &site).unwrap();
        lchown(&site, Some(4242), None).unwrap();
        let error = directory(&site).unwrap_err().to_string();
        assert!(error.contains("belongs to uid 4242"), "{error}");
        assert!(error.contains("of uid 0"), "{error}");
    }

    #[test]
    fn root_does_not_go_on_from_what_others_may_write() {
        if !rustix::process::geteuid().is_root() {
            eprintln!("skipped: only root can give files to a group");
            return;
        }
        let dir = scene();
        let www = dir.path().join("1");
        let blog = www.join("blog");
        fs::create_dir(&blog).unwrap();
        for (group, mode, writes) in [
            (4242, 0o775, Some("group 4242 may write")),
            (4242, 0o2775, Some("group 4242 may write")),
            (0, 0o777, Some("everybody may write")),
            (4242, 0o3775, None),
            (0, 0o1777, None),
            (4242, 0o755, None),
            (0, 0o775, None),
        ] {
            chown(&www, Some(0), Some(group)).unwrap();
            let mode = std::os::unix::fs::PermissionsExt::from_mode(mode);
            fs::set_permissions(&www, mode).unwrap();
            let error = directory(&blog).err().map(|e| e.to_string());
            match (writes, &error) {
                (Some(words), Some(error)) => assert!(error.contains(words), "{error}"),
                (None, None) => {}
                _ => panic!("{writes:?}: {error:?}"),
            }
            // Who may write the last one may set the link in it anyway.
            directory(&www).unwrap();
        }
    }

    #[test]
    fn a_list_may_let_anybody_write_though_the_group_is_roots() {
        let dir = scene();
        let www = dir.path().join("1");
        let blog = www.join("blog");
        fs::create_dir(&blog).unwrap();
        // acl(5), as the kernel has it: all of user 4242's, r-x of the group's, and a mask that looks like
        // the group's bits.
        let mut list = 2_u32.to_le_bytes().to_vec();
        let nobody = u32::MAX;
        for (tag, bits, id) in [
            (1, 7, nobody),
            (2, 7, 4242),
            (4, 5, nobody),
            (16, 7, nobody),
            (32, 5, nobody),
        ] {
            list.extend(u16::to_le_bytes(tag));
            list.extend(u16::to_le_bytes(bits));
            list.extend(u32::to_le_bytes(id));
        }
        let flags = rustix::fs::XattrFlags::empty();
        let set = rustix::fs::setxattr(&www, "system.posix_acl_access", &list, flags);
        if set == Err(Errno::OPNOTSUPP) {
            eprintln!("skipped: this file system has no access control lists");
            return;
        }
        set.unwrap();
        let error = walk(Path::new("/"), &blog, true).unwrap_err().to_string();
        assert!(error.contains("may write"), "{error}");
    }

    /// As in some containers.
    #[test]
    fn root_does_not_go_on_from_a_root_that_everybody_may_write() {
        let dir = scene();
        symlink("/2", dir.path().join("1/absolute")).unwrap();
        let reached = |path| walk(dir.path(), Path::new(path), true);
        for path in ["/1", "/1/absolute"] {
            reached(path).unwrap();
        }
        let mode = |mode| std::os::unix::fs::PermissionsExt::from_mode(mode);
        fs::set_permissions(dir.path(), mode(0o777)).unwrap();
        let error = reached("/1").unwrap_err().to_string();
        assert!(error.contains("everybody may write /"), "{error}");
        fs::set_permissions(dir.path(), mode(0o1777)).unwrap();
        reached("/1/absolute").unwrap();
    }

    #[test]
    fn a_link_is_no_socket() {
        let dir = scene();
        let path = dir.path().join("control.sock");
        let _listener = std::os::unix::net::UnixListener::bind(&path).unwrap();
        socket(&path).unwrap();
        symlink(&path, dir.path().join("1/control.sock")).unwrap();
        let error = socket(&dir.path().join("1/control.sock")).unwrap_err();
        assert_eq!(error.to_string(), "it is not a socket");
        let error = socket(&dir.path().join("2/control.sock")).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::NotFound);
    }
}
