//! What an exec record lacks, from `/proc`, while the process is still what the record says.
//!
//! In: an exec record. Out: arguments, environment and paths that were cut or could not be read, and what stays so. Nothing is
//! believed unless the start time agrees and the arguments begin as the record's do: another exec since then is not told.

use std::borrow::Cow;

use sensor_ebpf::{Header, record_flag};

use super::Enricher;
use super::procfs::{Procfs, TICK_NS};
use crate::decode::Exec;
use crate::event::Marks;

/// A path that lost its front is at least this long: it had no room for one more name.
const CUT_PATH_MIN: usize = sensor_ebpf::PATH_LEN_MAX - 256;

/// The strings of an exec, completed as far as can be.
pub(super) struct Whole<'a> {
    pub(super) arguments: Cow<'a, [u8]>,
    pub(super) environment: Cow<'a, [u8]>,
    pub(super) executable: Cow<'a, [u8]>,
    pub(super) working_directory: Cow<'a, [u8]>,
    pub(super) marks: Marks,
}

/// What a record lacks.
#[derive(Clone, Copy)]
struct Lacks {
    arguments: bool,
    environment: bool,
    executable: bool,
    working_directory: bool,
}

impl Lacks {
    fn of(header: &Header, exec: &Exec<'_>) -> Lacks {
        let shorter =
            |part: &[u8], len: u32| usize::try_from(len).is_ok_and(|len| part.len() < len);
        let faulted = header.flags & record_flag::READ_FAULT != 0;
        Lacks {
            arguments: shorter(exec.arguments, exec.body.args_len)
                || (faulted && exec.arguments.is_empty() && exec.body.args_count > 0),
            environment: shorter(exec.environment, exec.body.environment_len),
            executable: exec.executable.is_empty(),
            working_directory: exec.working_directory.is_empty(),
        }
    }

    fn any(self) -> bool {
        self.arguments || self.environment || self.executable || self.working_directory
    }
}

impl Enricher {
    /// The strings of an exec record, whole where that can still be had.
    pub(super) fn completed<'a>(&mut self, header: &Header, exec: &Exec<'a>) -> Whole<'a> {
        let lacks = Lacks::of(header, exec);
        let mut whole = Whole {
            arguments: exec.arguments.into(),
            environment: exec.environment.into(),
            executable: exec.executable.into(),
            working_directory: exec.working_directory.into(),
            marks: Marks::of(
                header.flags & record_flag::TRUNCATED,
                header.flags & record_flag::READ_FAULT,
            ),
        };
        if !lacks.any() {
            return whole;
        }
        let mut left = lacks;
        if let Some(procfs) = &self.procfs {
            left = fill(&mut whole, lacks, procfs, header, exec);
        }
        if lacks.arguments && left.arguments {
            self.counters.args_incomplete += 1;
        } else if lacks.arguments {
            self.counters.args_completed += 1;
        }
        let paths = [exec.filename, exec.executable, exec.working_directory];
        let is_path_cut = !(lacks.arguments || lacks.environment)
            || paths.iter().any(|path| path.len() >= CUT_PATH_MIN);
        let is_cut = left.arguments || left.environment || is_path_cut;
        whole.marks.truncated &= is_cut;
        // Whatever else could not be read is in no part.
        whole.marks.incomplete &= left.any();
        whole
    }
}

/// Fills in what is lacking; returns what still is.
fn fill(
    whole: &mut Whole<'_>,
    lacks: Lacks,
    procfs: &Procfs,
    header: &Header,
    exec: &Exec<'_>,
) -> Lacks {
    let longer = |found: Option<Vec<u8>>, part: &[u8], len: u32| {
        let stated = usize::try_from(len).unwrap_or(usize::MAX);
        found.filter(|found| {
            found.starts_with(part)
                && found.len() > part.len()
                && (stated == 0 || found.len() <= stated)
        })
    };
    let area = procfs.arguments(header.tgid);
    let same_exec = area
        .as_ref()
        .is_some_and(|area| area.starts_with(exec.arguments));
    let arguments = longer(area, exec.arguments, exec.body.args_len).filter(|_| lacks.arguments);
    let environment = Some(())
        .filter(|()| lacks.environment)
        .and_then(|()| procfs.environment(header.tgid));
    let environment = longer(environment, exec.environment, exec.body.environment_len);
    let path = |lacks: bool, name: &str| {
        Some(())
            .filter(|()| lacks)
            .map(|()| procfs.link(header.tgid, name))
            .filter(|path| !path.is_empty())
    };
    let executable = path(lacks.executable, "exe");
    let working_directory = path(lacks.working_directory, "cwd");
    // Last, so that it holds for all that was read before.
    let started = procfs.stat(header.tgid).map(|stat| stat.start_ticks);
    let same_process =
        started.is_some_and(|ticks| header.start_ns == 0 || ticks == header.start_ns / TICK_NS);
    if !same_exec || !same_process {
        return lacks;
    }
    let mut left = lacks;
    let take = |found: Option<Vec<u8>>, into: &mut Cow<'_, [u8]>, left: &mut bool| {
        if let Some(found) = found {
            *into = Cow::Owned(found);
            *left = false;
        }
    };
    take(arguments, &mut whole.arguments, &mut left.arguments);
    take(environment, &mut whole.environment, &mut left.environment);
    take(executable, &mut whole.executable, &mut left.executable);
    take(
        working_directory,
        &mut whole.working_directory,
        &mut left.working_directory,
    );
    left
}

#[cfg(test)]
mod tests {
    use std::fs;

    use sensor_ebpf::{ExecBody, Header, Kind};

    use super::super::environment::Wanted;
    use super::super::process_table::TableLimits;
    use super::super::testing::{exec_body, header};
    use super::super::tests::{check, enricher, proc_with};
    use super::*;
    use crate::decode::Body;
    use crate::event::Event;

    const SECOND: u64 = 1_000_000_000;
    const FAULT: u32 = record_flag::READ_FAULT;
    const CUT: u32 = record_flag::TRUNCATED;
    /// What the process in `/proc` has.
    const ARGUMENTS: &[u8] = b"tool\0first\0";
    const ENVIRONMENT: &[u8] = b"A=1\0B=22\0";

    /// An exec that started at `ticks`, with these strings and flags.
    fn exec(ticks: u64, flags: u32, strings: Exec<'_>) -> Event {
        let root = proc_with(50, 200, ARGUMENTS);
        fs::write(root.path().join("50/environ"), ENVIRONMENT).unwrap();
        let mut table = enricher(TableLimits::default());
        table.set_environment(Wanted::new(&["*".to_owned()]));
        table.procfs = Some(Procfs::at(root.path()));
        let header = Header {
            flags,
            ..header(Kind::Exec, 3 * SECOND, (50, ticks * TICK_NS))
        };
        table.feed(&header, Body::Exec(strings))
    }

    fn body() -> ExecBody {
        ExecBody {
            args_len: u32::try_from(ARGUMENTS.len()).unwrap(),
            args_count: 2,
            environment_len: u32::try_from(ENVIRONMENT.len()).unwrap(),
            ..exec_body()
        }
    }

    fn whole(body: &ExecBody) -> Exec<'_> {
        Exec {
            body,
            filename: b"/srv/tool",
            executable: b"/srv/tool",
            interpreter: b"",
            working_directory: b"/srv",
            comm: b"tool",
            arguments: ARGUMENTS,
            environment: ENVIRONMENT,
        }
    }

    #[test]
    fn what_a_record_lacks_is_read_in_proc() {
        let body = body();
        let expect =
            |event: &Event, path: &str, values: &[&str], truncated: bool, incomplete: bool| {
                check(event, &[(path, values)]);
                let marks = Marks {
                    truncated,
                    incomplete,
                };
                assert_eq!(event.marks, marks, "{path} {values:?}");
            };
        let cut = Exec {
            environment: b"A=1\0B",
            ..whole(&body)
        };
        expect(
            &exec(200, CUT, cut),
            "process.env_vars",
            &["A=1", "B=22"],
            false,
            false,
        );
        let no_path = Exec {
            executable: b"",
            ..whole(&body)
        };
        expect(
            &exec(200, FAULT, no_path),
            "process.executable",
            &["/opt/tool"],
            false,
            false,
        );
        let no_cwd = Exec {
            working_directory: b"",
            ..whole(&body)
        };
        expect(
            &exec(200, FAULT, no_cwd),
            "process.working_directory",
            &["/opt"],
            false,
            false,
        );

        // Another process by now, or another program.
        expect(
            &exec(100, CUT, cut),
            "process.env_vars",
            &["A=1", "B"],
            true,
            false,
        );
        expect(
            &exec(100, FAULT, no_cwd),
            "process.working_directory",
            &[],
            false,
            true,
        );
        let other = Exec {
            arguments: b"other\0",
            ..no_cwd
        };
        expect(
            &exec(200, FAULT, other),
            "process.working_directory",
            &[],
            false,
            true,
        );

        // Nothing is lacking that /proc could tell.
        let all = whole(&body);
        expect(
            &exec(200, CUT | FAULT, all),
            "process.name",
            &["tool"],
            true,
            true,
        );
        expect(&exec(200, 0, all), "process.name", &["tool"], false, false);
        check(
            &exec(200, 0, all),
            &[("event.Ext.truncated", &[]), ("event.Ext.incomplete", &[])],
        );
        let marked = [("event.Ext.truncated", &["Bool(true)"][..])];
        check(&exec(200, CUT, all), &marked);
    }
}
