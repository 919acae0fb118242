"""Tables that only P1 and P2 have: parameter counts, utterances, segments, and the comparisons of P2's text."""

from collections.abc import Mapping
from itertools import product

import numpy as np
import pandas as pd
import torch

from capslib import corpora, models
from capslib.published import values
from capslib.statistics import METRICS, paired_tests
from capslib.study import Runs
from capslib.tables import evidence

EMOTIONS = ("Neutral", "Angry", "Happy", "Sad")
# Our names for systems that P2 quotes from its reference 15.
REBUILT = {"CNN": "CNN [15]", "CNN_LSTM": "CNN_LSTM [15]"}


def _built(system: str, **options: object) -> models.AudioModel:
    """One of P2's systems for four classes and 512 bins, without memory."""
    with torch.device("meta"):
        return models.build(system.lower().replace("-", "_"), 512, 4, **options)


def published_utterances() -> dict[str, int]:
    """Utterances of each emotion in IEMOCAP's improvised part: P2 Table III."""
    return {emotion: int(number) for (_, emotion, _), number in values("P2", "Table III").items()}


def parameter_counts() -> pd.DataFrame:
    """P2 Table II: published, counted on the systems as they are built here, and whether they are equal."""
    rows = []
    for (system, _, _), published in values("P2", "Table II").items():
        ours = models.count_parameters(_built(system))
        row = {"system": system, "published": f"{published:,.0f}", "ours": f"{ours:,}"}
        rows.append(row | {"": "equal" if ours == published else "different"})
    return pd.DataFrame(rows)


def literal_counts() -> pd.DataFrame:
    """What P2's systems would count if its text were taken literally where its Table II says otherwise."""
    capsules = _built("CNN_SeqCap").head.capsules
    shared = capsules.window_layer.bias.numel()
    more = (len(capsules.window_layer.matrices) - 1) * shared  # one for each input capsule in place of one for all
    with_matrices = more * (1 + capsules.vector_features)
    of_the_trunk = "the matrix that the windows are cut from, if that is the trunk's output"
    pools = ((1, 2), (2, 4), (2, 4))
    literally = (  # system, what the text says, options for it, parameters beyond them
        ("CNN_GRU", "Table I pools 32x on one axis (here frequency) and 4x on the other", {"pools": pools}, 0),
        ("CNN_SeqCap", "equation 3 writes a bias b_ij for each pair of capsules", {}, more),
        ("CNN_RecCap", "equation 9 writes a matrix W^o_ij for each pair (and the bias)", {}, with_matrices),
        ("CNN_SeqCap", f"40 input steps of {of_the_trunk}", {"window": 160, "shift": 80}, 0),
        ("CNN_Cap", "e.g. 200 frames", {"num_frames": 200}, 0),
    )
    rows, table = [], {system: number for (system, _, _), number in values("P2", "Table II").items()}
    for system, words, options, beyond in literally:
        ours = models.count_parameters(_built(system, **options)) + beyond
        row = {"taken literally": f"{system}: {words}", "would count": f"{ours:,}"}
        rows.append(row | {"published": f"{table[system]:,.0f}"})
    return pd.DataFrame(rows)


def utterances(cards: Mapping[str, dict]) -> pd.DataFrame:
    """P2 Table III: utterances of each emotion, published and in the corpora in use, by key of their cards."""
    rows = [{"corpus": "IEMOCAP, improvised", "evidence": "published"} | published_utterances()]
    for key, card in cards.items():
        numbers = dict.fromkeys(EMOTIONS, "recordings not available")
        if corpora.find(key) is not None:
            labels = corpora.load(key).table["label"].value_counts()
            numbers = {name: labels.get(name.lower(), 0) for name in EMOTIONS}
        rows.append({"corpus": key, "evidence": evidence(card)} | numbers)
    return pd.DataFrame(rows).astype(str)


def segments(cards: Mapping[str, dict], frames: int = 200, window: int = 40) -> pd.DataFrame:
    """What cutting whole corpora into segments gives: how many, how many of full length, and of less than a window.

    Segments and windows are in frames of 10 ms. Corpora whose recordings are not available are left out.
    """
    rows = []
    for key in filter(corpora.find, cards):
        lengths = 1 + np.floor((corpora.load(key).table["duration"].to_numpy() - 0.04) / 0.01 + 1e-6)
        whole, rest = (lengths // frames).sum(), lengths % frames
        count = int(whole + (rest > 0).sum())
        row = {"corpus": key, "segments": count, f"of {frames} frames": f"{whole / count:.0%}"}
        rows.append(row | {f"below {window}": f"{((rest > 0) & (rest < window)).sum() / count:.0%}"})
    return pd.DataFrame(rows)


def text_tests(runs: Runs) -> pd.DataFrame:
    """The comparisons that P2's text makes (sections VI-E and VI-F): its gain and bound on p, and our paired test.

    Where the text has no gain for a pair that it tests, the gain is the difference in Table V. The runs are of the
    systems of Table V.
    """
    quoted, table = values("P2", "text VI-E") | values("P2", "text VI-F"), values("P2", "Table V")
    compared = dict.fromkeys((first, other.removeprefix("over ")) for first, other, _ in quoted if "over " in other)
    pairs = [tuple(REBUILT.get(system, system) for system in pair) for pair in compared]
    tests = paired_tests(runs, pairs, tuple(METRICS.values()))
    gains, bounds = [], []
    for _, (first, second), short in product(runs.grid.cards, compared, METRICS):
        words = {what: number for (*pair, what), number in quoted.items() if pair == [first, f"over {second}"]}
        gain = words.get(f"{short} gain", table[first, short, short] - table[second, short, short])
        notes = {f"{short} p value, upper bound": "", "p value, upper bound": " (WA or UA)"}
        gains.append(f"{100 * gain:+.2f}")
        bounds.append("; ".join(f"< {words[what]:g}{note}" for what, note in notes.items() if what in words))
    tests.insert(3, "published gain in points", gains)
    tests.insert(4, "published p", bounds)
    return tests
