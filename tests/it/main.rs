//! Scoreline's behaviour, through its public doors.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test that panics has failed, and says where")]

mod failures;
mod ledger;
mod models;
mod output;
mod resume;
mod support;
