"""The ledger: one row per claim of a paper, what our records say about it, and a verdict that is computed, never typed.

Only recordings count, the paper's own where they are available, else all that stand in for them; a stand-in can speak
for or against the order of systems. A verdict is

    not supported  a comparison that the claim makes is significant in the other direction
    no data here   else, if no comparison has two pairs of runs
    supported      all that it makes have been run, and are significant in its direction
    inconclusive   anything else

after Holm's correction over the comparisons of the claim, each from at least five pairs. Pairs of one seed share the
weights at the start, so the number of seeds stands beside that of pairs. Runs of older code do not count, and nor does
a difference where the loser fits its own training part worse than the winner does unseen clips: that was not trained to
the end, and is about the budget. Some claims hold an interval against a bound in place of a test; some rows are our own
questions, and some of these are answered from the papers' tables alone.

Papers declare their claims (``capslib.papers``) with the functions below, each of which returns an ``Answer``.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import product
from typing import NamedTuple

import pandas as pd
from scipy import stats

from capslib import probes, statistics, study, tables
from capslib.statistics import METRICS, Pair, Pairs, differences, values
from capslib.study import Runs

FEWEST_PAIRS = 5
SUPPORTED, REFUTED, OPEN, NO_DATA = "supported", "not supported", "inconclusive", "no data here"
_SHORT = {metric: short for short, metric in METRICS.items()}


class Finding(NamedTuple):
    """A verdict and the numbers behind it, in one sentence."""

    verdict: str
    evidence: str


Answer = Callable[[Runs], Finding]
Names = Sequence[str]
# Rows of tests to whether each speaks for a claim, or against it.
Judge = Callable[[pd.DataFrame], pd.Series]
# Comparison, metric, and differences by fold and seed, on one corpus.
Differences = Iterator[tuple[str, str, dict[Pair, float]]]


class Claim(NamedTuple):
    """Where a paper says something ("section 5.1, Table 1"), how our records answer, and which notebook asks it. What
    it says is the claim's key in the paper's declaration."""

    where: str
    answer: Answer
    notebook: str


class Reading(NamedTuple):
    """A number of a trained network: the probe that gives it, its name for the reader, and where a result has it."""

    probe: Callable[..., dict]
    name: str
    value: Callable[[dict], float]

    def by_run(self, runs: Runs, corpus: str, system: str) -> dict[Pair, float]:
        """The number by fold and seed, of the networks of a system on a corpus whose results are on file."""
        results = probes.run(runs, self.probe, train=False, corpus=corpus, system=system)
        return {(result["split"], result["seed"]): self.value(result) for result in results}


def verdict(supports: Iterable[bool], refutes: Iterable[bool], tested: bool, complete: bool) -> str:
    """The verdict on a claim whose comparisons each support or refute it or neither, whether any of them is ``tested``
    (has numbers), and whether they are the ``complete`` set that the claim makes."""
    if any(refutes):
        return REFUTED
    if not tested:
        return NO_DATA
    return SUPPORTED if complete and all(supports) else OPEN


def stand_for(runs: Runs, roles: Names) -> dict[str, str]:
    """Our corpora that speak for a paper's ("IEMOCAP"), by key: its own where it is available, else all its stand-ins.
    The runs are of one paper's grids."""
    cards = runs.grid.cards
    names = {key: card["role"].partition(" ")[2] for key, card in cards.items()}
    own = {names[key] for key, card in cards.items() if card["evidence"] == "same corpus"}
    kinds = {key: "same corpus" if name in own else "stand-in" for key, name in names.items()}
    return {key: names[key] for key, card in cards.items() if names[key] in roles and card["evidence"] == kinds[key]}


def _by_tests(
    tests: Callable[[Runs, list[str]], pd.DataFrame],
    roles: Names,
    supports: Judge = lambda rows: rows["verdict"] == "higher",
    refutes: Judge = lambda rows: rows["verdict"] == "lower",
) -> Answer:
    """The claim that tests decide: rows as of ``statistics.test_differences``, from runs and keys of our corpora."""

    def answer(runs: Runs) -> Finding:
        corpora = stand_for(runs, roles)
        rows = tests(runs, list(corpora))
        learnt = ~rows["verdict"].astype(str).str.contains(statistics.NOT_LEARNT).astype(bool)
        enough = (rows["n"] >= FEWEST_PAIRS) & learnt
        complete = set(corpora.values()) == set(roles)
        decided = verdict(enough & supports(rows), enough & refutes(rows), rows["p"].notna().any(), complete)
        return Finding(decided, _evidence(rows, runs, roles))

    return answer


def _evidence(rows: pd.DataFrame, runs: Runs, roles: Names) -> str:
    """The tests of a claim in words, and which corpora have none. The metric is named unless all are of accuracy."""
    corpora, tested = stand_for(runs, roles), set(rows.loc[rows["p"].notna(), "corpus"])
    named, words = set(rows["metric"]) != {"accuracy"}, []
    for _, r in rows[rows["corpus"].isin(tested)].iterrows():
        test = r["verdict"]
        if pd.notna(r["p"]):
            but = f", but {test}" if statistics.NOT_LEARNT in test else ""
            pairs = f"{r['n']} pairs of {r['seeds']} seed" + "s" * (r["seeds"] > 1)
            test = f"{_points(r)}, p = {r['p (Holm)']:.3f}, {pairs}{but}"
        metric = f", {_SHORT.get(r['metric'], r['metric'].replace('_accuracy', ' accuracy'))}" if named else ""
        words.append(f"{_place(runs, r['corpus'], r['comparison'].split(' - '))}: {r['comparison']}{metric}: {test}")
    absent = [role for role in roles if role not in corpora.values()] + [key for key in corpora if key not in tested]
    return "; ".join([*words, f"too few runs on {', '.join(absent)}"] if words and absent else words) or "no runs"


def _place(runs: Runs, corpus: str, systems: Names) -> str:
    """A corpus, with what it stands in for, and with what the sources of a transfer were trained on."""
    card = runs.grid.cards[corpus]
    source = tables.source_note([r for system in systems for r in statistics.records_of(runs, corpus, system)])
    kind = "" if card["evidence"] == "same corpus" else f" (stand-in for {card['role'].partition(' ')[2]})"
    return f"{corpus}{kind}{f' ({source})' if source else ''}"


def _points(row: pd.Series) -> str:
    return f"{100 * row['difference']:+.1f} points [{100 * row['low']:+.1f}, {100 * row['high']:+.1f}]"


def _by_differences(compared: Callable[[Runs, str], Differences], roles: Names) -> Answer:
    """The claim that differences on each of our corpora are positive: see ``Differences``."""

    def tests(runs: Runs, corpora: list[str]) -> pd.DataFrame:
        families = {(key, *name): by_run for key in corpora for *name, by_run in compared(runs, key)}
        return statistics.test_differences(runs, families)

    return _by_tests(tests, roles)


def beats(pairs: Pairs, roles: Names, metrics: Names = ("accuracy",)) -> Answer:
    """The claim that the first of each pair of systems beats the second in each of the metrics on each of the corpora.
    ``roles`` are names of the paper's corpora, each of which must have its say; metrics are those of
    ``statistics.metric_value``."""
    return _by_tests(lambda runs, corpora: statistics.paired_tests(runs, pairs, metrics, corpora), roles)


def higher(better: Names, others: Names, roles: Names, metrics: Names = ("accuracy",)) -> Answer:
    """The claim that each of some systems beats each of others: see ``beats``."""
    return beats([*product(better, others)], roles, metrics)


def alike(pairs: Pairs, roles: Names, metrics: Names = ("accuracy",), margin: float = 0.01) -> Answer:
    """The claim that the systems of each pair differ by less than ``margin`` either way: see ``beats``. It is supported
    where the interval of each difference lies within the margin, and not supported where one lies beyond it and the
    difference is significant."""
    return _by_tests(
        lambda runs, corpora: statistics.paired_tests(runs, pairs, metrics, corpora),
        roles,
        lambda rows: (rows["low"] > -margin) & (rows["high"] < margin),
        lambda rows: ((rows["low"] > margin) | (rows["high"] < -margin)) & (rows["p (Holm)"] <= statistics.LEVEL),
    )


def helps_more(pairs: Pairs, others: Pairs, roles: Names, metrics: Names = ("accuracy",)) -> Answer:
    """The claim that some systems gain more from a change than others, fold by fold and seed by seed. Each pair is a
    system with the change, and without it; for the rest see ``beats``."""

    def compared(runs: Runs, key: str) -> Differences:
        for metric, *both in product(metrics, pairs, others):
            gains = (differences(*(values(runs, key, system, metric) for system in pair)) for pair in both)
            yield " - ".join(f"gain of {system}" for system, _ in both), metric, differences(*gains)

    return _by_differences(compared, roles)


def hardest(systems: Names, label: str, others: Names, roles: Names) -> Answer:
    """The claim that systems recall less of one class than of each other one."""

    def compared(runs: Runs, key: str) -> Differences:
        for system, other in product(systems, others):
            recalls = (values(runs, key, system, f"recall of {name}") for name in (other, label))
            yield f"{other} - {label}", f"recall of {system}", differences(*recalls)

    return _by_differences(compared, roles)


def probe_higher(pairs: Pairs, reading: Reading, roles: Names) -> Answer:
    """The claim that a probe gives a larger number for the first of each pair of systems than for the second."""

    def compared(runs: Runs, key: str) -> Differences:
        for pair in pairs:
            numbers = (reading.by_run(runs, key, system) for system in pair)
            yield " - ".join(pair), reading.name, differences(*numbers)

    return _by_differences(compared, roles)


def above(systems: Names, reading: Reading, bound: float, roles: Names) -> Answer:
    """The claim that a share, given by a probe, is above a bound for each system: its interval over the folds is."""

    def answer(runs: Runs) -> Finding:
        corpora = stand_for(runs, roles)
        supports, refutes, words = [], [], []
        for key, system in product(corpora, systems):
            shares = [(fold, share) for (fold, _), share in reading.by_run(runs, key, system).items()]
            if len(dict(shares)) > 1:
                share = statistics.over_folds(shares)
                supports.append(share.low > bound and len(shares) >= FEWEST_PAIRS)
                refutes.append(share.high < bound and len(shares) >= FEWEST_PAIRS)
                extent = f"interval over {share.n} folds, {len(shares)} networks"
                words.append(f"{_place(runs, key, [system])}: {system}, {reading.name}: {share}, {extent}")
        complete = set(corpora.values()) == set(roles) and len(words) == len(corpora) * len(systems)
        return Finding(verdict(supports, refutes, bool(words), complete), "; ".join(words) or "no runs")

    return answer


def overfits(fewer: str, more: str, role: str) -> Answer:
    """The claim that more of something lowers test accuracy and widens the gap to training accuracy, on one corpus."""

    def answer(runs: Runs) -> Finding:
        finding = beats([(fewer, more)], [role])(runs)
        if finding.verdict == NO_DATA:
            return finding
        rows = statistics.paired_tests(runs, [(more, fewer)], [statistics.GAP], list(stand_for(runs, [role])))
        words = [f"{r['comparison']} {_points(r)}" for _, r in rows[rows["p"].notna()].iterrows()]
        evidence = f"{finding.evidence}; {statistics.GAP}, at the epoch that validation chose: {'; '.join(words)}"
        narrow = finding.verdict == SUPPORTED and not (rows["verdict"] == "higher").all()
        return Finding(OPEN if narrow else finding.verdict, evidence)

    return answer


def most_on(role: str | None, pair: tuple[str, str], roles: Names) -> Answer:
    """The claim that one system leads another on one corpus, and by more than on each of the others.

    The leads are compared by Welch's test with the standard errors of their own tests, Holm-corrected over the corpora.
    ``role`` is one of the paper's corpora, which are ``roles``; None is ours with the fewest training clips.
    """

    def answer(runs: Runs) -> Finding:
        rows = statistics.paired_tests(runs, [pair], corpora=list(stand_for(runs, roles)))
        evidence, leads = _evidence(rows, runs, roles), rows[rows["p"].notna()].set_index("corpus")
        corpora = {key: name for key, name in stand_for(runs, roles).items() if key in leads.index}
        most = next((key for key, name in corpora.items() if name == role), None)
        if role is None and corpora:
            clips = {key: min(s["train"] for s in runs.grid.cards[key]["splits"].values()) for key in corpora}
            most = min(corpora, key=clips.get)
            evidence = f"fewest training clips: {most} ({clips[most]}); {evidence}"
        if most is None or len(leads) < 2:
            return Finding(NO_DATA, evidence)
        n = leads["n"].astype(float)
        error = (leads["high"] - leads["low"]) / 2 / stats.t.ppf(1 - statistics.LEVEL / 2, n - 1)
        numbers = pd.DataFrame({"mean": leads["difference"], "deviation": error * n**0.5, "n": n})
        here, others = numbers.loc[most], numbers.drop(index=most)
        t, p = stats.ttest_ind_from_stats(*here, *others.to_numpy(float).T, equal_var=False)
        significant = (statistics.holm(p) <= statistics.LEVEL) & (others["n"].clip(upper=here["n"]) >= FEWEST_PAIRS)
        complete = set(corpora.values()) == set(roles) and leads.loc[most, "verdict"] == "higher"
        return Finding(verdict(significant & (t > 0), significant & (t < 0), True, complete), evidence)

    return answer


def printed(check: Callable[[], Iterable[tuple[bool, str]]]) -> Answer:
    """A claim that the paper's own tables answer: ``check`` gives whether each number agrees, and words for it."""

    def answer(_: Runs) -> Finding:
        agree, words = zip(*check(), strict=True)
        return Finding(SUPPORTED if all(agree) else REFUTED, f"{'; '.join(words)} (from the paper's own table)")

    return answer


def untried(why: str) -> Answer:
    """A claim that no run here asks about, and why."""
    return lambda _: Finding(NO_DATA, why)


def ledger(papers: Iterable, profile: str) -> tuple[pd.DataFrame, list[Runs]]:
    """One row per claim: paper, where, claim, verdict, evidence, notebook; from the records, without training. The
    papers are as ``capslib.papers.declared`` gives them. Returns the rows, and the runs that the claims need; papers
    with the same grids share theirs."""
    rows, needed = [], {}
    for paper in papers:
        place = (paper.grids, paper.derived)
        if paper.claims and place not in needed:
            needed[place] = paper.derived(study.recorded(study.Grid(profile, (), {}, {}), *paper.grids(profile)))
        for words, claim in paper.claims.items():
            head = {"paper": paper.key, "where": claim.where, "claim, in our words": words}
            rows.append(head | claim.answer(needed[place])._asdict() | {"notebook": claim.notebook})
    return pd.DataFrame(rows), list(needed.values())
