//! Bytes into `cases::parse_check`, which says what must hold for all of them.

#![no_main]

#[path = "../cases.rs"]
mod cases;

libfuzzer_sys::fuzz_target!(|data: &[u8]| cases::parse_check(data));
