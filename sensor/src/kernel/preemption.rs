//! Whether another task can run in the middle of a program on a function.
//!
//! In: what the kernel says of itself, in a file for administrators, on its command line or in its configuration. Out: its mode and
//! what follows for programs. A kernel that does not tell is taken to let others run.

use std::fs;

/// How the kernel takes the processor from a task that is inside of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Preemption {
    /// In the kernel's words, such as `full` or `voluntary`; `unknown` where it does not tell.
    pub mode: String,
    /// What told it.
    pub told_by: &'static str,
    pub release: Option<(u32, u32)>,
}

/// The mode in force, for administrators, on kernels that can change it while they run.
const IN_FORCE: &str = "/sys/kernel/debug/sched/preempt";
const COMMAND_LINE: &str = "/proc/cmdline";

/// What was found of the kernel's own words.
#[derive(Clone, Debug, Default)]
struct Told {
    release: Option<(u32, u32)>,
    /// The line that names the build.
    version: String,
    in_force: Option<String>,
    command_line: Option<String>,
    configuration: Option<String>,
}

impl Preemption {
    /// That of the kernel that runs.
    #[must_use]
    pub fn of_this_kernel() -> Preemption {
        let name = rustix::system::uname();
        let release = name.release().to_string_lossy();
        let configuration = [
            format!("/boot/config-{release}"),
            format!("/lib/modules/{release}/config"),
        ];
        Preemption::judged(&Told {
            release: super::support::release(),
            version: name.version().to_string_lossy().into_owned(),
            in_force: fs::read_to_string(IN_FORCE).ok(),
            command_line: fs::read_to_string(COMMAND_LINE).ok(),
            configuration: configuration
                .iter()
                .find_map(|path| fs::read_to_string(path).ok()),
        })
    }

    fn judged(told: &Told) -> Preemption {
        let (mode, told_by) = told.mode();
        Preemption {
            mode: mode.to_owned(),
            told_by,
            release: told.release,
        }
    }

    /// True where the processor can be taken from a task anywhere in the kernel; or, in the mode `lazy`, once it has kept it for
    /// long.
    fn is_anywhere(&self) -> bool {
        !matches!(&*self.mode, "none" | "voluntary")
    }

    /// True where another task can run in the middle of a program on a function, and the kernel skips the program for that task:
    /// before 5.12 nothing comes between.
    #[must_use]
    pub fn skips_on_functions(&self) -> bool {
        self.is_anywhere() && self.release.is_none_or(|release| release >= (5, 12))
    }
}

impl Told {
    /// The mode, and what says so.
    fn mode(&self) -> (&'static str, &'static str) {
        let built = self
            .version
            .split_ascii_whitespace()
            .find(|word| word.starts_with("PREEMPT"));
        let built_as = "the way it was built";
        match built {
            // None and voluntary look the same.
            None => return ("none", built_as),
            Some("PREEMPT") => return ("full", built_as),
            Some("PREEMPT_LAZY") => return ("lazy", built_as),
            Some("PREEMPT_RT") => return ("real-time", built_as),
            Some(_) => {}
        }
        if let Some(mode) = self.in_force.as_deref().and_then(chosen) {
            return (mode, IN_FORCE);
        }
        if let Some(mode) = self.asked_for() {
            return (mode, COMMAND_LINE);
        }
        match self.configured() {
            Some(mode) => (mode, "its configuration"),
            None => ("unknown", "nothing"),
        }
    }

    /// `preempt=MODE` of the command line, the last one that counts. From 7.0 on two of the modes are gone.
    fn asked_for(&self) -> Option<&'static str> {
        let line = self.command_line.as_deref()?;
        let asked = line
            .split_ascii_whitespace()
            .filter_map(|word| word.strip_prefix("preempt="));
        let mut modes = asked.filter_map(known);
        modes.rfind(|mode| self.still_has(mode))
    }

    /// What the kernel does unless it is asked otherwise.
    fn configured(&self) -> Option<&'static str> {
        let text = self.configuration.as_deref()?;
        let has = |option: &str| text.lines().any(|line| line == option);
        [
            ("CONFIG_PREEMPT_NONE=y", "none"),
            ("CONFIG_PREEMPT_VOLUNTARY=y", "voluntary"),
            ("CONFIG_PREEMPT_LAZY=y", "lazy"),
            ("CONFIG_PREEMPT=y", "full"),
        ]
        .into_iter()
        .find_map(|(option, mode)| has(option).then_some(mode))
    }

    fn still_has(&self, mode: &str) -> bool {
        let is_gone = matches!(mode, "none" | "voluntary");
        !is_gone || self.release.is_some_and(|release| release < (7, 0))
    }
}

/// The word in brackets: `none voluntary (full)`.
fn chosen(text: &str) -> Option<&'static str> {
    let (_, rest) = text.split_once('(')?;
    let (mode, _) = rest.split_once(')')?;
    known(mode)
}

fn known(mode: &str) -> Option<&'static str> {
    ["none", "voluntary", "full", "lazy"]
        .into_iter()
        .find(|known| *known == mode)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A kernel that can change its mode, with nothing read of it.
    fn dynamic(release: (u32, u32)) -> Told {
        Told {
            release: Some(release),
            version: "#1 SMP PREEMPT_DYNAMIC Debian 6.12.107-1 (2026-07-05)".to_owned(),
            ..Told::default()
        }
    }

    fn built(words: &str) -> Told {
        Told {
            version: format!("#1 SMP {words} Mon Jul 6 10:00:00 UTC 2026"),
            ..dynamic((6, 12))
        }
    }

    #[track_caller]
    fn check(told: &Told, mode: &str, skips: bool) {
        let judged = Preemption::judged(told);
        assert_eq!(judged.mode, mode, "{told:?}");
        assert_eq!(judged.skips_on_functions(), skips, "{told:?}");
    }

    #[test]
    fn a_kernel_of_one_mode_is_known_by_its_name() {
        check(&built(""), "none", false);
        check(&built("PREEMPT"), "full", true);
        check(&built("PREEMPT_RT"), "real-time", true);
        check(&built("PREEMPT_LAZY"), "lazy", true);
    }

    #[test]
    fn the_mode_in_force_counts_before_all_else() {
        for (text, mode, skips) in [
            ("none (voluntary) full \n", "voluntary", false),
            ("(none) voluntary full lazy\n", "none", false),
            ("none voluntary (full)\n", "full", true),
            ("full (lazy)\n", "lazy", true),
        ] {
            let told = Told {
                in_force: Some(text.to_owned()),
                command_line: Some("quiet preempt=full".to_owned()),
                ..dynamic((6, 12))
            };
            check(&told, mode, skips);
        }
    }

    #[test]
    fn the_command_line_counts_before_the_configuration() {
        let with = |release, line: &str| Told {
            command_line: Some(line.to_owned()),
            configuration: Some("CONFIG_PREEMPT_VOLUNTARY=y\nCONFIG_PREEMPTION=y\n".to_owned()),
            ..dynamic(release)
        };
        check(&with((6, 12), "quiet"), "voluntary", false);
        check(&with((6, 12), "preempt=full quiet"), "full", true);
        check(&with((6, 12), "preempt=full preempt=none"), "none", false);
        check(&with((6, 12), "preempt=full preempt=some"), "full", true);
        let lazy = Told {
            configuration: Some("# CONFIG_PREEMPT is not set\nCONFIG_PREEMPT_LAZY=y\n".to_owned()),
            ..with((7, 2), "preempt=none")
        };
        check(&lazy, "lazy", true);
    }

    #[test]
    fn one_that_does_not_tell_lets_others_run() {
        check(&dynamic((6, 12)), "unknown", true);
        let nothing = Told {
            in_force: Some("full".to_owned()),
            command_line: Some(String::new()),
            configuration: Some("CONFIG_HZ=250\n".to_owned()),
            ..dynamic((6, 12))
        };
        check(&nothing, "unknown", true);
        let nameless = Told {
            release: None,
            ..dynamic((6, 12))
        };
        check(&nameless, "unknown", true);
    }

    #[test]
    fn before_5_12_nothing_comes_between() {
        let old = Told {
            release: Some((5, 10)),
            ..built("PREEMPT")
        };
        check(&old, "full", false);
    }
}
