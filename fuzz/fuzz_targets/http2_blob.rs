//! An HTTP/2 connection on its way between two workers.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| handover::worker::fuzz::http2_blob(bytes));
