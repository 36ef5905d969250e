//! The JSON shape of events and alerts: ECS documents, one per line.
//!
//! In: events and alerts. Out: bytes of one JSON object without a line end. Events are driven by the field table, nested by
//! their dotted names. It builds no intermediate tree, and writes no character that a terminal would act on.

use std::fmt::Display;
use std::io::Write as _;

use crate::alert::{Alert, Join, Shown, TreeProcess};
use crate::engine::Tally;
use crate::event::{Event, Evidence, FIELDS, FieldRow, OwnedValue, Value, Values};
use crate::rule::{Reference, Rule, Threat};

/// Version of the Elastic Common Schema the documents follow.
pub const ECS_VERSION: &str = "8.17.0";

/// Appends an event as one ECS document: every field it carries.
pub fn write_event(event: &Event, out: &mut Vec<u8>) {
    let mut writer = Nested::new(out);
    for row in FIELDS {
        if row.kinds.contains(event.kind) {
            let values = (row.get)(event);
            if !values.is_empty() {
                writer.field(row, values);
            }
        }
    }
    writer.finish();
}

/// Writes fields that come sorted by path as nested objects.
struct Nested<'a> {
    json: Json<'a>,
    /// The path written last; its objects are open.
    last: &'static str,
}

impl<'a> Nested<'a> {
    fn new(out: &'a mut Vec<u8>) -> Nested<'a> {
        let mut json = Json::new(out);
        json.open_object();
        Nested { json, last: "" }
    }

    fn field(&mut self, row: &FieldRow, values: Values<'_>) {
        let shared = shared_objects(self.last, row.path);
        for _ in shared..depth(self.last) {
            self.json.close_object();
        }
        let mut segments = row.path.split('.').skip(shared).peekable();
        while let Some(segment) = segments.next() {
            self.json.key(segment);
            if segments.peek().is_some() {
                self.json.open_object();
            }
        }
        self.last = row.path;
        if row.array {
            self.json.open_array();
            for value in values.iter() {
                self.json.item();
                self.json.value(value);
            }
            self.json.close_array();
        } else if let Some(value) = values.get(0) {
            self.json.value(value);
        }
    }

    fn finish(mut self) {
        for _ in 0..depth(self.last) {
            self.json.close_object();
        }
        self.json.close_object();
    }
}

/// Objects around the last name of a path.
fn depth(path: &str) -> usize {
    path.bytes().filter(|byte| *byte == b'.').count()
}

/// Objects two paths have in common, counted from the outside.
fn shared_objects(one: &str, other: &str) -> usize {
    one.bytes()
        .zip(other.bytes())
        .take_while(|(a, b)| a == b)
        .filter(|(a, _)| *a == b'.')
        .count()
}

/// Appends an alert as one ECS document.
pub fn write_alert(alert: &Alert, out: &mut Vec<u8>) {
    let mut json = Json::new(out);
    json.open_object();
    json.key("@timestamp");
    json.date(alert.wall_ns);
    json.text("message", &alert.message);
    json.object("ecs", |json| json.text("version", ECS_VERSION));
    json.object("event", |json| event_of(alert, json));
    json.object("rule", |json| rule_of(&alert.rule, json));
    if !alert.rule.threats.is_empty() {
        json.object("threat", |json| threat_of(&alert.rule.threats, json));
    }
    json.list("tags", &alert.rule.tags);
    subject_of(alert, &mut json);
    json.object("eql_sensor", |json| {
        json.object("alert", |json| state_of(alert, json));
    });
    json.key("events");
    json.open_array();
    for Shown { event, .. } in &alert.events {
        json.item();
        json.evidence(event.as_ref());
    }
    json.close_array();
    json.close_object();
}

fn event_of(alert: &Alert, json: &mut Json<'_>) {
    json.text("kind", "alert");
    json.text("module", "eql_sensor");
    json.text("dataset", "eql_sensor.alert");
    json.text("action", "rule_matched");
    json.number("sequence", alert.sequence);
    json.number("severity", alert.rule.severity.risk_score());
    json.number("risk_score", alert.rule.risk_score);
    if let (Some(first), Some(last)) = (alert.events.first(), alert.events.last()) {
        json.key("start");
        json.date(first.wall_ns);
        json.key("end");
        json.date(last.wall_ns);
    }
}

fn rule_of(rule: &Rule, json: &mut Json<'_>) {
    json.text("id", &rule.id);
    json.text("name", &rule.name);
    json.maybe("description", rule.description.as_deref());
    json.maybe("version", rule.version.as_deref());
    json.list("author", &rule.authors);
    json.maybe("license", rule.license.as_deref());
    json.list("reference", &rule.references);
}

/// ECS keeps tactics and techniques as parallel lists.
fn threat_of(threats: &[Threat], json: &mut Json<'_>) {
    if let Some(first) = threats.first() {
        json.text("framework", &first.framework);
    }
    let tactics: Vec<&Reference> = distinct(threats.iter().map(|threat| &threat.tactic));
    let techniques = threats.iter().flat_map(|threat| &threat.techniques);
    let subtechniques = distinct(techniques.clone().flat_map(|t| &t.subtechniques));
    let techniques = distinct(techniques.map(|technique| &technique.reference));
    json.object("tactic", |json| references(&tactics, json));
    if !techniques.is_empty() {
        json.object("technique", |json| {
            references(&techniques, json);
            if !subtechniques.is_empty() {
                json.object("subtechnique", |json| references(&subtechniques, json));
            }
        });
    }
}

fn distinct<'a>(found: impl Iterator<Item = &'a Reference>) -> Vec<&'a Reference> {
    let mut kept: Vec<&Reference> = Vec::new();
    for reference in found {
        if !kept.iter().any(|known| known.id == reference.id) {
            kept.push(reference);
        }
    }
    kept
}

fn references(found: &[&Reference], json: &mut Json<'_>) {
    json.strings("id", found.iter().map(|reference| reference.id.as_str()));
    json.strings("name", found.iter().map(|r| r.name.as_str()));
    json.strings("reference", found.iter().filter_map(|r| r.url.as_deref()));
}

/// What alerts are searched by, from the last event.
fn subject_of(alert: &Alert, json: &mut Json<'_>) {
    let subject = &alert.subject;
    if subject.host_id.is_some() || subject.host_name.is_some() {
        json.object("host", |json| {
            json.maybe("id", subject.host_id.as_deref());
            json.maybe("name", subject.host_name.as_deref());
        });
    }
    if let Some(id) = &subject.agent_id {
        json.object("agent", |json| json.text("id", id));
    }
    if subject.user_id.is_some() || subject.user_name.is_some() {
        json.object("user", |json| {
            json.maybe("id", subject.user_id.as_deref());
            json.maybe("name", subject.user_name.as_deref());
        });
    }
    if let Some(id) = &subject.container_id {
        json.object("container", |json| json.text("id", id));
    }
    if let Some(process) = alert.tree.first() {
        json.object("process", |json| process_of(process, json));
    }
}

/// What ECS has no place for.
fn state_of(alert: &Alert, json: &mut Json<'_>) {
    json.text("severity", alert.rule.severity.name());
    if let Some(repeats) = &alert.repeats {
        json.object("repeats", |json| {
            json.number("count", repeats.count);
            json.number("of", repeats.of);
            json.key("first");
            json.date(repeats.first_ns);
            json.key("last");
            json.date(repeats.last_ns);
        });
    }
    if alert.generation > 0 {
        json.number("generation", alert.generation);
    }
    json.number("lost", alert.lost);
    json.key("uncertain");
    json.value(Value::Bool(alert.lost > 0));
    if !alert.join.is_empty() {
        json.key("join");
        json.open_array();
        for Join { fields, values } in &alert.join {
            json.item();
            json.open_object();
            json.strings("fields", fields.iter().map(AsRef::as_ref));
            json.key("values");
            json.open_array();
            for value in values {
                json.item();
                match value.as_ref().map(OwnedValue::as_value) {
                    Some(value) => json.value(value),
                    None => json.raw("null"),
                }
            }
            json.close_array();
            json.close_object();
        }
        json.close_array();
    }
    tally_of(alert, json);
    json.strings("summary", alert.events.iter().map(|e| e.clause.as_str()));
    json.key("process_tree");
    json.open_array();
    for process in &alert.tree {
        json.item();
        json.open_object();
        process_of(process, json);
        json.close_object();
    }
    json.close_array();
}

/// What a rule that remembers or counts found out; the terms themselves are those of `join`.
fn tally_of(alert: &Alert, json: &mut Json<'_>) {
    let Some((tally, since_ns)) = alert.tally.as_ref().zip(alert.tally_since_wall_ns) else {
        return;
    };
    let since = |json: &mut Json<'_>, key| {
        json.key(key);
        json.date(since_ns);
    };
    match tally {
        Tally::New { .. } => json.object("new_terms", |json| {
            let terms = alert.rule.terms();
            json.strings("fields", terms.iter().map(|key| &*key.path));
            since(json, "since");
        }),
        Tally::Count {
            events, distinct, ..
        } => json.object("threshold_result", |json| {
            json.number("count", *events);
            since(json, "from");
            let distinct: Vec<_> = alert.rule.counted().zip(distinct).collect();
            if !distinct.is_empty() {
                json.objects("cardinality", &distinct, |json, (field, values)| {
                    json.text("field", field);
                    json.number("value", **values);
                });
            }
        }),
    }
}

fn process_of(process: &TreeProcess, json: &mut Json<'_>) {
    if let Some(pid) = process.pid {
        json.number("pid", pid);
    }
    json.maybe("entity_id", process.entity_id.as_deref());
    json.maybe("name", process.name.as_deref());
    json.maybe("executable", process.executable.as_deref());
    json.maybe("command_line", process.command_line.as_deref());
}

/// Writes JSON text piece by piece and puts the commas.
pub(super) struct Json<'a> {
    out: &'a mut Vec<u8>,
    /// Nothing stands yet in the innermost object or array.
    first: bool,
}

impl<'a> Json<'a> {
    pub(super) fn new(out: &'a mut Vec<u8>) -> Json<'a> {
        Json { out, first: true }
    }

    pub(super) fn open_object(&mut self) {
        self.out.push(b'{');
        self.first = true;
    }

    pub(super) fn close_object(&mut self) {
        self.out.push(b'}');
        self.first = false;
    }

    pub(super) fn open_array(&mut self) {
        self.out.push(b'[');
        self.first = true;
    }

    pub(super) fn close_array(&mut self) {
        self.out.push(b']');
        self.first = false;
    }

    /// Comes before every item of an array.
    pub(super) fn item(&mut self) {
        if !self.first {
            self.out.push(b',');
        }
        self.first = false;
    }

    pub(super) fn key(&mut self, key: &str) {
        self.item();
        write_string(key, self.out);
        self.out.push(b':');
    }

    fn raw(&mut self, text: &str) {
        self.out.extend_from_slice(text.as_bytes());
        self.first = false;
    }

    pub(super) fn object(&mut self, key: &str, fill: impl FnOnce(&mut Json<'a>)) {
        self.key(key);
        self.open_object();
        fill(self);
        self.close_object();
    }

    pub(super) fn objects<T>(
        &mut self,
        key: &str,
        items: &[T],
        mut fill: impl FnMut(&mut Json<'a>, &T),
    ) {
        self.key(key);
        self.open_array();
        for item in items {
            self.item();
            self.open_object();
            fill(self, item);
            self.close_object();
        }
        self.close_array();
    }

    pub(super) fn text(&mut self, key: &str, text: &str) {
        self.key(key);
        write_string(text, self.out);
    }

    pub(super) fn maybe(&mut self, key: &str, text: Option<&str>) {
        if let Some(text) = text {
            self.text(key, text);
        }
    }

    pub(super) fn number(&mut self, key: &str, number: impl Display) {
        self.key(key);
        // A Vec takes any write.
        let _ = write!(self.out, "{number}");
    }

    pub(super) fn boolean(&mut self, key: &str, flag: bool) {
        self.number(key, flag);
    }

    fn list(&mut self, key: &str, items: &[String]) {
        if !items.is_empty() {
            self.strings(key, items.iter().map(String::as_str));
        }
    }

    pub(super) fn strings<'t>(&mut self, key: &str, items: impl Iterator<Item = &'t str>) {
        self.key(key);
        self.open_array();
        for item in items {
            self.item();
            write_string(item, self.out);
        }
        self.close_array();
    }

    pub(super) fn date(&mut self, ns: i64) {
        self.out.push(b'"');
        write_date(ns, self.out);
        self.out.push(b'"');
        self.first = false;
    }

    fn value(&mut self, value: Value<'_>) {
        match value {
            Value::Str(text) => write_string(text, self.out),
            Value::Int(number) => {
                let _ = write!(self.out, "{number}");
            }
            Value::Float(number) if number.is_finite() => {
                let _ = write!(self.out, "{number:?}");
            }
            Value::Float(_) => self.out.extend_from_slice(b"null"),
            Value::Bool(flag) => {
                let word: &[u8] = if flag { b"true" } else { b"false" };
                self.out.extend_from_slice(word);
            }
            Value::Ip(ip) => {
                let _ = write!(self.out, "\"{ip}\"");
            }
            Value::Date(ns) => self.date(ns),
        }
        self.first = false;
    }

    /// A whole event: as it was read, or written from its fields.
    fn evidence(&mut self, event: &dyn Evidence) {
        match (event.document(), event.typed()) {
            (Some(document), _) => self.out.extend_from_slice(document.trim().as_bytes()),
            (None, Some(event)) => write_event(event, self.out),
            (None, None) => self.out.extend_from_slice(b"null"),
        }
        self.first = false;
    }
}

/// Appends a JSON string, quotes included. Control characters of both sets and DEL come as escapes.
pub fn write_string(text: &str, out: &mut Vec<u8>) {
    const HEX: &[u8; 16] = b"0123456789abcdef";
    let bytes = text.as_bytes();
    out.push(b'"');
    let mut from = 0;
    let mut at = 0;
    while let Some(&byte) = bytes.get(at) {
        // 0xc2 0x80 to 0xc2 0x9f are the second set of control characters.
        let second_set = byte == 0xc2 && bytes.get(at + 1).is_some_and(|next| *next < 0xa0);
        if byte >= 0x20 && byte != b'"' && byte != b'\\' && byte != 0x7f && !second_set {
            at += 1;
            continue;
        }
        out.extend_from_slice(bytes.get(from..at).unwrap_or_default());
        let mut width = 1;
        match byte {
            b'"' => out.extend_from_slice(b"\\\""),
            b'\\' => out.extend_from_slice(b"\\\\"),
            b'\n' => out.extend_from_slice(b"\\n"),
            b'\r' => out.extend_from_slice(b"\\r"),
            b'\t' => out.extend_from_slice(b"\\t"),
            _ => {
                let mut code = byte;
                if second_set {
                    code = bytes.get(at + 1).copied().unwrap_or_default();
                    width = 2;
                }
                let digit = |nibble: u8| HEX.get(usize::from(nibble)).copied().unwrap_or(b'0');
                out.extend_from_slice(b"\\u00");
                out.extend_from_slice(&[digit(code >> 4), digit(code & 15)]);
            }
        }
        at += width;
        from = at;
    }
    out.extend_from_slice(bytes.get(from..).unwrap_or_default());
    out.push(b'"');
}

/// Appends nanoseconds since the Unix epoch as `2026-11-23T02:16:05.123456789Z`; whole milliseconds show three digits.
pub fn write_date(ns: i64, out: &mut Vec<u8>) {
    const NS_PER_S: i64 = 1_000_000_000;
    let (seconds, fraction) = (ns.div_euclid(NS_PER_S), ns.rem_euclid(NS_PER_S));
    let (days, second) = (seconds.div_euclid(86_400), seconds.rem_euclid(86_400));
    let (year, month, day) = civil(days);
    let (hour, minute) = (second / 3600, second / 60 % 60);
    let _ = write!(
        out,
        "{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{:02}.",
        second % 60
    );
    let _ = if fraction % 1_000_000 == 0 {
        write!(out, "{:03}Z", fraction / 1_000_000)
    } else {
        write!(out, "{fraction:09}Z")
    };
}

/// Year, month and day of a day count from 1970-01-01, in the Gregorian calendar. Years start in March while counting, so
/// that the leap day is the last.
fn civil(days: i64) -> (i64, i64, i64) {
    let days = days + 719_468;
    let era = days.div_euclid(146_097);
    let day_of_era = days.rem_euclid(146_097);
    let year_of_era =
        (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let shifted_month = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * shifted_month + 2) / 5 + 1;
    let month = if shifted_month < 10 {
        shifted_month + 3
    } else {
        shifted_month - 9
    };
    let year = era * 400 + year_of_era + i64::from(month <= 2);
    (year, month, day)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn strings_are_json_and_calm() {
        let hostile = "a\"b\\c\u{1b}[31m\n\t\r\0\u{7f}\u{9b}é😀\u{80}x";
        let mut out = Vec::new();
        write_string(hostile, &mut out);
        let text = String::from_utf8(out).unwrap();
        assert_eq!(
            text,
            r#""a\"b\\c\u001b[31m\n\t\r\u0000\u007f\u009bé😀\u0080x""#
        );
        assert_eq!(serde_json::from_str::<String>(&text).unwrap(), hostile);
    }

    #[test]
    fn dates_are_those_of_the_calendar() {
        for (ns, expected) in [
            (0, "1970-01-01T00:00:00.000Z"),
            (-1, "1969-12-31T23:59:59.999999999Z"),
            (1_500_000_000, "1970-01-01T00:00:01.500Z"),
            (123_456_789, "1970-01-01T00:00:00.123456789Z"),
            (951_825_600_000_000_000, "2000-02-29T12:00:00.000Z"),
            (4_107_542_400_000_000_000, "2100-03-01T00:00:00.000Z"),
            (i64::MAX, "2262-04-11T23:47:16.854775807Z"),
            (i64::MIN, "1677-09-21T00:12:43.145224192Z"),
        ] {
            let mut out = Vec::new();
            write_date(ns, &mut out);
            assert_eq!(String::from_utf8(out).unwrap(), expected);
        }
    }

    proptest::proptest! {
        #[test]
        fn dates_agree_with_another_calendar(ns: i64) {
            let mut out = Vec::new();
            write_date(ns, &mut out);
            let text = String::from_utf8(out).unwrap();
            let read: jiff::Timestamp = text.parse().unwrap();
            proptest::prop_assert_eq!(read.as_nanosecond(), i128::from(ns));
        }

        #[test]
        fn strings_read_back(text: String) {
            let mut out = Vec::new();
            write_string(&text, &mut out);
            proptest::prop_assert_eq!(serde_json::from_slice::<String>(&out).unwrap(), text);
        }
    }

    #[test]
    fn an_alert_is_one_ecs_document() {
        use crate::alert::sample;
        let alert = sample::alert(&sample::rule("R", "r-1", "high"), sample::CHAIN, 3);
        let mut out = Vec::new();
        write_alert(&alert, &mut out);
        assert!(!out.contains(&b'\n'));
        let found: serde_json::Value = serde_json::from_slice(&out).unwrap();
        let expected = serde_json::json!({
            "@timestamp": "2026-01-01T00:00:06.000Z",
            "message": "R: gcc (pid 262) → ld wrote /tmp/w/rev → ./rev (pid 267) → 203.0.113.5:4444",
            "ecs": {"version": ECS_VERSION},
            "event": {
                "kind": "alert", "module": "eql_sensor", "dataset": "eql_sensor.alert", "action": "rule_matched",
                "sequence": 1, "severity": 73, "risk_score": 73,
                "start": "2026-01-01T00:00:00.000Z", "end": "2026-01-01T00:00:06.000Z",
            },
            "rule": {"id": "r-1", "name": "R"},
            "threat": {
                "framework": "MITRE ATT&CK",
                "tactic": {"id": ["TA0002"], "name": ["Execution"], "reference": ["https://e/TA0002"]},
                "technique": {
                    "id": ["T1059"], "name": ["Interpreter"], "reference": ["https://e/T1059"],
                    "subtechnique": {
                        "id": ["T1059.004"], "name": ["Unix Shell"], "reference": ["https://e/T1059/004"],
                    },
                },
            },
            "host": {"id": "h1"},
            "user": {"name": "root"},
            "process": {"pid": 267, "entity_id": "rev-267", "name": "rev", "executable": "/tmp/w/rev"},
            "eql_sensor": {"alert": {
                "severity": "high", "lost": 3, "uncertain": true,
                "join": [{"fields": ["process.name", "file.name"], "values": ["rev"]}],
                "summary": ["gcc (pid 262)", "ld wrote /tmp/w/rev", "./rev (pid 267)", "203.0.113.5:4444"],
                "process_tree": [
                    {"pid": 267, "entity_id": "rev-267", "name": "rev", "executable": "/tmp/w/rev"},
                    {"pid": 200, "entity_id": "bash-200", "name": "bash"},
                ],
            }},
            "events": [{"a": 1}, {"a": 1}, {"a": 1}, {"a": 1}],
        });
        assert_eq!(found, expected);
    }

    #[test]
    fn paths_share_objects_not_names() {
        assert_eq!(
            shared_objects("process.parent.name", "process.parent.pid"),
            2
        );
        assert_eq!(shared_objects("process.parent.name", "process.pid"), 1);
        assert_eq!(shared_objects("process.pid", "process.pid2.x"), 1);
        assert_eq!(shared_objects("", "a.b"), 0);
        assert_eq!(depth("a.b.c"), 2);
    }
}
