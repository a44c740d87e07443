//! The search for the best node, or the best pair of nodes, for one instance.
//!
//! A single node is found by trying all. A pair (primary p, secondary s) is the one place where trying all would cost a
//! square: a thousand nodes make a million pairs. The score of a pair is a sum over metrics of `w · √V`. Most metrics
//! are touched by one of the two roles alone, so their part is exact per node. Three (free disk, roles, spindles) are
//! touched by both; there `V = V₀ + α(p) + β(s) + cross`, where the cross term is bounded, and since the root is
//! concave it lies above its chord over the range that V can have: a *linear* lower bound, which falls into a part of p
//! and a part of s. The reserve of s can only be larger with a primary that already has instances there, so its value
//! without is a bound as well. Primaries and secondaries are sorted by their parts; pairs are met in the order of
//! their bound, and the search ends at the first bound above the best score found. The bound is a bound, so the answer
//! is that of the full search (scores are compared in steps of 1e-10, ties broken by the natural order of the primary's
//! name, then the secondary's); the tests compare the two.
//!
//! Nodes in the same condition make one class, of which one pair is enough: that is what keeps a cluster of equal,
//! empty nodes from being a million ties. Below [`SMALL`] nodes all pairs are tried.

use std::collections::{BTreeMap, HashMap};

use crate::instance::Load;
use crate::node::{Fail, Figures, State};
use crate::picture::Options;
use crate::score::{self, Change, Delta, METRICS, Tally};

/// Up to this many nodes all pairs are tried. From 16 on more reserve never lowers the score: the deviation falls by at
/// most `1/√n` per unit, the reserve's own share rises by a quarter.
const SMALL: f64 = 16.0;

/// Scores nearer than this are equal.
const STEP: f64 = 1e-10;

/// A bound must exceed the best score by this much to end the search: more than a step and the error of a sum.
const MARGIN: f64 = 1e-9;

/// The metrics that both roles change.
const SHARED: [usize; 3] = [score::FREE_DISK, score::ROLES, score::SPINDLES];

/// What was tried, and with what success, counted per node or pair of nodes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Statistics {
    pub(crate) successes: u64,
    pub(crate) failures: BTreeMap<Fail, u64>,
}

impl Statistics {
    pub(crate) fn fail(&mut self, fail: Fail, times: u64) {
        if times > 0 {
            *self.failures.entry(fail).or_default() += times;
        }
    }

    pub(crate) fn failed(&self) -> u64 {
        self.failures.values().sum()
    }

    /// Nothing was found: what would have fitted, or was passed over as no better than what was refused, is refused.
    fn refuse_rest(&mut self) {
        let left = std::mem::take(&mut self.successes);
        self.fail(Fail::N1, left);
    }
}

/// The best choice.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Choice {
    pub(crate) primary: usize,
    pub(crate) secondary: Option<usize>,
    pub(crate) score: f64,
}

/// The outcome of a search.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Outcome {
    pub(crate) best: Option<Choice>,
    pub(crate) statistics: Statistics,
}

/// A last word on a choice that would be the best so far: primary and secondary.
pub(crate) type Accept<'a> = &'a mut dyn FnMut(usize, Option<usize>) -> bool;

/// One search: a load, and the nodes it may go to.
pub(crate) struct Search<'a> {
    pub(crate) nodes: &'a [State],
    pub(crate) tally: &'a Tally,
    pub(crate) load: &'a Load,
    /// Usable nodes, in the order of their ranks.
    pub(crate) candidates: &'a [usize],
    pub(crate) options: Options,
    /// All would be refused in the end: only count.
    pub(crate) hopeless: bool,
}

/// The primary side of a pair.
struct PrimarySide {
    node: usize,
    change: Change,
}

/// The secondary side of a pair: figures with the least reserve.
struct SecondarySide {
    node: usize,
    figures: Figures,
    change: Change,
}

/// Nodes in the same condition, by rank.
struct Class<S> {
    bound: f64,
    members: Vec<S>,
}

/// Orders choices: score in steps, then names.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Key(i64, usize, usize);

#[expect(clippy::cast_possible_truncation, reason = "scores are far below 9e8")]
fn steps(score: f64) -> i64 {
    (score / STEP).round() as i64
}

impl Search<'_> {
    fn change(&self, node: usize, after: &Figures) -> Change {
        let state = &self.nodes[node];
        if !state.usable {
            return Change::default();
        }
        let n1 = (state.figures.fails_n1(), after.fails_n1());
        self.tally.change(&state.metrics(&state.figures), &state.metrics(after), n1)
    }

    /// The best primary.
    pub(crate) fn single(&self, accept: Accept<'_>) -> Outcome {
        let mut statistics = Statistics::default();
        let mut scored = Vec::new();
        for &node in self.candidates {
            match self.nodes[node].fits_primary(self.load, self.options) {
                Err(fail) => statistics.fail(fail, 1),
                Ok(()) => {
                    let change = self.change(node, &self.nodes[node].with_primary(self.load));
                    let score = self.tally.score(&change, None);
                    scored.push((steps(score), self.nodes[node].rank, node, score));
                }
            }
        }
        scored.sort_by_key(|(steps, rank, ..)| (*steps, *rank));
        statistics.successes = scored.len() as u64;
        let best = scored.into_iter().find_map(|(_, _, primary, score)| {
            let accepted = accept(primary, None);
            if !accepted {
                statistics.successes -= 1;
                statistics.fail(Fail::N1, 1);
            }
            accepted.then_some(Choice { primary, secondary: None, score })
        });
        Outcome { best, statistics }
    }

    /// The best primary and secondary.
    pub(crate) fn pair(&self, accept: Accept<'_>) -> Outcome {
        let mut statistics = Statistics::default();
        let others = self.candidates.len().saturating_sub(1) as u64;
        let mut primaries = Vec::new();
        for &node in self.candidates {
            match self.nodes[node].fits_primary(self.load, self.options) {
                Err(fail) => statistics.fail(fail, others),
                Ok(()) => {
                    let change = self.change(node, &self.nodes[node].with_primary(self.load));
                    primaries.push(PrimarySide { node, change });
                }
            }
        }
        self.best_pair(primaries, statistics, accept)
    }

    /// The best secondary for an instance that stays on its primary, where it is counted already.
    pub(crate) fn secondary(&self, primary: usize) -> Outcome {
        let side = PrimarySide { node: primary, change: Change::default() };
        self.best_pair(vec![side], Statistics::default(), &mut |_, _| true)
    }

    fn best_pair(
        &self,
        primaries: Vec<PrimarySide>,
        mut statistics: Statistics,
        accept: Accept<'_>,
    ) -> Outcome {
        let is_primary: Vec<bool> = {
            let mut flags = vec![false; self.nodes.len()];
            primaries.iter().for_each(|side| flags[side.node] = true);
            flags
        };
        let partners = |node: usize| primaries.len() as u64 - u64::from(is_primary[node]);
        let failed_before = statistics.failed();
        let mut pairs = 0;
        let mut secondaries = Vec::new();
        for &node in self.candidates {
            pairs += partners(node);
            let state = &self.nodes[node];
            let figures = state.with_secondary(self.load, None);
            if let Err(fail) = state.fits_secondary(self.load, &figures, self.options) {
                statistics.fail(fail, partners(node));
                continue;
            }
            // Nodes that already keep memory for a primary need more than the least.
            for (&peer, _) in state.reserved_for.iter().filter(|(peer, _)| is_primary[**peer]) {
                if peer != node
                    && let Err(fail) = self.fits_beside(node, peer, &figures)
                {
                    statistics.fail(fail, 1);
                }
            }
            let change = self.change(node, &figures);
            secondaries.push(SecondarySide { node, figures, change });
        }
        statistics.successes = pairs.saturating_sub(statistics.failed() - failed_before);
        if self.hopeless {
            statistics.refuse_rest();
            return Outcome { best: None, statistics };
        }
        let best = Pairs { search: self, accept, statistics: &mut statistics, best: None }
            .run(primaries, secondaries);
        if best.is_none() {
            statistics.refuse_rest();
        }
        Outcome { best, statistics }
    }

    fn fits_beside(&self, node: usize, peer: usize, least: &Figures) -> Result<(), Fail> {
        let state = &self.nodes[node];
        let figures = state.with_secondary(self.load, Some(peer));
        if figures.reserved == least.reserved {
            return Ok(());
        }
        state.fits_secondary(self.load, &figures, self.options)
    }
}

/// The state of a search for a pair.
struct Pairs<'a, 'b> {
    search: &'a Search<'a>,
    accept: Accept<'b>,
    statistics: &'a mut Statistics,
    best: Option<(Key, Choice)>,
}

/// What became of a pair.
enum Met {
    /// It could not be: the same node twice, or too little memory beside what is reserved.
    Impossible,
    /// It needs more reserve than the least, so it says nothing of its class.
    Special,
    /// It is like all others of its classes, and was taken or was not better.
    Ordinary,
    /// It was better, and refused.
    Refused,
}

impl Pairs<'_, '_> {
    fn run(
        mut self,
        primaries: Vec<PrimarySide>,
        secondaries: Vec<SecondarySide>,
    ) -> Option<Choice> {
        let all = self.search.tally.nodes() < SMALL;
        let bounds = Bounds::new(self.search.tally, &primaries, &secondaries);
        let tally = self.search.tally;
        let primaries = classes(
            primaries,
            |side| bounds.of_primary(tally, &side.change),
            |side| (&side.change, 0),
        );
        let secondaries = classes(
            secondaries,
            |side| bounds.of_secondary(tally, &side.change),
            |side| (&side.change, side.figures.reserved),
        );
        for first in &primaries {
            for (at, second) in secondaries.iter().enumerate() {
                let bound = first.bound + second.bound + bounds.constant;
                if !all && self.best.is_some_and(|(_, best)| bound > best.score + MARGIN) {
                    if at == 0 {
                        return self.best.map(|(_, choice)| choice);
                    }
                    break;
                }
                self.meet_classes(first, second, all);
            }
        }
        self.best.map(|(_, choice)| choice)
    }

    fn meet_classes(
        &mut self,
        first: &Class<PrimarySide>,
        second: &Class<SecondarySide>,
        all: bool,
    ) {
        for primary in &first.members {
            for secondary in &second.members {
                let met = self.meet(primary, secondary);
                if matches!(met, Met::Ordinary) && !all {
                    return;
                }
            }
        }
    }

    fn meet(&mut self, primary: &PrimarySide, secondary: &SecondarySide) -> Met {
        let search = self.search;
        if primary.node == secondary.node {
            return Met::Impossible;
        }
        let state = &search.nodes[secondary.node];
        let mut met = Met::Ordinary;
        let mut change = secondary.change;
        if state.reserved_for.contains_key(&primary.node) {
            let figures = state.with_secondary(search.load, Some(primary.node));
            if figures.reserved != secondary.figures.reserved {
                if state.fits_secondary(search.load, &figures, search.options).is_err() {
                    return Met::Impossible;
                }
                change = search.change(secondary.node, &figures);
                met = Met::Special;
            }
        }
        let score = search.tally.score(&primary.change, Some(&change));
        let key = Key(steps(score), search.nodes[primary.node].rank, state.rank);
        if self.best.is_some_and(|(best, _)| best <= key) {
            return met;
        }
        if !(self.accept)(primary.node, Some(secondary.node)) {
            self.statistics.successes = self.statistics.successes.saturating_sub(1);
            self.statistics.fail(Fail::N1, 1);
            return Met::Refused;
        }
        let choice = Choice { primary: primary.node, secondary: Some(secondary.node), score };
        self.best = Some((key, choice));
        met
    }
}

/// The linear lower bounds of the shared metrics.
struct Bounds {
    slopes: [f64; SHARED.len()],
    constant: f64,
}

impl Bounds {
    fn new(tally: &Tally, primaries: &[PrimarySide], secondaries: &[SecondarySide]) -> Self {
        let mut slopes = [0.0; SHARED.len()];
        let mut constant = tally.counted(0.0, 0.0);
        for (slot, metric) in SHARED.into_iter().enumerate() {
            let first = Range::of(tally, metric, primaries.iter().map(|side| &side.change));
            let second = Range::of(tally, metric, secondaries.iter().map(|side| &side.change));
            let nodes = tally.nodes();
            let cross = 2.0 * first.sum * second.sum / (nodes * nodes);
            let start = tally.variance(metric, Delta::default());
            let low = (start + first.low + second.low - cross).max(0.0);
            let high = (start + first.high + second.high + cross).max(low);
            if high > low {
                slopes[slot] = (high.sqrt() - low.sqrt()) / (high - low);
            }
            constant += Tally::weight(metric) * (low.sqrt() + slopes[slot] * (start - cross - low));
        }
        Self { slopes, constant }
    }

    fn shared(&self, tally: &Tally, change: &Change) -> f64 {
        SHARED
            .into_iter()
            .zip(self.slopes)
            .map(|(metric, slope)| {
                let own = tally.own_variance(metric, change.metrics[metric]);
                Tally::weight(metric) * slope * own
            })
            .sum()
    }

    fn counted(tally: &Tally, change: &Change) -> f64 {
        tally.counted(change.reserved, change.n1) - tally.counted(0.0, 0.0)
    }

    /// The primary's part: exact for the metrics that it alone changes.
    fn of_primary(&self, tally: &Tally, change: &Change) -> f64 {
        let own = [score::FREE_MEMORY, score::FREE_MEMORY_ALL, score::VCPUS, score::PRIMARIES];
        let exact: f64 =
            own.iter().map(|metric| tally.deviation(*metric, change.metrics[*metric])).sum();
        exact + Self::counted(tally, change) + self.shared(tally, change)
    }

    /// The secondary's part: exact for the least reserve.
    fn of_secondary(&self, tally: &Tally, change: &Change) -> f64 {
        tally.deviation(score::RESERVED, change.metrics[score::RESERVED])
            + Self::counted(tally, change)
            + self.shared(tally, change)
    }
}

/// How far the changes of one role move the variance of a metric.
struct Range {
    low: f64,
    high: f64,
    /// The largest change of the sum.
    sum: f64,
}

impl Range {
    fn of<'c>(tally: &Tally, metric: usize, changes: impl Iterator<Item = &'c Change>) -> Self {
        let mut range = Self { low: f64::INFINITY, high: f64::NEG_INFINITY, sum: 0.0 };
        for change in changes {
            let own = tally.own_variance(metric, change.metrics[metric]);
            range.low = range.low.min(own);
            range.high = range.high.max(own);
            range.sum = range.sum.max(change.metrics[metric].sum.abs());
        }
        if range.low > range.high { Self { low: 0.0, high: 0.0, sum: 0.0 } } else { range }
    }
}

/// Puts sides of equal change (and `also`) together, and sorts by bound, then by the rank of the first member; the
/// sides come in the order of ranks.
fn classes<S>(
    sides: Vec<S>,
    bound: impl Fn(&S) -> f64,
    also: impl Fn(&S) -> (&Change, i64),
) -> Vec<Class<S>> {
    let mut index: HashMap<[u64; 2 * METRICS + 2], usize> = HashMap::new();
    let mut classes: Vec<Class<S>> = Vec::new();
    for side in sides {
        let (change, reserved) = also(&side);
        let mut bits = [0; 2 * METRICS + 2];
        for (metric, delta) in change.metrics.iter().enumerate() {
            bits[2 * metric] = delta.sum.to_bits();
            bits[2 * metric + 1] = delta.squares.to_bits();
        }
        bits[2 * METRICS] = change.n1.to_bits();
        bits[2 * METRICS + 1] = reserved.cast_unsigned();
        let at = *index.entry(bits).or_insert_with(|| {
            classes.push(Class { bound: bound(&side), members: Vec::new() });
            classes.len() - 1
        });
        classes[at].members.push(side);
    }
    classes.sort_by(|a, b| a.bound.total_cmp(&b.bound));
    classes
}
