//! Every kind of problem the language front end can report.
//!
//! In: nothing. Out: [`Kind`] and its stable name. Each kind has a case with its whole text in `tests/eql/diagnostics.toml`,
//! which a test enforces, so a kind that nothing reports any more must be removed here.

macro_rules! kinds {
    ($($(#[$doc:meta])* $kind:ident => $name:literal,)*) => {
        /// What sort of problem a diagnostic is about.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        pub enum Kind { $($(#[$doc])* $kind,)* }

        impl Kind {
            /// Every kind, in the order of the declaration.
            pub const ALL: &[Kind] = &[$(Kind::$kind,)*];

            /// Stable name for people and tests.
            pub fn name(self) -> &'static str {
                match self { $(Kind::$kind => $name,)* }
            }
        }
    };
}

kinds! {
    // Limits.
    QueryTooLong => "query-too-long",
    TooDeep => "too-deep",
    TooMany => "too-many",
    MoreProblems => "more-problems",
    // Lexical.
    UnexpectedCharacter => "unexpected-character",
    UnterminatedString => "unterminated-string",
    UnterminatedComment => "unterminated-comment",
    UnterminatedIdentifier => "unterminated-identifier",
    EmptyIdentifier => "empty-identifier",
    InvalidEscape => "invalid-escape",
    QuoteEscape => "quote-escape",
    LegacyString => "legacy-string",
    InvalidNumber => "invalid-number",
    // Syntax.
    UnexpectedToken => "unexpected-token",
    ReservedWord => "reserved-word",
    SingleEquals => "single-equals",
    ChainedComparison => "chained-comparison",
    NotBeforePredicate => "not-before-predicate",
    PatternNotConstant => "pattern-not-constant",
    EmptyList => "empty-list",
    TrailingComma => "trailing-comma",
    UnclosedBracket => "unclosed-bracket",
    InvalidIndex => "invalid-index",
    // KQL alone.
    BareValue => "bare-value",
    FieldPattern => "field-pattern",
    NestedField => "nested-field",
    // Sequences and samples.
    WithBeforeBy => "with-before-by",
    InvalidMaxspan => "invalid-maxspan",
    InvalidRuns => "invalid-runs",
    KeyNotField => "key-not-field",
    KeyCount => "key-count",
    SequenceTooShort => "sequence-too-short",
    NoPositiveStep => "no-positive-step",
    MissingWithoutMaxspan => "missing-without-maxspan",
    MissingRuns => "missing-runs",
    UntilMissing => "until-missing",
    UntilRuns => "until-runs",
    UntilAlias => "until-alias",
    MissingAlias => "missing-alias",
    DuplicateAlias => "duplicate-alias",
    AliasShadowsField => "alias-shadows-field",
    AliasTooEarly => "alias-too-early",
    SampleTooShort => "sample-too-short",
    SampleWithoutKeys => "sample-without-keys",
    NotInSample => "not-in-sample",
    JoinUnsupported => "join-unsupported",
    ForkUnsupported => "fork-unsupported",
    UnreachableStep => "unreachable-step",
    // Names.
    UnknownField => "unknown-field",
    UnknownFunction => "unknown-function",
    UnknownPipe => "unknown-pipe",
    UnknownRelation => "unknown-relation",
    // Types.
    NotBoolean => "not-boolean",
    OperandType => "operand-type",
    ArgumentCount => "argument-count",
    ArgumentType => "argument-type",
    ArgumentNotConstant => "argument-not-constant",
    NoFoldingVariant => "no-folding-variant",
    InvalidCidr => "invalid-cidr",
    InvalidRegex => "invalid-regex",
    ObjectField => "object-field",
    ImpossibleComparison => "impossible-comparison",
    NullOrdering => "null-ordering",
    WildcardLiteral => "wildcard-literal",
    ConstantCondition => "constant-condition",
    VariableScope => "variable-scope",
    // Pipes.
    PipeArguments => "pipe-arguments",
    PipeNeedsEnd => "pipe-needs-end",
    HeadRetires => "head-retires",
}
