//! Conditions over tests, and the branching programs they become.
//!
//! In: the skeleton of a query's condition with every leaf replaced by a test. Out: the same condition with known tests
//! folded away, and a program that asks the cheapest tests first and stops as soon as the answer is fixed.

use super::lineage::Mark;
use crate::eql::query::Relation;

/// What a program asks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(super) enum Test {
    /// A leaf over the event at hand, asked at most once per event.
    Leaf(u32),
    /// Whether the event's process carries a mark.
    Lineage(Mark, u8),
    /// A leaf that also reads earlier events of the partial match.
    Alias(u32),
}

pub(super) fn relation_code(relation: Relation) -> u8 {
    match relation {
        Relation::Event => 0,
        Relation::Child => 1,
        Relation::Descendant => 2,
    }
}

/// A two-valued condition.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Cond {
    Const(bool),
    Test(Test),
    Not(Box<Cond>),
    And(Vec<Cond>),
    Or(Vec<Cond>),
}

impl Cond {
    pub(super) fn and(parts: Vec<Cond>) -> Cond {
        Cond::join(parts, true)
    }

    pub(super) fn or(parts: Vec<Cond>) -> Cond {
        Cond::join(parts, false)
    }

    fn join(parts: Vec<Cond>, and: bool) -> Cond {
        let mut kept = Vec::with_capacity(parts.len());
        for part in parts {
            match part {
                Cond::Const(b) if b == and => {}
                Cond::Const(b) => return Cond::Const(b),
                Cond::And(inner) if and => kept.extend(inner),
                Cond::Or(inner) if !and => kept.extend(inner),
                other => kept.push(other),
            }
        }
        match (kept.len(), kept.pop()) {
            (1, Some(only)) => only,
            (_, Some(last)) => {
                kept.push(last);
                if and { Cond::And(kept) } else { Cond::Or(kept) }
            }
            (_, None) => Cond::Const(and),
        }
    }

    pub(super) fn not(inner: Cond) -> Cond {
        match inner {
            Cond::Const(b) => Cond::Const(!b),
            Cond::Not(inner) => *inner,
            other => Cond::Not(Box::new(other)),
        }
    }

    /// The condition with every test that `known` answers replaced by its answer.
    pub(super) fn fold(&self, known: &impl Fn(Test) -> Option<bool>) -> Cond {
        match self {
            Cond::Const(b) => Cond::Const(*b),
            Cond::Test(test) => known(*test).map_or(Cond::Test(*test), Cond::Const),
            Cond::Not(inner) => Cond::not(inner.fold(known)),
            Cond::And(parts) => Cond::and(parts.iter().map(|p| p.fold(known)).collect()),
            Cond::Or(parts) => Cond::or(parts.iter().map(|p| p.fold(known)).collect()),
        }
    }

    /// The weakest condition without alias tests that this one implies: `positive` tells which answer an alias test takes
    /// where it stands.
    pub(super) fn without_aliases(&self, positive: bool) -> Cond {
        match self {
            Cond::Test(Test::Alias(_)) => Cond::Const(positive),
            Cond::Const(_) | Cond::Test(_) => self.clone(),
            Cond::Not(inner) => Cond::not(inner.without_aliases(!positive)),
            Cond::And(parts) => {
                Cond::and(parts.iter().map(|p| p.without_aliases(positive)).collect())
            }
            Cond::Or(parts) => {
                Cond::or(parts.iter().map(|p| p.without_aliases(positive)).collect())
            }
        }
    }

    /// Calls `visit` with every test.
    pub(super) fn tests(&self, visit: &mut impl FnMut(Test)) {
        match self {
            Cond::Const(_) => {}
            Cond::Test(test) => visit(*test),
            Cond::Not(inner) => inner.tests(visit),
            Cond::And(parts) | Cond::Or(parts) => parts.iter().for_each(|p| p.tests(visit)),
        }
    }

    pub(super) fn has_alias(&self) -> bool {
        let mut found = false;
        self.tests(&mut |t| found |= matches!(t, Test::Alias(_)));
        found
    }
}

/// A condition as a decision graph: ask, then go to one of two instructions.
#[derive(Clone, Debug)]
pub(super) struct Program {
    code: Vec<Branch>,
    entry: u32,
}

#[derive(Clone, Copy, Debug)]
struct Branch {
    test: Test,
    yes: u32,
    no: u32,
}

const ACCEPT: u32 = u32::MAX;
const REJECT: u32 = u32::MAX - 1;

impl Program {
    /// `cost` orders the parts of each `and` and `or`, cheapest first.
    pub(super) fn new(cond: &Cond, cost: &impl Fn(Test) -> u32) -> Self {
        let mut program = Program {
            code: Vec::new(),
            entry: REJECT,
        };
        program.entry = program.emit(cond, ACCEPT, REJECT, cost);
        program
    }

    /// Built from the end, so every target exists before the branch to it. Returns where the condition starts.
    fn emit(&mut self, cond: &Cond, yes: u32, no: u32, cost: &impl Fn(Test) -> u32) -> u32 {
        match cond {
            Cond::Const(b) => {
                if *b {
                    yes
                } else {
                    no
                }
            }
            Cond::Test(test) => {
                self.code.push(Branch {
                    test: *test,
                    yes,
                    no,
                });
                u32::try_from(self.code.len() - 1).unwrap_or(REJECT)
            }
            Cond::Not(inner) => self.emit(inner, no, yes, cost),
            Cond::And(parts) => by_cost(parts, cost)
                .rev()
                .fold(yes, |next, part| self.emit(part, next, no, cost)),
            Cond::Or(parts) => by_cost(parts, cost)
                .rev()
                .fold(no, |next, part| self.emit(part, yes, next, cost)),
        }
    }

    /// Whether the condition could still hold when `known` answers only some of its tests. `reached` is scratch space.
    pub(super) fn possible(
        &self,
        reached: &mut Vec<bool>,
        mut known: impl FnMut(Test) -> Option<bool>,
    ) -> bool {
        if self.entry == ACCEPT {
            return true;
        }
        reached.clear();
        reached.resize(self.code.len(), false);
        if let Some(first) = reached.get_mut(self.entry as usize) {
            *first = true;
        }
        // Branches lead to instructions emitted before, so one walk from the last to the first meets all of them.
        for (at, branch) in self.code.iter().enumerate().rev() {
            if reached.get(at) != Some(&true) {
                continue;
            }
            let answer = known(branch.test);
            let targets = [
                (answer != Some(false)).then_some(branch.yes),
                (answer != Some(true)).then_some(branch.no),
            ];
            for target in targets.into_iter().flatten() {
                if target == ACCEPT {
                    return true;
                }
                if let Some(next) = reached.get_mut(target as usize) {
                    *next = true;
                }
            }
        }
        false
    }

    /// Where the program begins.
    pub(super) fn start(&self) -> u32 {
        self.entry
    }

    /// Where it gets to when it asks only what `known` answers.
    pub(super) fn start_past(&self, mut known: impl FnMut(Test) -> Option<bool>) -> u32 {
        let mut at = self.entry;
        while let Some(branch) = self.code.get(at as usize)
            && let Some(answer) = known(branch.test)
        {
            at = if answer { branch.yes } else { branch.no };
        }
        at
    }

    /// Runs the program; `ask` answers its tests.
    #[inline]
    pub(super) fn run(&self, ask: impl FnMut(Test) -> bool) -> bool {
        self.run_from(self.entry, ask)
    }

    /// Runs the rest of the program from where [`start_past`](Self::start_past) got to.
    #[inline]
    pub(super) fn run_from(&self, start: u32, mut ask: impl FnMut(Test) -> bool) -> bool {
        let mut at = start;
        while let Some(branch) = self.code.get(at as usize) {
            at = if ask(branch.test) {
                branch.yes
            } else {
                branch.no
            };
        }
        at == ACCEPT
    }
}

fn by_cost<'c>(
    parts: &'c [Cond],
    cost: &impl Fn(Test) -> u32,
) -> impl DoubleEndedIterator<Item = &'c Cond> {
    let mut order: Vec<(u32, &Cond)> = parts.iter().map(|p| (first_cost(p, cost), p)).collect();
    order.sort_by_key(|(cost, _)| *cost);
    order.into_iter().map(|(_, part)| part)
}

/// Cost of a part: the sum over its tests, capped; tests behind others are rarely asked, so they count less.
fn first_cost(cond: &Cond, cost: &impl Fn(Test) -> u32) -> u32 {
    match cond {
        Cond::Const(_) => 0,
        Cond::Test(test) => cost(*test),
        Cond::Not(inner) => first_cost(inner, cost),
        Cond::And(parts) | Cond::Or(parts) => {
            let costs: Vec<u32> = parts.iter().map(|p| first_cost(p, cost)).collect();
            let least = costs.iter().copied().min().unwrap_or(0);
            let sum = costs.iter().fold(0u32, |a, b| a.saturating_add(*b));
            least.saturating_add(sum / 4)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn leaf(i: u32) -> Cond {
        Cond::Test(Test::Leaf(i))
    }

    fn truth(cond: &Cond, bits: u32) -> bool {
        match cond {
            Cond::Const(b) => *b,
            Cond::Test(Test::Leaf(i)) => bits >> i & 1 == 1,
            Cond::Test(_) => false,
            Cond::Not(c) => !truth(c, bits),
            Cond::And(parts) => parts.iter().all(|p| truth(p, bits)),
            Cond::Or(parts) => parts.iter().any(|p| truth(p, bits)),
        }
    }

    #[test]
    fn programs_and_folding_agree_with_the_condition() {
        let conds = [
            leaf(0),
            Cond::Not(Box::new(leaf(0))),
            Cond::And(vec![
                leaf(0),
                Cond::Or(vec![leaf(1), Cond::Not(Box::new(leaf(2)))]),
                leaf(3),
            ]),
            Cond::Or(vec![
                Cond::And(vec![leaf(0), leaf(1)]),
                Cond::And(vec![leaf(2), Cond::Not(Box::new(leaf(0)))]),
            ]),
            Cond::And(vec![]),
            Cond::Or(vec![]),
            Cond::Not(Box::new(Cond::And(vec![leaf(0), Cond::Const(true)]))),
        ];
        let ask = |bits: u32| move |t: Test| matches!(t, Test::Leaf(i) if bits >> i & 1 == 1);
        for cond in &conds {
            for bits in 0..16 {
                let program =
                    Program::new(cond, &|t| if let Test::Leaf(i) = t { 9 - i } else { 0 });
                assert_eq!(
                    program.run(ask(bits)),
                    truth(cond, bits),
                    "{cond:?} {bits:b}"
                );
                // What is possible with every test known is what holds; knowing nothing excludes only what can never hold.
                let mut reached = Vec::new();
                let start =
                    program.start_past(|t| matches!(t, Test::Leaf(0)).then(|| ask(bits)(t)));
                assert_eq!(program.run_from(start, ask(bits)), truth(cond, bits));
                assert_eq!(
                    program.possible(&mut reached, |t| Some(ask(bits)(t))),
                    truth(cond, bits)
                );
                let some = (0..16).any(|other| truth(cond, bits & 3 | other & !3));
                assert!(
                    !some
                        || program.possible(&mut reached, |t| {
                            matches!(t, Test::Leaf(0 | 1)).then(|| ask(bits)(t))
                        })
                );
                let folded = cond.fold(&|t| matches!(t, Test::Leaf(0)).then_some(bits & 1 == 1));
                assert_eq!(truth(&folded, bits), truth(cond, bits), "{cond:?} {bits:b}");
            }
        }
    }
}
