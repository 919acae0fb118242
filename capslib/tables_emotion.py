"""Tables of P1 and P2: parameter counts, WA and UA, confusion matrices and paired tests, published beside ours.

WA (weighted accuracy) is accuracy, UA (unweighted accuracy) the mean recall of the classes.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from functools import cache
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from IPython.display import HTML

from capslib import corpora, models, paths, statistics, tables
from capslib.recipes import P2_SYSTEMS
from capslib.statistics import NOT_YET
from capslib.statistics_emotion import METRICS, paired
from capslib.study import Runs
from capslib.tables import evidence, show

EMOTIONS = ("Neutral", "Angry", "Happy", "Sad")


@cache
def values(paper: str, table: str) -> Mapping[tuple[str, str, str], float]:
    """Numbers of a paper's table by row, column and metric; percents as fractions.

    Args:
        paper: "P1" or "P2".
        table: "Table IV".
    """
    everything = pd.read_csv(paths.root() / "data" / "published.csv", dtype=str, keep_default_na=False)
    ours = everything[(everything["paper"] == paper) & (everything["table"] == table)]
    return {
        (r["row"], r["column"], r["metric"]): float(r["value"]) / (100 if r["unit"] == "percent" else 1)
        for _, r in ours.iterrows()
    }


def built(model: str, **options: object) -> torch.nn.Module:
    """A system for four classes and 512 bins, without memory."""
    with torch.device("meta"):
        return models.build(model, 512, 4, **options)


def parameter_counts() -> pd.DataFrame:
    """P2 Table II: published, counted on the systems as they are built here, and whether they are equal."""
    rows = []
    for (system, _, _), published in values("P2", "Table II").items():
        ours = models.count_parameters(built(P2_SYSTEMS.get(system, system.lower())))
        rows.append(
            {
                "system": system,
                "published": f"{published:,.0f}",
                "ours": f"{ours:,}",
                "": "equal" if ours == published else "different",
            }
        )
    return pd.DataFrame(rows)


def literal_counts() -> pd.DataFrame:
    """What P2's systems would count if its text were taken literally where its Table II says otherwise."""
    capsules = built("cnn_seqcap").head.capsules
    sizes = {name: models.count_parameters(built(name)) for name in ("cnn_seqcap", "cnn_reccap")}
    inputs, shared = len(capsules.window_layer.matrices), capsules.window_layer.bias.numel()
    literal = {
        "CNN_GRU: Table I pools 32x on one axis (here frequency) and 4x on the other": (
            "CNN_GRU", lambda: models.count_parameters(built("cnn_gru", pools=((1, 2), (2, 4), (2, 4))))),
        "CNN_SeqCap: equation 3 writes a bias b_ij for each pair of capsules": (
            "CNN_SeqCap", lambda: sizes["cnn_seqcap"] + (inputs - 1) * shared),
        "CNN_RecCap: equation 9 writes a matrix W^o_ij for each pair (and the bias)": (
            "CNN_RecCap", lambda: sizes["cnn_reccap"] + (inputs - 1) * (shared + capsules.vector_features * shared)),
        "CNN_SeqCap: 40 input steps of the matrix that the windows are cut from, if that is the trunk's output": (
            "CNN_SeqCap", lambda: models.count_parameters(built("cnn_seqcap", window=160, shift=80))),
        "CNN_Cap: e.g. 200 frames": ("CNN_Cap", lambda: models.count_parameters(built("cnn_cap", num_frames=200))),
    }  # fmt: skip
    table = {system: number for (system, _, _), number in values("P2", "Table II").items()}
    return pd.DataFrame(
        {"taken literally": words, "would count": f"{count():,}", "published": f"{table[system]:,.0f}"}
        for words, (system, count) in literal.items()
    )


def utterances(cards: Mapping[str, dict]) -> pd.DataFrame:
    """P2 Table III: utterances of each emotion, published and in the corpora in use."""
    published = values("P2", "Table III")
    rows = [
        {"corpus": "IEMOCAP, improvised", "evidence": "published"}
        | {name: f"{published['Utt #', name, 'utterances']:.0f}" for name in EMOTIONS}
    ]
    for key, card in cards.items():
        counts = dict.fromkeys(EMOTIONS, "recordings not here")
        if corpora.find(key) is not None:
            labels = corpora.load(key).table["label"].value_counts()
            counts = {name: f"{labels.get(name.lower(), 0)}" for name in EMOTIONS}
        rows.append({"corpus": key, "evidence": evidence(card)} | counts)
    return pd.DataFrame(rows)


def _made(runs: Runs, key: str, records: Sequence[dict]) -> str:
    if not records:
        return ""
    folds = len({r["config"]["split"] for r in records})
    seeds = len({r["config"]["seed"] for r in records})
    return f"{folds} of {len(runs.grid.cards[key]['splits'])} folds, {seeds} seed(s), {len(records)} runs"


def extent(runs: Runs, systems: Collection[str] | None = None) -> str:
    """Seeds of each corpus that all of these systems have, for a caption."""
    told, runs = [], statistics.comparable(runs, systems)
    for key in runs.grid.cards:
        seeds = {r["config"]["seed"] for r in runs.of(corpus=key) if systems is None or r["system"] in systems}
        several = f"{len(seeds)} seeds" if len(seeds) > 1 else "one seed"
        told.append(f"{key} {several if seeds else NOT_YET}")
    return f"Ours: {', '.join(told) or 'no corpus here'}."


def scores(runs: Runs, places: Mapping[str, tuple[str, str]], paper: str, table: str, name: str, out: Path) -> HTML:
    """WA and UA of systems as published, and ours below each, one row a corpus.

    Args:
        runs: of the systems.
        places: row and column of the paper's table, by name of our system; the column "" where columns are WA and UA.
            A system that the paper does not have stands at ("", "").
        paper, table: "P2", "Table V".
        name, out: see ``tables.show``.
    """
    published, rows, shown = values(paper, table), [], statistics.comparable(runs, places)
    for system, (row, column) in places.items():
        cells = {metric: published.get((row, column or metric, metric)) for metric in METRICS}
        if any(cells.values()):
            told = {metric: "" if value is None else f"{value:.3f}" for metric, value in cells.items()}
            rows.append({"system": system, "corpus": "IEMOCAP", "evidence": "published", **told, "runs": ""})
        for key, card in runs.grid.cards.items():
            records = shown.of(corpus=key, system=system)
            told = {m: str(statistics.cell(records, ours)) if records else NOT_YET for m, ours in METRICS.items()}
            head = {"system": system, "corpus": key, "evidence": evidence(card)}
            rows.append(head | told | {"runs": _made(runs, key, records)})
    caption = (
        f"{paper} {table}: test WA and UA as published on IEMOCAP, and ours as mean and 95% interval, of WA over speakers, "
        f"of UA over folds, on the seeds that all systems have. {extent(runs, places)} {len(runs.grid) - len(runs.missing)} of {len(runs.grid)} runs of "
        f"this notebook, profile {runs.grid.profile}."
    )
    return show(pd.DataFrame(rows), name, caption, out)


def confusions(runs: Runs, system: str, paper: str, table: str, name: str, out: Path) -> HTML:
    """Recall matrix of a system as published, and ours: test clips of all folds and seeds pooled, one row a true class."""
    published, rows = values(paper, table), []
    for true in EMOTIONS:
        told = {f"predicted {other}": f"{published[true, other, 'confusion']:.3f}" for other in EMOTIONS}
        rows.append({"true": true, "corpus": "IEMOCAP", "evidence": "published", **told, "clips": ""})
        for key, card in runs.grid.cards.items():
            records = runs.of(corpus=key, system=system)
            told, clips = dict.fromkeys((f"predicted {other}" for other in EMOTIONS), NOT_YET), ""
            if records:
                place = {label: i for i, label in enumerate(records[0]["classes"])}
                pooled = np.sum([record["confusion"] for record in records], axis=0)
                counts = pooled[place[true.lower()]] if true.lower() in place else np.zeros(0, int)
                clips = f"{counts.sum()}"
                told = {
                    f"predicted {other}": f"{counts[place[other.lower()]] / counts.sum():.3f}" if counts.sum() else ""
                    for other in EMOTIONS
                    if other.lower() in place
                }
            rows.append({"true": true, "corpus": key, "evidence": evidence(card), **told, "clips": clips})
    caption = (
        f"{paper} {table}, {system}: share of the clips of each true class that is predicted as each class. Published on IEMOCAP; "
        f"ours below it, all folds and seeds pooled. {extent(runs, [system])}"
    )
    return show(pd.DataFrame(rows), name, caption, out)


def pooled(runs: Runs, systems: Sequence[str]) -> pd.DataFrame:
    """WA and UA as the papers count them: test clips of all folds together, mean over the seeds that all systems of a corpus
    have; one row a corpus and system, behind that of always telling the commonest class."""
    rows, runs = [], statistics.comparable(runs, systems)
    for key in runs.grid.cards:
        for system in systems:
            by_seed: dict[int, list[np.ndarray]] = {}
            for record in runs.of(corpus=key, system=system):
                by_seed.setdefault(record["config"]["seed"], []).append(np.array(record["confusion"]))
            counts = [np.sum(folds, axis=0) for folds in by_seed.values()]
            if counts and not any(row["corpus"] == key for row in rows):
                rows.append(_commonest(key, counts[0]))
            if counts:
                right = [np.diag(c) for c in counts]
                recalls = [r[c.sum(1) > 0] / c.sum(1)[c.sum(1) > 0] for r, c in zip(right, counts, strict=True)]
                rows.append(
                    {"corpus": key, "system": system, "seeds": len(counts), "clips of a seed": f"{counts[0].sum()}"}
                    | {"WA": f"{np.mean([r.sum() / c.sum() for r, c in zip(right, counts, strict=True)]):.3f}"}
                    | {"UA": f"{np.mean([recall.mean() for recall in recalls]):.3f}"}
                )
    return pd.DataFrame(rows or [{"corpus": "", "system": NOT_YET}])


def _commonest(key: str, counts: np.ndarray) -> dict:
    of_class = counts.sum(1)
    share, ua = of_class.max() / of_class.sum(), 1 / (of_class > 0).sum()
    head = {"corpus": key, "system": "always the commonest class", "seeds": "", "clips of a seed": f"{of_class.sum()}"}
    return head | {"WA": f"{share:.3f}", "UA": f"{ua:.3f}"}


def per_fold(runs: Runs, systems: Sequence[str]) -> pd.DataFrame:
    """Test clips of each class in every fold, and each system's WA there, mean over the seeds that all have."""
    shown, rows = statistics.comparable(runs, systems), {}
    for record in shown.records:
        place = (record["config"]["corpus"], record["config"]["split"])
        counts = zip(record["classes"], np.sum(record["confusion"], axis=1), strict=True)
        row = rows.setdefault(place, {"corpus": place[0], "fold": place[1]} | {f"{n} clips": int(c) for n, c in counts})
        row.setdefault(record["system"], []).append(record["test"]["accuracy"])
    told = [
        {name: cell for name, cell in row.items() if name not in systems}
        | {s: f"{np.mean(row[s]):.3f}" if s in row else NOT_YET for s in systems}
        for row in rows.values()
    ]
    return pd.DataFrame(told or [{"corpus": "", "fold": NOT_YET}])


def segments(cards: Mapping[str, dict], frames: int = 200, window: int = 40) -> pd.DataFrame:
    """What cutting whole corpora into segments gives: how many, how many of full length, and of less than a window.

    Args:
        cards: of corpora, by key; those not here are left out.
        frames: of a segment, 10 ms each.
        window: frames of a window.
    """
    rows = []
    for key in cards:
        if corpora.find(key) is None:
            continue
        lengths = 1 + np.floor((corpora.load(key).table["duration"].to_numpy() - 0.04) / 0.01 + 1e-6)
        rest = lengths % frames
        count = int((lengths // frames).sum() + (rest > 0).sum())
        full, short = (lengths // frames).sum() / count, ((rest > 0) & (rest < window)).sum() / count
        rows.append(
            {"corpus": key, "segments": count, f"of {frames} frames": f"{full:.0%}"}
            | {f"below {window}": f"{short:.0%}"}
        )
    return pd.DataFrame(rows)


def ours(system: str) -> str:
    """Our name for a system of P2's text: its CNN and CNN_LSTM are reference 15's."""
    return f"{system} [15]" if system in ("CNN", "CNN_LSTM") else system


def text_tests(runs: Runs) -> pd.DataFrame:
    """The comparisons that P2's text makes (sections VI-E and VI-F): its gain and bound on p, and our paired test.

    Where the text has no gain for a pair that it tests, the gain is the difference in Table V.
    """
    said = {**values("P2", "text VI-E"), **values("P2", "text VI-F")}
    table = values("P2", "Table V")
    pairs = list(dict.fromkeys((r, c.removeprefix("over ")) for r, c, _ in said if c.startswith("over ")))
    tests = paired(runs, [(ours(first), ours(second)) for first, second in pairs])
    published = {}
    for first, second in pairs:
        for short, metric in METRICS.items():
            gain = said.get((first, f"over {second}", f"{short} gain"))
            gain = table[first, short, short] - table[second, short, short] if gain is None else gain
            words = (f"{short} p value, upper bound", "p value, upper bound")
            bounds = {w: said[first, f"over {second}", w] for w in words if (first, f"over {second}", w) in said}
            said_p = "; ".join(f"< {b:g}{'' if w.startswith(short) else ' (WA or UA)'}" for w, b in bounds.items())
            published[f"{ours(first)} - {ours(second)}", metric] = (f"{100 * gain:+.2f}", said_p)
    places = list(zip(tests["comparison"], tests["metric"], strict=True))
    tests.insert(3, "published gain in points", [published[place][0] for place in places])
    tests.insert(4, "published p", [published[place][1] for place in places])
    return tests


def decided(tests: pd.DataFrame) -> str:
    """How many of a table's comparisons are decided and how far their intervals reach, in words, one line a corpus."""
    lines = []
    for key, rows in tests.groupby("corpus", sort=False):
        some = rows[rows["p"].notna()]
        if some.empty:
            lines.append(f"{key}: no comparison has two pairs of runs.")
            continue
        counts, reach = some["verdict"].value_counts(), 50 * (some["high"] - some["low"]).median()
        said = f"{counts.get('higher', 0)} of {len(some)} comparisons higher, {counts.get('lower', 0)} lower"
        lines.append(f"{key}: {said}; the median interval reaches {reach:.1f} points to each side.")
    return "\n".join(lines)


def readable(tests: pd.DataFrame) -> pd.DataFrame:
    """Tests with WA and UA by name, and differences in points."""
    named = tests.replace({"metric": {metric: short for short, metric in METRICS.items()}})
    for column in ("difference", "low", "high"):
        named[column] = [f"{100 * value:+.2f}" if pd.notna(value) else "" for value in named[column]]
    return named.rename(columns={"difference": "ours in points"})


def along(found: Sequence[Mapping]) -> pd.DataFrame:
    """What looks at window capsules say, one row a corpus and system: means with 95% intervals over the folds.

    Args:
        found: from ``insight.looks(runs, windows.window_lengths)``.
    """
    columns = {
        "length": (lambda look: look["length"], (0.0, 1.0)),
        "share longer than 0.99": (lambda look: look["full"], (0.0, 1.0)),
        "deviation along an utterance, thousandths": (lambda look: 1000 * look["within"], (0.0, 1000.0)),
        "deviation between utterances, thousandths": (lambda look: 1000 * look["between"], (0.0, 1000.0)),
        "likeness of one window to the next (cosine)": (lambda look: look["likeness"], (-1.0, 1.0)),
        "correlation of the longest with loudness": (lambda look: look["loudness"], (-1.0, 1.0)),
    }
    return tables.of_looks(found, columns)


def deafened(found: Sequence[Mapping]) -> pd.DataFrame:
    """What looks at networks without their recurrent connection say, one row a corpus and system.

    Args:
        found: from ``insight.looks(runs, windows.without_recurrence)``.
    """
    columns = {
        "decisions that change": (lambda look: look["changed"], (0.0, 1.0)),
        "WA as trained": (lambda look: look["accuracy"], (0.0, 1.0)),
        "WA without": (lambda look: look["without"], (0.0, 1.0)),
        "WA without, minus as trained": (lambda look: look["without"] - look["accuracy"], (-1.0, 1.0)),
    }
    return tables.of_looks(found, columns)


def followed(found: Sequence[Mapping]) -> pd.DataFrame:
    """What looks at input gradients say, one row a corpus and system: means with 95% intervals over the folds.

    Args:
        found: from ``insight.looks(runs, gradients.input_gradients)``.
    """
    columns = {
        "correlation with the spectrogram": (lambda look: look["correlation"], (-1.0, 1.0)),
        "share on the loudest tenth (0.1: even)": (lambda look: look["loudest"], (0.0, 1.0)),
        "share on its own largest tenth": (lambda look: look["largest"], (0.0, 1.0)),
    }
    return tables.of_looks(found, columns)
