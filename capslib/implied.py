"""What P1's and P2's printed numbers imply about one another; computed from ``data/published.csv``, without any run.

A share of n utterances can only be k / n, so a row of shares with four digits leaves few n open.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import pandas as pd

from capslib.tables_emotion import EMOTIONS, values

# Half a unit of rounding, and half of one more: some rows were made to sum to 100.00.
TOLERANCE = 1.0001e-4
MATRICES = {"CNN_SeqCap": "Table VI", "CNN_RecCap": "Table VII"}


def fitting_totals(shares: Sequence[float], most: int, tolerance: float = TOLERANCE) -> list[int]:
    """Numbers of utterances, up to ``most``, whose whole counts can give these shares.

    Args:
        shares: of one true class, told as each class; they sum to one.
        most: utterances there are.
        tolerance: largest distance of a printed share from the real one.
    """
    found = []
    for total in range(1, most + 1):
        least = [math.ceil(total * (share - tolerance)) for share in shares]
        largest = [math.floor(total * (share + tolerance)) for share in shares]
        fits = all(a <= b for a, b in zip(least, largest, strict=True))
        if fits and sum(least) <= total <= sum(largest):
            found.append(total)
    return found


def tested_totals() -> dict[str, dict[str, list[int]]]:
    """Test utterances of each emotion that fit P2's Tables VI and VII, by emotion and system, at most as many as IEMOCAP has.

    One run is assumed, each utterance tested once: P2's matrices are P1's, which has no seeds.
    """
    sizes = values("P2", "Table III")
    return {
        emotion: {
            system: fitting_totals(
                [values("P2", table)[emotion, told, "confusion"] for told in EMOTIONS],
                int(sizes["Utt #", emotion, "utterances"]),
            )
            for system, table in MATRICES.items()
        }
        for emotion in EMOTIONS
    }


def totals() -> pd.DataFrame:
    """``tested_totals`` as a table, one row an emotion."""
    sizes = values("P2", "Table III")
    return pd.DataFrame(
        {"emotion": emotion, "in IEMOCAP": f"{sizes['Utt #', emotion, 'utterances']:.0f}"}
        | {f"fit {system}": ", ".join(map(str, numbers)) or "none" for system, numbers in found.items()}
        | {"in common": ", ".join(map(str, sorted(set.intersection(*map(set, found.values()))))) or "none"}
        for emotion, found in tested_totals().items()
    )


def tested_apart() -> list[str]:
    """Emotions of which the two systems cannot have been tested on equally many utterances."""
    return [
        emotion
        for emotion, found in tested_totals().items()
        if all(found.values()) and not set.intersection(*map(set, found.values()))
    ]


def accuracies(sizes: Sequence[int]) -> pd.DataFrame:
    """Which WA of P2's Tables IV and V can be a share of so many utterances.

    Args:
        sizes: numbers of test utterances to try.
    """
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
