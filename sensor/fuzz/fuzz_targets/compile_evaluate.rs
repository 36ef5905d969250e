//! Bytes into `cases::compile_evaluate`, which says what must hold for all of them.

#![no_main]

#[path = "../cases.rs"]
mod cases;

libfuzzer_sys::fuzz_target!(|data: &[u8]| cases::compile_evaluate(data));
