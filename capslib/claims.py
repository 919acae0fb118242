"""The ledger: one row a claim of a paper, what our records say about it, and a verdict that is computed, never typed.

Only recordings count, the papers' own or stand-ins; a stand-in can speak for or against the order of systems. A verdict is

    not supported  a comparison that the claim makes is significant in the other direction
    no data here   else, if a comparison has no runs, or one pair of runs only
    supported      all are significant in its direction
    inconclusive   anything else

after Holm's correction over the comparisons of the claim, each from at least five pairs. Runs of older code do not count, and
nor does a difference where the loser fits its own training part worse than the winner does unseen clips: that was not trained
to the end, and speaks about the budget.
One row is our own question and is answered from the paper's table alone; the share of variance is held against a half, by its
interval, in place of a comparison.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import pandas as pd
from scipy import stats

from capslib import insight, statistics, study, tables
from capslib.study import Runs

FEWEST_PAIRS = 5
SUPPORTED, REFUTED, OPEN, NO_DATA = "supported", "not supported", "inconclusive", "no data here"
P0_CORPORA = ("VCTK", "IEMOCAP", "Urban8K", "FSDD")
_BASELINES = {name: (name, {}) for name in ("cnn", "lstm", "att", "caps")}
_PASSES = {"1 pass": ("caps", {"num_iterations": 1}), "5 passes": ("caps", {"num_iterations": 5})}
_SIZES = {f"D = {d}": ("caps", {"capsule_features": d}) for d in (2, 32)}
_DECODER = {"weight 0.5": ("caps_decoder", {"weight": 0.5})}
_PERTURBED = {
    "gain": (-12.0, -6.0, 0.0, 6.0, 12.0),
    "offset": (-0.1, -0.05, 0.0, 0.05, 0.1),
    "speed": (0.7, 0.85, 1.0, 1.15, 1.3),
}


@dataclass(frozen=True)
class Finding:
    """A verdict and the numbers behind it, in one sentence."""

    verdict: str
    evidence: str


@dataclass(frozen=True)
class Claim:
    """What a paper says, where, and how our records answer.

    Attributes:
        paper, where: "P0", "section 5.1, Table 1".
        words: the claim, in our words.
        notebook: that asks the question.
        answer: from the runs there are to a finding.
    """

    paper: str
    where: str
    words: str
    notebook: str
    answer: Callable[[Runs], Finding]


def _of_role(runs: Runs, roles: Sequence[str]) -> dict[str, str]:
    """Corpus of our runs for each of P0's corpora; the paper's own before a stand-in."""
    found: dict[str, str] = {}
    for key, card in runs.grid.cards.items():
        role = card["role"].removeprefix("P0 ")
        if role in roles and card["evidence"] in ("same corpus", "stand-in"):
            if role not in found or card["evidence"] == "same corpus":
                found[role] = key
    return found


def _tests(
    runs: Runs, better: str, others: Sequence[str], roles: Sequence[str], metric: str = "accuracy"
) -> pd.DataFrame:
    """Paired tests of ``better`` against ``others`` on our corpora for ``roles``, one family."""
    keys = _of_role(runs, roles)
    records = [r for r in runs.records if r["config"]["corpus"] in keys.values() and r["system"] in {better, *others}]
    rows = statistics.against(records, better, metric)
    unfit = [not_learnt(records, row, better, metric) for _, row in rows.iterrows()]
    rows.loc[[bool(note) for note in unfit], "verdict"] = "inconclusive"
    return rows.assign(role=rows["corpus"].map({key: role for role, key in keys.items()}), unfit=unfit)


def not_learnt(records: Sequence[dict], row: pd.Series, better: str, metric: str) -> str:
    """Which of two systems lost without having learnt its training part, in words; "" if neither."""
    if row["verdict"] not in ("higher", "lower"):
        return ""
    other = row["comparison"].removeprefix(f"{better} - ")
    loser, winner = (other, better) if row["verdict"] == "higher" else (better, other)

    def mean(system: str, part: str) -> float:
        found = [r[part] for r in records if r["config"]["corpus"] == row["corpus"] and r["system"] == system]
        return sum(one.get(metric, one["accuracy"]) for one in found) / len(found)

    learnt = mean(loser, "train")
    return f"{loser} has not learnt its training part ({learnt:.2f})" if learnt < mean(winner, "test") else ""


def _verdict(rows: pd.DataFrame, wanted: int) -> str:
    tested = rows[rows["n"] >= FEWEST_PAIRS]
    if (tested["verdict"] == "lower").any():
        return REFUTED
    if len(rows) < wanted or rows["p"].isna().any():
        return NO_DATA
    return SUPPORTED if len(tested) == wanted and (tested["verdict"] == "higher").all() else OPEN


def _said(rows: pd.DataFrame, runs: Runs) -> str:
    if rows.empty:
        return "no runs"
    told = []
    for _, r in rows.iterrows():
        card = runs.grid.cards[r["corpus"]]
        kind = "" if card["evidence"] == "same corpus" else f" (stand-in for {r['role']})"
        span = f"[{100 * r['low']:+.1f}, {100 * r['high']:+.1f}]"
        test = f"{100 * r['difference']:+.1f} points {span}, p = {r['p (Holm)']:.3f}, {r['n']} pairs"
        said = "one pair only" if pd.isna(r["p"]) else test
        told.append(f"{r['corpus']}{kind}: {r['comparison']} {said}{', but ' + r['unfit'] if r['unfit'] else ''}")
    return "; ".join(told)


def higher(
    better: str, others: Sequence[str], roles: Sequence[str] = P0_CORPORA, metric: str = "accuracy"
) -> Callable[[Runs], Finding]:
    """The claim that one system beats others on each of P0's corpora named."""

    def answer(runs: Runs) -> Finding:
        rows = _tests(runs, better, others, roles, metric)
        return Finding(_verdict(rows, len(others) * len(roles)), _said(rows, runs))

    return answer


def most_on(role: str, better: str, other: str) -> Callable[[Runs], Finding]:
    """The claim that one system leads another on one corpus, and by more than on each of the others.

    The leads are compared by Welch's test with the standard errors of their own tests, Holm-corrected over the corpora.
    """

    def answer(runs: Runs) -> Finding:
        rows = _tests(runs, better, [other], P0_CORPORA)
        if len(rows) < len(P0_CORPORA) or rows["p"].isna().any():
            return Finding(NO_DATA, _said(rows, runs))
        error = (rows["high"] - rows["low"]) / 2 / stats.t.ppf(1 - statistics.LEVEL / 2, rows["n"] - 1)
        lead = rows.assign(error=error).set_index("role")
        here, others = lead.loc[role], lead.drop(index=role)
        spread = (here["error"] ** 2 + others["error"] ** 2) ** 0.5
        freedom = spread**4 / (here["error"] ** 4 / (here["n"] - 1) + others["error"] ** 4 / (others["n"] - 1))
        t = (here["difference"] - others["difference"]) / spread
        significant = statistics.holm(2 * stats.t.sf(t.abs(), freedom)) <= statistics.LEVEL
        significant &= ((others["n"] >= FEWEST_PAIRS) & (here["n"] >= FEWEST_PAIRS)).to_numpy()
        verdict = OPEN
        if (significant & (t < 0)).any():
            verdict = REFUTED
        elif (significant & (t > 0)).all() and here["verdict"] == "higher":
            verdict = SUPPORTED
        return Finding(verdict, _said(rows, runs))

    return answer


def overfits(fewer: str, more: str, role: str) -> Callable[[Runs], Finding]:
    """The claim that more of something lowers test accuracy and widens the gap to training accuracy."""

    def answer(runs: Runs) -> Finding:
        rows = _tests(runs, fewer, [more], [role])
        verdict = _verdict(rows, 1)
        if verdict == NO_DATA:
            return Finding(NO_DATA, _said(rows, runs))
        corpus = rows["corpus"].item()
        both = [r for r in runs.records if r["config"]["corpus"] == corpus and r["system"] in (fewer, more)]
        gaps = [r | {"test": {"gap": r["train"]["accuracy"] - r["test"]["accuracy"]}} for r in both]
        wider = statistics.against(gaps, more, "gap").iloc[0]
        said = (
            f"{_said(rows, runs)}; training minus test accuracy, at the epoch that validation chose: {more} - {fewer} "
            f"{100 * wider['difference']:+.1f} points [{100 * wider['low']:+.1f}, {100 * wider['high']:+.1f}]"
        )
        return Finding(OPEN if verdict == SUPPORTED and wider["verdict"] != "higher" else verdict, said)

    return answer


def _two_components(runs: Runs, network: str, kind: str) -> dict[tuple[str, int], float]:
    """Variance in two components by fold and seed, from the looks there are."""
    looks = insight.looks(runs, insight.components, train=False, system=f"{network}, {kind}")
    return {(look["split"], look["seed"]): insight.two(look) for look in looks}


def mostly_two(kinds: Sequence[str]) -> Callable[[Runs], Finding]:
    """The claim that two components explain most of the variance: the interval lies above a half on each perturbation, each
    from at least five networks."""

    def answer(runs: Runs) -> Finding:
        verdicts, told = [], []
        for kind in kinds:
            found = _two_components(runs, "capsules", kind)
            looks = [{"split": split, "share": share} for (split, _), share in found.items()]
            if len({look["split"] for look in looks}) < 2:
                return Finding(NO_DATA, "no runs")
            share = statistics.over_folds(looks, lambda look: look["share"], (0.0, 1.0))
            decided = SUPPORTED if share.low > 0.5 else REFUTED if share.high < 0.5 else OPEN
            verdicts.append(decided if len(looks) >= FEWEST_PAIRS else OPEN)
            told.append(f"{kind}: {share} of the variance, interval over {share.n} folds, {len(looks)} networks")
        verdict = REFUTED if REFUTED in verdicts else OPEN if OPEN in verdicts else SUPPORTED
        return Finding(verdict, "; ".join(told))

    return answer


def more_than_untrained(kinds: Sequence[str]) -> Callable[[Runs], Finding]:
    """Our question: whether training, and not the network as it was initialized, puts the variance into two components."""

    def answer(runs: Runs) -> Finding:
        tests = {}
        for kind in kinds:
            ours, control = (_two_components(runs, network, kind) for network in ("capsules", "untrained"))
            common = sorted(ours.keys() & control.keys())
            if len(common) < 2:
                return Finding(NO_DATA, "no runs")
            clips = [r["data"]["clips"] for r in runs.of(system=f"capsules, {kind}")]
            ratio = sum(c["test"] / c["train"] for c in clips) / len(clips)
            tests[kind] = statistics.corrected_resampled_t_test([ours[c] - control[c] for c in common], ratio)
        adjusted = statistics.holm([test.p for test in tests.values()])
        told, signs = [], []
        for (kind, test), p in zip(tests.items(), adjusted, strict=True):
            decided = p <= statistics.LEVEL and test.n >= FEWEST_PAIRS
            signs.append((1 if test.difference > 0 else -1) if decided else 0)
            span = f"[{100 * test.low:+.1f}, {100 * test.high:+.1f}]"
            told.append(f"{kind}: {100 * test.difference:+.1f} points {span}, p = {p:.3f}, {test.n} pairs")
        verdict = REFUTED if -1 in signs else SUPPORTED if all(sign == 1 for sign in signs) else OPEN
        return Finding(verdict, "trained minus untrained, " + "; ".join(told))

    return answer


def resolved(_: Runs) -> Finding:
    """Whether P0's three nominally equal columns are closer to each other than its CAPS and ATT."""
    table = tables.published("P0", "Table 1")
    spread = table[["CAPS", "3", "No Regularization"]].max(axis=1) - table[["CAPS", "3", "No Regularization"]].min(
        axis=1
    )
    lead = (table["CAPS"] - table["ATT"]).abs()
    said = "; ".join(
        f"{row}: equal columns differ by {spread[row]:.3f}, CAPS and ATT by {lead[row]:.3f}" for row in P0_CORPORA
    )
    return Finding(SUPPORTED if (spread < lead).all() else REFUTED, f"{said} (from the paper's own table)")


CLAIMS = (
    Claim("P0", "section 5.1, Table 1", "capsules beat CNN, LSTM and ATT on gender, emotion and city sounds", "02",
          higher("caps", ("cnn", "lstm", "att"), P0_CORPORA[:3])),
    Claim("P0", "section 5.1, Table 1", "on FSDD the CNN is best", "02", higher("cnn", ("lstm", "att", "caps"), ("FSDD",))),
    Claim("P0", "section 5.1", "capsules beat ATT on all four corpora", "02", higher("caps", ("att",))),
    Claim("P0", "section 5.1", "and most on UrbanSound8K", "02", most_on("Urban8K", "caps", "att")),
    Claim("P0", "Table 1", "our question: its accuracies resolve its differences, three columns of one model being closer than CAPS and ATT",
          "02", resolved),
    Claim("P0", "section 5.2, Table 1", "more routing passes tend to overfit, on FSDD (1 pass against 5)", "03",
          overfits("1 pass", "5 passes", "FSDD")),
    Claim("P0", "section 5.2, Table 1", "the same on city sounds", "03", overfits("1 pass", "5 passes", "Urban8K")),
    Claim("P0", "section 5.3, Fig. 2", "accuracy rises with the dimension, up to P0's 16 (16 against 2)", "04", higher("caps", ("D = 2",))),
    Claim("P0", "section 5.3, Fig. 2", "and falls beyond it (16 against 32)", "04", higher("caps", ("D = 32",))),
    Claim("P0", "section 5.3", "less data (VCTK) suffers more from a larger dimension (16 against 32)", "04", most_on("VCTK", "caps", "D = 32")),
    Claim("P0", "section 5.4, Table 1", "a reconstruction decoder helps on little data (FSDD)", "05", higher("weight 0.5", ("caps",), ("FSDD",))),
    Claim("P0", "section 5.4, Table 1", "a decoder lowers accuracy on VCTK (the table, against the text)", "05",
          higher("caps", ("weight 0.5",), ("VCTK",))),
    Claim("P0", "section 5.5, Table 2", "capsules beat ATT where two classes sound at once", "06",
          higher("caps", ("att",), ("Multi-VCTK", "Multi-MUSAN"), "weighted_accuracy")),
    Claim("P0", "section 6.1, Figs. 3 and 4", "two components explain most of the variance under perturbation (gain, offset, speed)", "07",
          mostly_two(tuple(_PERTURBED))),
    Claim("P0", "section 6.1", "our question: they explain more in a trained network than in an untrained one", "07",
          more_than_untrained(tuple(_PERTURBED))),
    Claim("P0", "section 6.2", "capsules of another emotion corpus help on RAVDESS (41% to 50%)", "08",
          higher("capsules, tiled", ("caps",), ("RAVDESS",))),
    Claim("P0", "section 6.2", "our question: they help more than the capsules of an untrained network", "08",
          higher("capsules, tiled", ("untrained, tiled",), ("RAVDESS",))),
)  # fmt: skip


def recorded(*grids: study.Grid) -> Runs:
    """Runs of today's code and data that have a record; there may be none."""
    runs = tuple(dict.fromkeys(run for grid in grids for run in grid.runs))
    cards = {key: card for grid in grids for key, card in grid.cards.items()}
    shelf = study.store(grids[0].profile)
    pairs = [(run, shelf.get(run.key)) for run in runs]
    found = tuple(record | {"system": run.system} for run, record in pairs if record)
    missing = tuple(run for run, record in pairs if not record)
    return Runs(study.Grid(grids[0].profile, runs, cards, {}), found, missing, (), ())


def grids(profile: str) -> list[study.Grid]:
    """What the claims of P0 need: notebooks 02 to 05 on every corpus, 06 on mixtures, 07 on FSDD and 08 on RAVDESS."""
    wanted = "at hand" if profile == "full" else "embedded"
    plain = [
        study.grid(study.corpora_in(profile, wanted), _BASELINES | _PASSES | _SIZES | _DECODER, profile),
        study.grid(study.corpora_in(profile, wanted, multi_label=True), ["att", "caps"], profile),
    ]
    if profile != "full":
        return plain
    networks = {"capsules": {}, "untrained": {"epochs": 0}}
    perturbed = {
        f"{network}, {kind}": ("caps", {}, changes | {"perturb": (kind, levels)})
        for kind, levels in _PERTURBED.items()
        for network, changes in networks.items()
    }
    sources = {
        f"{name}, tiled": ("caps", {}, {"source": job.config})
        for name, epochs in (("capsules", {}), ("untrained", {"epochs": 0}))
        for job in study.grid(["emodb"], ["caps"], profile, seeds=[0], folds=1, **epochs).runs
    }
    return [*plain, study.grid(["fsdd"], perturbed, profile), study.grid(["ravdess"], sources, profile)]


def ledger(
    profile: str, asked: Sequence[Claim] = CLAIMS, needed: Callable[[str], list[study.Grid]] = grids
) -> tuple[pd.DataFrame, Runs]:
    """One row a claim: paper, where, claim, verdict, evidence, notebook; from the records there are, without training.

    Args:
        profile: "quick" or "full".
        asked: the claims.
        needed: what they need, for a profile.
    Returns:
        The rows, and the runs that they need.
    """
    runs = recorded(*needed(profile))
    rows = []
    for claim in asked:
        found = claim.answer(runs)
        rows.append(
            {
                "paper": claim.paper,
                "where": claim.where,
                "claim, in our words": claim.words,
                "verdict": found.verdict,
                "evidence": found.evidence,
                "notebook": claim.notebook,
            }
        )
    return pd.DataFrame(rows), runs
