//! Scoreline scores rows in batches on a message log.
//!
//! The rooms, in the order in which data goes through them; ARCHITECTURE.md draws them.

pub mod cli;
pub mod config;
pub mod control;
pub mod ingest;
pub mod log;
pub mod record;
pub mod score;
pub mod service;
pub mod sink;
pub mod telemetry;
