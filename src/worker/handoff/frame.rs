//! What travels with passed-on connections: one frame a message, the sockets beside it.
//!
//! ```text
//! u32 length of the JSON, little endian | JSON | leftover bytes of connection 1, its TLS, its HTTP/2 | 2, ...
//! ```
//!
//! An HTTP/2 connection of which much was read has a message of its own, with two descriptors: its
//! socket, and a memfd with its leftover bytes and its HTTP/2.
//!
//! A session of an application (a WebSocket) has a message of its own, with two descriptors: its
//! socket, and a memfd that holds its leftover bytes and then what the application said. A reader
//! that does not know sessions sees a message without connections and closes both.
//!
//! Sender and receiver may be different builds: unknown fields are ignored, missing ones have a
//! default, and none ever changes its meaning. Times are ages, so no clock is shared.

use std::net::SocketAddr;

use bytes::{Buf as _, Bytes};
use serde::{Deserialize, Serialize};
use zeroize::Zeroizing;

use crate::machine::link::HANDOFF_VERSION;
use crate::worker::http2;
use crate::worker::tls::Blob;

/// At most so many connections a message: beyond it the cost of a message hardly falls.
pub(in crate::worker) const BATCH: usize = 16;

/// Bytes that may travel with one connection; one with more answers its request where it is.
pub(in crate::worker) const LEFTOVER_MAX: usize = 16 * 1024;

/// Room for everything else in a message of one connection.
pub(in crate::worker) const OVERHEAD: usize = 512;

/// The longest message anybody sends.
pub(in crate::worker) const MESSAGE_MAX: usize = 64 * 1024;

#[derive(Debug, Serialize, Deserialize)]
struct Head {
    version: u32,
    generation: u64,
    connections: Vec<Entry>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    session: Option<SessionEntry>,
    /// The one connection whose parts are in the memfd beside it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    filed: Option<Entry>,
}

#[derive(Debug, Serialize, Deserialize)]
struct SessionEntry {
    name: String,
    leftover: usize,
    blob: usize,
    /// How long its [`Blob`] is, where it is over TLS.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    tls: Option<usize>,
    #[serde(flatten)]
    about: About,
}

/// What a message holds.
pub(in crate::worker) enum Content {
    /// In the order of their sockets, with their leftovers.
    Connections(Vec<Arrived>),
    /// Its name, and how long the two parts of its memfd are.
    Session {
        about: About,
        name: String,
        leftover: usize,
        blob: usize,
        tls: Option<Blob>,
    },
    /// One of HTTP/2, and how long the two parts of its memfd are.
    Filed {
        about: About,
        leftover: usize,
        http2: usize,
        tls: Option<Blob>,
    },
}

#[derive(Debug, Serialize, Deserialize)]
struct Entry {
    #[serde(default)]
    leftover: usize,
    /// How long its [`Blob`] is, where it is over TLS; behind its leftover.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    tls: Option<usize>,
    /// How long its [`http2::Blob`] is, where it is HTTP/2; behind its TLS.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    http2: Option<usize>,
    #[serde(flatten)]
    about: About,
}

/// What is known about a connection that travels.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(in crate::worker) struct About {
    /// The name of the listener it came from.
    pub(in crate::worker) listener: String,
    /// Requests so far, over all workers.
    #[serde(default)]
    pub(in crate::worker) requests: u64,
    /// How long it has been idle.
    #[serde(default)]
    pub(in crate::worker) idle_ms: u64,
    /// For how long an unfinished head has been there.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(in crate::worker) head_ms: Option<u64>,
    /// The TCP client, as the connection's first worker saw it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(in crate::worker) peer: Option<SocketAddr>,
    /// It has yet to shake hands.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub(in crate::worker) handshake_due: bool,
    /// The PROXY protocol's header has yet to come.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub(in crate::worker) proxy_header_due: bool,
}

impl About {
    /// A connection that begins here.
    pub(in crate::worker) fn new(listener: String) -> Self {
        Self {
            listener,
            requests: 0,
            idle_ms: 0,
            head_ms: None,
            peer: None,
            handshake_due: false,
            proxy_header_due: false,
        }
    }
}

/// A connection of a message.
pub(in crate::worker) struct Arrived {
    pub(in crate::worker) about: About,
    /// What was read and not given to its application.
    pub(in crate::worker) leftover: Bytes,
    pub(in crate::worker) tls: Option<Blob>,
    pub(in crate::worker) http2: Option<http2::Blob>,
}

/// The same on its way out.
pub(in crate::worker) struct Leaves<'a> {
    pub(in crate::worker) about: About,
    pub(in crate::worker) leftover: &'a [u8],
    pub(in crate::worker) tls: Option<&'a Blob>,
    pub(in crate::worker) http2: Option<&'a http2::Blob>,
}

/// Why a frame could not be read.
#[derive(Debug, thiserror::Error)]
pub(in crate::worker) enum FrameError {
    #[error("a frame of {0} bytes is too short")]
    Short(usize),
    #[error("cannot understand a frame: {0}")]
    Json(#[from] serde_json::Error),
}

/// The bytes of a message.
pub(in crate::worker) fn write<'a>(
    generation: u64,
    connections: impl IntoIterator<Item = Leaves<'a>>,
) -> Result<Zeroizing<Vec<u8>>, FrameError> {
    let mut parts: Vec<&[u8]> = Vec::new();
    let connections = connections
        .into_iter()
        .map(|leaves| {
            let tls = leaves.tls.map(Blob::bytes);
            let http2 = leaves.http2.map(http2::Blob::bytes);
            parts.push(leaves.leftover);
            parts.extend(tls);
            parts.extend(http2);
            Entry {
                leftover: leaves.leftover.len(),
                tls: tls.map(<[u8]>::len),
                http2: http2.map(<[u8]>::len),
                about: leaves.about,
            }
        })
        .collect();
    let head = serde_json::to_vec(&Head {
        version: HANDOFF_VERSION,
        generation,
        connections,
        session: None,
        filed: None,
    })?;
    frame(&head, &parts)
}

/// The bytes of a message of its own: `leftover` and `http2` bytes of the connection are in the memfd
/// beside it, its TLS is in the message itself.
pub(in crate::worker) fn write_filed(
    generation: u64,
    about: About,
    (leftover, http2): (usize, usize),
    tls: Option<&Blob>,
) -> Result<Zeroizing<Vec<u8>>, FrameError> {
    let tls = tls.map(Blob::bytes);
    let head = serde_json::to_vec(&Head {
        version: HANDOFF_VERSION,
        generation,
        connections: Vec::new(),
        session: None,
        filed: Some(Entry {
            leftover,
            tls: tls.map(<[u8]>::len),
            http2: Some(http2),
            about,
        }),
    })?;
    frame(&head, tls.as_slice())
}

/// The bytes of a session's message: `leftover` and `blob` bytes of it are in the memfd beside it,
/// its TLS is in the message itself.
pub(in crate::worker) fn write_session(
    generation: u64,
    about: About,
    name: &str,
    (leftover, blob): (usize, usize),
    tls: Option<&Blob>,
) -> Result<Zeroizing<Vec<u8>>, FrameError> {
    let tls = tls.map(Blob::bytes);
    let head = serde_json::to_vec(&Head {
        version: HANDOFF_VERSION,
        generation,
        connections: Vec::new(),
        session: Some(SessionEntry {
            name: name.into(),
            leftover,
            blob,
            tls: tls.map(<[u8]>::len),
            about,
        }),
        filed: None,
    })?;
    frame(&head, tls.as_slice())
}

/// Never grown, so that no copy of a secret stays behind in a smaller buffer.
fn frame(head: &[u8], parts: &[&[u8]]) -> Result<Zeroizing<Vec<u8>>, FrameError> {
    let rest: usize = parts.iter().map(|part| part.len()).sum();
    let mut frame = Zeroizing::new(Vec::with_capacity(4 + head.len() + rest));
    let len = u32::try_from(head.len()).map_err(|_| FrameError::Short(head.len()))?;
    frame.extend_from_slice(&len.to_le_bytes());
    frame.extend_from_slice(head);
    for part in parts {
        frame.extend_from_slice(part);
    }
    Ok(frame)
}

/// What a message holds, and the sender's generation.
pub(in crate::worker) fn read(mut frame: &[u8]) -> Result<(u64, Content), FrameError> {
    let len = frame.len();
    let short = || FrameError::Short(len);
    let head_len = frame.try_get_u32_le().map_err(|_| short())?;
    let head_len = usize::try_from(head_len).map_err(|_| short())?;
    let head: Head = serde_json::from_slice(frame.get(..head_len).ok_or_else(short)?)?;
    frame.advance(head_len);
    let mut part = |len: usize| {
        let (part, rest) = frame.split_at_checked(len).ok_or_else(short)?;
        frame = rest;
        Ok::<_, FrameError>(part)
    };
    if let Some(session) = head.session {
        let SessionEntry {
            name,
            leftover,
            blob,
            tls,
            about,
        } = session;
        let content = Content::Session {
            about,
            name,
            leftover,
            blob,
            tls: tls.map(part).transpose()?.map(Blob::received),
        };
        return Ok((head.generation, content));
    }
    if let Some(filed) = head.filed {
        let content = Content::Filed {
            about: filed.about,
            leftover: filed.leftover,
            http2: filed.http2.unwrap_or_default(),
            tls: filed.tls.map(part).transpose()?.map(Blob::received),
        };
        return Ok((head.generation, content));
    }
    let mut connections = Vec::with_capacity(head.connections.len());
    for entry in head.connections {
        let leftover = Bytes::copy_from_slice(part(entry.leftover)?);
        let tls = entry.tls.map(&mut part).transpose()?.map(Blob::received);
        let http2 = entry.http2.map(&mut part).transpose()?;
        connections.push(Arrived {
            about: entry.about,
            leftover,
            tls,
            http2: http2.map(http2::Blob::received),
        });
    }
    Ok((head.generation, Content::Connections(connections)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn about(listener: &str) -> About {
        About {
            listener: listener.into(),
            requests: 7,
            idle_ms: 1200,
            head_ms: Some(30),
            peer: Some("[::1]:80".parse().unwrap()),
            handshake_due: false,
            proxy_header_due: false,
        }
    }

    fn connections(frame: &[u8]) -> (u64, Vec<Arrived>) {
        match read(frame).unwrap() {
            (generation, Content::Connections(connections)) => (generation, connections),
            (_, Content::Session { name, .. }) => panic!("a session {name}"),
            (_, Content::Filed { .. }) => panic!("one connection in a file"),
        }
    }

    #[test]
    fn a_session_is_a_message_of_its_own_and_an_older_build_sees_no_connection_in_it() {
        let blob = Blob::received(b"secrets");
        let sent = write_session(6, about("a"), "chat", (3, 70_000), Some(&blob)).unwrap();
        let (generation, content) = read(&sent).unwrap();
        let Content::Session {
            about: got,
            name,
            leftover,
            blob,
            tls,
        } = content
        else {
            panic!("connections");
        };
        assert_eq!((generation, &*name, leftover, blob), (6, "chat", 3, 70_000));
        assert_eq!(got, about("a"));
        assert_eq!(tls.unwrap().bytes(), b"secrets");
        let end = 4 + usize::try_from(u32::from_le_bytes(*sent.first_chunk().unwrap())).unwrap();
        let json: serde_json::Value = serde_json::from_slice(&sent[4..end]).unwrap();
        assert_eq!(json["connections"], serde_json::json!([]));
    }

    #[test]
    fn every_connection_keeps_its_own_leftover() {
        let sent = [
            (about("a"), &b"GET / HT"[..]),
            (about("b"), b""),
            (about("c"), b"\0\xff{"),
        ];
        let (blob, http2) = (Blob::received(b"secrets"), http2::Blob::received(b"table"));
        let tls = [None, Some(&blob), Some(&blob)];
        let http2 = [Some(&http2), None, Some(&http2)];
        let whole = sent.iter().zip(tls).zip(http2);
        let whole = whole.map(|(((about, leftover), tls), http2)| Leaves {
            about: about.clone(),
            leftover,
            tls,
            http2,
        });
        let (generation, got) = connections(&write(6, whole).unwrap());
        assert_eq!(generation, 6);
        let bytes = Blob::bytes;
        let got_tls = got.iter().map(|one| one.tls.as_ref().map(bytes));
        assert!(got_tls.eq(tls.map(|blob| blob.map(bytes))));
        let bytes = http2::Blob::bytes;
        let got_http2 = got.iter().map(|one| one.http2.as_ref().map(bytes));
        assert!(got_http2.eq(http2.map(|blob| blob.map(bytes))));
        let got = got.iter().map(|one| (one.about.clone(), &one.leftover[..]));
        assert!(got.eq(sent));
    }

    #[test]
    fn a_connection_in_a_file_is_a_message_of_its_own() {
        let blob = Blob::received(b"secrets");
        let sent = write_filed(6, about("a"), (70_000, 300), Some(&blob)).unwrap();
        let (
            6,
            Content::Filed {
                about: got,
                leftover,
                http2,
                tls,
            },
        ) = read(&sent).unwrap()
        else {
            panic!("something else");
        };
        assert_eq!((got, leftover, http2), (about("a"), 70_000, 300));
        assert_eq!(tls.unwrap().bytes(), b"secrets");
    }

    #[test]
    fn a_cut_frame_is_an_error_and_never_a_shorter_leftover() {
        let blob = Blob::received(b"secrets");
        let http2 = http2::Blob::received(b"table");
        let leaves = Leaves {
            about: about("a"),
            leftover: b"GET / HT",
            tls: Some(&blob),
            http2: Some(&http2),
        };
        let whole = write(6, [leaves]).unwrap();
        for len in 0..whole.len() {
            assert!(read(&whole[..len]).is_err(), "{len}");
        }
    }

    #[test]
    fn a_frame_of_a_newer_or_an_older_build_is_understood() {
        let head =
            br#"{"version":9,"generation":8,"new":1,"connections":[{"listener":"a","x":[]}]}"#;
        let mut frame = u32::try_from(head.len()).unwrap().to_le_bytes().to_vec();
        frame.extend_from_slice(head);
        let (_, got) = connections(&frame);
        let plain = About {
            requests: 0,
            idle_ms: 0,
            head_ms: None,
            peer: None,
            handshake_due: false,
            proxy_header_due: false,
            ..about("a")
        };
        let got: Vec<_> = got
            .into_iter()
            .map(|one| {
                (
                    one.about,
                    one.leftover,
                    one.tls.is_none() && one.http2.is_none(),
                )
            })
            .collect();
        assert_eq!(got, [(plain, Bytes::new(), true)]);
    }
}
