//! A frame for the decapsulator's model: see `lb_tests::fuzz`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| lb_tests::fuzz::decap(data));
