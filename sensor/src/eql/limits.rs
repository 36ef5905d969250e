//! Bounds of the language. Reaching one is a diagnostic that names it, never a slow load or an exhausted stack.

/// Longest query text, in bytes.
pub const QUERY_BYTES_MAX: usize = 1 << 20;
/// Deepest nesting of an expression: parentheses, operators, calls and lineage brackets together.
pub const DEPTH_MAX: u16 = 200;
/// Most diagnostics reported for one query; one more says how many were left out.
pub const DIAGNOSTICS_MAX: usize = 50;
/// Most unknown fields of one query for which a known one is looked for.
pub const SUGGESTIONS_MAX: usize = 200;
/// Most steps of a sequence or sample.
pub const STEPS_MAX: usize = 64;
/// Most join keys of one step, shared ones included.
pub const KEYS_MAX: usize = 16;
/// Most repetitions `with runs=` may ask for.
pub const RUNS_MAX: u32 = 100;
/// Most pipes after a query.
pub const PIPES_MAX: usize = 16;
/// Longest regular expression, in bytes.
pub const REGEX_BYTES_MAX: usize = 8 << 10;
/// Largest compiled regular expression, in bytes.
pub const REGEX_PROGRAM_BYTES_MAX: usize = 256 << 10;
/// Most bytes of regular expressions in one query.
pub const REGEX_TOTAL_BYTES_MAX: usize = 64 << 10;
/// Most regular expressions in one query.
pub const REGEXES_MAX: usize = 256;
/// Deepest nesting of groups in a regular expression.
pub const REGEX_DEPTH_MAX: u32 = 50;
