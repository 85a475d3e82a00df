//! Scoreline's behaviour, through its public doors.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test that panics has failed, and says where")]
#![allow(clippy::float_cmp, reason = "the same bits are promised")]

mod bad_input;
mod failures;
mod ingest_files;
mod ingest_text;
mod ledger;
mod log_conformance;
mod log_embedded;
mod models;
mod output;
mod resume;
mod runtime;
mod support;
