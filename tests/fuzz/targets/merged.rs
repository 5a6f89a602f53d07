//! Feeds `testing::fuzz::merged`, where the law is.

#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| wawp_gateway::testing::fuzz::merged(input));
