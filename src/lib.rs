//! A reverse proxy in front of the WhatsApp API at api.wawp.net.
#![doc = ""]

pub mod config;
pub mod sandbox;
