//! The laws that fuzz targets and corpus tests check, with inputs as text.
//!
//! Every function panics if a law is broken and returns otherwise, also for text that
//! is no valid input. The laws are checked against independent simple readers
//! (`model`). See `tests/README.md`.

mod identity;
mod model;
mod receipt;
mod settings;
mod wire;

pub use identity::identity;
pub use receipt::{merged, receipt};
pub use settings::settings;
