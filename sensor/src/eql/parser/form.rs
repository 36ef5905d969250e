//! Query forms: event queries, sequences, samples, and the pipes behind them.
//!
//! In: the parser's tokens from the start of a form on. Out: its tree. What needs more than one token to judge (key counts,
//! number of steps, aliases) is left to the type checker.

use std::time::Duration;

use super::super::ast::{
    Alias, Event, Expr, ExprKind, Form, Key, Pipe, Query, Runs, Sample, Sequence, Term,
};
use super::super::diagnostic::{Kind, Span};
use super::super::lexer::{self, Kind as Tok};
use super::super::limits;
use super::Parser;

/// Tokens at which a step or a pipe may start.
const STEP_STARTS: &[Tok] = &[Tok::LeftBracket, Tok::MissingBracket, Tok::Until, Tok::Pipe];

impl Parser<'_> {
    pub(super) fn query(&mut self) -> Option<Query> {
        let token = self.peek();
        let form = match token.kind {
            Tok::Sequence => Form::Sequence(self.sequence()),
            Tok::Sample => Form::Sample(self.sample()),
            Tok::Join => {
                let help =
                    "`sample by ..` finds events in any order, `sequence by ..` in this order";
                self.error(
                    Kind::JoinUnsupported,
                    token.span,
                    "`join` is not supported",
                    help,
                );
                return None;
            }
            Tok::LeftBracket | Tok::MissingBracket => {
                let help = "start with `sequence` or `sample`";
                self.error(
                    Kind::UnexpectedToken,
                    token.span,
                    "a step stands outside of a sequence",
                    help,
                );
                return None;
            }
            Tok::End => {
                self.error(
                    Kind::UnexpectedToken,
                    token.span,
                    "query is empty",
                    "write for example `process where true`",
                );
                return None;
            }
            _ => Form::Event(self.event()),
        };
        let pipes = self.pipes();
        Some(Query { form, pipes })
    }

    /// `category where condition`, up to a closing bracket, a pipe or the end.
    pub(super) fn event(&mut self) -> Event {
        let start = self.peek();
        let category = self.category();
        if self.eat(Tok::Where).is_none() {
            self.expected("`where`");
            self.skip_to(&[
                Tok::Where,
                Tok::RightBracket,
                Tok::Pipe,
                Tok::LeftBracket,
                Tok::MissingBracket,
            ]);
            if self.eat(Tok::Where).is_none() {
                let span = start.span.to(self.last_span());
                let condition = Expr {
                    kind: ExprKind::Error,
                    span,
                    height: 1,
                };
                return Event {
                    category,
                    condition,
                    span,
                };
            }
        }
        let condition = self.expression_until(&[Tok::RightBracket, Tok::Pipe]);
        let span = start.span.to(self.last_span());
        Event {
            category,
            condition,
            span,
        }
    }

    fn category(&mut self) -> Option<Box<str>> {
        let token = self.peek();
        let text = self.slice(token.span);
        let name = match token.kind {
            Tok::Any => None,
            Tok::Ident => Some(text.into()),
            Tok::Str | Tok::RawStr => Some(lexer::string_value(token.kind, text).into()),
            Tok::Quoted => Some(lexer::quoted_value(text).into()),
            _ => {
                self.expected("the name of an event category");
                if token.kind.is_keyword() && token.kind != Tok::Where {
                    self.bump();
                }
                return None;
            }
        };
        self.bump();
        name
    }

    fn sequence(&mut self) -> Sequence {
        let span = self.bump().span;
        let mut by = Vec::new();
        let mut maxspan = None;
        loop {
            let token = self.peek();
            match token.kind {
                Tok::By => {
                    if maxspan.is_some() {
                        let help = "write `sequence by .. with maxspan=..`";
                        self.error(
                            Kind::WithBeforeBy,
                            token.span,
                            "`by` must come before `with maxspan`",
                            help,
                        );
                    }
                    by.extend(self.keys());
                }
                Tok::With => maxspan = self.maxspan().or(maxspan),
                _ => break,
            }
        }
        let mut terms = Vec::new();
        let mut until = None;
        loop {
            if !STEP_STARTS.contains(&self.kind()) && self.kind() != Tok::End {
                self.expected(if terms.is_empty() {
                    "`[` and the first step"
                } else {
                    "another step, `until` or a pipe"
                });
                self.skip_to(STEP_STARTS);
                // A stray closer is no place to go on from.
                if !STEP_STARTS.contains(&self.kind()) {
                    self.bump();
                    continue;
                }
            }
            let token = self.peek();
            match token.kind {
                Tok::LeftBracket | Tok::MissingBracket => {
                    if until.is_some() {
                        self.error(
                            Kind::UnexpectedToken,
                            token.span,
                            "a step cannot follow `until`",
                            "move it before `until`",
                        );
                    }
                    terms.push(self.term());
                    if terms.len() > limits::STEPS_MAX {
                        let allowed = format!("at most {} are allowed", limits::STEPS_MAX);
                        self.limit(token.span, "sequence has too many steps", &allowed);
                    }
                }
                Tok::Until => {
                    self.bump();
                    until = self.until().or(until);
                }
                _ => break,
            }
        }
        Sequence {
            by,
            maxspan,
            terms,
            until,
            span,
        }
    }

    fn until(&mut self) -> Option<Term> {
        let token = self.peek();
        match token.kind {
            Tok::MissingBracket => {
                let help = "`until` already names what ends the sequence; write `until [..]`";
                self.error(
                    Kind::UntilMissing,
                    token.span,
                    "`until` cannot take a missing event",
                    help,
                );
            }
            Tok::LeftBracket => {}
            _ => {
                self.expected("`[` after `until`");
                return None;
            }
        }
        let term = self.term();
        if let Some(runs) = term.runs {
            self.error(
                Kind::UntilRuns,
                runs.span,
                "`until` cannot take `with runs`",
                "one event ends the sequence",
            );
        }
        if let Some(alias) = &term.alias {
            let span = alias.span;
            self.error(
                Kind::UntilAlias,
                span,
                "`until` cannot be named",
                "it is never part of a match",
            );
        }
        Some(term)
    }

    fn sample(&mut self) -> Sample {
        let span = self.bump().span;
        let by = if self.kind() == Tok::By {
            self.keys()
        } else {
            Vec::new()
        };
        let mut terms = Vec::new();
        loop {
            let token = self.peek();
            match token.kind {
                Tok::LeftBracket | Tok::MissingBracket => {
                    let term = self.term();
                    self.only_for_sequences(&term);
                    terms.push(term);
                    if terms.len() > limits::STEPS_MAX {
                        let allowed = format!("at most {} are allowed", limits::STEPS_MAX);
                        self.limit(token.span, "sample has too many filters", &allowed);
                    }
                }
                Tok::Pipe | Tok::End => break,
                Tok::With | Tok::Until => {
                    let word = self.slice(token.span);
                    let message = format!("a sample has no `{word}`");
                    self.error(
                        Kind::NotInSample,
                        token.span,
                        message,
                        "a sample has keys and filters only",
                    );
                    self.bump();
                    self.skip_to(&[Tok::LeftBracket, Tok::MissingBracket, Tok::Pipe]);
                    if token.kind == Tok::Until && self.kind() == Tok::LeftBracket {
                        self.term();
                    }
                }
                _ => {
                    self.expected(if terms.is_empty() {
                        "`[` and the first filter"
                    } else {
                        "another filter or a pipe"
                    });
                    self.bump();
                    self.skip_to(&[Tok::LeftBracket, Tok::MissingBracket, Tok::Pipe]);
                }
            }
        }
        Sample { by, terms, span }
    }

    fn only_for_sequences(&mut self, term: &Term) {
        let start = Span {
            start: term.span.start,
            end: term.span.start + 2,
        };
        let found = [
            term.missing.then_some((start, "missing events")),
            term.runs.map(|r| (r.span, "`with runs`")),
            term.alias.as_ref().map(|a| (a.span, "named filters")),
        ];
        for (span, what) in found.into_iter().flatten() {
            self.error(
                Kind::NotInSample,
                span,
                format!("a sample has no {what}"),
                "a sample has keys and filters only",
            );
        }
    }

    /// `[..]` or `![..]` with `by`, `with runs` and `as`.
    fn term(&mut self) -> Term {
        let open = self.bump();
        let event = self.event();
        if self.kind() != Tok::RightBracket {
            self.close(open, Tok::RightBracket);
            self.skip_to(&[
                Tok::RightBracket,
                Tok::LeftBracket,
                Tok::MissingBracket,
                Tok::Pipe,
            ]);
        }
        self.eat(Tok::RightBracket);
        let span = open.span.to(self.last_span());
        let missing = open.kind == Tok::MissingBracket;
        let mut term = Term {
            event,
            missing,
            by: Vec::new(),
            runs: None,
            alias: None,
            span,
        };
        self.suffixes(&mut term);
        term
    }

    fn suffixes(&mut self, term: &mut Term) {
        loop {
            let token = self.peek();
            match (token.kind, self.slice(token.span)) {
                (Tok::By, _) => {
                    if term.runs.is_some() || term.alias.is_some() {
                        let help = "write `[..] by .. with runs=.. as ..`";
                        self.error(
                            Kind::WithBeforeBy,
                            token.span,
                            "`by` must come directly after the step",
                            help,
                        );
                    }
                    term.by.extend(self.keys());
                }
                (Tok::With, _) => term.runs = self.runs().or(term.runs),
                (Tok::Ident, "as") => {
                    self.bump();
                    let name = self.peek();
                    if name.kind != Tok::Ident {
                        self.expected("a name for the step");
                        return;
                    }
                    self.bump();
                    term.alias = Some(Alias {
                        name: self.slice(name.span).into(),
                        span: name.span,
                    });
                }
                (Tok::Ident, "fork") => {
                    self.bump();
                    if self.eat(Tok::Assign).is_some() {
                        self.bump();
                    }
                    let span = token.span.to(self.last_span());
                    self.error(
                        Kind::ForkUnsupported,
                        span,
                        "`fork` is not supported",
                        "a step always consumes the partial match",
                    );
                }
                _ => return,
            }
        }
    }

    /// `by a, b, ..`
    fn keys(&mut self) -> Vec<Key> {
        let by = self.bump();
        let mut keys = Vec::new();
        loop {
            let start = self.peek().span;
            if matches!(self.kind(), Tok::LeftBracket | Tok::MissingBracket) && !keys.is_empty() {
                let span = self.last_span();
                self.warning(
                    Kind::TrailingComma,
                    span,
                    "comma after the last key",
                    "remove it",
                );
                break;
            }
            let is_path = matches!(self.kind(), Tok::Ident | Tok::Quoted | Tok::Question);
            let is_path = is_path && self.ahead(1).kind != Tok::LeftParen;
            if is_path || self.kind().is_keyword() {
                keys.extend(self.path());
            }
            if !is_path || self.continues_expression() {
                self.not_a_key(start);
            }
            if keys.len() > limits::KEYS_MAX {
                let allowed = format!("at most {} are allowed", limits::KEYS_MAX);
                self.limit(by.span, "too many join keys", &allowed);
            }
            if self.eat(Tok::Comma).is_none() {
                break;
            }
        }
        keys
    }

    fn continues_expression(&self) -> bool {
        use Tok::{
            Colon, Dollar, Equal, False, Float, Int, LeftParen, Minus, NotEqual, Null, Percent,
            Plus, RawStr, Slash, Star, Str, True,
        };
        matches!(
            self.kind(),
            Plus | Minus
                | Star
                | Slash
                | Percent
                | Equal
                | NotEqual
                | Colon
                | LeftParen
                | Int
                | Float
                | Str
                | RawStr
                | True
                | False
                | Null
                | Dollar
        )
    }

    fn not_a_key(&mut self, start: Span) {
        let stops = [
            Tok::Comma,
            Tok::LeftBracket,
            Tok::MissingBracket,
            Tok::RightBracket,
            Tok::With,
            Tok::Until,
            Tok::Pipe,
        ];
        let from = self.at;
        while !stops.contains(&self.kind()) && self.kind() != Tok::End {
            self.bump();
        }
        if self.at == from && self.last_span().start < start.start {
            return self.expected("a field name as join key");
        }
        // A keyword read as a path has been reported.
        if self.at > from {
            let span = start.to(self.last_span());
            self.error(
                Kind::KeyNotField,
                span,
                "a join key must be a field",
                "write `by a, b`",
            );
        }
    }

    /// `with maxspan=5m`
    fn maxspan(&mut self) -> Option<Duration> {
        let with = self.bump();
        if self.kind() != Tok::Maxspan {
            let help = match self.slice(self.peek().span) {
                "runs" => "`with runs` stands after a step",
                _ => "write `with maxspan=1m`",
            };
            let message = format!("expected `maxspan`, found {}", self.describe(self.peek()));
            self.error(Kind::InvalidMaxspan, self.peek().span, message, help);
            self.skip_to(STEP_STARTS);
            return None;
        }
        self.bump();
        if self.eat(Tok::Assign).is_none() {
            let message = format!(
                "expected `=` after `maxspan`, found {}",
                self.describe(self.peek())
            );
            self.error(
                Kind::InvalidMaxspan,
                self.peek().span,
                message,
                "write `with maxspan=1m`",
            );
            self.eat(Tok::Equal);
        }
        self.duration(with.span)
    }

    fn duration(&mut self, with: Span) -> Option<Duration> {
        let number = self.peek();
        if !matches!(number.kind, Tok::Int | Tok::Float | Tok::Minus) {
            let message = format!("expected a length of time, found {}", self.describe(number));
            self.error(
                Kind::InvalidMaxspan,
                number.span,
                message,
                "write `with maxspan=1m`",
            );
            return None;
        }
        if self.bump().kind == Tok::Minus {
            self.bump();
        }
        // A unit is written directly after its number or apart; a word that continues the query is none.
        let unit = (self.kind() == Tok::Ident).then(|| self.bump());
        let span = number.span.to(self.last_span());
        let milliseconds: Option<u64> = match unit.map(|u| self.slice(u.span)) {
            Some("ms") => Some(1),
            Some("s") => Some(1_000),
            Some("m") => Some(60_000),
            Some("h") => Some(3_600_000),
            Some("d") => Some(86_400_000),
            _ => None,
        };
        let Some(milliseconds) = milliseconds else {
            let message = match unit {
                Some(unit) => format!("unknown unit of time `{}`", self.slice(unit.span)),
                None => "maxspan has no unit of time".to_owned(),
            };
            self.error(
                Kind::InvalidMaxspan,
                span,
                message,
                "units are ms, s, m, h and d",
            );
            return None;
        };
        let length = match number.kind {
            Tok::Int => self.slice(number.span).parse::<u64>().ok(),
            _ => None,
        };
        let length = length
            .filter(|n| *n > 0)
            .and_then(|n| n.checked_mul(milliseconds));
        // Event times are nanoseconds in 64 bits.
        let Some(length) = length.filter(|ms| *ms <= u64::MAX / 2_000_000) else {
            let message = format!("maxspan cannot be `{}`", self.slice(span));
            let help = "it must be a positive whole number of at most 290 years";
            self.error(Kind::InvalidMaxspan, with.to(span), message, help);
            return None;
        };
        Some(Duration::from_millis(length))
    }

    /// `with runs=5`
    fn runs(&mut self) -> Option<Runs> {
        let with = self.bump();
        let word = self.peek();
        match (word.kind, self.slice(word.span)) {
            (Tok::Ident, "runs") => {}
            (Tok::Maxspan, _) => {
                let help = "write it before the first step: `sequence by .. with maxspan=1m [..]`";
                self.error(
                    Kind::InvalidMaxspan,
                    word.span,
                    "`maxspan` belongs to the whole sequence",
                    help,
                );
                self.bump();
                self.eat(Tok::Assign);
                self.duration(with.span);
                return None;
            }
            _ => {
                let message = format!("expected `runs`, found {}", self.describe(word));
                self.error(Kind::InvalidRuns, word.span, message, "write `with runs=3`");
                return None;
            }
        }
        self.bump();
        if self.eat(Tok::Assign).is_none() {
            let message = format!(
                "expected `=` after `runs`, found {}",
                self.describe(self.peek())
            );
            self.error(
                Kind::InvalidRuns,
                self.peek().span,
                message,
                "write `with runs=3`",
            );
            self.eat(Tok::Equal);
        }
        let number = self.peek();
        if matches!(number.kind, Tok::Minus | Tok::Int | Tok::Float)
            && self.bump().kind == Tok::Minus
        {
            self.bump();
        }
        let count = match number.kind {
            Tok::Int => self.slice(number.span).parse::<u32>().ok(),
            _ => None,
        };
        let Some(count) = count.filter(|n| (1..=limits::RUNS_MAX).contains(n)) else {
            let span = number.span.to(if number.kind == Tok::Minus {
                self.last_span()
            } else {
                number.span
            });
            let message = format!("runs cannot be `{}`", self.slice(span));
            let help = format!("it must be a whole number from 1 to {}", limits::RUNS_MAX);
            self.error(Kind::InvalidRuns, span, message, &help);
            return None;
        };
        Some(Runs {
            count,
            span: with.span.to(number.span),
        })
    }

    fn pipes(&mut self) -> Vec<Pipe> {
        let mut pipes = Vec::new();
        while self.kind() != Tok::End {
            let Some(bar) = self.eat(Tok::Pipe) else {
                self.expected("a pipe or the end of the query");
                self.bump();
                self.skip_to(&[Tok::Pipe]);
                if self.kind() != Tok::Pipe && self.kind() != Tok::End {
                    self.bump();
                }
                continue;
            };
            pipes.extend(self.pipe());
            if pipes.len() > limits::PIPES_MAX {
                let allowed = format!("at most {} are allowed", limits::PIPES_MAX);
                self.limit(bar.span, "query has too many pipes", &allowed);
            }
        }
        pipes
    }

    fn pipe(&mut self) -> Option<Pipe> {
        let word = self.peek();
        if word.kind != Tok::Ident {
            self.expected("the name of a pipe");
            self.skip_to(&[Tok::Pipe]);
            return None;
        }
        self.bump();
        let mut args = Vec::new();
        while !matches!(self.kind(), Tok::Pipe | Tok::End) {
            args.push(self.expression_until(&[Tok::Comma, Tok::Pipe]));
            match self.eat(Tok::Comma) {
                Some(comma) if matches!(self.kind(), Tok::Pipe | Tok::End) => {
                    self.warning(
                        Kind::TrailingComma,
                        comma.span,
                        "comma after the last argument",
                        "remove it",
                    );
                }
                Some(_) => {}
                None => {
                    if !matches!(self.kind(), Tok::Pipe | Tok::End) {
                        self.bump();
                        self.skip_to(&[Tok::Pipe]);
                    }
                    break;
                }
            }
        }
        let span = word.span.to(self.last_span());
        Some(Pipe {
            name: self.slice(word.span).into(),
            name_span: word.span,
            args,
            span,
        })
    }
}
