//! What a source says to a compiler, for the build and for its test.
//!
//! In: the text of a file. Out: the same without whole-line comments and without any care for spaces, so that two texts that
//! declare the same are the same. Nothing else may be left out: what differs in the least counts as different.

/// See the module.
pub(crate) fn plain(source: &str) -> String {
    let lines = source.lines().map(str::trim);
    let told = lines.filter(|line| !line.starts_with("//"));
    told.flat_map(str::split_whitespace)
        .collect::<Vec<_>>()
        .join(" ")
}
