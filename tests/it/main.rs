//! Scoreline's behaviour, through its public doors.

mod ledger;
mod resume;
mod support;
