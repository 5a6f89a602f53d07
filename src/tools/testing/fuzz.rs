//! What the fuzz targets and their corpus tests call: inputs as text, and the
//! laws that no input may break.
//!
//! Every function here panics where a law is broken and returns quietly
//! otherwise, also for text that is no input at all. The laws are checked
//! against slow readers of their own (`model`) that share no code with what
//! they judge. How to run them is in `tests/README.md`.

mod identity;
mod model;
mod receipt;
mod settings;
mod wire;

pub use identity::identity;
pub use receipt::{merged, receipt};
pub use settings::settings;
