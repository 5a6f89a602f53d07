//! Entry points of benches, fuzz targets and tests into private modules. It is no stable
//! interface.

pub mod bench;
pub mod cluster;
pub mod fuzz;
pub mod scripts;
pub mod server;

pub use super::backends;
