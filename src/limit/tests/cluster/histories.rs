//! Random histories of several gateways.
