//! `sensor`: kernel records in, alerts out. The modules stand in the order data flows.
//!
//! ```text
//! kernel -> decode -> enrich -> engine -> alert -> output        rules/ -> rule -> eql -> engine
//!      bytes    Record    Event     Match    Alert
//! ```
#![forbid(unsafe_code)]

pub mod alert;
pub mod baseline;
pub mod cli;
pub mod commands;
pub mod config;
pub mod control;
pub mod decode;
pub mod doctor;
pub mod document;
pub mod drop_ins;
pub mod engine;
pub mod enrich;
pub mod eql;
pub mod event;
pub mod fd_store;
pub mod json_lines;
pub mod keep;
pub mod kernel;
pub mod kql;
pub mod loss;
pub mod metrics;
pub mod output;
pub mod pipeline;
pub mod reload;
pub mod response;
pub mod rule;
pub mod self_check;
pub mod state;
pub mod trial;
pub mod tuning;
pub mod watchdog;
