//! Function calls.
//!
//! In: a call by name. Out: a typed call, a folded constant, or what the function is sugar for: `add` and its kind are
//! operators, `match` and `wildcard` regular expressions, `arrayContains` is a search. Names ignore case.

use super::super::ast::{self, ExprKind};
use super::super::cidr::Cidr;
use super::super::diagnostic::{Kind, Span};
use super::super::functions;
use super::super::lexer::excerpt;
use super::super::query::{Arithmetic, ArraySource, Expr, Function, Literal, Variable};
use super::super::scalar::Scalar;
use super::super::schema::closest;
use super::expression::literal_type;
use super::fold::{literal, truth};
use super::{Checker, Type, Typed};

/// What a parameter accepts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Param {
    Any,
    Text,
    Integer,
    Boolean,
    /// An integer written in the query.
    Constant,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Target {
    Function(Function, Type),
    Arithmetic(Arithmetic),
    CidrMatch,
    ArraySearch,
    ArrayCount,
    ArrayContains,
    Match,
    Wildcard,
    Safe,
}

struct Signature {
    name: &'static str,
    target: Target,
    /// Kinds of the arguments; the last one repeats when there may be more.
    params: &'static [Param],
    min: usize,
    max: usize,
    /// Whether `name~` exists.
    folds: bool,
    /// Positions whose null does not make the result null.
    null_safe: &'static [usize],
}

const fn signature(
    name: &'static str,
    target: Target,
    params: &'static [Param],
    min: usize,
    max: usize,
) -> Signature {
    Signature {
        name,
        target,
        params,
        min,
        max,
        folds: false,
        null_safe: &[],
    }
}

impl Signature {
    const fn folding(mut self) -> Signature {
        self.folds = true;
        self
    }

    const fn null_safe(mut self, positions: &'static [usize]) -> Signature {
        self.null_safe = positions;
        self
    }

    fn takes(&self) -> String {
        let plural = |n: usize| if n == 1 { "" } else { "s" };
        match (self.min, self.max) {
            (min, usize::MAX) => format!("at least {min} argument{}", plural(min)),
            (min, max) if min == max => format!("{min} argument{}", plural(min)),
            (min, max) => format!("{min} to {max} arguments"),
        }
    }
}

const MANY: usize = usize::MAX;

#[rustfmt::skip]
const FUNCTIONS: &[Signature] = {
    use Param::{Any, Boolean, Constant, Integer, Text};
    use Target as T;
    &[
        signature("add", T::Arithmetic(Arithmetic::Add), &[Any], 2, 2),
        signature("arrayContains", T::ArrayContains, &[Any], 2, MANY),
        signature("arrayCount", T::ArrayCount, &[Any], 3, 3),
        signature("arraySearch", T::ArraySearch, &[Any], 3, 3),
        signature("_arraysearch", T::ArraySearch, &[Any], 3, 3),
        signature("between", T::Function(Function::Between, Type::String), &[Text, Text, Text, Boolean], 3, 4).folding(),
        signature("cidrMatch", T::CidrMatch, &[Text, Any], 2, MANY),
        signature("concat", T::Function(Function::Concat, Type::String), &[Any], 1, MANY),
        signature("divide", T::Arithmetic(Arithmetic::Divide), &[Any], 2, 2),
        signature("endsWith", T::Function(Function::EndsWith, Type::Bool), &[Text], 2, 2).folding(),
        signature("indexOf", T::Function(Function::IndexOf, Type::Number), &[Text, Text, Integer], 2, 3).folding().null_safe(&[2]),
        signature("length", T::Function(Function::Length, Type::Number), &[Text], 1, 1),
        signature("match", T::Match, &[Text, Any], 2, MANY).folding(),
        signature("matchLite", T::Match, &[Text, Any], 2, MANY).folding(),
        signature("modulo", T::Arithmetic(Arithmetic::Modulo), &[Any], 2, 2),
        signature("multiply", T::Arithmetic(Arithmetic::Multiply), &[Any], 2, 2),
        signature("number", T::Function(Function::Number, Type::Number), &[Text, Constant], 1, 2).null_safe(&[1]),
        signature("safe", T::Safe, &[Any], 1, 1),
        signature("startsWith", T::Function(Function::StartsWith, Type::Bool), &[Text], 2, 2).folding(),
        signature("string", T::Function(Function::String, Type::String), &[Any], 1, 1),
        signature("stringContains", T::Function(Function::StringContains, Type::Bool), &[Text], 2, 2).folding(),
        signature("substring", T::Function(Function::Substring, Type::String), &[Text, Integer, Integer], 2, 3).null_safe(&[1, 2]),
        signature("subtract", T::Arithmetic(Arithmetic::Subtract), &[Any], 2, 2),
        signature("wildcard", T::Wildcard, &[Text, Any], 2, MANY).folding(),
    ]
};

impl Checker<'_> {
    pub(super) fn call(&mut self, tree: &ast::Call, span: Span) -> Typed {
        let Some(signature) = FUNCTIONS
            .iter()
            .find(|f| f.name.eq_ignore_ascii_case(&tree.name))
        else {
            return self.unknown_function(tree);
        };
        let mut sound = true;
        if tree.fold && !signature.folds {
            let message = format!("`{}` has no variant without case", signature.name);
            self.error(
                Kind::NoFoldingVariant,
                tree.name_span,
                message,
                format!("write `{}`", signature.name),
            );
            sound = false;
        }
        if !(signature.min..=signature.max).contains(&tree.args.len()) {
            let message = format!(
                "`{}` is given {} arguments",
                signature.name,
                tree.args.len()
            );
            self.error(
                Kind::ArgumentCount,
                span,
                message,
                format!("it takes {}", signature.takes()),
            );
            sound = false;
        }
        if let Target::ArraySearch | Target::ArrayCount = signature.target {
            return self.array_search(signature, tree, span, sound);
        }
        let args = self.arguments(signature, tree);
        if !sound {
            return Typed::error(span);
        }
        for (position, arg) in args.iter().enumerate() {
            self.check_object(arg);
            sound &= self.check_argument(signature, position, arg);
        }
        if !sound
            || args
                .iter()
                .any(|a| a.ty == Type::Any && a.literal().is_some())
        {
            return Typed::error(span);
        }
        self.apply(signature, tree, args, span)
    }

    /// The values of `arrayContains` end up inside the search it stands for, one variable further in.
    fn arguments(&mut self, signature: &Signature, tree: &ast::Call) -> Vec<Typed> {
        let hidden = signature.target == Target::ArrayContains;
        let mut args = Vec::with_capacity(tree.args.len());
        for (position, arg) in tree.args.iter().enumerate() {
            if hidden && position == 1 {
                self.variables.push("".into());
            }
            args.push(self.expression(arg));
        }
        if hidden && tree.args.len() > 1 {
            self.variables.pop();
        }
        args
    }

    fn unknown_function(&mut self, tree: &ast::Call) -> Typed {
        let help = match closest(&tree.name, FUNCTIONS.iter().map(|f| f.name)) {
            Some(near) => format!("did you mean `{near}`?"),
            // Once is enough for a list this long.
            None if self.listed_functions => String::new(),
            None => {
                self.listed_functions = true;
                let names = FUNCTIONS
                    .iter()
                    .map(|f| f.name)
                    .filter(|n| !n.starts_with('_'));
                format!("known are {}", names.collect::<Vec<_>>().join(", "))
            }
        };
        let message = format!("unknown function `{}`", tree.name);
        self.error(Kind::UnknownFunction, tree.name_span, message, help);
        // Problems inside the arguments are worth knowing all the same, unless they might use a variable.
        for arg in &tree.args {
            self.expression(arg);
        }
        Typed::error(tree.name_span)
    }

    /// Whether an argument can be of the right kind; reports when not. A field that can't be is a warning: the schema it
    /// comes from is not the one the rule was written for.
    fn check_argument(&mut self, signature: &Signature, position: usize, arg: &Typed) -> bool {
        let last = signature.params.len().saturating_sub(1);
        let param = signature
            .params
            .get(position.min(last))
            .copied()
            .unwrap_or(Param::Any);
        let any = matches!(arg.ty, Type::Any | Type::Null);
        let whole = !matches!(arg.literal(), Some(Literal::Float(_)));
        let (fits, wanted) = match param {
            Param::Any => (true, ""),
            Param::Text => (arg.ty.is_text(), "a string"),
            Param::Integer => (any || arg.ty == Type::Number && whole, "a whole number"),
            Param::Boolean => (any || arg.ty == Type::Bool, "a boolean"),
            Param::Constant => match arg.literal() {
                Some(Literal::Int(base)) => ((2..=36).contains(base), "a base from 2 to 36"),
                Some(Literal::Null) => (true, ""),
                Some(_) => (false, "a base from 2 to 36"),
                None => return self.not_constant(signature, position, arg.span),
            },
        };
        if fits {
            return true;
        }
        let message = format!(
            "argument {} of `{}` must be {wanted}, found {}",
            position + 1,
            signature.name,
            describe(arg)
        );
        if let Expr::Field(_) = arg.expr {
            self.warning(
                Kind::ArgumentType,
                arg.span,
                message,
                "the result is always null",
            );
            return true;
        }
        self.error(Kind::ArgumentType, arg.span, message, "");
        false
    }

    fn not_constant(&mut self, signature: &Signature, position: usize, span: Span) -> bool {
        let message = format!(
            "argument {} of `{}` must be a constant",
            position + 1,
            signature.name
        );
        self.error(
            Kind::ArgumentNotConstant,
            span,
            message,
            "write the value into the query",
        );
        false
    }

    fn apply(
        &mut self,
        signature: &Signature,
        tree: &ast::Call,
        mut args: Vec<Typed>,
        span: Span,
    ) -> Typed {
        match signature.target {
            Target::Function(function, result) => {
                self.function(signature, function, result, tree.fold, args, span)
            }
            Target::Arithmetic(op) => match (args.pop(), args.pop()) {
                (Some(right), Some(left)) => self.arithmetic(op, left, right, span),
                _ => Typed::error(span),
            },
            Target::CidrMatch => self.cidr_match(signature, args, span),
            Target::ArrayContains => self.array_contains(tree, args, span),
            Target::Match | Target::Wildcard => self.patterns(signature, tree.fold, args, span),
            Target::Safe => args
                .pop()
                .map_or_else(|| Typed::error(span), |arg| Typed { span, ..arg }),
            Target::ArraySearch | Target::ArrayCount => Typed::error(span),
        }
    }

    fn function(
        &mut self,
        signature: &Signature,
        function: Function,
        result: Type,
        fold: bool,
        args: Vec<Typed>,
        span: Span,
    ) -> Typed {
        let null =
            |(i, a): (usize, &Typed)| a.ty == Type::Null && !signature.null_safe.contains(&i);
        if args.iter().enumerate().any(null) {
            return Typed::null(span);
        }
        let constants: Option<Vec<Scalar<'_>>> =
            args.iter().map(|a| a.literal().map(Scalar::from)).collect();
        if let Some(constants) = constants {
            let value = literal(functions::call(function, fold, &constants));
            let ty = literal_type(&value);
            return Typed::new(Expr::Literal(value), ty, span);
        }
        let args = args.into_iter().map(|a| a.expr).collect();
        Typed::new(
            Expr::Call {
                function,
                fold,
                args,
            },
            result,
            span,
        )
    }

    fn cidr_match(&mut self, signature: &Signature, args: Vec<Typed>, span: Span) -> Typed {
        let mut args = args.into_iter();
        let Some(value) = args.next() else {
            return Typed::error(span);
        };
        let mut blocks = Vec::with_capacity(args.len());
        let (mut sound, mut null) = (true, value.ty == Type::Null);
        for (index, block) in args.enumerate() {
            match block.literal() {
                Some(Literal::Null) => null = true,
                Some(Literal::Str(text)) => match Cidr::parse(text) {
                    Some(cidr) => blocks.push(cidr),
                    None => {
                        let message = format!("`{}` is not an address block", excerpt(text));
                        let help = "write for example `10.0.0.0/8`, `fe80::/10` or `::1`";
                        self.error(Kind::InvalidCidr, block.span, message, help);
                        sound = false;
                    }
                },
                Some(_) => {
                    let message = format!(
                        "argument {} of `cidrMatch` must be a string, found {}",
                        index + 2,
                        describe(&block)
                    );
                    self.error(Kind::ArgumentType, block.span, message, "");
                    sound = false;
                }
                None => sound = self.not_constant(signature, index + 1, block.span),
            }
        }
        match (sound, null, value.literal()) {
            (false, ..) => Typed::error(span),
            (_, true, _) => Typed::null(span),
            (_, _, Some(constant)) => truth(
                functions::cidr_match(&Scalar::from(constant), &blocks),
                span,
            ),
            _ => Typed::new(
                Expr::CidrMatch {
                    value: Box::new(value.expr),
                    blocks,
                },
                Type::Bool,
                span,
            ),
        }
    }

    /// `match(s, re, ..)` is anchored at its start only; `wildcard(s, p, ..)` knows `*` but not `?`.
    fn patterns(
        &mut self,
        signature: &Signature,
        fold: bool,
        args: Vec<Typed>,
        span: Span,
    ) -> Typed {
        let mut args = args.into_iter();
        let Some(value) = args.next() else {
            return Typed::error(span);
        };
        let mut patterns: Vec<Box<str>> = Vec::with_capacity(args.len());
        let mut sound = true;
        for (index, arg) in args.enumerate() {
            match arg.literal() {
                Some(Literal::Str(text)) if signature.target == Target::Match => {
                    sound &= self.check_regex(text, arg.span);
                    patterns
                        .push(format!("(?:{})(?s:.*)", super::super::pattern::body(text)).into());
                }
                Some(Literal::Str(text)) => {
                    let pieces: Vec<String> =
                        text.split('*').map(super::super::pattern::escape).collect();
                    let regex = pieces.join("(?s:.*)");
                    sound &= self.check_regex(&regex, arg.span);
                    patterns.push(regex.into());
                }
                Some(_) => {
                    let message = format!(
                        "argument {} of `{}` must be a string, found {}",
                        index + 2,
                        signature.name,
                        describe(&arg)
                    );
                    self.error(Kind::ArgumentType, arg.span, message, "");
                    sound = false;
                }
                None => sound = self.not_constant(signature, index + 1, arg.span),
            }
        }
        if !sound {
            return Typed::error(span);
        }
        self.pattern_match(value, patterns, true, fold, span)
    }

    /// The array an array function walks over.
    fn array_source(&mut self, signature: &Signature, typed: Typed) -> Option<ArraySource> {
        match typed.expr {
            Expr::Field(field) => Some(ArraySource::Field(field)),
            Expr::Variable(variable) => Some(ArraySource::Variable(variable)),
            _ if typed.ty == Type::Any && matches!(typed.expr, Expr::Literal(_)) => None,
            _ => {
                let message = format!("argument 1 of `{}` must be a field", signature.name);
                self.error(Kind::ArgumentType, typed.span, message, "");
                None
            }
        }
    }

    fn array_contains(&mut self, tree: &ast::Call, args: Vec<Typed>, span: Span) -> Typed {
        let mut args = args.into_iter();
        let signature = FUNCTIONS.iter().find(|f| f.target == Target::ArrayContains);
        let (Some(array), Some(signature)) = (args.next(), signature) else {
            return Typed::error(span);
        };
        let Some(array) = self.array_source(signature, array) else {
            return Typed::error(span);
        };
        let list = args.map(|a| a.expr).collect();
        let value = Box::new(Expr::Variable(Variable {
            level: 0,
            path: "".into(),
        }));
        let condition = Box::new(Expr::In {
            value,
            list,
            fold: tree.fold,
        });
        Typed::new(
            Expr::Array {
                count: false,
                array: Box::new(array),
                condition,
            },
            Type::Bool,
            span,
        )
    }

    fn array_search(
        &mut self,
        signature: &Signature,
        tree: &ast::Call,
        span: Span,
        sound: bool,
    ) -> Typed {
        let [array, variable, condition] = tree.args.as_slice() else {
            return Typed::error(span);
        };
        let array = self.expression(array);
        let array = self.array_source(signature, array);
        let name = match &variable.kind {
            ExprKind::Path(path)
                if path.root_len == path.text.len() && !path.optional && !path.indexed =>
            {
                &path.text
            }
            ExprKind::Error => {
                self.broken = true;
                return Typed::error(span);
            }
            _ => {
                let message = format!("argument 2 of `{}` must be a name", signature.name);
                let help = "it stands for the element: `arraySearch(process.args, x, x == \"-c\")`";
                self.error(Kind::VariableScope, variable.span, message, help);
                return Typed::error(span);
            }
        };
        self.variables.push(name.clone());
        let condition = self.operand(condition);
        self.variables.pop();
        let Some(array) = array.filter(|_| sound) else {
            return Typed::error(span);
        };
        let count = signature.target == Target::ArrayCount;
        let ty = if count { Type::Number } else { Type::Bool };
        let (array, condition) = (Box::new(array), Box::new(condition.expr));
        Typed::new(
            Expr::Array {
                count,
                array,
                condition,
            },
            ty,
            span,
        )
    }
}

/// A literal's text or a type's name, for messages.
fn describe(typed: &Typed) -> String {
    match typed.literal() {
        Some(Literal::Int(i)) => format!("`{i}`"),
        Some(Literal::Float(f)) => format!("`{f:?}`"),
        Some(Literal::Bool(b)) => format!("`{b}`"),
        Some(Literal::Str(s)) => format!("`\"{}\"`", excerpt(s)),
        _ => typed.ty.name().to_owned(),
    }
}
