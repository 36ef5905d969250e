//! Documents and the values read from them.

use std::io;

use super::*;

fn read(paths: &[&str], line: &str) -> Result<Vec<String>, LineError> {
    let mut table = FieldTable::empty();
    let wanted: Vec<FieldId> = paths.iter().map(|p| table.intern(p)).collect();
    let mut reader = Reader::new(&table, &wanted, &Options::default());
    // Twice, so that nothing of the first time may be left.
    reader.parse(line.as_bytes(), 7)?;
    let event = reader.parse(line.as_bytes(), 7)?;
    assert_eq!(event.line(), line);
    Ok(wanted.iter().map(|id| show(event.values(*id))).collect())
}

fn show(values: Values<'_>) -> String {
    if matches!(values, Values::Object) {
        return "object".to_owned();
    }
    let show = |v: Value<'_>| match v {
        Value::Str(s) => format!("{s:?}"),
        Value::Int(i) => format!("{i}"),
        Value::Float(f) => format!("{f:?}"),
        other => format!("{other:?}"),
    };
    values.iter().map(show).collect::<Vec<_>>().join(" ")
}

fn check(paths: &[&str], line: &str, expected: &[&str]) {
    let line = format!(r#"{{"@timestamp":5,{line}}}"#);
    assert_eq!(read(paths, &line).unwrap(), expected, "{line}");
}

#[test]
fn values_of_every_kind_and_place() {
    check(
        &["a", "b.c"],
        r#""a":"x","b":{"c":-7,"d":1}"#,
        &[r#""x""#, "-7"],
    );
    check(
        &["a", "b", "c", "d", "e"],
        r#""a":1.5,"b":true,"c":null,"d":[],"e":18446744073709551615"#,
        &["1.5", "Bool(true)", "", "", "1.8446744073709552e19"],
    );
    check(&["a"], r#""a":["x",null,"y",["z"]]"#, &[r#""x" "y" "z""#]);
    check(&["a"], r#""a":["x",2,true]"#, &[r#""x" 2 Bool(true)"#]);
    check(
        &["a.b", "a.c"],
        r#""a":[{"b":"1","c":"2"},{"b":"3"},{"c":4}]"#,
        &[r#""1" "3""#, r#""2" 4"#],
    );
    check(
        &["a[1]", "a", "a[0].b", "a[9]"],
        r#""a":[{"b":"q"},"y"]"#,
        &[r#""y""#, r#""y""#, r#""q""#, ""],
    );
    check(&["a[1]"], r#""a":[null,"y"]"#, &[r#""y""#]);
}

#[test]
fn keys_with_dots_go_before_nested_ones() {
    check(
        &["a.b"],
        r#""a":{"b":"nested"},"a.b":"literal""#,
        &[r#""literal""#],
    );
    check(&["a.b.c"], r#""a.b":{"c":"x"}"#, &[r#""x""#]);
    check(&["a.b"], r#""x.y":1,"a":{"q.b":1}"#, &[""]);
}

#[test]
fn objects_are_present_but_no_values() {
    check(&["a", "a.b"], r#""a":{"b":1}"#, &["object", "1"]);
    check(&["a"], r#""a":{"z":{"y":null},"x":[]}"#, &[""]);
    check(&["a"], r#""a":[{"z":1},{"z":2}]"#, &["object"]);
}

#[test]
fn escapes() {
    check(
        &["a", "b"],
        r#""a":"x\"\\\/\b\f\n\r\té\ud83d\ude00\ud800","b":["p\nq","r"]"#,
        &[r#""x\"\\/\u{8}\u{c}\n\r\té😀�""#, r#""p\nq" "r""#],
    );
    check(&["a.b"], r#""a":{"\u0062":"x"}"#, &[r#""x""#]);
}

#[test]
fn typed_and_complete_values_of_the_schema() {
    let table = FieldTable::sensor();
    let id = |path| table.resolve(path).unwrap();
    let wanted = [id("process.name"), id("destination.ip"), id("source.ip")];
    let mut reader = Reader::new(&table, &wanted, &Options::default());
    let line = r#"{"@timestamp":"1970-01-01T00:00:01Z","process":{"name":"cc","Ext":{"names":["cc","gcc-12"]}},"destination":{"ip":"::1"},"source":{"ip":"x"}}"#;
    let event = reader.parse(line.as_bytes(), 1).unwrap();
    assert_eq!(event.time_ns(), 1_000_000_000);
    assert_eq!(show(event.values(wanted[0])), r#""cc" "gcc-12""#);
    assert_eq!(show(event.values(wanted[1])), "Ip(::1)");
    assert_eq!(show(event.values(wanted[2])), r#""x""#);
    assert!(event.values(id("file.path")).is_empty());
}

#[test]
fn tiebreakers() {
    let table = FieldTable::empty();
    let options = Options {
        timestamp: "t.u".to_owned(),
        tiebreaker: Some("n".to_owned()),
    };
    let mut reader = Reader::new(&table, &[], &options);
    let event = reader.parse(br#"{"n":3,"t":{"u":"1500"}}"#, 1).unwrap();
    assert_eq!(event.time_ns(), 1_500_000_000);
    assert_eq!(event.tiebreaker(), Some(&OwnedValue::Int(3)));
    assert_eq!(reader.parse(br#"{"t.u":1}"#, 1).unwrap().tiebreaker(), None);
}

#[test]
fn errors_name_line_column_and_what_is_allowed() {
    for (line, expected) in [
        (
            r#"{"a":1"#,
            "7:7: found the end of the line, expected `,` or `}`",
        ),
        (r#"{"a" 1}"#, "7:6: found `1`, expected `:`"),
        (r"{a:1}", "7:2: found `a`, expected a key in double quotes"),
        (r#"{"a":x}"#, "7:6: found `x`, expected a value"),
        (r#"{"a":tru}"#, "7:6: found `t`, expected a value"),
        (
            r#"{"a":"x}"#,
            "7:9: found the end of the line, expected closing `\"`",
        ),
        (
            r#"{"a":"\q"}"#,
            "7:7: found `\\\\`, expected an escape: one of `\\\" \\\\ \\/ \\b \\f \\n \\r \\t \\uXXXX`",
        ),
        (r"[1]", "7:1: found `[`, expected an event, `{`"),
        (r#"{"a":[1,2}"#, "7:10: found `}`, expected `,` or `]`"),
        (
            r#"{"@timestamp":5} x"#,
            "7:18: found `x`, expected the end of the line",
        ),
        (
            r#"{"@timestamp":"soon"}"#,
            "7:1: no readable time in `@timestamp`; it takes ISO 8601, or a number since the epoch",
        ),
        (
            r#"{"skipped":[1,{"x":}]}"#,
            "7:20: found `}`, expected a value",
        ),
    ] {
        assert_eq!(
            read(&["a"], line).unwrap_err().to_string(),
            expected,
            "{line}"
        );
    }
    let mut reader = Reader::new(&FieldTable::empty(), &[], &Options::default());
    let error = reader.parse(b"{\"a\":\"\xff\"}", 3).unwrap_err();
    assert_eq!(
        error.to_string(),
        "3:7: not valid UTF-8; events are JSON in UTF-8"
    );
    let deep = format!(r#"{{"a":{}{}}}"#, "[".repeat(5000), "]".repeat(5000));
    assert!(
        reader
            .parse(deep.as_bytes(), 1)
            .unwrap_err()
            .message
            .contains("128 levels")
    );
    let deep = format!("{}1", r#"{"a":"#.repeat(5000));
    assert!(
        read(&["a"], &deep)
            .unwrap_err()
            .message
            .contains("128 levels")
    );
}

#[test]
fn lines_are_numbered_and_blank_ones_passed() {
    let mut lines = Lines::new(&b"one\n\n  \r\ntwo"[..]);
    assert_eq!(lines.next_line().unwrap(), Some((&b"one"[..], 1)));
    assert_eq!(lines.next_line().unwrap(), Some((&b"two"[..], 4)));
    assert_eq!(lines.next_line().unwrap(), None);
}

proptest::proptest! {
    #[test]
    fn any_bytes_are_an_event_or_an_error(line in proptest::collection::vec(proptest::prelude::any::<u8>(), 0..60)) {
        let mut table = FieldTable::empty();
        let wanted = [table.intern("a"), table.intern("a.b"), table.intern("a[1]")];
        let _ = Reader::new(&table, &wanted, &Options::default()).parse(&line, 1);
    }

    #[test]
    fn near_json_is_an_event_or_an_error(line in r#"[\{\}\[\]",:\\a.b01nul e-]{0,40}"#) {
        let mut table = FieldTable::empty();
        let wanted = [table.intern("a"), table.intern("a.b"), table.intern("a[1]")];
        let _ = Reader::new(&table, &wanted, &Options::default()).parse(line.as_bytes(), 1);
    }
}

#[test]
fn lines_are_the_same_whatever_the_input_has_at_hand() {
    let text = "one\n\n  \t\r\ntwo and some more\r\n{}\nä last";
    let expected: Vec<(String, u64)> = (1u64..)
        .zip(text.split('\n'))
        .filter(|(_, line)| !line.trim().is_empty())
        .map(|(number, line)| (line.to_owned(), number))
        .collect();
    for ending in ["", "\n", "\n\n"] {
        let text = format!("{text}{ending}");
        for capacity in 1..text.len() + 2 {
            let mut lines = Lines::new(io::BufReader::with_capacity(capacity, text.as_bytes()));
            let mut found = Vec::new();
            while let Some((line, number)) = lines.next_line().unwrap() {
                found.push((String::from_utf8(line.to_vec()).unwrap(), number));
            }
            assert_eq!(found, expected, "{capacity}");
            assert!(lines.next_line().unwrap().is_none());
        }
    }
}

#[test]
fn a_line_that_is_too_long_is_an_error_with_its_number() {
    let mut text = vec![b'x'; LINE_BYTES_MAX + 1];
    text.splice(0..0, *b"{}\n");
    text.push(b'\n');
    let whole: &[u8] = &text;
    let mut lines = Lines::new(whole);
    assert!(lines.next_line().unwrap().is_some());
    let error = lines.next_line().unwrap_err();
    assert_eq!(error.to_string(), "line 2 is longer than 67108864 bytes");
    let mut lines = Lines::new(io::BufReader::with_capacity(100, whole));
    assert!(lines.next_line().unwrap().is_some());
    let error = lines.next_line().unwrap_err();
    assert_eq!(error.to_string(), "line 2 is longer than 67108864 bytes");
}
