//! Requests at random, their bytes split at random; some offer HTTP/2.

use std::time::Duration;

use bytes::Bytes;

use super::exchange::{Batch, Body, Piece, Request};
use super::spec::Spec;
use crate::kit::app;

/// What a request is called, so that its answer can be told from all others.
pub fn identity(spec: &Spec, client: usize, number: u64) -> String {
    format!("{:x}-{client}-{number}", spec.seed & 0xff_ffff)
}

/// One to eight requests whose answers are all known.
pub fn batch(rng: &mut fastrand::Rng, spec: &Spec, client: usize, asked: u64) -> Batch {
    let depth = rng.u64(1..=8);
    let requests: Vec<_> = (1..=depth)
        .map(|i| {
            let mut request = request(rng, spec, &identity(spec, client, asked + i));
            if rng.u8(0..8) == 0 {
                request.offer_http2();
            }
            request
        })
        .collect();
    let mut batch = Batch::at_once(requests, idle(rng));
    let whole: Vec<u8> = batch
        .pieces
        .iter()
        .flat_map(|piece| piece.bytes.iter().copied())
        .collect();
    batch.pieces = split(rng, &whole.into());
    batch
}

/// One at random.
pub fn request(rng: &mut fastrand::Rng, spec: &Spec, id: &str) -> Request {
    let (path, body, status) = match rng.u8(0..12) {
        0 | 1 => ("/".to_owned(), Body::None, 200),
        2 => (
            format!("/big?bytes={}", rng.u32(0..200_000)),
            Body::None,
            200,
        ),
        3 => {
            let (chunks, size, ms) = (rng.u8(0..8), rng.u16(1..2000), rng.u8(0..3));
            let path = format!("/stream?chunks={chunks}&size={size}&ms={ms}");
            (path, Body::None, 200)
        }
        4 => (format!("/slow?ms={}", rng.u8(0..20)), Body::None, 200),
        5 | 6 => ("/echo".to_owned(), plain(rng), 200),
        7 => ("/echo".to_owned(), chunked(rng), 200),
        8 => ("/ignore".to_owned(), plain(rng), 200),
        9 => ("/ignore".to_owned(), chunked(rng), 200),
        10 => ("/nowhere".to_owned(), plain(rng), 404),
        _ => {
            let path = format!("/big?bytes={}", rng.u32(0..2000));
            return Request::head(spec, &path, id);
        }
    };
    Request::new(spec, &path, body, id, status)
}

fn plain(rng: &mut fastrand::Rng) -> Body {
    Body::Plain(app::pattern(rng.usize(0..16_000)))
}

fn chunked(rng: &mut fastrand::Rng) -> Body {
    Body::Chunked(app::pattern(rng.usize(0..16_000)), rng.usize(1..4000))
}

fn idle(rng: &mut fastrand::Rng) -> Duration {
    match rng.u8(0..10) {
        0..6 => Duration::ZERO,
        6..9 => Duration::from_millis(rng.u64(0..5)),
        _ => Duration::from_millis(rng.u64(5..40)),
    }
}

/// Anywhere, also in the middle of a line; with a pause before some.
fn split(rng: &mut fastrand::Rng, whole: &Bytes) -> Vec<Piece> {
    let mut cuts: Vec<usize> = (0..rng.usize(0..12))
        .map(|_| rng.usize(0..whole.len()))
        .collect();
    cuts.extend([0, whole.len()]);
    cuts.sort_unstable();
    cuts.dedup();
    cuts.windows(2)
        .map(|ends| Piece {
            bytes: whole.slice(ends[0]..ends[1]),
            after: match rng.u8(0..10) {
                0..7 => Duration::ZERO,
                7..9 => Duration::from_micros(rng.u64(1..1000)),
                _ => Duration::from_millis(rng.u64(1..8)),
            },
        })
        .collect()
}
