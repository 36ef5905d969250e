//! What the sensor says about itself, and under which message id the journal files it.
//!
//! In: the target of a log message. Out: its id and the explanation the catalog has for it. Ids never change once shipped:
//! people search and alarm by them.

/// A kind of message worth finding again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Moment {
    /// Target under which it is logged.
    pub target: &'static str,
    /// 128 bits in hexadecimal digits.
    pub message_id: &'static str,
    pub subject: &'static str,
    /// What it means and what to do, as the catalog prints it.
    pub explanation: &'static str,
}

/// Targets of log messages that the catalog explains: `tracing::info!(target: lifecycle::READY, ...)`.
pub const READY: &str = "sensor::ready";
pub const ENDED: &str = "sensor::ended";
pub const GAP: &str = "sensor::gap";
pub const OUTPUT_FAILS: &str = "sensor::output_fails";
pub const OUTPUT_WORKS: &str = "sensor::output_works";
pub const DROPPED: &str = "sensor::dropped";
pub const DEAR: &str = "sensor::dear";
/// Of what was done about an alert: an entry of its own, not a log message.
pub const RESPONSE: &str = "sensor::response";

/// Every one of them.
pub const MOMENTS: &[Moment] = &[
    Moment {
        target: READY,
        message_id: "a0f3a24b0e5d4a6f9a3b6f0c1d6f7a01",
        subject: "The endpoint sensor is ready",
        explanation: "Hooks are attached, rules are loaded and running processes are known: from now on alerts come.\n\
                      What this kernel does not let the sensor see is listed by: eql-sensor doctor",
    },
    Moment {
        target: ENDED,
        message_id: "a0f3a24b0e5d4a6f9a3b6f0c1d6f7a02",
        subject: "The endpoint sensor has ended",
        explanation: "Nothing is watched until it is started again. An end that nobody asked for is worth a look at who sent the\n\
                      signal: journalctl -u eql-sensor and the audit log around this time.",
    },
    Moment {
        target: GAP,
        message_id: "a0f3a24b0e5d4a6f9a3b6f0c1d6f7a03",
        subject: "Events were lost",
        explanation: "The kernel produced events faster than they were taken, or a hook could not run. What happened in this time may\n\
                      be missing; alerts whose window it touches say so in SENSOR_LOST. If this comes often, give the ring more\n\
                      room (kernel.ring_bytes) or the machine more processor time.",
    },
    Moment {
        target: OUTPUT_FAILS,
        message_id: "a0f3a24b0e5d4a6f9a3b6f0c1d6f7a04",
        subject: "An output takes no alerts",
        explanation: "Alerts still go to the other outputs. Look at the error in the message: a full disk, a directory that is gone, a\n\
                      service that is down. The sensor goes on by itself once the cause is removed; nothing has to be restarted.",
    },
    Moment {
        target: OUTPUT_WORKS,
        message_id: "a0f3a24b0e5d4a6f9a3b6f0c1d6f7a05",
        subject: "An output takes alerts again",
        explanation: "The message says how many alerts this output missed. Alerts are numbered (event.sequence in the file,\n\
                      SENSOR_ALERT_SEQ in the journal): what one output lacks can be found in another.",
    },
    Moment {
        target: DROPPED,
        message_id: "a0f3a24b0e5d4a6f9a3b6f0c1d6f7a06",
        subject: "An output has dropped alerts",
        explanation: "More alerts came than this output takes, or it failed for longer than queue and spool last (output.queue_alerts_max,\n\
                      output.spool_bytes).\n\
                      Alerts are numbered: what one output lacks can be found in another.",
    },
    Moment {
        target: RESPONSE,
        message_id: "a0f3a24b0e5d4a6f9a3b6f0c1d6f7a07",
        subject: "A rule asked for a process to be killed",
        explanation: "The message says what came of it. SENSOR_RESPONSE is killed, dry_run (it would have been killed), ended (it had ended\n\
                      before), refused (it must not be killed), failed or limited (so many were killed within a minute already).\n\
                      The alert it is about: journalctl SENSOR_ALERT_SEQ=@SENSOR_ALERT_SEQ@ SENSOR_RULE_ID=@SENSOR_RULE_ID@\n\
                      Processes are killed only while the settings say so: table [response]; eql-sensor config cat",
    },
    Moment {
        target: DEAR,
        message_id: "a0f3a24b0e5d4a6f9a3b6f0c1d6f7a08",
        subject: "A rule costs too much",
        explanation: "It took more of a processor than settings allow one rule (engine.rule_percent_max), so that it looks at a part of its\n\
                      events until it is cheaper: it may miss what it is about. What each rule costs: eql-sensor top\n\
                      What makes it dear: eql-sensor cost RULE. Narrow it, or hide it by a link to /dev/null.",
    },
];

/// The moment logged under a target.
#[must_use]
pub fn moment(target: &str) -> Option<&'static Moment> {
    MOMENTS.iter().find(|moment| moment.target == target)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_and_targets_are_unique_and_well_formed() {
        for (index, moment) in MOMENTS.iter().enumerate() {
            let id = moment.message_id;
            assert_eq!(id.len(), 32);
            assert!(
                id.bytes()
                    .all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b)),
                "{id}"
            );
            for other in MOMENTS.iter().skip(index + 1) {
                assert_ne!(id, other.message_id);
                assert_ne!(moment.target, other.target);
            }
        }
    }
}
