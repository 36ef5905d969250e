//! What a rule asks to be done about its alerts.
//!
//! In: the tables `[[actions]]` of a rule file, and its query. Out: [`Action`]s, each with the event that names its process. One that can
//! not be is an error of the file; published rules may ask for more than is known here, so there it is left out, with a note.
//! Nothing is done here.

use std::fmt;

use super::Shape;
use crate::document::{Problem, Table};
use crate::eql;
use crate::eql::query::Form;

/// Most actions of one rule.
const ACTIONS_MAX: usize = 8;
/// The one action there is.
const KILL: &str = "kill_process";

/// A process to be killed for every alert of a rule.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Action {
    pub whose: Whose,
    /// Its descendants, too.
    pub tree: bool,
    /// Of the query's steps, from 1; `None` is the last that has an event.
    step: Option<usize>,
    /// Of the alert's events, from 0; `None` is the last.
    event: Option<usize>,
}

/// Which process of an event is meant.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Whose {
    /// The one that acts.
    Process,
    /// Its parent, as it was when it forked.
    Parent,
}

impl Whose {
    const ALL: [Whose; 2] = [Whose::Process, Whose::Parent];

    /// The field that names it.
    #[must_use]
    pub fn field(self) -> &'static str {
        match self {
            Whose::Process => "process.entity_id",
            Whose::Parent => "process.parent.entity_id",
        }
    }
}

impl Action {
    /// The event of an alert that names the process.
    #[must_use]
    pub fn event<'e, T>(&self, events: &'e [T]) -> Option<&'e T> {
        match self.event {
            Some(index) => events.get(index),
            None => events.last(),
        }
    }
}

impl fmt::Display for Action {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{KILL} {}", self.whose.field())?;
        if let Some(step) = self.step {
            write!(f, " of step {step}")?;
        }
        if self.tree {
            f.write_str(" with its descendants")?;
        }
        Ok(())
    }
}

/// The actions of a rule file.
pub(super) fn read(
    root: &mut Table<'_>,
    shape: Shape,
    form: Option<&Form>,
    problems: &mut Vec<Problem>,
) -> Vec<Action> {
    let mut actions = Vec::new();
    let mut found = Vec::new();
    for mut table in root.tables("actions", &mut found) {
        let before = found.len();
        let action = action(&mut table, shape, form, &mut found);
        // A misspelt key would have another process killed than was meant.
        table.refuse_unknown(&mut found);
        if actions.len() == ACTIONS_MAX {
            found.push(table.source().problem(
                table.span(),
                format!("there are more than {ACTIONS_MAX} `[[actions]]`"),
                None,
            ));
        } else if found.len() == before {
            actions.extend(action);
        }
    }
    if shape == Shape::Behavior {
        for problem in &mut found {
            problem.severity = eql::Severity::Note;
            problem.code = Some("ignored-action");
            problem.help = Some("the action is left out; alerts come all the same".to_owned());
        }
    }
    problems.append(&mut found);
    actions
}

fn action(
    table: &mut Table<'_>,
    shape: Shape,
    form: Option<&Form>,
    problems: &mut Vec<Problem>,
) -> Option<Action> {
    if let Some((kind, span)) = table.required_string("action", problems)
        && kind != KILL
    {
        let message = format!(
            "`actions.action` is \"{}\", must be \"{KILL}\"",
            kind.escape_debug()
        );
        problems.push(table.source().problem(span, message, None));
    }
    let whose = whose(table, problems);
    let tree = table.boolean("tree", problems);
    let (step, event) = match form {
        Some(form) => step(table, shape, form, problems)?,
        // The query is broken, and that has been said.
        None => (None, None),
    };
    Some(Action {
        whose: whose?,
        tree: tree.is_some_and(|(tree, _)| tree),
        step,
        event,
    })
}

fn whose(table: &mut Table<'_>, problems: &mut Vec<Problem>) -> Option<Whose> {
    let Some((field, span)) = table.string("field", problems) else {
        // What is there and is no string has been said.
        return (!table.has("field")).then_some(Whose::Process);
    };
    let found = Whose::ALL.into_iter().find(|whose| whose.field() == field);
    if found.is_none() {
        let [process, parent] = Whose::ALL.map(Whose::field);
        let message = format!(
            "`actions.field` is \"{}\", must be \"{process}\" or \"{parent}\"",
            field.escape_debug()
        );
        problems.push(table.source().problem(span, message, None));
    }
    found
}

/// The step, and the event that stands for it. Published rules count from 0 and call it `state`.
fn step(
    table: &mut Table<'_>,
    shape: Shape,
    form: &Form,
    problems: &mut Vec<Problem>,
) -> Option<(Option<usize>, Option<usize>)> {
    let (key, first) = match shape {
        Shape::Behavior => ("state", 0),
        Shape::Own | Shape::Detection => ("step", 1),
    };
    let (is_single, events) = match form {
        // Whatever its pipes make of it, the last event is the one.
        Form::Event(_) => (true, vec![Some(0)]),
        Form::Sequence(sequence) => {
            let mut next = 0;
            let steps = sequence.steps.iter().map(|step| {
                let runs = usize::try_from(step.runs).unwrap_or(usize::MAX);
                next += if step.missing { 0 } else { runs };
                (!step.missing).then(|| next - 1)
            });
            (false, steps.collect())
        }
        Form::Sample(sample) => (false, (0..sample.steps.len()).map(Some).collect()),
    };
    if !table.has(key) {
        // Asked for, so that a misspelt key is told what is allowed.
        let _ = table.get(key);
        return Some((None, None));
    }
    let last = i64::try_from(events.len()).unwrap_or(i64::MAX) - 1 + first;
    let (number, span) = table.integer(key, first..=last, problems)?;
    let index = usize::try_from(number - first).ok()?;
    let Some(event) = events.get(index).copied().flatten() else {
        let message = format!("`actions.{key}` is {number}, must be a step that has an event");
        let help = "a step with `!` before it is about an event that did not come".to_owned();
        problems.push(table.source().problem(span, message, Some(help)));
        return None;
    };
    Some((Some(index + 1), (!is_single).then_some(event)))
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use crate::document::Source;
    use crate::rule::{Loaded, load_source};

    const EVENT: &str = "process where true";
    const SEQUENCE: &str = "sequence with maxspan=1m [process where true] ![file where true] [file where true] with runs=3 [network where true]";

    fn load(head: &str, query: &str, actions: &str) -> Loaded {
        load_source(&Source {
            path: Path::new("r.toml").into(),
            text: format!("[rule]\nname = \"R\"\n{head}\nquery = '{query}'\n{actions}"),
        })
    }

    const OWN: &str = "rule_id = \"r\"\ntype = \"eql\"";
    const BEHAVIOR: &str = "id = \"r\"\nos_list = [\"linux\"]";

    /// Actions in words, and which of six events each is about.
    fn check(head: &str, query: &str, actions: &str, expected: &[(&str, usize)]) {
        let loaded = load(head, query, actions);
        assert_eq!(loaded.problems, [], "{actions}");
        let events = [0, 1, 2, 3, 4, 5];
        let found: Vec<(String, usize)> = loaded.rules[0]
            .actions
            .iter()
            .map(|action| (action.to_string(), *action.event(&events).unwrap()))
            .collect();
        let expected: Vec<(String, usize)> = expected
            .iter()
            .map(|(words, event)| ((*words).to_owned(), *event))
            .collect();
        assert_eq!(found, expected, "{actions}");
    }

    #[test]
    fn an_action_names_a_process_of_one_event() {
        let kill = "[[actions]]\naction = \"kill_process\"\n";
        check(OWN, EVENT, "", &[]);
        check(OWN, EVENT, kill, &[("kill_process process.entity_id", 5)]);
        check(
            OWN,
            SEQUENCE,
            &format!(
                "{kill}{kill}step = 1\nfield = \"process.parent.entity_id\"\n{kill}step = 3\ntree = true\n{kill}step = 4"
            ),
            &[
                ("kill_process process.entity_id", 5),
                ("kill_process process.parent.entity_id of step 1", 0),
                // The last of its three runs; the missing step has no event.
                (
                    "kill_process process.entity_id of step 3 with its descendants",
                    3,
                ),
                ("kill_process process.entity_id of step 4", 4),
            ],
        );
        check(
            OWN,
            "sample by host.id [process where true] [file where true]",
            &format!("{kill}step = 2"),
            &[("kill_process process.entity_id of step 2", 1)],
        );
    }

    #[test]
    fn published_rules_count_from_nought() {
        let kill = "[[actions]]\naction = \"kill_process\"\nfield = \"process.entity_id\"\n";
        check(
            BEHAVIOR,
            EVENT,
            &format!("{kill}state = 0"),
            &[("kill_process process.entity_id of step 1", 5)],
        );
        check(
            BEHAVIOR,
            SEQUENCE,
            &format!("{kill}state = 2"),
            &[("kill_process process.entity_id of step 3", 3)],
        );
    }

    fn problems(head: &str, query: &str, actions: &str) -> (usize, Vec<String>) {
        let loaded = load(head, query, actions);
        let words = loaded.problems.iter().map(ToString::to_string).collect();
        (loaded.rules.len(), words)
    }

    #[test]
    fn what_can_not_be_done_is_an_error() {
        let own = |query: &str, actions: &str| {
            let (rules, problems) = problems(OWN, query, actions);
            assert_eq!(rules, 0, "{actions}");
            problems.join("\n")
        };
        assert_eq!(
            own(EVENT, "[[actions]]\naction = \"isolate_host\""),
            "r.toml:7:10: error: `actions.action` is \"isolate_host\", must be \"kill_process\""
        );
        assert_eq!(
            own(EVENT, "[[actions]]\nfield = \"process.entity_id\""),
            "r.toml:6:1: error: `actions.action` is missing; add a line `action = \"…\"`"
        );
        let kill = "[[actions]]\naction = \"kill_process\"\n";
        assert_eq!(
            own(EVENT, &format!("{kill}field = \"process.pid\"\nstep = 2")),
            "r.toml:8:9: error: `actions.field` is \"process.pid\", must be \"process.entity_id\" or \"process.parent.entity_id\"\n\
             r.toml:9:8: error: `actions.step` is 2, must be a whole number from 1 to 1"
        );
        assert_eq!(
            own(SEQUENCE, &format!("{kill}step = 2")),
            "r.toml:8:8: error: `actions.step` is 2, must be a step that has an event; \
             a step with `!` before it is about an event that did not come"
        );
        assert_eq!(
            own(SEQUENCE, &format!("{kill}state = 0\nfeild = \"x\"")),
            "r.toml:8:1: error: unknown key `actions.state`; allowed are actions.action, actions.field, actions.step, actions.tree\n\
             r.toml:9:1: error: unknown key `actions.feild`; did you mean `actions.field`?"
        );
        assert_eq!(
            own(EVENT, &kill.repeat(9)),
            "r.toml:22:1: error: there are more than 8 `[[actions]]`"
        );
    }

    #[test]
    fn what_a_published_rule_asks_besides_is_left_out() {
        let actions = "[[actions]]\naction = \"roll_back\"\n[[actions]]\naction = \"kill_process\"\nstate = 1\n\
                       [[actions]]\naction = \"kill_process\"";
        let (rules, problems) = problems(BEHAVIOR, EVENT, actions);
        assert_eq!(rules, 1);
        assert_eq!(
            problems,
            [
                "r.toml:7:10: note: `actions.action` is \"roll_back\", must be \"kill_process\"; \
                 the action is left out; alerts come all the same",
                "r.toml:10:9: note: `actions.state` is 1, must be a whole number from 0 to 0; \
                 the action is left out; alerts come all the same"
            ]
        );
        let loaded = load(BEHAVIOR, EVENT, actions);
        assert_eq!(loaded.rules[0].actions.len(), 1);
    }
}
