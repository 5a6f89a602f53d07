//! Parts of the gateway as the benches measure them.
