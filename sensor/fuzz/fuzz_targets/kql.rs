//! Bytes into `cases::kql`, which says what must hold for all of them.

#![no_main]

#[path = "../cases.rs"]
mod cases;

libfuzzer_sys::fuzz_target!(|data: &[u8]| cases::kql(data));
