//! What the settings mean.
