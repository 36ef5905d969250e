//! Random queries and streams, and how to make a failing pair of them smaller.
//!
//! In: a seed. Out: a query as a small tree that prints as EQL, and a short stream of events over few fields and few values, so
//! that conditions hold often, keys meet often and times are often equal or just a span apart. The same seed gives the same.

use std::fmt::{self, Display, Formatter};

use serde_json::{Map, Value as Json, json};

use crate::rng::Rng;
use crate::stream::Source;

#[derive(Clone)]
pub(crate) struct Spec {
    form: Form,
    pipes: Vec<String>,
}

#[derive(Clone)]
enum Form {
    Event(Filter),
    Sequence {
        by: Vec<String>,
        maxspan_ms: Option<u64>,
        steps: Vec<Step>,
        until: Option<Step>,
    },
    Sample {
        by: Vec<String>,
        steps: Vec<Step>,
    },
}

#[derive(Clone)]
struct Step {
    filter: Filter,
    keys: Vec<String>,
    missing: bool,
    runs: usize,
    alias: bool,
}

#[derive(Clone)]
struct Filter {
    category: &'static str,
    condition: Condition,
}

#[derive(Clone)]
enum Condition {
    Const(bool),
    And(Vec<Condition>),
    Or(Vec<Condition>),
    Not(Box<Condition>),
    Leaf(String),
    Lineage(&'static str, Box<Filter>),
}

impl Display for Condition {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let join = |f: &mut Formatter<'_>, parts: &[Condition], word: &str| {
            write!(f, "(")?;
            for (i, part) in parts.iter().enumerate() {
                write!(f, "{}{part}", if i == 0 { "" } else { word })?;
            }
            write!(f, ")")
        };
        match self {
            Condition::Const(value) => write!(f, "{value}"),
            Condition::And(parts) => join(f, parts, " and "),
            Condition::Or(parts) => join(f, parts, " or "),
            Condition::Not(part) => write!(f, "not ({part})"),
            Condition::Leaf(text) => write!(f, "{text}"),
            Condition::Lineage(relation, filter) => write!(f, "{relation} of [{filter}]"),
        }
    }
}

impl Display for Filter {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        write!(f, "{} where {}", self.category, self.condition)
    }
}

fn by(f: &mut Formatter<'_>, keys: &[String]) -> fmt::Result {
    match keys.is_empty() {
        true => Ok(()),
        false => write!(f, " by {}", keys.join(", ")),
    }
}

impl Display for Spec {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        match &self.form {
            Form::Event(filter) => write!(f, "{filter}")?,
            Form::Sequence {
                by: shared,
                maxspan_ms,
                steps,
                until,
            } => {
                write!(f, "sequence")?;
                by(f, shared)?;
                if let Some(ms) = maxspan_ms {
                    write!(f, " with maxspan={ms}ms")?;
                }
                for (i, step) in steps.iter().enumerate() {
                    write!(
                        f,
                        " {}[{}]",
                        if step.missing { "!" } else { "" },
                        step.filter
                    )?;
                    by(f, &step.keys)?;
                    if step.runs > 1 {
                        write!(f, " with runs={}", step.runs)?;
                    }
                    if step.alias {
                        write!(f, " as e{i}")?;
                    }
                }
                if let Some(until) = until {
                    write!(f, " until [{}]", until.filter)?;
                    by(f, &until.keys)?;
                }
            }
            Form::Sample { by: shared, steps } => {
                write!(f, "sample")?;
                by(f, shared)?;
                for step in steps {
                    write!(f, " [{}]", step.filter)?;
                    by(f, &step.keys)?;
                }
            }
        }
        self.pipes
            .iter()
            .try_for_each(|pipe| write!(f, " | {pipe}"))
    }
}

const STRINGS: &[&str] = &[
    r#""a""#,
    r#""b""#,
    r#""A""#,
    r#""ab""#,
    r#""""#,
    r#""1""#,
    r#""07""#,
    r#""1.5""#,
    r#""true""#,
    r#""ä""#,
    r#""a*""#,
];
const NUMBERS: &[&str] = &[
    "0",
    "1",
    "2",
    "7",
    "-1",
    "1.0",
    "1.5",
    "9223372036854775807",
];
const PATTERNS: &[&str] = &[
    "a*", "*b", "*", "?", "a?", "A*b", "ab", "*a*", "", "1*", "??", "*a*b", "?*", "tru*", "AB",
    "*.5",
];
const REGEXES: &[&str] = &[
    "a+", "[ab]*", "a|b", "^a$", ".*", r"\\d+", "(ab)?", "A.?", "[^a]b",
];
/// Fields by what they mostly hold; `x` holds anything, `none` nothing, `l`, `m` are arrays.
const FIELDS: &[&str] = &[
    "s", "s", "s", "t", "l", "l", "n", "n", "m", "x", "x", "b", "none", "o.s", "?s",
];
const NUMERIC: &[&str] = &["n", "n", "m", "x", "s"];
const TEXTUAL: &[&str] = &["s", "s", "t", "l", "x", "o.s"];
const KEYS: &[&str] = &["k", "k", "k", "k", "k", "?k", "?j", "?l", "l", "n", "x"];
const COMPARISONS: &[&str] = &["==", "==", "==", "!=", "<", "<=", ">", ">="];

fn literal(rng: &mut Rng) -> &'static str {
    match rng.below(8) {
        0..4 => rng.pick(STRINGS),
        4..7 => rng.pick(NUMBERS),
        _ => rng.pick(&["true", "false"]),
    }
}

fn list(rng: &mut Rng, mut one: impl FnMut(&mut Rng) -> String) -> String {
    let count = 1 + rng.below(3);
    let parts: Vec<String> = (0..count).map(|_| one(rng)).collect();
    parts.join(", ")
}

/// Fields a leaf may mention: of the event, and of earlier steps by alias.
struct Scope<'a> {
    aliases: &'a [usize],
}

impl Scope<'_> {
    fn field(&self, rng: &mut Rng, among: &[&str]) -> String {
        let path = rng.pick(among);
        if !self.aliases.is_empty() && rng.chance(40) {
            let step = self.aliases[rng.below(self.aliases.len())];
            return format!("e{step}.{}", path.trim_start_matches('?'));
        }
        path.to_owned()
    }
}

fn leaf(rng: &mut Rng, scope: &Scope<'_>) -> String {
    let f = scope.field(rng, FIELDS);
    let s = scope.field(rng, TEXTUAL);
    let n = scope.field(rng, NUMERIC);
    let fold = rng.pick(&["", "~"]);
    let op = rng.pick(COMPARISONS);
    let lit = literal(rng);
    let text = rng.pick(STRINGS);
    let number = rng.pick(NUMBERS);
    match rng.below(36) {
        0..7 => format!("{f} {op} {lit}"),
        7 => format!("{lit} {op} {f}"),
        8..10 => format!("{f} {op} {}", scope.field(rng, FIELDS)),
        10 => {
            let path = if rng.chance(20) { "o" } else { f.as_str() };
            format!("{path} {} null", rng.pick(&["==", "!="]))
        }
        11 => format!("null {} {f}", rng.pick(&["==", "!="])),
        12..15 => {
            let not = rng.pick(&["", "", "not "]);
            format!(
                "{f} {not}in{fold} ({})",
                list(rng, |rng| literal(rng).to_owned())
            )
        }
        15 => format!("{f} in ({}, {lit})", scope.field(rng, FIELDS)),
        16..20 => {
            let op = rng.pick(&[":", "like", "like~"]);
            let quoted = |rng: &mut Rng| format!("\"{}\"", rng.pick(PATTERNS));
            format!("{f} {op} ({})", list(rng, quoted))
        }
        20 => {
            let quoted = |rng: &mut Rng| format!("\"{}\"", rng.pick(REGEXES));
            format!("{f} regex{fold} ({})", list(rng, quoted))
        }
        21 => format!("length({s}) {op} {}", rng.below(3)),
        22 => format!("startsWith{fold}({s}, {text})"),
        23 => format!("endsWith{fold}({s}, {})", scope.field(rng, TEXTUAL)),
        24 => format!("stringContains{fold}({s}, {text})"),
        25 => format!("concat({f}, {}) {op} \"a1\"", scope.field(rng, FIELDS)),
        26 => {
            let right = rng.pick(&["== null", "!= null", "== 0", "> 0"]);
            format!("indexOf{fold}({s}, {text}, {}) {right}", rng.below(2))
        }
        27 => format!(
            "substring({s}, {}, {}) == {text}",
            rng.pick(&["-1", "0", "1"]),
            rng.below(3)
        ),
        28 => format!(
            "between{fold}({s}, \"a\", \"b\", {}) {op} \"\"",
            rng.chance(50)
        ),
        29 => format!("number({s}) {op} {number}"),
        30 => format!("string({f}) {op} {text}"),
        31 => {
            let math = rng.pick(&["+", "-", "*", "/", "%"]);
            format!("{n} {math} {} {op} {number}", scope.field(rng, NUMERIC))
        }
        32 => {
            let inner = leaf(rng, scope);
            let other = leaf(rng, scope);
            let word = rng.pick(&["and", "or"]);
            let not = rng.pick(&["", "not "]);
            let right = rng.pick(&["== true", "== false", "== null", "!= null"]);
            format!("({not}{inner} {word} {other}) {right}")
        }
        33 => rng
            .pick(&["b", "x", "not b", "b == true", "x != false"])
            .to_owned(),
        34 => match rng.below(7) {
            4 => format!(
                "arraySearch(r, v, v.p {op} {text} and v.q {} {number})",
                rng.pick(COMPARISONS)
            ),
            5 => format!(
                "arrayCount(r, v, v.q == null or v.p == s) {op} {}",
                rng.below(3)
            ),
            6 => format!("arraySearch(r, v, arraySearch(v.i, w, w {op} v.q and v.p != null))"),
            0 => format!("arrayContains({}, {text})", rng.pick(&["l", "x", "m"])),
            1 => format!("arraySearch(l, v, v {op} {text} or v == s)"),
            2 => format!("arrayCount(m, v, v {op} {number}) >= {}", rng.below(3)),
            _ => format!("{}[{}] {op} {lit}", rng.pick(&["l", "m"]), rng.below(3)),
        },
        _ => match rng.below(6) {
            0 => r#"cidrMatch(source.ip, "10.0.0.0/8", "::1")"#.to_owned(),
            1 => format!(
                "source.ip {op} {}",
                rng.pick(&[r#""10.0.0.0/8""#, r#""::1""#, r#""10.1.1.1""#])
            ),
            2 => format!(
                "d {op} {}",
                rng.pick(&[r#""1970-01-02""#, "86400000", r#""1970-01-01T00:00:01Z""#])
            ),
            3 => format!(
                "v {op} {}",
                rng.pick(&[r#""1.10.0""#, r#""1.9.0""#, r#""1.10.0-rc1""#, r#""bad""#])
            ),
            4 => format!("add({n}, 1) {op} {number}"),
            _ => format!("-{n} {op} {number}"),
        },
    }
}

/// `eager` makes it hold more often, so that sequences get somewhere.
fn condition(rng: &mut Rng, scope: &Scope<'_>, depth: usize, eager: bool) -> Condition {
    let parts = |rng: &mut Rng| {
        let count = 2 + rng.below(2);
        (0..count)
            .map(|_| condition(rng, scope, depth - 1, eager))
            .collect()
    };
    if eager && scope.aliases.is_empty() && rng.chance(25) {
        return Condition::Const(true);
    }
    if !scope.aliases.is_empty() && rng.chance(60) {
        let step = scope.aliases[rng.below(scope.aliases.len())];
        let (left, right) = (
            rng.pick(&["k", "k", "s", "n", "l"]),
            rng.pick(&["k", "k", "s", "n", "l"]),
        );
        let op = rng.pick(&["==", "==", "!=", ">="]);
        return Condition::Leaf(format!("{left} {op} e{step}.{right}"));
    }
    match rng.below(20) {
        0..3 => Condition::Const(true),
        3 => Condition::Const(false),
        4 => Condition::Leaf(format!("k == {}", rng.below(2))),
        5 | 6 if depth > 0 => Condition::And(parts(rng)),
        7..10 if depth > 0 => Condition::Or(parts(rng)),
        10 | 11 if depth > 0 => Condition::Not(Box::new(condition(rng, scope, depth - 1, eager))),
        12 if depth > 0 => {
            let relation = rng.pick(&["descendant", "descendant", "child", "event"]);
            let inner = match rng.below(3) {
                0 => Condition::Leaf(format!("s == {}", rng.pick(&["\"a\"", "\"b\""]))),
                _ => condition(rng, &Scope { aliases: &[] }, 0, eager),
            };
            let filter = Filter {
                category: category(rng),
                condition: inner,
            };
            Condition::Lineage(relation, Box::new(filter))
        }
        _ => Condition::Leaf(leaf(rng, scope)),
    }
}

fn category(rng: &mut Rng) -> &'static str {
    rng.pick(&["any", "any", "process", "process", "file"])
}

fn filter(rng: &mut Rng, aliases: &[usize], depth: usize, eager: bool) -> Filter {
    Filter {
        category: category(rng),
        condition: condition(rng, &Scope { aliases }, depth, eager),
    }
}

fn keys(rng: &mut Rng, count: usize) -> Vec<String> {
    let mut keys: Vec<String> = Vec::new();
    while keys.len() < count {
        let key = rng.pick(KEYS);
        let known = |k: &String| k.trim_start_matches('?') == key.trim_start_matches('?');
        if !keys.iter().any(known) {
            keys.push(key.to_owned());
        }
    }
    keys
}

fn sequence(rng: &mut Rng) -> Form {
    let shared = [0, 1, 1, 2][rng.below(4)];
    let own = if rng.chance(20) { 1 } else { 0 };
    let aliased = rng.chance(30);
    let maxspan_ms = rng.chance(80).then(|| 20 << rng.below(4));
    let count = 2 + rng.below(3);
    let mut steps: Vec<Step> = Vec::new();
    for i in 0..count {
        let aliases: Vec<usize> = steps
            .iter()
            .enumerate()
            .filter(|(_, s)| s.alias)
            .map(|(i, _)| i)
            .collect();
        let alone = i + 1 == count && steps.iter().all(|s| s.missing);
        let missing = maxspan_ms.is_some() && !alone && rng.chance(25);
        let runs = if !missing && rng.chance(15) {
            2 + rng.below(2)
        } else {
            1
        };
        steps.push(Step {
            filter: filter(rng, &aliases, 1, !missing),
            keys: keys(rng, own),
            missing,
            runs,
            alias: aliased && !missing && i + 1 < count,
        });
    }
    let until = rng.chance(20).then(|| Step {
        filter: filter(rng, &[], 1, false),
        keys: keys(rng, own),
        missing: false,
        runs: 1,
        alias: false,
    });
    Form::Sequence {
        by: keys(rng, shared),
        maxspan_ms,
        steps,
        until,
    }
}

fn sample(rng: &mut Rng) -> Form {
    let step = |rng: &mut Rng| Step {
        filter: filter(rng, &[], 1, true),
        keys: Vec::new(),
        missing: false,
        runs: 1,
        alias: false,
    };
    let steps = (0..2 + rng.below(2)).map(|_| step(rng)).collect();
    let count = 1 + rng.below(2);
    Form::Sample {
        by: keys(rng, count),
        steps,
    }
}

/// A random query; some are refused by the type checker.
pub(crate) fn spec(rng: &mut Rng) -> Spec {
    let form = match rng.below(10) {
        0..3 => Form::Event(filter(rng, &[], 2, false)),
        3..9 => sequence(rng),
        _ => sample(rng),
    };
    let mut pipes = Vec::new();
    while rng.chance(6) {
        pipes.push(match rng.below(4) {
            0 => format!("head {}", 1 + rng.below(3)),
            1 => format!("tail {}", 1 + rng.below(3)),
            _ if !matches!(form, Form::Event(_)) => "head 2".to_owned(),
            2 => format!("filter {}", leaf(rng, &Scope { aliases: &[] })),
            _ => format!("unique {}", rng.pick(&["s", "k", "n"])),
        });
    }
    Spec { form, pipes }
}

fn text(rng: &mut Rng) -> Json {
    rng.pick(&[
        "a", "a", "b", "A", "ab", "Ab", "", "1", "07", "1.5", "ä", "true", "a*", "aab",
    ])
    .into()
}

fn number(rng: &mut Rng) -> Json {
    match rng.below(8) {
        0 => json!(1.5),
        1 => json!(1.0),
        2 => json!(-1),
        3 => json!(i64::MAX),
        n => json!(n - 4),
    }
}

fn anything(rng: &mut Rng) -> Json {
    match rng.below(8) {
        0 => Json::Null,
        1 => json!(rng.chance(50)),
        2..5 => number(rng),
        _ => text(rng),
    }
}

fn array(rng: &mut Rng, mut one: impl FnMut(&mut Rng) -> Json) -> Json {
    let count = rng.below(4);
    (0..count).map(|_| one(rng)).collect()
}

/// An element of an array of objects, with gaps; sometimes none.
fn record(rng: &mut Rng) -> Json {
    let mut fields = Map::new();
    if rng.chance(60) {
        fields.insert("p".into(), text(rng));
    }
    if rng.chance(60) {
        fields.insert("q".into(), number(rng));
    }
    if rng.chance(40) {
        fields.insert("i".into(), array(rng, number));
    }
    match rng.below(10) {
        0 => Json::Null,
        _ => fields.into(),
    }
}

/// A random stream in order of time.
pub(crate) fn events(rng: &mut Rng) -> Vec<Source> {
    let count = 3 + rng.below(14);
    let mut time_ms = 0;
    (1..=count)
        .map(|id| {
            time_ms += [0, 0, 10, 10, 10, 20, 40][rng.below(7)];
            let mut fields = Map::new();
            let mut put = |key: &str, value: Json| _ = fields.insert(key.into(), value);
            match rng.below(10) {
                0 => {}
                1 => put("event.category", json!(["process", "file"])),
                2..7 => put("event.category", json!("process")),
                _ => put("event.category", json!("file")),
            }
            put("k", json!(rng.below(2)));
            if rng.chance(25) {
                put("k", array(rng, |rng| rng.pick(&["0", "1", "2"]).into()));
            }
            if rng.chance(60) {
                put("j", anything(rng));
            }
            for key in ["s", "t"] {
                if rng.chance(70) {
                    put(key, text(rng));
                }
            }
            if rng.chance(50) {
                put("l", array(rng, text));
            }
            if rng.chance(60) {
                put("n", number(rng));
            }
            if rng.chance(40) {
                put("m", array(rng, number));
            }
            if rng.chance(40) {
                put("r", array(rng, record));
            }
            if rng.chance(60) {
                put(
                    "x",
                    if rng.chance(40) {
                        array(rng, anything)
                    } else {
                        anything(rng)
                    },
                );
            }
            if rng.chance(40) {
                put("b", json!(rng.chance(50)));
            }
            if rng.chance(30) {
                put("o", json!({"s": text(rng)}));
            }
            if rng.chance(30) {
                put(
                    "source.ip",
                    rng.pick(&["10.1.1.1", "::1", "0:0:0:0:0:0:0:1", "11.0.0.1", "x"])
                        .into(),
                );
            }
            if rng.chance(20) {
                put(
                    "d",
                    rng.pick(&[
                        "1970-01-01",
                        "1970-01-02T00:00:00.000Z",
                        "1970-01-01T00:00:01Z",
                    ])
                    .into(),
                );
            }
            if rng.chance(20) {
                put(
                    "v",
                    rng.pick(&["1.9.0", "1.10.0", "1.10.0-rc1", "bad"]).into(),
                );
            }
            if rng.chance(85) {
                // Mostly a line of descent, each process a child of the one before it, known a little later.
                let process = rng.below((id / 2 + 1).min(5));
                let parent = if rng.chance(15) {
                    rng.below(5)
                } else {
                    process.saturating_sub(1)
                };
                put("process.entity_id", json!(process.to_string()));
                put("process.parent.entity_id", json!(parent.to_string()));
            }
            Source {
                id: id as i64,
                time_ns: time_ms * 1_000_000,
                fields,
            }
        })
        .collect()
}

impl Spec {
    /// What the query uses, for counting how much of the language is tried.
    pub(crate) fn features(&self) -> Vec<&'static str> {
        let text = self.to_string();
        let uses = |feature, is| if is { Some(feature) } else { None };
        let steps = match &self.form {
            Form::Event(_) => &[][..],
            Form::Sample { steps, .. } | Form::Sequence { steps, .. } => steps,
        };
        let last = steps.len().saturating_sub(1);
        let missing = |i: usize| steps.get(i).is_some_and(|s| s.missing);
        let lineage = ["descendant of", "child of", "event of"]
            .iter()
            .any(|l| text.contains(l));
        let aliased = steps.iter().any(|s| s.alias) && text.contains("(e") || text.contains(" e0.");
        [
            uses("event query", matches!(self.form, Form::Event(_))),
            uses("sample", matches!(self.form, Form::Sample { .. })),
            uses("sequence", matches!(self.form, Form::Sequence { .. })),
            uses("three steps or more", last >= 2),
            uses("keys", text.contains(" by ")),
            uses("runs", text.contains("runs=")),
            uses("until", text.contains(" until ")),
            uses("leading missing", missing(0)),
            uses("trailing missing", missing(last)),
            uses("missing on both sides", missing(0) && missing(last)),
            uses("inner missing", last > 1 && (1..last).any(missing)),
            uses("alias", aliased),
            uses("lineage", lineage),
            uses("pipe", !self.pipes.is_empty()),
        ]
        .into_iter()
        .flatten()
        .collect()
    }
}

/// Simpler forms of a query, each one step away.
pub(crate) fn simpler(spec: &Spec) -> Vec<Spec> {
    let mut all = Vec::new();
    for i in 0..spec.pipes.len() {
        let mut less = spec.clone();
        less.pipes.remove(i);
        all.push(less);
    }
    let with = |form: Form| Spec {
        form,
        pipes: spec.pipes.clone(),
    };
    match &spec.form {
        Form::Event(filter) => all.extend(simpler_filter(filter).map(|f| with(Form::Event(f)))),
        Form::Sample { by, steps } => {
            for i in 0..by.len() {
                let mut by = by.clone();
                by.remove(i);
                all.push(with(Form::Sample {
                    by,
                    steps: steps.clone(),
                }));
            }
            let each = simpler_steps(steps);
            all.extend(each.map(|steps| {
                with(Form::Sample {
                    by: by.clone(),
                    steps,
                })
            }));
        }
        Form::Sequence {
            by,
            maxspan_ms,
            steps,
            until,
        } => {
            let form = |by: &[String], maxspan_ms, steps: Vec<Step>, until: Option<Step>| {
                with(Form::Sequence {
                    by: by.to_vec(),
                    maxspan_ms,
                    steps,
                    until,
                })
            };
            for i in 0..by.len() {
                let mut less = by.clone();
                less.remove(i);
                all.push(form(&less, *maxspan_ms, steps.clone(), until.clone()));
            }
            if maxspan_ms.is_some() {
                all.push(form(by, None, steps.clone(), until.clone()));
            }
            if until.is_some() {
                all.push(form(by, *maxspan_ms, steps.clone(), None));
            }
            for step in until.iter().flat_map(simpler_step) {
                all.push(form(by, *maxspan_ms, steps.clone(), Some(step)));
            }
            if steps.iter().all(|s| !s.keys.is_empty()) {
                let mut less = (steps.clone(), until.clone());
                for step in less.0.iter_mut().chain(&mut less.1) {
                    step.keys.remove(0);
                }
                all.push(form(by, *maxspan_ms, less.0, less.1));
            }
            let each = simpler_steps(steps);
            all.extend(each.map(|steps| form(by, *maxspan_ms, steps, until.clone())));
        }
    }
    all
}

fn simpler_steps(steps: &[Step]) -> impl Iterator<Item = Vec<Step>> {
    let mut all = Vec::new();
    for i in 0..steps.len() {
        let mut less = steps.to_vec();
        less.remove(i);
        all.push(less);
        for step in simpler_step(&steps[i]) {
            let mut less = steps.to_vec();
            less[i] = step;
            all.push(less);
        }
    }
    all.into_iter()
}

fn simpler_step(step: &Step) -> Vec<Step> {
    let mut all = Vec::new();
    if step.runs > 1 {
        all.push(Step {
            runs: step.runs - 1,
            ..step.clone()
        });
    }
    if step.alias {
        all.push(Step {
            alias: false,
            ..step.clone()
        });
    }
    if step.missing {
        all.push(Step {
            missing: false,
            ..step.clone()
        });
    }
    let filters = simpler_filter(&step.filter);
    all.extend(filters.map(|filter| Step {
        filter,
        ..step.clone()
    }));
    all
}

fn simpler_filter(filter: &Filter) -> impl Iterator<Item = Filter> {
    let mut all = Vec::new();
    if filter.category != "any" {
        all.push(Filter {
            category: "any",
            ..filter.clone()
        });
    }
    let conditions = simpler_condition(&filter.condition).into_iter();
    all.extend(conditions.map(|condition| Filter {
        category: filter.category,
        condition,
    }));
    all.into_iter()
}

fn simpler_condition(condition: &Condition) -> Vec<Condition> {
    let mut all = Vec::new();
    if !matches!(condition, Condition::Const(_)) {
        all.extend([Condition::Const(true), Condition::Const(false)]);
    }
    match condition {
        Condition::Const(_) | Condition::Leaf(_) => {}
        Condition::Not(part) => {
            all.push((**part).clone());
            all.extend(
                simpler_condition(part)
                    .into_iter()
                    .map(|c| Condition::Not(Box::new(c))),
            );
        }
        Condition::And(parts) | Condition::Or(parts) => {
            all.extend(parts.iter().cloned());
            for (i, part) in parts.iter().enumerate() {
                for less in simpler_condition(part) {
                    let mut parts = parts.clone();
                    parts[i] = less;
                    all.push(match condition {
                        Condition::And(_) => Condition::And(parts),
                        _ => Condition::Or(parts),
                    });
                }
            }
        }
        Condition::Lineage(relation, filter) => {
            let filters = simpler_filter(filter);
            all.extend(filters.map(|f| Condition::Lineage(relation, Box::new(f))));
        }
    }
    all
}
