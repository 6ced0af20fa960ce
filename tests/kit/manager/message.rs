//! Datagrams of `sd_notify(3)`.

use std::fmt;
use std::io::{self, IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, OwnedFd};
use std::time::Duration;

use rustix::net::{
    AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, ReturnFlags,
    SendAncillaryBuffer, SendAncillaryMessage, SendFlags, SocketAddrUnix, SocketFlags, SocketType,
    recvmsg, sendmsg_addr, socket_with,
};

/// One datagram, and what became of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Message {
    /// Since the manager was started.
    pub at: Duration,
    /// The sender, as the kernel says.
    pub pid: u32,
    /// Its user.
    pub uid: u32,
    /// `KEY=value` lines in order.
    pub fields: Vec<(String, String)>,
    /// Descriptors that came along.
    pub fds: usize,
    /// Whether it was obeyed.
    pub verdict: Verdict,
}

/// Whether a message was obeyed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict {
    /// All of it.
    Accepted,
    /// Not, or not all of it; why.
    Refused(String),
}

impl Message {
    /// The value of the last line with this key.
    pub fn get(&self, key: &str) -> Option<&str> {
        let mut fields = self.fields.iter().rev();
        fields.find(|(k, _)| k == key).map(|(_, v)| v.as_str())
    }

    /// Whether there is such a line.
    pub fn has(&self, key: &str, value: &str) -> bool {
        self.get(key) == Some(value)
    }
}

impl fmt::Display for Message {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:>9.3?} from {}:", self.at, self.pid)?;
        for (key, value) in &self.fields {
            write!(f, " {key}={value}")?;
        }
        if self.fds > 0 {
            write!(f, " +{} fds", self.fds)?;
        }
        if let Verdict::Refused(why) = &self.verdict {
            write!(f, " REFUSED: {why}")?;
        }
        Ok(())
    }
}

/// What came in, before anybody has judged it.
#[derive(Debug)]
pub struct Datagram {
    pub pid: u32,
    pub uid: u32,
    pub fields: Vec<(String, String)>,
    pub fds: Vec<OwnedFd>,
    /// Why it cannot be used at all.
    pub broken: Option<String>,
}

/// Takes one; `None`: there is none.
pub fn receive(socket: impl AsFd) -> Option<Datagram> {
    let mut bytes = vec![0; 64 * 1024];
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(253), ScmCredentials(1))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let got = recvmsg(
        socket,
        &mut [IoSliceMut::new(&mut bytes)],
        &mut control,
        RecvFlags::CMSG_CLOEXEC | RecvFlags::DONTWAIT,
    )
    .ok()?;
    let mut fds = Vec::new();
    let mut sender = None;
    for message in control.drain() {
        match message {
            RecvAncillaryMessage::ScmRights(list) => fds.extend(list),
            RecvAncillaryMessage::ScmCredentials(cred) => sender = Some(cred),
            _ => {}
        }
    }
    let text = std::str::from_utf8(&bytes[..got.bytes]);
    let broken = if sender.is_none() {
        Some("no credentials".to_owned())
    } else if got
        .flags
        .intersects(ReturnFlags::TRUNC | ReturnFlags::CTRUNC)
    {
        Some("truncated".to_owned())
    } else if text.is_err() {
        Some("not UTF-8".to_owned())
    } else {
        None
    };
    Some(Datagram {
        pid: sender.map_or(0, |cred| cred.pid.as_raw_nonzero().get().unsigned_abs()),
        uid: sender.map_or(0, |cred| cred.uid.as_raw()),
        fields: text
            .unwrap_or_default()
            .lines()
            .filter_map(|line| line.split_once('='))
            .map(|(key, value)| (key.to_owned(), value.to_owned()))
            .collect(),
        fds,
        broken,
    })
}

/// Sends one.
pub fn send(socket: &str, text: &str, fds: &[&OwnedFd]) -> io::Result<()> {
    let address = match socket.strip_prefix('@') {
        Some(name) => SocketAddrUnix::new_abstract_name(name.as_bytes())?,
        None => SocketAddrUnix::new(socket)?,
    };
    let sender = socket_with(
        AddressFamily::UNIX,
        SocketType::DGRAM,
        SocketFlags::CLOEXEC,
        None,
    )?;
    let fds: Vec<_> = fds.iter().map(|fd| fd.as_fd()).collect();
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(253))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    if !fds.is_empty() {
        control.push(SendAncillaryMessage::ScmRights(&fds));
    }
    sendmsg_addr(
        &sender,
        &address,
        &[IoSlice::new(text.as_bytes())],
        &mut control,
        SendFlags::NOSIGNAL,
    )?;
    Ok(())
}
