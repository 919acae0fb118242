"""What the papers print: the one reader of ``data/published/``, a file per paper, in long form.

Each number has a row, a column and a metric, in the paper's own labels (see ``data/published.md``).
"""

from functools import cache

import pandas as pd

from capslib import paths
from capslib.errors import choose


@cache
def _everything() -> pd.DataFrame:
    files = sorted((paths.root() / "data" / "published").glob("*.csv"))
    printed = pd.concat([pd.read_csv(file, dtype=str, keep_default_na=False) for file in files], ignore_index=True)
    value = printed["value"].astype(float)
    return printed.assign(value=value.where(printed["unit"] != "percent", value / 100))


def tables() -> list[tuple[str, str]]:
    """Paper and name of every table that has a number."""
    return list(dict.fromkeys(zip(_everything()["paper"], _everything()["table"], strict=True)))


def table(paper: str, name: str) -> pd.DataFrame:
    """One row per number of a table ("Table 1", "Fig. 7", "text 5.1") of a paper ("P" and a number), in its order.

    Columns are row, column, metric, value (a float; percents as fractions) and note. Raises CapslibError for an unknown
    paper or table, with the nearest name.
    """
    everything = _everything()
    here = everything[everything["paper"] == choose(paper, set(everything["paper"]), "paper")]
    here = here[here["table"] == choose(name, set(here["table"]), f"table of {paper}")]
    return here[["row", "column", "metric", "value", "note"]].reset_index(drop=True)


def values(paper: str, name: str) -> dict[tuple[str, str, str], float]:
    """Numbers of a table by row, column and metric: see ``table``."""
    numbers = table(paper, name)
    keys = zip(numbers["row"], numbers["column"], numbers["metric"], strict=True)
    return dict(zip(keys, numbers["value"], strict=True))
