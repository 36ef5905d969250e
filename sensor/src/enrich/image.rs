//! What an execve made of a process, in ECS terms.
//!
//! In: the raw strings of an exec record or of `/proc`. Out: an [`Image`] with every name and path the program goes by.
//! Bytes that are not UTF-8 become replacement characters; nothing here ever fails.

use std::sync::Arc;

use sensor_ebpf::record_flag;

use super::procfs::Snapshot;
use crate::decode::Exec;
use crate::event::{Image, Program};

const DELETED: &str = " (deleted)";

/// Image of an exec record. `arguments` is the argument area, whether from the record or completed from elsewhere.
pub(super) fn of_exec(exec: &Exec<'_>, flags: u32, arguments: &[u8]) -> Image {
    let filename = lossy(exec.filename);
    let cwd = lossy(exec.working_directory);
    let mut resolved = lossy(exec.executable);
    let is_script = !exec.interpreter.is_empty();
    if resolved.is_empty() && filename.starts_with('/') && !is_script {
        resolved.clone_from(&filename);
    }
    let own_name = own_name(&resolved).to_owned();
    if flags & record_flag::EXE_DELETED != 0 && !resolved.is_empty() && !resolved.ends_with(DELETED)
    {
        resolved.push_str(DELETED);
    }

    // Run through a descriptor, the file name says nothing of the program.
    let by_descriptor = is_descriptor(&filename);
    let invoked = if by_descriptor {
        ""
    } else {
        last_component(&filename)
    };
    let mut names = vec![invoked.to_owned(), own_name];
    if names.iter().all(String::is_empty) {
        names.push(lossy(exec.comm));
    }
    let mut executables = vec![resolved];
    if is_script {
        executables.push(absolute(&filename, &cwd));
    } else if by_descriptor {
        executables.push(filename);
    }
    let truncated = usize::try_from(exec.body.args_len).is_ok_and(|len| len > arguments.len());
    let count = exec.body.args_count;
    let count_max = if truncated {
        usize::MAX
    } else {
        usize::try_from(count).unwrap_or(usize::MAX)
    };
    let image = Image::new(
        distinct(names),
        distinct(executables),
        split(arguments, count_max),
        Some(count),
        some_text(cwd),
    );
    image.with_program(Arc::new(Program::new(exec.body.exe_inode)))
}

/// Image of a process found in `/proc`, where the name it was invoked by has to be recognised.
pub(super) fn of_snapshot(snapshot: &Snapshot) -> Image {
    let resolved = lossy(&snapshot.executable);
    let cwd = lossy(&snapshot.working_directory);
    let comm = lossy(&snapshot.stat.comm);
    let args = split(&snapshot.arguments, usize::MAX);
    let own_name = own_name(resolved.strip_suffix(DELETED).unwrap_or(&resolved)).to_owned();

    // comm is the invoked name cut to 15 bytes until a thread renames itself, so it counts only when an argument agrees.
    let agreeing = args.iter().take(2).position(|arg| {
        let name = last_component(arg).trim_start_matches('-');
        !comm.is_empty() && (name == comm || (comm.len() == 15 && name.starts_with(&comm)))
    });
    let invoked = agreeing
        .and_then(|index| args.get(index))
        .map(|arg| last_component(arg).trim_start_matches('-'));
    let mut names = vec![invoked.unwrap_or_default().to_owned(), own_name.clone()];
    if names.iter().all(String::is_empty) {
        names.push(comm);
    }
    let mut executables = vec![resolved];
    if agreeing == Some(1)
        && let Some(script) = args.get(1)
        && invoked != Some(&own_name)
    {
        executables.push(absolute(script, &cwd));
    }
    let count = u32::try_from(args.len()).ok().filter(|count| *count > 0);
    Image::new(
        distinct(names),
        distinct(executables),
        args,
        count,
        some_text(cwd),
    )
}

/// A copy of an image whose executable is marked as deleted; `None` when it is already, or not known.
pub(super) fn deleted(image: &Image) -> Option<Image> {
    let first = image.executables.first()?;
    if first.ends_with(DELETED) {
        return None;
    }
    let mut executables = image.executables.to_vec();
    if let Some(first) = executables.first_mut() {
        *first = format!("{first}{DELETED}").into();
    }
    let names = image.names.to_vec();
    let args = image.args.to_vec();
    let cwd = image.working_directory.clone();
    let marked = Image::new(names, executables, args, image.args_count, cwd);
    let marked = marked.with_environment(image.environment.to_vec());
    Some(marked.with_program(image.program.clone()))
}

/// A smaller copy of an image for keeping: arguments and long paths cut to about `len_max` bytes together.
pub(super) fn slim(image: &Image, len_max: usize) -> Image {
    let mut left = len_max;
    let mut cut = |texts: &[Arc<str>]| -> Vec<Arc<str>> {
        let mut kept = Vec::new();
        for text in texts {
            if left == 0 {
                break;
            }
            kept.push(shortened(text, left));
            left = left.saturating_sub(text.len() + 1);
        }
        kept
    };
    let names = cut(&image.names);
    let executables = cut(&image.executables);
    let cwd = image
        .working_directory
        .as_deref()
        .map(|cwd| shortened(cwd, len_max));
    let args = cut(&image.args);
    let environment = cut(&image.environment);
    Image::new(names, executables, args, image.args_count, cwd)
        .with_environment(environment)
        .with_program(image.program.clone())
}

fn shortened(text: &str, len_max: usize) -> Arc<str> {
    let mut end = text.len().min(len_max);
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    text.get(..end).unwrap_or_default().into()
}

/// Splits an argument area: every argument ends with NUL, the last one perhaps not when it was cut.
fn split(area: &[u8], count_max: usize) -> Vec<Arc<str>> {
    if area.is_empty() {
        return Vec::new();
    }
    let area = area.strip_suffix(b"\0").unwrap_or(area);
    area.split(|b| *b == 0)
        .take(count_max)
        .map(|arg| String::from_utf8_lossy(arg).into())
        .collect()
}

fn lossy(bytes: &[u8]) -> String {
    let bytes = bytes.strip_suffix(b"\0").unwrap_or(bytes);
    String::from_utf8_lossy(bytes).into_owned()
}

fn last_component(path: &str) -> &str {
    path.rsplit('/').next().unwrap_or_default()
}

/// The name of a resolved executable: that of a memfd may hold slashes.
fn own_name(resolved: &str) -> &str {
    match resolved.strip_prefix('/') {
        Some(memfd) if memfd.starts_with("memfd:") => memfd,
        _ => last_component(resolved),
    }
}

/// `/dev/fd/N`, `/proc/self/fd/N`, `/proc/N/fd/N`.
fn is_descriptor(path: &str) -> bool {
    let number = |text: &str| !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
    if let Some(rest) = path.strip_prefix("/dev/fd/") {
        return number(rest);
    }
    let Some((process, descriptor)) = path
        .strip_prefix("/proc/")
        .and_then(|rest| rest.split_once("/fd/"))
    else {
        return false;
    };
    (matches!(process, "self" | "thread-self") || number(process)) && number(descriptor)
}

/// A path against a working directory, with `.` and `..` removed by their text.
fn absolute(path: &str, cwd: &str) -> String {
    if path.starts_with('/') || path.is_empty() || cwd.is_empty() {
        return path.to_owned();
    }
    let mut parts: Vec<&str> = Vec::new();
    for part in cwd.split('/').chain(path.split('/')) {
        match part {
            "" | "." => {}
            ".." => {
                parts.pop();
            }
            part => parts.push(part),
        }
    }
    let mut joined = String::with_capacity(cwd.len() + path.len() + 1);
    for part in parts {
        joined.push('/');
        joined.push_str(part);
    }
    joined
}

fn some_text(text: String) -> Option<Arc<str>> {
    (!text.is_empty()).then(|| text.into())
}

/// Non-empty texts in order, each once.
fn distinct(texts: Vec<String>) -> Vec<Arc<str>> {
    let mut kept: Vec<Arc<str>> = Vec::with_capacity(texts.len());
    for text in texts {
        if !text.is_empty() && kept.iter().all(|k| **k != *text) {
            kept.push(text.into());
        }
    }
    kept
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::enrich::procfs::Stat;
    use crate::enrich::testing::exec_body;

    struct Case {
        filename: &'static str,
        executable: &'static str,
        interpreter: &'static str,
        flags: u32,
        names: &'static [&'static str],
        executables: &'static [&'static str],
    }

    #[test]
    fn names_a_program_goes_by() {
        let cases = [
            Case {
                filename: "/usr/bin/gcc",
                executable: "/usr/bin/x86_64-linux-gnu-gcc-12",
                interpreter: "",
                flags: 0,
                names: &["gcc", "x86_64-linux-gnu-gcc-12"],
                executables: &["/usr/bin/x86_64-linux-gnu-gcc-12"],
            },
            Case {
                filename: "./rev",
                executable: "/tmp/w/rev",
                interpreter: "",
                flags: 0,
                names: &["rev"],
                executables: &["/tmp/w/rev"],
            },
            Case {
                filename: "./a.sh",
                executable: "/usr/bin/dash",
                interpreter: "/bin/sh",
                flags: 0,
                names: &["a.sh", "dash"],
                executables: &["/usr/bin/dash", "/tmp/w/a.sh"],
            },
            Case {
                filename: "../b/./a.sh",
                executable: "/usr/bin/dash",
                interpreter: "/bin/sh",
                flags: 0,
                names: &["a.sh", "dash"],
                executables: &["/usr/bin/dash", "/tmp/b/a.sh"],
            },
            Case {
                filename: "/dev/fd/3",
                executable: "/memfd:x (deleted)",
                interpreter: "",
                flags: 0,
                names: &["memfd:x (deleted)"],
                executables: &["/memfd:x (deleted)", "/dev/fd/3"],
            },
            Case {
                filename: "/dev/fd/3",
                executable: "/memfd:a/b",
                interpreter: "",
                flags: record_flag::EXE_DELETED,
                names: &["memfd:a/b"],
                executables: &["/memfd:a/b (deleted)", "/dev/fd/3"],
            },
            Case {
                filename: "/proc/self/fd/9",
                executable: "/usr/bin/id",
                interpreter: "",
                flags: record_flag::EXE_DELETED,
                names: &["id"],
                executables: &["/usr/bin/id (deleted)", "/proc/self/fd/9"],
            },
            Case {
                filename: "/proc/self/exe",
                executable: "/usr/bin/runc",
                interpreter: "",
                flags: 0,
                names: &["exe", "runc"],
                executables: &["/usr/bin/runc"],
            },
            Case {
                filename: "/x/y",
                executable: "",
                interpreter: "",
                flags: record_flag::READ_FAULT,
                names: &["y"],
                executables: &["/x/y"],
            },
            Case {
                filename: "",
                executable: "",
                interpreter: "",
                flags: 0,
                names: &["comm"],
                executables: &[],
            },
        ];
        for case in cases {
            let exec = Exec {
                body: &exec_body(),
                filename: case.filename.as_bytes(),
                executable: case.executable.as_bytes(),
                interpreter: case.interpreter.as_bytes(),
                working_directory: b"/tmp/w",
                comm: b"comm",
                arguments: b"",
                environment: b"",
            };
            let image = of_exec(&exec, case.flags, b"");
            let shown =
                |texts: &[Arc<str>]| texts.iter().map(|t| t.to_string()).collect::<Vec<_>>();
            assert_eq!(shown(&image.names), case.names, "{}", case.filename);
            assert_eq!(
                shown(&image.executables),
                case.executables,
                "{}",
                case.filename
            );
        }
    }

    #[test]
    fn argument_areas() {
        let check = |area: &[u8], max: usize, expected: &[&str]| {
            let args = split(area, max);
            assert_eq!(
                args.iter().map(|a| &**a).collect::<Vec<_>>(),
                expected,
                "{}",
                area.escape_ascii()
            );
        };
        check(b"", 0, &[]);
        check(b"\0", 1, &[""]);
        check(b"a\0b c\0\0", 3, &["a", "b c", ""]);
        check(b"a\0cut he", usize::MAX, &["a", "cut he"]);
        check(b"a\0b\0ENV=1\0", 2, &["a", "b"]);
        check(b"\xff\xfe\0", 1, &["\u{fffd}\u{fffd}"]);
    }

    fn found(executable: &str, comm: &str, arguments: &str) -> Image {
        of_snapshot(&Snapshot {
            stat: Stat {
                comm: comm.into(),
                ..Stat::default()
            },
            executable: executable.into(),
            working_directory: b"/srv".to_vec(),
            arguments: arguments.into(),
            ..Snapshot::default()
        })
    }

    #[test]
    fn names_recognised_in_proc() {
        let check = |executable, comm, arguments, names: &[&str], executables: &[&str]| {
            let image = found(executable, comm, arguments);
            assert_eq!(
                image.names.iter().map(|n| &**n).collect::<Vec<_>>(),
                names,
                "{comm}"
            );
            assert_eq!(
                image.executables.iter().map(|n| &**n).collect::<Vec<_>>(),
                executables,
                "{comm}"
            );
        };
        check(
            "/bin/busybox",
            "sh",
            "sh\0",
            &["sh", "busybox"],
            &["/bin/busybox"],
        );
        check(
            "/usr/bin/bash",
            "bash",
            "-bash\0",
            &["bash"],
            &["/usr/bin/bash"],
        );
        check(
            "/usr/bin/dash",
            "run.sh",
            "/bin/sh\0./run.sh\0",
            &["run.sh", "dash"],
            &["/usr/bin/dash", "/srv/run.sh"],
        );
        check(
            "/usr/sbin/nginx",
            "nginx",
            "nginx: worker process\0",
            &["nginx"],
            &["/usr/sbin/nginx"],
        );
        check(
            "/usr/lib/systemd/systemd",
            "(sd-pam)",
            "(sd-pam)\0",
            &["(sd-pam)", "systemd"],
            &["/usr/lib/systemd/systemd"],
        );
        check(
            "/usr/lib/a/a-name-over-fifteen",
            "a-name-over-fif",
            "/usr/lib/a/a-name-over-fifteen\0",
            &["a-name-over-fifteen"],
            &["/usr/lib/a/a-name-over-fifteen"],
        );
        check(
            "/tmp/x (deleted)",
            "y",
            "x\0",
            &["x"],
            &["/tmp/x (deleted)"],
        );
        check("", "kworker/0:1", "", &["kworker/0:1"], &[]);
    }

    #[test]
    fn an_image_is_marked_as_deleted_once() {
        let image = found("/usr/bin/x", "x", "x\0");
        let marked = deleted(&image).unwrap();
        assert_eq!(*marked.executables, ["/usr/bin/x (deleted)".into()]);
        assert_eq!(marked.names, image.names);
        assert!(deleted(&marked).is_none());
        assert!(deleted(&Image::default()).is_none());
    }

    #[test]
    fn a_slim_image_is_bounded_and_keeps_the_count() {
        let args = "é".repeat(200);
        let image = found("/usr/bin/x", "x", &format!("x\0{args}\0tail\0"));
        let small = slim(&image, 64);
        assert!(small.bytes() < image.bytes());
        assert_eq!(small.args_count, Some(3));
        assert_eq!(&*small.names, &*image.names);
        assert!(small.args.iter().map(|a| a.len()).sum::<usize>() <= 64);
    }
}
