//! Records of a client, forged and well sealed, with moves in between.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| handover::worker::fuzz::tls_records(bytes));
