//! What a client of HTTP/2 sends, in any pieces, with freezes and moves in between.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| handover::worker::fuzz::http2_shim(bytes));
