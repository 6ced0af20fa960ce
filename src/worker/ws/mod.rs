//! A `WebSocket` belongs to the application: here is known where its messages end, and how it is
//! ended when its worker leaves. One that takes part ([`WebSocket`]) moves on with its application's
//! state instead.

mod farewell;
mod frames;
#[cfg(feature = "ws")]
mod paced;
#[cfg(feature = "ws")]
mod resume;
#[cfg(feature = "ws")]
mod socket;
#[cfg(feature = "ws")]
mod upgrade;

#[cfg(feature = "ws")]
pub use resume::Resumed;
#[cfg(feature = "ws")]
pub(super) use resume::resume;
#[cfg(feature = "ws")]
pub use socket::{Closed, Event, Message, WebSocket};
#[cfg(feature = "ws")]
pub use upgrade::Upgrade;

pub(super) use farewell::{CLOSE, Farewell};

/// This build knows no sessions: their clients come again.
#[cfg(not(feature = "ws"))]
pub(super) fn resume(
    session: super::handoff::Session,
    mut connection: super::connection::Connection,
    _: &std::sync::Arc<super::Worker>,
) {
    connection.stream.say_last(CLOSE);
    tracing::warn!(
        "a session {:?} was ended: this program knows none",
        session.name
    );
}
