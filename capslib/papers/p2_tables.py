"""Tables that only P1 and P2 have: parameter counts, utterances, segments, and the comparisons of P2's text."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pandas as pd
import torch

from capslib import corpora, models
from capslib.published import values
from capslib.statistics import METRICS, paired_tests
from capslib.study import Runs
from capslib.tables import evidence

EMOTIONS = ("Neutral", "Angry", "Happy", "Sad")


def _built(model: str, **options: object) -> models.AudioModel:
    """A system for four classes and 512 bins, without memory."""
    with torch.device("meta"):
        return models.build(model, 512, 4, **options)


def _count(model: str, **options: object) -> int:
    return models.count_parameters(_built(model, **options))


def parameter_counts() -> pd.DataFrame:
    """P2 Table II: published, counted on the systems as they are built here, and whether they are equal."""
    rows = []
    for (system, _, _), published in values("P2", "Table II").items():
        ours = _count(system.lower().replace("-", "_"))
        row = {"system": system, "published": f"{published:,.0f}", "ours": f"{ours:,}"}
        rows.append(row | {"": "equal" if ours == published else "different"})
    return pd.DataFrame(rows)


def literal_counts() -> pd.DataFrame:
    """What P2's systems would count if its text were taken literally where its Table II says otherwise."""
    capsules = _built("cnn_seqcap").head.capsules
    more = len(capsules.window_layer.matrices) - 1  # of the input capsules, which share the biases
    shared = capsules.window_layer.bias.numel()
    counts = {
        "CNN_GRU: Table I pools 32x on one axis (here frequency) and 4x on the other": _count(
            "cnn_gru", pools=((1, 2), (2, 4), (2, 4))
        ),
        "CNN_SeqCap: equation 3 writes a bias b_ij for each pair of capsules": _count("cnn_seqcap") + more * shared,
        "CNN_RecCap: equation 9 writes a matrix W^o_ij for each pair (and the bias)": _count("cnn_reccap")
        + more * (shared + capsules.vector_features * shared),
        "CNN_SeqCap: 40 input steps of the matrix that the windows are cut from, if that is the trunk's output": _count(
            "cnn_seqcap", window=160, shift=80
        ),
        "CNN_Cap: e.g. 200 frames": _count("cnn_cap", num_frames=200),
    }
    table = {system: number for (system, _, _), number in values("P2", "Table II").items()}
    return pd.DataFrame(
        {"taken literally": words, "would count": f"{ours:,}", "published": f"{table[words.partition(':')[0]]:,.0f}"}
        for words, ours in counts.items()
    )


def utterances(cards: Mapping[str, dict]) -> pd.DataFrame:
    """P2 Table III: utterances of each emotion, published and in the corpora in use.

    Args:
        cards: of the corpora, by key.
    """
    published = values("P2", "Table III")
    numbers = {name: f"{published['Utt #', name, 'utterances']:.0f}" for name in EMOTIONS}
    rows = [{"corpus": "IEMOCAP, improvised", "evidence": "published"} | numbers]
    for key, card in cards.items():
        numbers = dict.fromkeys(EMOTIONS, "recordings not available")
        if corpora.find(key) is not None:
            labels = corpora.load(key).table["label"].value_counts()
            numbers = {name: f"{labels.get(name.lower(), 0)}" for name in EMOTIONS}
        rows.append({"corpus": key, "evidence": evidence(card)} | numbers)
    return pd.DataFrame(rows)


def segments(cards: Mapping[str, dict], frames: int = 200, window: int = 40) -> pd.DataFrame:
    """What cutting whole corpora into segments gives: how many, how many of full length, and of less than a window.

    Args:
        cards: of corpora, by key; those whose recordings are not available are left out.
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
        row = {"corpus": key, "segments": count, f"of {frames} frames": f"{full:.0%}"}
        rows.append(row | {f"below {window}": f"{short:.0%}"})
    return pd.DataFrame(rows)


def ours(system: str) -> str:
    """Our name for a system of P2's text: its CNN and CNN_LSTM are reference 15's."""
    return f"{system} [15]" if system in ("CNN", "CNN_LSTM") else system


def text_tests(runs: Runs) -> pd.DataFrame:
    """The comparisons that P2's text makes (sections VI-E and VI-F): its gain and bound on p, and our paired test.

    Where the text has no gain for a pair that it tests, the gain is the difference in Table V.

    Args:
        runs: of the systems of Table V.
    """
    text = {**values("P2", "text VI-E"), **values("P2", "text VI-F")}
    table = values("P2", "Table V")
    pairs = list(dict.fromkeys((r, c.removeprefix("over ")) for r, c, _ in text if c.startswith("over ")))
    tests = paired_tests(runs, [(ours(first), ours(second)) for first, second in pairs], tuple(METRICS.values()))
    published = {}
    for first, second in pairs:
        quoted = {
            words: value for (row, column, words), value in text.items() if (row, column) == (first, f"over {second}")
        }
        for short, metric in METRICS.items():
            gain = quoted.get(f"{short} gain", table[first, short, short] - table[second, short, short])
            bounds = {
                "": quoted.get(f"{short} p value, upper bound"),
                " (WA or UA)": quoted.get("p value, upper bound"),
            }
            p = "; ".join(f"< {bound:g}{note}" for note, bound in bounds.items() if bound is not None)
            published[f"{ours(first)} - {ours(second)}", metric] = (f"{100 * gain:+.2f}", p)
    rows = [published[row["comparison"], row["metric"]] for _, row in tests.iterrows()]
    tests.insert(3, "published gain in points", [gain for gain, _ in rows])
    tests.insert(4, "published p", [p for _, p in rows])
    return tests
