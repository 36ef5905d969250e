//! Alerts made by hand, for the tests of this module and of the outputs.
//!
//! In: fields as text. Out: rules, events and alerts as the real stages would make them. Must never be part of the daemon.

use std::path::Path;
use std::sync::Arc;

use super::{Alert, Builder};
use crate::document::Source;
use crate::event::{Evidence, FieldId, FieldTable, Fields, OwnedValue, Values};
use crate::rule::{self, Rule};

/// An event of the fields it is given.
pub(crate) struct Plain(pub Vec<(FieldId, Vec<OwnedValue>)>);

impl Fields for Plain {
    fn time_ns(&self) -> i64 {
        0
    }

    fn values(&self, field: FieldId) -> Values<'_> {
        let found = self.0.iter().find(|(id, _)| *id == field);
        found.map_or(Values::Missing, |(_, values)| Values::List(values))
    }
}

impl Evidence for Plain {
    fn document(&self) -> Option<&str> {
        Some("{\"a\":1}\n")
    }
}

pub(crate) fn rule(name: &str, id: &str, severity: &str) -> Arc<Rule> {
    let query = "sequence [process where true] by process.name [file where true] by file.name";
    of(name, id, severity, query)
}

pub(crate) fn rule_of_query(name: &str, id: &str, query: &str) -> Arc<Rule> {
    of(name, id, "low", query)
}

/// Asks for the process of its last event to be killed.
pub(crate) fn rule_that_kills(query: &str) -> Arc<Rule> {
    let path = Path::new("sample.toml").into();
    let text = format!(
        "[rule]\nrule_id = \"r-1\"\nname = \"R\"\ntype = \"eql\"\nquery = '{query}'\n\
         [[actions]]\naction = \"kill_process\"\n"
    );
    let loaded = rule::load_source(&Source { path, text });
    assert_eq!(loaded.problems, []);
    Arc::clone(&loaded.rules[0])
}

fn of(name: &str, id: &str, severity: &str, query: &str) -> Arc<Rule> {
    let text = format!(
        "[rule]\nrule_id = {id:?}\nname = {name:?}\ntype = \"eql\"\nseverity = \"{severity}\"\n\
         query = '{query}'\n\
         [[rule.threat]]\nframework = \"MITRE ATT&CK\"\n\
         tactic = {{id = \"TA0002\", name = \"Execution\", reference = \"https://e/TA0002\"}}\n\
         technique = [{{id = \"T1059\", name = \"Interpreter\", reference = \"https://e/T1059\",\n\
         subtechnique = [{{id = \"T1059.004\", name = \"Unix Shell\", reference = \"https://e/T1059/004\"}}]}}]\n"
    );
    let source = Source {
        path: Path::new("sample.toml").into(),
        text,
    };
    let loaded = rule::load_source(&source);
    assert_eq!(loaded.problems, []);
    Arc::clone(&loaded.rules[0])
}

/// One value: `pid` and `port` are numbers, `ip` an address, `@timestamp` seconds, all else text; `|` separates values.
fn value(path: &str, text: &str) -> OwnedValue {
    match path.rsplit('.').next().unwrap_or(path) {
        "pid" | "port" => OwnedValue::Int(text.parse().unwrap()),
        "ip" => OwnedValue::Ip(text.parse().unwrap()),
        "@timestamp" => OwnedValue::Date(text.parse::<i64>().unwrap() * 1_000_000_000),
        _ => OwnedValue::Str(text.into()),
    }
}

pub(crate) fn alert(rule: &Arc<Rule>, events: &[&[(&str, &str)]], lost: u64) -> Alert {
    let mut table = FieldTable::sensor();
    let mut builder = Builder::new(&mut table);
    let events = events.iter().map(|fields| {
        let fields = fields.iter().map(|(path, text)| {
            let values = text.split('|').map(|text| value(path, text)).collect();
            (table.intern(path), values)
        });
        Arc::new(Plain(fields.collect())) as Arc<dyn Evidence>
    });
    let events = events.collect();
    let key = Some(OwnedValue::Str("rev".into()));
    builder.build(rule, &[vec![key]], events, None, lost)
}

pub(crate) const CHAIN: &[&[(&str, &str)]] = &[
    &[
        ("@timestamp", "1767225600"),
        ("event.category", "process"),
        ("event.action", "exec"),
        ("process.pid", "262"),
        ("process.entity_id", "gcc-262"),
        ("process.name", "gcc|x86_64-linux-gnu-gcc-12"),
        ("process.args", "gcc|-o|rev|rev.c"),
        ("process.executable", "/usr/bin/x86_64-linux-gnu-gcc-12"),
        ("process.command_line", "gcc -o rev rev.c"),
    ],
    &[
        ("@timestamp", "1767225601"),
        ("event.category", "file"),
        ("event.action", "creation"),
        ("process.pid", "265"),
        ("process.entity_id", "ld-265"),
        ("process.name", "ld"),
        ("file.path", "/tmp/w/rev"),
    ],
    &[
        ("@timestamp", "1767225605"),
        ("event.category", "process"),
        ("event.action", "exec"),
        ("process.pid", "267"),
        ("process.entity_id", "rev-267"),
        ("process.name", "rev"),
        ("process.args", "./rev"),
        ("process.executable", "/tmp/w/rev"),
        ("process.working_directory", "/tmp/w"),
        ("process.parent.pid", "200"),
        ("process.parent.entity_id", "bash-200"),
        ("process.parent.name", "bash"),
    ],
    &[
        ("@timestamp", "1767225606"),
        ("host.id", "h1"),
        ("user.name", "root"),
        ("event.category", "network"),
        ("event.action", "connection_attempted"),
        ("process.pid", "267"),
        ("process.entity_id", "rev-267"),
        ("process.name", "rev"),
        ("process.executable", "/tmp/w/rev"),
        ("process.parent.pid", "200"),
        ("process.parent.entity_id", "bash-200"),
        ("process.parent.name", "bash"),
        ("destination.ip", "203.0.113.5"),
        ("destination.port", "4444"),
    ],
];
