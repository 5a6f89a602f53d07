//! Entry points of benches and fuzz targets into private modules. It is no stable
//! interface.

pub mod bench;
pub mod fuzz;

pub use super::backends;
