"""The ledger: one row a claim of a paper, what our records say about it, and a verdict that is computed, never typed.

Only recordings count, the papers' own or stand-ins; a stand-in can speak for or against the order of systems. A verdict is

    not supported  a comparison that the claim makes is significant in the other direction
    no data here   else, if no comparison has two pairs of runs
    supported      all that it makes are here, and significant in its direction
    inconclusive   anything else

after Holm's correction over the comparisons of the claim, each from at least five pairs. Runs of older code do not count, and
nor does a difference where the loser fits its own training part worse than the winner does unseen clips: that was not trained
to the end, and speaks about the budget.
One row is our own question and is answered from the paper's table alone; shares (of variance, of clips told) are held against a
bound, by their interval, in place of a comparison.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass

import pandas as pd
from scipy import stats

from capslib import corpora, probes, published, recipes, statistics, study, tables
from capslib.errors import CapslibError
from capslib.study import Runs

FEWEST_PAIRS = 5
SUPPORTED, REFUTED, OPEN, NO_DATA = "supported", "not supported", "inconclusive", "no data here"
P0_CORPORA = ("VCTK", "IEMOCAP", "Urban8K", "FSDD")
_BASELINES = {name: (name, {}) for name in ("cnn", "lstm", "att", "caps")}
_PASSES = {"1 pass": ("caps", {"num_iterations": 1}), "5 passes": ("caps", {"num_iterations": 5})}
_SIZES = {f"D = {d}": ("caps", {"capsule_features": d}) for d in (2, 32)}
_DECODER = {"weight 0.5": ("caps_decoder", {"weight": 0.5})}


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
    """Which of P0's corpora each of ours stands for; the paper's own where it is here, else all stand-ins."""
    known = {key: card["role"].removeprefix("P0 ") for key, card in runs.grid.cards.items()}
    kind = {key: card["evidence"] for key, card in runs.grid.cards.items()}
    own = {known[key] for key in known if kind[key] == "same corpus"}
    usable = {key for key in known if kind[key] == "same corpus" or (kind[key] == "stand-in" and known[key] not in own)}
    return {key: role for key, role in known.items() if role in roles and key in usable}


def _tests(
    runs: Runs, better: str, others: Sequence[str], roles: Sequence[str], metric: str = "accuracy"
) -> pd.DataFrame:
    """Paired tests of ``better`` against ``others`` on our corpora for ``roles``, one family."""
    keys = _of_role(runs, roles)
    records = [r for r in runs.records if r["config"]["corpus"] in keys and r["system"] in {better, *others}]
    rows = statistics.against(records, better, metric)
    unlearnt = rows["verdict"].map(lambda verdict: statistics.NOT_LEARNT in verdict).astype(bool)
    unfit = rows["verdict"].where(unlearnt, "")
    return rows.assign(
        role=rows["corpus"].map(keys), verdict=rows["verdict"].mask(unlearnt, "inconclusive"), unfit=unfit
    )


def _verdict(rows: pd.DataFrame, wanted: int) -> str:
    tested = rows[rows["n"] >= FEWEST_PAIRS]
    if (tested["verdict"] == "lower").any():
        return REFUTED
    if rows["p"].isna().all():
        return NO_DATA
    complete = len(tested) == len(rows) and len(rows.drop_duplicates(["role", "comparison"])) == wanted
    return SUPPORTED if complete and (tested["verdict"] == "higher").all() else OPEN


def _said(rows: pd.DataFrame, runs: Runs, roles: Sequence[str] = ()) -> str:
    """The comparisons in words, and which of P0's corpora ``roles`` have none."""
    told = []
    for _, r in rows.iterrows():
        card = runs.grid.cards[r["corpus"]]
        kind = "" if card["evidence"] == "same corpus" else f" (stand-in for {r['role']})"
        heard = tables.source_note([x for x in runs.records if x["system"] in r["comparison"].split(" - ")])
        kind += f" ({heard})" if heard else ""
        span = f"[{100 * r['low']:+.1f}, {100 * r['high']:+.1f}]"
        test = f"{100 * r['difference']:+.1f} points {span}, p = {r['p (Holm)']:.3f}, {r['n']} pairs"
        said = r["verdict"] if pd.isna(r["p"]) else test
        told.append(f"{r['corpus']}{kind}: {r['comparison']} {said}{', but ' + r['unfit'] if r['unfit'] else ''}")
    absent = [role for role in roles if role not in set(rows["role"])]
    if told and absent:
        told.append(f"no runs for {', '.join(absent)}")
    return "; ".join(told) or "no runs"


def higher(
    better: str, others: Sequence[str], roles: Sequence[str] = P0_CORPORA, metric: str = "accuracy"
) -> Callable[[Runs], Finding]:
    """The claim that one system beats others on each of P0's corpora named."""

    def answer(runs: Runs) -> Finding:
        rows = _tests(runs, better, others, roles, metric)
        return Finding(_verdict(rows, len(others) * len(roles)), _said(rows, runs, roles))

    return answer


def most_on(role: str | None, better: str, other: str) -> Callable[[Runs], Finding]:
    """The claim that one system leads another on one corpus, and by more than on each of the others.

    The leads are compared by Welch's test with the standard errors of their own tests, Holm-corrected over the corpora.

    Args:
        role: which of P0's corpora; None for ours with the fewest training clips.
        better, other: the systems.
    """

    def answer(runs: Runs) -> Finding:
        rows = _tests(runs, better, [other], P0_CORPORA)
        said, lead = _said(rows, runs, P0_CORPORA), rows[rows["p"].notna()].set_index("corpus")
        clips = {r["config"]["corpus"]: r["data"]["clips"]["train"] for r in runs.records}
        if role is None and len(lead):
            key = min(lead.index, key=clips.get)
            said = f"fewest training clips: {key} ({clips[key]}); {said}"
        else:
            key = next(iter(lead.index[lead["role"] == role]), None)
        if key is None or len(lead) < 2:
            return Finding(NO_DATA, said)
        half = (lead["high"] - lead["low"]) / 2
        lead = lead.assign(error=half / stats.t.ppf(1 - statistics.LEVEL / 2, lead["n"].astype(float) - 1))
        here, others = lead.loc[key], lead.drop(index=key)
        spread = (here["error"] ** 2 + others["error"] ** 2) ** 0.5
        freedom = spread**4 / (here["error"] ** 4 / (here["n"] - 1) + others["error"] ** 4 / (others["n"] - 1))
        t = ((here["difference"] - others["difference"]) / spread).astype(float)
        significant = statistics.holm(2 * stats.t.sf(t.abs(), freedom.astype(float))) <= statistics.LEVEL
        significant &= ((others["n"] >= FEWEST_PAIRS) & (here["n"] >= FEWEST_PAIRS)).to_numpy()
        verdict = OPEN
        if (significant & (t < 0)).any():
            verdict = REFUTED
        elif (significant & (t > 0)).all() and here["verdict"] == "higher" and set(lead["role"]) == set(P0_CORPORA):
            verdict = SUPPORTED
        return Finding(verdict, said)

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


def _seen(runs: Runs, network: str, kind: str, value: Callable[[dict], float]) -> dict[tuple[str, int], float]:
    """A number of the looks at a perturbation that there are, by fold and seed."""
    looks = probes.run(
        runs, probes.perturbed.components, train=False, given=probes.train_and_test, system=f"{network}, {kind}"
    )
    return {(look["split"], look["seed"]): value(look) for look in looks}


def side(look: dict) -> float:
    """How often a linear map tells a higher level from a lower one, for clips of unseen speakers."""
    return look["side"]


def above(kinds: Sequence[str], value: Callable[[dict], float], bound: float, what: str) -> Callable[[Runs], Finding]:
    """The claim that a share lies above a bound on each perturbation: its interval does, each from at least five networks."""

    def answer(runs: Runs) -> Finding:
        verdicts, told = [], []
        for kind in kinds:
            found = _seen(runs, "capsules", kind, value)
            looks = [{"split": split, "share": share} for (split, _), share in found.items()]
            if len({look["split"] for look in looks}) < 2:
                return Finding(NO_DATA, "no runs")
            share = statistics.over_folds(looks, lambda look: look["share"], (0.0, 1.0))
            decided = SUPPORTED if share.low > bound else REFUTED if share.high < bound else OPEN
            verdicts.append(decided if len(looks) >= FEWEST_PAIRS else OPEN)
            told.append(f"{kind}: {share} {what}, interval over {share.n} folds, {len(looks)} networks")
        verdict = REFUTED if REFUTED in verdicts else OPEN if OPEN in verdicts else SUPPORTED
        return Finding(verdict, "; ".join(told))

    return answer


def more_than_untrained(kinds: Sequence[str], value: Callable[[dict], float]) -> Callable[[Runs], Finding]:
    """Our question: whether training, and not the network as it was initialized, makes a share as large as it is."""

    def answer(runs: Runs) -> Finding:
        tests = {}
        for kind in kinds:
            ours, control = (_seen(runs, network, kind, value) for network in ("capsules", "untrained"))
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
    table = published.table("P0", "Table 1").pivot(index="row", columns="column", values="value")
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
    Claim("P0", "section 5.2, Table 1", "and most on FSDD", "03", most_on("FSDD", "1 pass", "5 passes")),
    Claim("P0", "section 5.2, Table 1", "more routing passes overfit on city sounds (part of its general sentence)", "03", overfits("1 pass", "5 passes", "Urban8K")),
    Claim("P0", "section 5.3, Fig. 2", "accuracy rises with the dimension, up to P0's 16 (16 against 2)", "04", higher("caps", ("D = 2",))),
    Claim("P0", "section 5.3, Fig. 2", "and falls beyond it (16 against 32)", "04", higher("caps", ("D = 32",))),
    Claim("P0", "section 5.3", "corpora with less data suffer more from a larger dimension (16 against 32; P0 names VCTK, which is not small)", "04",
          most_on(None, "caps", "D = 32")),
    Claim("P0", "section 5.4, Table 1", "a reconstruction decoder is generally beneficial (all four corpora)", "05", higher("weight 0.5", ("caps",))),
    Claim("P0", "section 5.4, Table 1", "especially on little data (FSDD)", "05", higher("weight 0.5", ("caps",), ("FSDD",))),
    Claim("P0", "section 5.4, Table 1", "a decoder lowers accuracy on VCTK (the table, against the text)", "05",
          higher("caps", ("weight 0.5",), ("VCTK",))),
    Claim("P0", "section 5.5, Table 2", "capsules beat ATT where two classes sound at once", "06",
          higher("caps", ("att",), ("Multi-VCTK", "Multi-MUSAN"), "weighted_accuracy")),
    Claim("P0", "section 6.1, Figs. 3 and 4", "louder and faster clips are clearly separated from quieter and slower ones (here: a linear map tells them apart "
          "in over three quarters of unseen speakers' clips)", "07", above(("gain", "speed"), side, 0.75, "of the clips")),
    Claim("P0", "section 6.1", "our question: a trained network separates them better than an untrained one, and speed also in the band that all speeds share", "07",
          more_than_untrained(("gain", "speed", recipes.SHARED_BAND), side)),
    Claim("P0", "section 6.1, Figs. 3 and 4", "two components explain most of the variance under perturbation (gain, offset, speed)", "07",
          above(tuple(recipes.LEVELS), probes.perturbed.two, 0.5, "of the variance")),
    Claim("P0", "section 6.1", "our question: they explain more in a trained network than in an untrained one", "07",
          more_than_untrained(tuple(recipes.LEVELS), probes.perturbed.two)),
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
    absent = {key: how for grid in grids for key, how in grid.absent.items()}
    return Runs(study.Grid(grids[0].profile, runs, cards, absent), found, missing, (), ())


def grids(profile: str) -> list[study.Grid]:
    """What the claims of P0 need: notebooks 02 to 05 on every corpus, 06 on mixtures, 07 on FSDD and 08 on RAVDESS."""
    wanted = "at hand" if profile == "full" else "embedded"
    plain = [
        study.grid(study.corpora_in(profile, wanted), _BASELINES | _PASSES | _SIZES | _DECODER, profile),
        study.grid(study.corpora_in(profile, wanted, multi_label=True), ["att", "caps"], profile),
    ]
    if profile != "full":
        return plain
    sources: dict[str, study.System] = {}
    with suppress(CapslibError):  # no source is here: these claims have no runs
        for name, changes in (("capsules", {}), ("untrained", {"epochs": 0})):
            source = recipes.transfer_source(recipes.TRANSFER_SOURCES, "caps", profile, **changes)
            sources[f"{name}, tiled"] = ("caps", {}, {"source": source})
    perturbed = recipes.perturbed_systems(corpora.parse("fsdd")[0].sample_rate)
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
