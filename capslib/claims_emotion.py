"""The ledger's rows for P1 and P2; verdicts as in ``claims``, of WA and UA, or of what the claim is about.

A claim that two systems are alike is supported where the interval of their difference lies within a point either way, and not
supported where it lies beyond that and the difference is significant. Some rows are our own questions. Where IEMOCAP itself is
here it speaks alone; else each of its stand-ins must agree, and all tests of a claim are one family. Pairs of one seed share the
weights at the start, so the number of seeds stands beside that of pairs.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence

import pandas as pd

from capslib import implied, probes, recipes, statistics, statistics_emotion, study, tables_emotion
from capslib.claims import FEWEST_PAIRS, NO_DATA, OPEN, REFUTED, SUPPORTED, Claim, Finding
from capslib.probes.gradients import input_gradients
from capslib.statistics_emotion import METRICS
from capslib.study import Runs

BOTH = tuple(METRICS.values())
_SHORT = {metric: short for short, metric in METRICS.items()}
MARGIN = 0.01
_CAPSULES = ("LSTM_Cap", "CNN_SeqCap", "CNN_RecCap")


def _keys(runs: Runs) -> list[str]:
    """IEMOCAP, or what stands in for it."""
    cards = {key: card for key, card in runs.grid.cards.items() if key in recipes.P2_CORPORA}
    own = [key for key, card in cards.items() if card["evidence"] == "same corpus"]
    return own or [key for key, card in cards.items() if card["evidence"] == "stand-in"]


def _finding(rows: pd.DataFrame, runs: Runs) -> Finding:
    """From tests that the claim expects to be "higher"."""
    return _decided(rows, runs, lambda rows: rows["verdict"] == "higher", lambda rows: rows["verdict"] == "lower")


def _decided(
    rows: pd.DataFrame,
    runs: Runs,
    speaks_for: Callable[[pd.DataFrame], pd.Series],
    speaks_against: Callable[[pd.DataFrame], pd.Series],
) -> Finding:
    unlearnt = rows["verdict"].astype(str).str.contains(statistics.NOT_LEARNT).astype(bool)
    enough = (rows["n"] >= FEWEST_PAIRS) & ~unlearnt
    verdict = OPEN
    if (enough & speaks_against(rows)).any():
        verdict = REFUTED
    elif rows["p"].isna().all():
        verdict = NO_DATA
    elif (enough & speaks_for(rows)).all():
        verdict = SUPPORTED
    told, some = [], rows.groupby("corpus")["p"].transform("count") > 0
    for _, r in rows[some].iterrows():
        kind = "" if runs.grid.cards[r["corpus"]]["evidence"] == "same corpus" else " (stand-in for IEMOCAP)"
        test = r["verdict"]
        if pd.notna(r["p"]):
            span = f"[{100 * r['low']:+.1f}, {100 * r['high']:+.1f}]"
            pairs = f"{r['n']} pairs of {r['seeds']} seed" + "s" * (r["seeds"] > 1)
            note = f", but {r['verdict']}" if unlearnt[r.name] else ""
            test = f"{100 * r['difference']:+.1f} points {span}, p = {r['p (Holm)']:.3f}, {pairs}{note}"
        told.append(f"{r['corpus']}{kind}: {r['comparison']}, {_SHORT.get(r['metric'], r['metric'])}: {test}")
    absent = ", ".join(dict.fromkeys(rows.loc[~some, "corpus"]))
    if told and absent:
        told.append(f"too few runs on {absent}")
    return Finding(verdict, "; ".join(told) or "no runs")


def beats(pairs: Sequence[tuple[str, str]], metrics: Sequence[str] = BOTH) -> Callable[[Runs], Finding]:
    """The claim that the first of each pair of systems beats the second in each of the metrics."""

    def answer(runs: Runs) -> Finding:
        return _finding(statistics_emotion.paired(runs, pairs, metrics, _keys(runs)), runs)

    return answer


def higher(better: Sequence[str], others: Sequence[str], metrics: Sequence[str] = BOTH) -> Callable[[Runs], Finding]:
    """The claim that each of some systems beats each of others."""
    return beats([(ours, other) for ours in better for other in others], metrics)


def alike(pairs: Sequence[tuple[str, str]], metrics: Sequence[str] = BOTH) -> Callable[[Runs], Finding]:
    """The claim that two systems of each pair differ by less than ``MARGIN``."""

    def answer(runs: Runs) -> Finding:
        rows = statistics_emotion.paired(runs, pairs, metrics, _keys(runs))
        return _decided(
            rows,
            runs,
            lambda rows: (rows["low"] > -MARGIN) & (rows["high"] < MARGIN),
            lambda rows: ((rows["low"] > MARGIN) | (rows["high"] < -MARGIN)) & (rows["p (Holm)"] <= statistics.LEVEL),
        )

    return answer


def helps(change: str, systems: Sequence[str], metrics: Sequence[str] = BOTH) -> Callable[[Runs], Finding]:
    """The claim that systems are better than with a change: "CNN_SeqCap" than "CNN_SeqCap, no curriculum"."""
    return beats([(system, f"{system}, {change}") for system in systems], metrics)


def with_averages(answer: Callable[[Runs], Finding]) -> Callable[[Runs], Finding]:
    """A claim that speaks of averages of two systems' probabilities as well."""

    def answered(runs: Runs) -> Finding:
        return answer(probes.averages(runs, recipes.AVERAGED, train=False))

    return answered


def average_helps(metrics: Sequence[str]) -> Callable[[Runs], Finding]:
    """The claim that the average of two systems' probabilities is better than each of both."""
    return with_averages(beats([(name, part) for name, parts in recipes.AVERAGED.items() for part in parts], metrics))


def helps_more(
    change: str, systems: Sequence[str], others: Sequence[str], metrics: Sequence[str] = BOTH
) -> Callable[[Runs], Finding]:
    """The claim that systems gain more than others do, fold by fold and seed by seed."""

    def answer(runs: Runs) -> Finding:
        families = {}
        for key in _keys(runs):
            for metric in metrics:
                gained = {
                    system: statistics_emotion.gains(runs, key, system, f"{system}, {change}", metric)
                    for system in (*systems, *others)
                }
                for ours in systems:
                    for other in others:
                        both = gained[ours].keys() & gained[other].keys()
                        families[key, f"gain of {ours} - gain of {other}", metric] = {
                            run: gained[ours][run] - gained[other][run] for run in sorted(both)
                        }
        return _finding(statistics_emotion.tested(runs, families), runs)

    return answer


def hardest(systems: Sequence[str], label: str) -> Callable[[Runs], Finding]:
    """The claim that systems recall less of one emotion than of each other."""
    others = [name.lower() for name in tables_emotion.EMOTIONS if name.lower() != label]

    def answer(runs: Runs) -> Finding:
        families = {}
        for key, system, other in itertools.product(_keys(runs), systems, others):
            records = {(r["config"]["split"], r["config"]["seed"]): r for r in runs.of(corpus=key, system=system)}
            both = {
                run: statistics_emotion.metric_of(r, f"recall of {other}")
                - statistics_emotion.metric_of(r, f"recall of {label}")
                for run, r in records.items()
            }
            families[key, f"{other} - {label}", f"recall of {system}"] = {
                run: value for run, value in both.items() if value == value
            }
        return _finding(statistics_emotion.tested(runs, families), runs)

    return answer


def follows(better: str, other: str) -> Callable[[Runs], Finding]:
    """The claim that one system's input gradient follows the spectrogram more closely than another's."""

    def answer(runs: Runs) -> Finding:
        families = {}
        for key in _keys(runs):
            found = {
                system: {
                    (look["split"], look["seed"]): look["correlation"]
                    for look in probes.run(runs, input_gradients, train=False, system=system, corpus=key)
                }
                for system in (better, other)
            }
            both = sorted(found[better].keys() & found[other].keys())
            families[key, f"{better} - {other}", "correlation x 100"] = {
                run: found[better][run] - found[other][run] for run in both
            }
        return _finding(statistics_emotion.tested(runs, families), runs)

    return answer


def untried(why: str) -> Callable[[Runs], Finding]:
    """A claim that no run here asks about, and why."""
    return lambda _: Finding(NO_DATA, why)


def counted(_: Runs) -> Finding:
    """Whether our systems have P2's numbers of parameters."""
    counts = tables_emotion.parameter_counts()
    equal = (counts[""] == "equal").sum()
    said = f"{equal} of {len(counts)} counts of Table II are equal to the last digit (no run needed)"
    return Finding(SUPPORTED if equal == len(counts) else REFUTED, said)


def same_utterances(_: Runs) -> Finding:
    """Whether P2's matrices of CNN_SeqCap and CNN_RecCap can come from the same test utterances."""
    found, apart = implied.tested_totals(), implied.tested_apart()
    said = "; ".join(
        f"{emotion}: " + " against ".join(_first(some) for some in found[emotion].values()) for emotion in found
    )
    said = f"if each is of one run, numbers of test utterances that fit Table VI against Table VII: {said} (from the paper's own tables)"
    return Finding(REFUTED if apart else OPEN, said)


def _first(numbers: Sequence[int], most: int = 3) -> str:
    return ", ".join([*map(str, numbers[:most]), *["..."] * (len(numbers) > most)]) or "none"


def only_capsules(_: Runs) -> Finding:
    """Whether in P2's own table each capsule system gains more from the curriculum than each recurrent one."""
    table, told, right = tables_emotion.values("P2", "Table IV"), [], []
    for metric in METRICS:
        gain = {
            s: table[s, "curriculum", metric] - table[s, "no curriculum", metric]
            for s in ("CNN_GRU", "CNN_GRU_Att", *_CAPSULES)
        }
        right.append(min(gain[s] for s in _CAPSULES) > max(gain["CNN_GRU"], gain["CNN_GRU_Att"]))
        told.append(f"{metric}: " + ", ".join(f"{s} {100 * value:+.2f}" for s, value in gain.items()))
    return Finding(SUPPORTED if all(right) else REFUTED, "; ".join(told) + " (from the paper's own table)")


def subtracted(_: Runs) -> Finding:
    """Whether the gains that P2 quotes over CNN_GRU are differences of its Table V."""
    table, told, right = tables_emotion.values("P2", "Table V"), [], []
    for (row, column, what), gain in tables_emotion.values("P2", "text VI-F").items():
        if column == "over CNN_GRU" and what.endswith(" gain"):
            metric = what.removesuffix(" gain")
            really = table[row, metric, metric] - table["CNN_GRU", metric, metric]
            right.append(abs(really - gain) < 5e-5)
            told.append(f"{row} {metric} {100 * gain:.2f} quoted, {100 * really:.2f} subtracted")
    return Finding(SUPPORTED if all(right) else REFUTED, "; ".join(told) + " (from the paper's own table)")


CLAIMS = (
    Claim("P1", "section 4.2, Table 1", "sequential and recurrent capsules beat CNN_GRU", "09",
          higher(("CNN_SeqCap", "CNN_RecCap"), ("CNN_GRU",))),
    Claim("P1", "section 4.2, Table 1", "CNN_GRU-SeqCap beats all others (CNN_LSTM, which P1 quotes, rebuilt here)", "09",
          higher(("CNN_GRU-SeqCap",), ("CNN_LSTM [15]", "CNN_GRU", "CNN_SeqCap", "CNN_RecCap"))),
    Claim("P1", "section 4.2, Table 1", "recurrent capsules beat sequential ones at WA and UA", "09", higher(("CNN_RecCap",), ("CNN_SeqCap",))),
    Claim("P1", "section 4.2, Table 2", "happy is the hardest class of CNN_SeqCap", "09", hardest(("CNN_SeqCap",), "happy")),
    Claim("P1", "section 4.2, Table 3", "recurrent connections raise the recall of happy", "09",
          higher(("CNN_RecCap",), ("CNN_SeqCap",), ("recall of happy",))),
    Claim("P2", "Table II", "our question: its parameter counts can be reproduced", "09", counted),
    Claim("P2", "section VI-C, Table IV", "the curriculum helps all three capsule systems at WA and UA", "09", helps("no curriculum", _CAPSULES)),
    Claim("P2", "section VI-C, Table IV", "it has little impact on CNN_GRU and CNN_GRU_Att (here: less than one point of WA)", "09",
          alike([(system, f"{system}, no curriculum") for system in ("CNN_GRU", "CNN_GRU_Att")], ("accuracy",))),
    Claim("P2", "section VI-C, Table IV", "and slightly improves their UA", "09",
          helps("no curriculum", ("CNN_GRU", "CNN_GRU_Att"), ("unweighted_accuracy",))),
    Claim("P2", "section VI-C", "our question: each capsule system gains more from it than each recurrent one", "09",
          helps_more("no curriculum", _CAPSULES, ("CNN_GRU", "CNN_GRU_Att"))),
    Claim("P2", "Table IV", "our question: in the paper's own table each capsule system gains more than each recurrent one", "09", only_capsules),
    Claim("P2", "sections I and IV-D", "the curriculum expedites training (here: a higher mean validation WA over the first five epochs)", "09",
          helps("no curriculum", _CAPSULES, (statistics_emotion.EARLY,))),
    Claim("P2", "section IV-D", "our question: it is the order, short before long, and not the sorted batches", "09",
          helps("sorted batches", recipes.CONTROLLED)),
    Claim("P2", "section IV-D", "our question: sorting by the whole utterance's length is better than by the segment's", "09",
          helps("segments first", recipes.CONTROLLED)),
    Claim("P2", "section V-D, Table II", "CNN_Cap's size makes it difficult to train", "09",
          untried("not trained here: 131 million parameters for some hundred utterances; the paper gives no result either")),
    Claim("P2", "section VI-D, Fig. 7", "two routing passes are better than one and than four", "09",
          higher(("CNN_SeqCap, 2 passes",), ("CNN_SeqCap, 1 pass", "CNN_SeqCap, 4 passes"))),
    Claim("P2", "section VI-D", "two and three passes do not differ (here: by less than one point)", "09",
          alike([("CNN_SeqCap", "CNN_SeqCap, 2 passes")])),
    Claim("P2", "section VI-E, Table V", "CNN_SeqCap and CNN_RecCap beat the CNN (quoted there, rebuilt here)", "09", higher(("CNN_SeqCap", "CNN_RecCap"), ("CNN [15]",))),
    Claim("P2", "section VI-E", "so does LSTM_Cap (against its UA in the table)", "09", higher(("LSTM_Cap",), ("CNN [15]",))),
    Claim("P2", "section VI-E, Table V", "CNN_SeqCap and CNN_RecCap beat LSTM_Cap", "09", higher(("CNN_SeqCap", "CNN_RecCap"), ("LSTM_Cap",))),
    Claim("P2", "section VI-E, Table V", "CNN_SeqCap beats CNN_GRU and CNN_GRU_Att (the latter with p < 0.05)", "09",
          higher(("CNN_SeqCap",), ("CNN_GRU", "CNN_GRU_Att"))),
    Claim("P2", "section VI-E, Table V", "CNN_RecCap beats CNN_SeqCap at UA (p < 0.05)", "09", higher(("CNN_RecCap",), ("CNN_SeqCap",), ("unweighted_accuracy",))),
    Claim("P2", "section VI-F, Table V", "in place of the GRU recurrent capsules gain more than sequential ones, at WA and UA (p < 0.005; "
          "section VI-E calls the gain of WA marginal)", "09", higher(("CNN_RecCap",), ("CNN_SeqCap",))),
    Claim("P2", "section VI-E, Tables VI and VII", "CNN_SeqCap and CNN_RecCap are worst at happy", "09", hardest(recipes.CONTROLLED, "happy")),
    Claim("P2", "section VI-E, Tables VI and VII", "our question: both were tested on the same utterances", "09", same_utterances),
    Claim("P2", "section VI-E, Tables VI and VII", "CNN_RecCap recalls more of happy and of sad than CNN_SeqCap", "09",
          higher(("CNN_RecCap",), ("CNN_SeqCap",), ("recall of happy", "recall of sad"))),
    Claim("P2", "section VI-E, Tables VI and VII", "and less of angry", "09", higher(("CNN_SeqCap",), ("CNN_RecCap",), ("recall of angry",))),
    Claim("P2", "section VI-E, Fig. 8", "the gradients of CNN_SeqCap are sensitive to what is salient, those of CNN_GRU_Att are not (here: follow the level more closely)", "07",
          follows("CNN_SeqCap", "CNN_GRU_Att")),
    Claim("P2", "section VI-E, Fig. 8", "our question: those of CNN_SeqCap follow the level more closely than before training", "07",
          follows("CNN_SeqCap", "CNN_SeqCap, untrained")),
    Claim("P2", "section VI-F, Table V", "CNN_GRU-SeqCap beats the CNN, CNN_GRU, CNN_GRU_Att and CNN_SeqCap", "09",
          higher(("CNN_GRU-SeqCap",), ("CNN [15]", "CNN_GRU", "CNN_GRU_Att", "CNN_SeqCap"))),
    Claim("P2", "section VI-F, Table V", "CNN_GRU-SeqCap beats CNN_GRU-RecCap (p < 0.005)", "09",
          higher(("CNN_GRU-SeqCap",), ("CNN_GRU-RecCap",))),
    Claim("P2", "section VI-F, Table V", "CNN_GRU-RecCap is worse than CNN_RecCap (WA equal in the table), but better than CNN_GRU and the CNN", "09",
          beats([("CNN_RecCap", "CNN_GRU-RecCap"), ("CNN_GRU-RecCap", "CNN_GRU"), ("CNN_GRU-RecCap", "CNN [15]")])),
    Claim("P2", "section VI-F, Table V", "averaging the probabilities of two systems improves WA over each", "09", average_helps(("accuracy",))),
    Claim("P2", "section VI-F, Table V", "our question: two branches trained together beat the average of two systems", "09",
          with_averages(beats([(name.replace(" + CNN_", "-"), name) for name in recipes.AVERAGED]))),
    Claim("P2", "Table V", "our question: CNN_GRU-SeqCap is the best of its table (whose WA is equal to that of CNN_GRU + CNN_RecCap)", "09",
          with_averages(higher(("CNN_GRU-SeqCap",), [system for system in recipes.TABLE_V if system != "CNN_GRU-SeqCap"]))),
    Claim("P2", "section VI-F", "our question: its quoted gains are the differences of its table", "09", subtracted),
)  # fmt: skip


def grids(profile: str) -> list[study.Grid]:
    """What these claims need: every system of notebook 09 on IEMOCAP or its stand-ins, and the untrained networks of 07's last
    part; embedded corpora never speak."""
    keys = recipes.P2_CORPORA if profile == "full" else ()
    return [
        recipes.p2_grid(keys, profile),
        recipes.with_untrained(recipes.p2_grid(keys, profile, recipes.FIG_8, seeds=(0,))),
    ]
