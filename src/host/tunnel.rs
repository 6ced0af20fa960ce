//! A connection whose protocol was switched (WebSockets): bytes both ways, to the end of either
//! side. The worker counts it as the client's connection until then.

use std::sync::Arc;

use hyper::upgrade::OnUpgrade;
use hyper_util::rt::TokioIo;

use super::front::Front;
use super::pool::{Link, Turn};

/// Carries bytes until both sides have ended, or one of them is gone.
pub(super) async fn carry(
    client: OnUpgrade,
    application: OnUpgrade,
    link: Link,
    turn: Turn,
    front: Arc<Front>,
) {
    let both = tokio::try_join!(client, application);
    // From here on the tunnel is the only one who has the application's connection.
    drop(link);
    let (client, application) = match both {
        Ok(both) => both,
        Err(e) => {
            let why = format!("a switch of protocols came to nothing: {e}");
            return front.complaints.say(&why);
        }
    };
    let (mut client, mut application) = (TokioIo::new(client), TokioIo::new(application));
    // That one of them went away is how tunnels end.
    let _ = tokio::io::copy_bidirectional(&mut client, &mut application).await;
    drop(turn);
}
