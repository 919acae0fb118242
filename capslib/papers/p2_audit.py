"""What P1's and P2's printed numbers imply about one another, computed from ``data/published/`` without any run.

A share of n utterances can only be k / n, so a row of shares with four digits leaves few n open.
"""

from collections.abc import Iterator, Mapping, Sequence

import numpy as np
import pandas as pd

from capslib.claims import OPEN, REFUTED, Finding
from capslib.papers.p2_tables import EMOTIONS, published_utterances
from capslib.published import values
from capslib.statistics import METRICS
from capslib.study import Runs

# Half a unit of rounding, and half of one more: some rows were made to sum to 100.00.
TOLERANCE = 1.0001e-4
MATRICES = {"CNN_SeqCap": "Table VI", "CNN_RecCap": "Table VII"}


def fitting_totals(shares: Sequence[float], most: int, tolerance: float = TOLERANCE) -> list[int]:
    """Numbers of utterances of a true class, up to ``most``, whose whole counts can be these shares of the predictions.

    ``tolerance`` is the largest distance of a printed share from the real one.
    """
    totals, shares = np.arange(1, most + 1)[:, None], np.asarray(shares)
    least, largest = np.ceil(totals * (shares - tolerance)), np.floor(totals * (shares + tolerance))
    fits = (least <= largest).all(1, keepdims=True)
    fits &= (least.sum(1, keepdims=True) <= totals) & (totals <= largest.sum(1, keepdims=True))
    return totals[fits].tolist()


def tested_totals() -> dict[str, dict[str, list[int]]]:
    """Test utterances that fit P2's Tables VI and VII, by emotion and system, at most as many as IEMOCAP has.

    One run is assumed, each utterance tested once: P2's matrices are P1's, which has no seeds.
    """
    totals = {}
    for emotion, size in published_utterances().items():
        matrices = {system: values("P2", table) for system, table in MATRICES.items()}
        rows = {system: [shares[emotion, e, "confusion"] for e in EMOTIONS] for system, shares in matrices.items()}
        totals[emotion] = {system: fitting_totals(row, size) for system, row in rows.items()}
    return totals


def in_common(fitting: Mapping[str, Sequence[int]]) -> list[int]:
    """Totals of one emotion that fit all systems."""
    return sorted(set.intersection(*map(set, fitting.values())))


def totals() -> pd.DataFrame:
    """``tested_totals`` as a table, one row per emotion."""
    rows, sizes = [], published_utterances()
    for emotion, fitting in tested_totals().items():
        columns = {f"fit {system}": numbers for system, numbers in fitting.items()} | {"in common": in_common(fitting)}
        row = {"emotion": emotion, "in IEMOCAP": f"{sizes[emotion]}"}
        rows.append(row | {column: ", ".join(map(str, numbers)) or "none" for column, numbers in columns.items()})
    return pd.DataFrame(rows)


def tested_apart() -> list[str]:
    """Emotions of which the two systems cannot have been tested on equally many utterances."""
    return [e for e, fitting in tested_totals().items() if all(fitting.values()) and not in_common(fitting)]


def accuracies(sizes: Sequence[int]) -> pd.DataFrame:
    """Which WA of P2's Tables IV and V can be a share of so many test utterances, one row per WA."""
    rows = []
    for table in ("Table IV", "Table V"):
        for (system, column, metric), share in values("P2", table).items():
            if metric != "WA" or system in ("CNN", "CNN_LSTM"):  # quoted with three digits
                continue
            row = {"table": table, "system": system, "": column if column != metric else "", "WA": f"{100 * share:.2f}"}
            for size in sizes:
                right = round(share * size)
                row[f"of {size:,}"] = f"{right}" if abs(right / size - share) <= 5.0001e-5 else ""
            rows.append(row)
    return pd.DataFrame(rows)


def same_utterances(_: Runs) -> Finding:
    """Whether P2's matrices of CNN_SeqCap and CNN_RecCap can come from the same test utterances."""

    def first(numbers: Sequence[int]) -> str:
        return ", ".join([*map(str, numbers[:3]), *["..."] * (len(numbers) > 3)]) or "none"

    words = [f"{emotion}: {' against '.join(map(first, by.values()))}" for emotion, by in tested_totals().items()]
    evidence = "if each is of one run, numbers of test utterances that fit Table VI against Table VII: "
    evidence += f"{'; '.join(words)} (from the paper's own tables)"
    return Finding(REFUTED if tested_apart() else OPEN, evidence)


def gains(systems: Sequence[str], others: Sequence[str]) -> Iterator[tuple[bool, str]]:
    """Whether in P2's Table IV each of some systems gains more from the curriculum than each of others, by metric."""
    table = values("P2", "Table IV")
    for metric in METRICS:
        gain = {s: table[s, "curriculum", metric] - table[s, "no curriculum", metric] for s in (*others, *systems)}
        words = ", ".join(f"{system} {100 * value:+.2f}" for system, value in gain.items())
        yield min(gain[s] for s in systems) > max(gain[s] for s in others), f"{metric}: {words}"


def quoted_gains() -> Iterator[tuple[bool, str]]:
    """Whether the gains that P2 quotes over CNN_GRU are differences of its Table V, gain by gain."""
    table = values("P2", "Table V")
    for (row, column, words), quoted in values("P2", "text VI-F").items():
        if column == "over CNN_GRU" and words.endswith(" gain"):
            metric = words.removesuffix(" gain")
            gain = table[row, metric, metric] - table["CNN_GRU", metric, metric]
            words = f"{row} {metric} {100 * quoted:.2f} quoted, {100 * gain:.2f} subtracted"
            yield abs(gain - quoted) < 5e-5, words
