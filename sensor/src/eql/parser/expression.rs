//! Expressions, by precedence climbing.
//!
//! In: the parser's tokens from an operand on. Out: one expression node, an error node where nothing could be read. Depth is
//! counted both while reading and in the finished tree, so neither reading nor walking it can exhaust the stack.

use super::super::ast::{
    Arithmetic, Call, Comparison, Expr, ExprKind, In, Lineage, Literal, Match, Path, Pattern,
    Relation,
};
use super::super::diagnostic::{Kind, Span};
use super::super::lexer::{self, Kind as Tok, Token};
use super::super::limits;
use super::Parser;

const OR: u8 = 1;
const AND: u8 = 2;
const NOT: u8 = 3;
const COMPARISON: u8 = 4;
const SUM: u8 = 5;
const PRODUCT: u8 = 6;

enum Infix {
    Or,
    And,
    Compare(Comparison, bool),
    Arithmetic(Arithmetic),
}

fn infix(kind: Tok) -> Option<(Infix, u8)> {
    use Infix::{Arithmetic as A, Compare};
    Some(match kind {
        Tok::Or => (Infix::Or, OR),
        Tok::And => (Infix::And, AND),
        Tok::Equal | Tok::Assign => (Compare(Comparison::Equal, false), COMPARISON),
        Tok::NotEqual => (Compare(Comparison::Equal, true), COMPARISON),
        Tok::Less => (Compare(Comparison::Less, false), COMPARISON),
        Tok::LessEqual => (Compare(Comparison::LessEqual, false), COMPARISON),
        Tok::Greater => (Compare(Comparison::Greater, false), COMPARISON),
        Tok::GreaterEqual => (Compare(Comparison::GreaterEqual, false), COMPARISON),
        Tok::Plus => (A(Arithmetic::Add), SUM),
        Tok::Minus => (A(Arithmetic::Subtract), SUM),
        Tok::Star => (A(Arithmetic::Multiply), PRODUCT),
        Tok::Slash => (A(Arithmetic::Divide), PRODUCT),
        Tok::Percent => (A(Arithmetic::Modulo), PRODUCT),
        _ => return None,
    })
}

fn is_predicate(kind: Tok) -> bool {
    use Tok::{Colon, In, InFold, Like, LikeFold, Regex, RegexFold};
    matches!(
        kind,
        Colon | Like | LikeFold | Regex | RegexFold | In | InFold
    )
}

fn node(kind: ExprKind, span: Span, below: u16) -> Expr {
    Expr {
        kind,
        span,
        height: below.saturating_add(1),
    }
}

fn error_node(span: Span) -> Expr {
    node(ExprKind::Error, span, 0)
}

fn tallest(exprs: &[Expr]) -> u16 {
    exprs.iter().map(|e| e.height).max().unwrap_or(0)
}

impl Parser<'_> {
    /// An expression that must be followed by one of `closers`. Whatever stands in between is reported and skipped, up to
    /// the next `and` or `or`; what ends a step or a query is left for the caller to miss its closer.
    pub(super) fn expression_until(&mut self, closers: &[Tok]) -> Expr {
        use Tok::{End, LeftBracket, MissingBracket, Pipe, RightBracket, RightParen};
        let mut expr = self.expression(OR);
        loop {
            let kind = self.kind();
            if closers.contains(&kind)
                || matches!(
                    kind,
                    End | LeftBracket | MissingBracket | Pipe | RightBracket
                )
            {
                return expr;
            }
            self.after_operand();
            let stops: Vec<Tok> = [Tok::And, Tok::Or, LeftBracket, MissingBracket, Pipe]
                .iter()
                .chain(closers)
                .copied()
                .collect();
            self.skip_to(&stops);
            if self.kind() == RightParen && !closers.contains(&RightParen) {
                self.bump();
            }
            if matches!(self.kind(), Tok::And | Tok::Or) {
                self.bump();
                let right = self.expression(OR);
                expr = self.join(Infix::And, expr, right);
            }
        }
    }

    /// Reports a token that cannot follow an operand.
    fn after_operand(&mut self) {
        let token = self.peek();
        if is_predicate(token.kind) || infix(token.kind).is_some() {
            let message = format!(
                "`{}` cannot follow another comparison",
                self.slice(token.span)
            );
            let help = "comparisons do not chain; join them with `and`, or use parentheses";
            return self.error(Kind::ChainedComparison, token.span, message, help);
        }
        let what = if self.at == 0 {
            "an expression"
        } else {
            "an operator"
        };
        self.expected(what);
    }

    /// Reads operators that bind at least as tightly as `min`.
    fn expression(&mut self, min: u8) -> Expr {
        if self.too_deep(self.depth) {
            return error_node(self.peek().span);
        }
        self.depth += 1;
        let expr = self.climb(min);
        self.depth -= 1;
        expr
    }

    fn climb(&mut self, min: u8) -> Expr {
        let mut left = self.operand(min);
        let mut compared = false;
        while let Some((op, power)) = infix(self.kind()) {
            if power < min || (compared && power == COMPARISON) {
                break;
            }
            self.operator_token();
            let right = self.expression(power + 1);
            compared = power == COMPARISON;
            left = self.join(op, left, right);
            if self.too_deep(left.height) {
                return error_node(left.span);
            }
        }
        left
    }

    fn operator_token(&mut self) {
        let token = self.bump();
        if token.kind == Tok::Assign {
            self.error(
                Kind::SingleEquals,
                token.span,
                "`=` is no operator",
                "equality is `==`",
            );
        }
    }

    fn too_deep(&mut self, depth: u16) -> bool {
        if depth < limits::DEPTH_MAX {
            return false;
        }
        if !self.gave_up {
            let help = format!("at most {} levels are allowed", limits::DEPTH_MAX);
            let span = self.peek().span;
            self.error(
                Kind::TooDeep,
                span,
                "expression is nested too deeply",
                &help,
            );
        }
        self.give_up();
        true
    }

    /// Joins two operands; a run of `and` or of `or` becomes one node.
    fn join(&mut self, op: Infix, left: Expr, right: Expr) -> Expr {
        let span = left.span.to(right.span);
        let below = left.height.max(right.height);
        let (left, right) = match op {
            Infix::And => match left.kind {
                ExprKind::And(mut list) => {
                    list.push(right);
                    return Expr {
                        kind: ExprKind::And(list),
                        span,
                        height: left.height.max(below),
                    };
                }
                _ => return node(ExprKind::And(vec![left, right]), span, below),
            },
            Infix::Or => match left.kind {
                ExprKind::Or(mut list) => {
                    list.push(right);
                    return Expr {
                        kind: ExprKind::Or(list),
                        span,
                        height: left.height.max(below),
                    };
                }
                _ => return node(ExprKind::Or(vec![left, right]), span, below),
            },
            Infix::Compare(..) | Infix::Arithmetic(_) => (Box::new(left), Box::new(right)),
        };
        let kind = match op {
            Infix::Compare(op, negated) => ExprKind::Compare {
                op,
                negated,
                left,
                right,
            },
            Infix::Arithmetic(op) => ExprKind::Arithmetic { op, left, right },
            Infix::And | Infix::Or => ExprKind::Error,
        };
        node(kind, span, below)
    }

    /// `not x`, `-x`, `+x`, or a primary with its predicate.
    fn operand(&mut self, min: u8) -> Expr {
        let start = self.peek();
        match start.kind {
            Tok::Not => {
                if min > NOT {
                    let help = "put `not ..` in parentheses";
                    self.error(
                        Kind::UnexpectedToken,
                        start.span,
                        "expected a value, found `not`",
                        help,
                    );
                }
                self.bump();
                let inner = self.expression(NOT);
                let (span, below) = (start.span.to(inner.span), inner.height);
                node(ExprKind::Not(Box::new(inner)), span, below)
            }
            Tok::Minus | Tok::Plus => {
                self.bump();
                // Nothing binds more tightly than a sign except the predicate of a primary.
                let inner = self.expression(PRODUCT + 1);
                let (span, below) = (start.span.to(inner.span), inner.height);
                let inner = Box::new(inner);
                let kind = if start.kind == Tok::Minus {
                    ExprKind::Negate(inner)
                } else {
                    ExprKind::Plus(inner)
                };
                node(kind, span, below)
            }
            _ => {
                let primary = self.primary();
                self.predicate(primary)
            }
        }
    }

    fn primary(&mut self) -> Expr {
        let token = self.peek();
        match token.kind {
            Tok::Int | Tok::Float | Tok::Str | Tok::RawStr | Tok::True | Tok::False | Tok::Null => {
                self.bump();
                let literal = self.literal(token);
                node(ExprKind::Literal(literal), token.span, 0)
            }
            Tok::LeftParen => self.parenthesised(),
            Tok::Ident | Tok::IdentFold if self.ahead(1).kind == Tok::LeftParen => self.call(),
            Tok::Ident if self.ahead(1).kind == Tok::Of => self.lineage(),
            Tok::Ident | Tok::Quoted | Tok::Question | Tok::Dollar => match self.path() {
                Some(path) => {
                    let span = path.span;
                    node(ExprKind::Path(path), span, 0)
                }
                None => error_node(token.span),
            },
            Tok::Any
            | Tok::Join
            | Tok::Maxspan
            | Tok::Of
            | Tok::Sample
            | Tok::Sequence
            | Tok::Where => {
                self.expected("a value or field name");
                self.bump();
                error_node(token.span)
            }
            _ => {
                self.expected("a value or field");
                error_node(token.span)
            }
        }
    }

    fn literal(&mut self, token: Token) -> Literal {
        let text = self.slice(token.span);
        match token.kind {
            Tok::True => Literal::Bool(true),
            Tok::False => Literal::Bool(false),
            Tok::Int | Tok::Float => {
                // Integers beyond 64 bits become doubles.
                if let (Tok::Int, Ok(int)) = (token.kind, text.parse()) {
                    return Literal::Int(int);
                }
                match text.parse::<f64>() {
                    Ok(float) if float.is_finite() => Literal::Float(float),
                    _ => {
                        let message =
                            format!("number `{}` does not fit a double", lexer::excerpt(text));
                        self.error(
                            Kind::InvalidNumber,
                            token.span,
                            message,
                            "the largest is about 1.8e308",
                        );
                        Literal::Null
                    }
                }
            }
            Tok::Str | Tok::RawStr => Literal::Str(lexer::string_value(token.kind, text).into()),
            _ => Literal::Null,
        }
    }

    fn parenthesised(&mut self) -> Expr {
        let open = self.bump();
        let mut inner = self.expression_until(&[Tok::RightParen]);
        self.close(open, Tok::RightParen);
        inner.span = open.span.to(self.last_span());
        inner
    }

    /// Takes the closing bracket or reports that it is missing.
    pub(super) fn close(&mut self, open: Token, closer: Tok) {
        if self.eat(closer).is_some() {
            return;
        }
        let close = if closer == Tok::RightParen { ")" } else { "]" };
        let token = self.peek();
        let message = format!(
            "`{}` is not closed, expected `{close}` before {}",
            self.slice(open.span),
            self.describe(token)
        );
        self.error(Kind::UnclosedBracket, open.span, message, "");
    }

    /// The predicate after a primary, if there is one.
    fn predicate(&mut self, value: Expr) -> Expr {
        let mut negated = false;
        let mut token = self.peek();
        if token.kind == Tok::Not && is_predicate(self.ahead(1).kind) {
            self.bump();
            negated = true;
            let not = token.span;
            token = self.peek();
            if !matches!(token.kind, Tok::In | Tok::InFold) {
                let op = self.slice(token.span);
                let message = format!("`not` cannot stand before `{op}`");
                let help =
                    format!("write `not .. {op} ..`; only `in` and `in~` take `not` in between");
                self.error(Kind::NotBeforePredicate, not.to(token.span), message, &help);
            }
        }
        match token.kind {
            Tok::In | Tok::InFold => self.in_list(value, negated),
            Tok::Colon | Tok::Like | Tok::LikeFold | Tok::Regex | Tok::RegexFold => {
                self.patterns(value, negated)
            }
            _ => value,
        }
    }

    fn in_list(&mut self, value: Expr, negated: bool) -> Expr {
        let op = self.bump();
        let start = value.span;
        if self.kind() != Tok::LeftParen {
            let message = format!(
                "expected `(` after `{}`, found {}",
                self.slice(op.span),
                self.describe(self.peek())
            );
            self.error(
                Kind::UnexpectedToken,
                self.peek().span,
                message,
                "the right side is a list: `x in (a, b)`",
            );
            return node(ExprKind::Error, start.to(op.span), value.height);
        }
        let list = self.list();
        let below = value.height.max(tallest(&list));
        let inner = In {
            value,
            list,
            fold: op.kind == Tok::InFold,
            negated,
        };
        node(
            ExprKind::In(Box::new(inner)),
            start.to(self.last_span()),
            below,
        )
    }

    fn patterns(&mut self, value: Expr, negated: bool) -> Expr {
        let op = self.bump();
        let start = value.span;
        let list = if self.kind() == Tok::LeftParen {
            self.list()
        } else {
            vec![self.primary()]
        };
        let patterns = list
            .into_iter()
            .filter_map(|e| self.pattern(op, e))
            .collect();
        let inner = Match {
            regex: matches!(op.kind, Tok::Regex | Tok::RegexFold),
            fold: matches!(op.kind, Tok::Colon | Tok::LikeFold | Tok::RegexFold),
            patterns,
            negated,
            value,
        };
        let below = inner.value.height;
        node(
            ExprKind::Match(Box::new(inner)),
            start.to(self.last_span()),
            below,
        )
    }

    /// A pattern from an expression that must be a constant.
    fn pattern(&mut self, op: Token, expr: Expr) -> Option<Pattern> {
        let span = expr.span;
        let text: Box<str> = match expr.kind {
            ExprKind::Literal(Literal::Str(text)) => text,
            ExprKind::Literal(Literal::Int(_) | Literal::Float(_) | Literal::Bool(_)) => {
                self.slice(span).into()
            }
            ExprKind::Error => return None,
            _ => {
                let message = format!(
                    "the right side of `{}` must be a constant",
                    self.slice(op.span)
                );
                let help = "write a string or a list of strings; `==` compares with a field, `== null` tests for null";
                self.error(Kind::PatternNotConstant, span, message, help);
                return None;
            }
        };
        Some(Pattern { text, span })
    }

    /// `( a, b, .. )` with at least one element.
    fn list(&mut self) -> Vec<Expr> {
        let open = self.bump();
        let mut items = Vec::new();
        while !matches!(self.kind(), Tok::RightParen | Tok::End) {
            items.push(self.expression_until(&[Tok::Comma, Tok::RightParen]));
            match self.eat(Tok::Comma) {
                Some(comma) if self.kind() == Tok::RightParen => {
                    self.warning(
                        Kind::TrailingComma,
                        comma.span,
                        "comma after the last element",
                        "remove it",
                    );
                }
                Some(_) => {}
                None => break,
            }
        }
        self.close(open, Tok::RightParen);
        if items.is_empty() {
            self.error(
                Kind::EmptyList,
                open.span.to(self.last_span()),
                "list is empty",
                "give at least one value",
            );
        }
        items
    }

    fn call(&mut self) -> Expr {
        let token = self.bump();
        let open = self.bump();
        let mut args = Vec::new();
        while !matches!(self.kind(), Tok::RightParen | Tok::End) {
            args.push(self.expression_until(&[Tok::Comma, Tok::RightParen]));
            match self.eat(Tok::Comma) {
                Some(comma) if self.kind() == Tok::RightParen => {
                    self.warning(
                        Kind::TrailingComma,
                        comma.span,
                        "comma after the last argument",
                        "remove it",
                    );
                }
                Some(_) => {}
                None => break,
            }
        }
        self.close(open, Tok::RightParen);
        let below = tallest(&args);
        let fold = token.kind == Tok::IdentFold;
        let name = self.slice(token.span).trim_end_matches('~').into();
        let call = Call {
            name,
            name_span: token.span,
            fold,
            args,
        };
        node(
            ExprKind::Call(Box::new(call)),
            token.span.to(self.last_span()),
            below,
        )
    }

    /// `descendant of [process where ..]`
    fn lineage(&mut self) -> Expr {
        let word = self.bump();
        let of = self.bump();
        let relation = match self.slice(word.span) {
            "descendant" => Relation::Descendant,
            "child" => Relation::Child,
            "event" => Relation::Event,
            other => {
                let message = format!("unknown relation `{other} of`");
                let help = "known are `descendant of`, `child of` and `event of`";
                self.error(Kind::UnknownRelation, word.span, message, help);
                Relation::Descendant
            }
        };
        if self.kind() != Tok::LeftBracket {
            self.expected("`[` after `of`");
            return error_node(word.span.to(of.span));
        }
        let open = self.bump();
        if self.too_deep(self.depth) {
            return error_node(word.span);
        }
        self.depth += 1;
        let event = self.event();
        self.depth -= 1;
        self.close(open, Tok::RightBracket);
        let below = event.condition.height;
        let span = word.span.to(self.last_span());
        node(
            ExprKind::Lineage(Box::new(Lineage { relation, event })),
            span,
            below,
        )
    }

    /// `?a.b.c[0]`, `` `odd name`.b ``, `$x.y`; `None` after an error.
    pub(super) fn path(&mut self) -> Option<Path> {
        let start = self.peek().span;
        let optional = self.eat(Tok::Question).is_some();
        let dollar = !optional && self.eat(Tok::Dollar).is_some();
        let mut text = String::new();
        let mut root_len = 0;
        let mut indexed = false;
        loop {
            let token = self.peek();
            match token.kind {
                Tok::Ident => text.push_str(self.slice(token.span)),
                Tok::Quoted => text.push_str(&lexer::quoted_value(self.slice(token.span))),
                _ => {
                    self.expected("a field name");
                    // The word itself is taken, so that it does not read as the start of something else.
                    if token.kind.is_keyword() {
                        self.bump();
                    }
                    return None;
                }
            }
            self.bump();
            if root_len == 0 {
                root_len = text.find('.').unwrap_or(text.len());
            }
            while self.kind() == Tok::LeftBracket
                && matches!(self.ahead(1).kind, Tok::Int | Tok::Minus | Tok::Str)
            {
                self.index(&mut text)?;
                indexed = true;
            }
            if self.eat(Tok::Dot).is_none() {
                break;
            }
            text.push('.');
        }
        let span = start.to(self.last_span());
        Some(Path {
            text: text.into(),
            root_len,
            indexed,
            optional,
            dollar,
            span,
        })
    }

    fn index(&mut self, text: &mut String) -> Option<()> {
        let open = self.bump();
        let number = self.peek();
        let position = self.slice(number.span).parse::<u32>().ok();
        if let (Tok::Int, Some(position), Tok::RightBracket) =
            (number.kind, position, self.ahead(1).kind)
        {
            self.bump();
            self.bump();
            text.push_str(&format!("[{position}]"));
            return Some(());
        }
        self.skip_to(&[Tok::RightBracket]);
        self.eat(Tok::RightBracket);
        let span = open.span.to(self.last_span());
        let message = format!(
            "invalid array position `{}`",
            lexer::excerpt(self.slice(span))
        );
        self.error(
            Kind::InvalidIndex,
            span,
            message,
            "a position is a whole number from 0, as in `a[0]`",
        );
        None
    }
}
