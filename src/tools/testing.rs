//! What benches and fuzz targets may touch of the rooms that are otherwise
//! closed. Not an interface: it promises nothing.

pub mod bench;
pub mod fuzz;
