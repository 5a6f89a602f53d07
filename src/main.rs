//! The `wawp-gateway` program.

fn main() {}
