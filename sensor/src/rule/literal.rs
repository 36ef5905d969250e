//! Which values a field can have at all.
//!
//! In: a field's path and a literal a rule compares it with. Out: why the two can never be the same. It says so only where the
//! kernel's own bounds or the sensor's words leave no doubt.

use super::acts;
use crate::eql::pattern;
use crate::eql::query::{Comparison, Literal};
use crate::event::{Kind, schema};

/// Longest name of a file, in bytes (`NAME_MAX`).
const NAME_LEN_MAX: usize = 255;
/// Longest path, in bytes (`PATH_MAX` without its end).
const PATH_LEN_MAX: usize = 4095;
/// Longest domain name in text, in bytes.
const DOMAIN_LEN_MAX: usize = 253;
/// Largest process id (`PID_MAX_LIMIT`).
const PID_MAX: i64 = 4_194_304;

/// How a literal is used.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Sort {
    /// With `*` and `?` for other text.
    Pattern,
    Compared(Comparison),
}

/// Why a literal can't be.
pub(super) struct Reason {
    pub(super) code: &'static str,
    pub(super) help: String,
}

/// What values of a text field look like.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Class {
    Path,
    Name,
    Extension,
    Domain,
}

/// The class of a field; `None` where nothing is known of its values.
pub(super) fn class(path: &str) -> Option<Class> {
    let last = path.rsplit('.').next().unwrap_or(path);
    let is_of = |owner: &str| {
        path.strip_prefix(owner)
            .is_some_and(|rest| rest.starts_with('.'))
    };
    schema::field(path)?;
    match last {
        "executable" | "executables" | "working_directory" if is_of("process") => Some(Class::Path),
        "path" | "directory" if is_of("file") => Some(Class::Path),
        "extension" if is_of("file") => Some(Class::Extension),
        "name" if path == "dns.question.name" => Some(Class::Domain),
        "name" | "names" if is_of("file") || is_process_name(path) => Some(Class::Name),
        _ => None,
    }
}

/// The name of a program, not of its user or module.
fn is_process_name(path: &str) -> bool {
    let others = ["user", "group", "load_module", "memfd"];
    path.starts_with("process.")
        && !path.split('.').any(|part| {
            others.contains(&part) || part.ends_with("_user") || part.ends_with("_group")
        })
}

/// Fields with few values, all known.
const WORDS: &[(&str, &[&str])] = &[
    ("dns.type", &["query", "answer"]),
    (
        "file.Ext.modification",
        &["write", "truncate", "chmod", "chown"],
    ),
    ("network.direction", &["egress", "ingress"]),
    ("network.type", &["ipv4", "ipv6"]),
    (
        "process.Ext.ptrace.request",
        &["PTRACE_ATTACH", "PTRACE_SEIZE"],
    ),
];

/// Numbers, with their least and largest value; of ids that are text too.
const RANGES: &[(&str, i64, i64)] = &[
    ("pid", 1, PID_MAX),
    ("child_pid", 1, PID_MAX),
    ("port", 0, 65535),
    ("exit_code", 0, 255),
    ("exit_signal", 1, 64),
    ("args_count", 0, i64::MAX),
];

/// The literal as a query has it.
pub(super) fn shown(literal: &Literal) -> String {
    match literal {
        Literal::Str(text) => format!("\"{text}\""),
        Literal::Int(number) => number.to_string(),
        Literal::Float(number) => number.to_string(),
        Literal::Bool(flag) => flag.to_string(),
        Literal::Null => "null".to_owned(),
    }
}

/// Why a comparison of a field with a literal never holds; `None` when it may. `is_own`: the rule is written for this sensor, so
/// that words of other products do not belong there.
pub(super) fn why_never(path: &str, literal: &Literal, sort: Sort, is_own: bool) -> Option<Reason> {
    match (literal, sort) {
        (Literal::Str(text), Sort::Pattern) => text_never(path, text, true, is_own),
        (Literal::Str(text), Sort::Compared(Comparison::Equal)) => {
            text_never(path, text, false, is_own)
        }
        (Literal::Int(number), Sort::Compared(op)) => number_never(path, *number, op),
        _ => None,
    }
}

fn impossible(help: impl Into<String>) -> Option<Reason> {
    Some(Reason {
        code: "literal-never-matches",
        help: help.into(),
    })
}

fn text_never(path: &str, text: &str, is_pattern: bool, is_own: bool) -> Option<Reason> {
    if let Some((_, words)) = WORDS.iter().find(|(of, _)| *of == path) {
        return no_word(path, text, words, is_pattern, is_own);
    }
    if path == "event.action" {
        let actions: Vec<&str> = Kind::ALL.iter().map(|kind| kind.action()).collect();
        return no_word(path, text, &actions, is_pattern, is_own);
    }
    let class = class(path)?;
    // Public rules have branches for other systems.
    if !is_own && (text.contains('\\') || text == "System") {
        return None;
    }
    let wild = pattern::has_wildcard(text);
    if wild && !is_pattern && class != Class::Domain {
        return Some(Reason {
            code: "glob-in-equality",
            help: "here `*` and `?` are plain characters; `like` (exact case) and `:` (any case) match patterns".to_owned(),
        });
    }
    let least = text.chars().filter(|c| !is_pattern || *c != '*');
    let least: usize = least.map(char::len_utf8).sum();
    match class {
        Class::Name if text.contains('/') => {
            impossible("a name holds no `/`; the path is in another field")
        }
        Class::Name | Class::Extension if least > NAME_LEN_MAX => {
            impossible(format!("a name has at most {NAME_LEN_MAX} bytes"))
        }
        Class::Extension if text.starts_with('.') => {
            impossible("an extension comes without its dot")
        }
        Class::Extension if text.contains(['.', '/']) => {
            impossible("an extension is what follows the last dot of a name")
        }
        Class::Path if least > PATH_LEN_MAX => {
            impossible(format!("a path has at most {PATH_LEN_MAX} bytes"))
        }
        Class::Path if text.starts_with("memfd:") => {
            impossible("here a file in memory is `/memfd:` and its name")
        }
        Class::Path if !text.is_empty() && !starts_like_a_path(text, is_pattern) => {
            impossible("a path begins with `/`")
        }
        Class::Path if text.len() > 1 && text.ends_with('/') => {
            impossible("a path does not end in `/`")
        }
        Class::Domain if least > DOMAIN_LEN_MAX => {
            impossible(format!("a domain name has at most {DOMAIN_LEN_MAX} bytes"))
        }
        _ => None,
    }
}

fn starts_like_a_path(text: &str, is_pattern: bool) -> bool {
    text.starts_with('/') || (is_pattern && text.starts_with(['*', '?']))
}

/// Public rules name other products' words beside ours.
fn no_word(
    path: &str,
    text: &str,
    words: &[&str],
    is_pattern: bool,
    is_own: bool,
) -> Option<Reason> {
    let fits = |word: &&str| match is_pattern {
        true => pattern::like(text, word, true),
        false => word.eq_ignore_ascii_case(text),
    };
    if !is_own || words.iter().any(fits) {
        return None;
    }
    match crate::eql::schema::closest(text, words.iter().copied()) {
        Some(near) => impossible(format!("did you mean \"{near}\"?")),
        None if path == "event.action" => impossible("`eql-sensor fields` lists the events"),
        None => impossible(format!("it is one of {}", words.join(", "))),
    }
}

fn number_never(path: &str, number: i64, op: Comparison) -> Option<Reason> {
    let last = acts::without_index(path).rsplit('.').next()?;
    schema::field(acts::without_index(path))?;
    let (_, least, most) = RANGES.iter().find(|(name, ..)| *name == last)?;
    let is_out = match op {
        Comparison::Equal => number < *least || number > *most,
        Comparison::Less => number <= *least,
        Comparison::LessEqual => number < *least,
        Comparison::Greater => number >= *most,
        Comparison::GreaterEqual => number > *most,
    };
    let range = match *most {
        i64::MAX => format!("it is {least} or more"),
        _ => format!("it is from {least} to {most}"),
    };
    is_out.then_some(()).and_then(|()| impossible(range))
}
