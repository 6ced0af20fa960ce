//! A TLS connection on its way between two workers.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| handover::worker::fuzz::tls_blob(bytes));
