"""Tables of P2 alone: parameter counts, utterances, segments, and the comparisons of its text."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pandas as pd
import torch

from capslib import corpora, models
from capslib.published import values
from capslib.recipes import P2_SYSTEMS
from capslib.statistics_emotion import METRICS, paired
from capslib.study import Runs
from capslib.tables import evidence

EMOTIONS = ("Neutral", "Angry", "Happy", "Sad")


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
