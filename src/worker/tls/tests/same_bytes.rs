//! The same connection by us and by rustls, both ways, with moves in between: every byte is compared.

use std::io::{Read as _, Write as _};

use super::super::sealed::Plain;
use super::{Trio, hear, random_bytes, said_by, suites, written};

#[test]
fn what_we_send_is_byte_for_byte_what_rustls_sends_and_what_we_read_too() {
    for (n, suite) in suites().iter().enumerate() {
        let mut rng = fastrand::Rng::with_seed(0x7105 + n as u64);
        let mut trio = Trio::new(*suite);
        let updates = suite.tls13().is_some();
        for _ in 0..120 {
            match rng.u8(0..8) {
                0 | 1 => {
                    let data = random_bytes(&mut rng, 70_000);
                    let cut = rng.usize(..data.len());
                    let (head, body) = data.split_at(cut);
                    trio.send(&[head, body]);
                }
                2 | 3 => {
                    let data = random_bytes(&mut rng, 40_000);
                    trio.client.writer().write_all(&data).unwrap();
                    let said = said_by(&mut trio.client);
                    let moves = rng.bool();
                    assert!(trio.hear(&said, &mut rng, moves) == data);
                }
                4 if updates => {
                    trio.client.refresh_traffic_keys().unwrap();
                    // Behind the update, so that it is not the only thing in the message.
                    trio.client.writer().write_all(b"x").unwrap();
                    let said = said_by(&mut trio.client);
                    trio.hear(&said, &mut rng, true);
                    if rng.bool() {
                        trio.send(&[b"the reply goes before this"]);
                    }
                }
                5 if updates => trio.ask_for_keys(b"with other keys"),
                _ => trio.go_round(),
            }
        }
        // A reply that is owed goes before the last word, too.
        if updates {
            trio.client.refresh_traffic_keys().unwrap();
            let said = said_by(&mut trio.client);
            trio.hear(&said, &mut rng, true);
        }
        trio.ours.close();
        trio.rustls.send_close_notify();
        let ours = written(&mut trio.ours);
        assert_eq!(ours, said_by(&mut trio.rustls), "{:?}", suite.suite());
        hear(&mut trio.client, &ours);
        let end = trio.client.reader().read(&mut [0]);
        assert_eq!(end.unwrap(), 0, "the client has understood it");
        trio.client.send_close_notify();
        trio.ours
            .input
            .extend_from_slice(&said_by(&mut trio.client));
        assert_eq!(trio.ours.open(), Ok(Plain::End));
        assert!(!trio.ours.can_move(), "what is closed stays");
    }
}
