"""How every table is shown and written."""

import html
from collections.abc import Mapping, Sequence
from pathlib import Path

import pandas as pd
from IPython.display import HTML

from capslib import models, paths
from capslib.statistics import NOT_YET

NOT_AVAILABLE = "not available"
_STYLE = [
    {"selector": "caption", "props": "caption-side: top; text-align: left; padding: 0.4em 0; max-width: 60em"},
    {"selector": "th, td", "props": "text-align: left; padding: 0.25em 0.7em; vertical-align: top"},
    {"selector": "td", "props": "font-variant-numeric: tabular-nums"},
]


def show(frame: pd.DataFrame, name: str, caption: str, out: Path, bold: pd.DataFrame | None = None) -> HTML:
    """A table as HTML, and as ``tables/<name>.csv`` below ``out``, which a program can read.

    Args:
        frame: what to show; numbers as they should be printed.
        name: of the file, and of the table in the page.
        caption: one or two sentences: what, where from, how many.
        out: folder of the report.
        bold: same shape, True where a cell is bold.
    """
    if frame.empty:
        frame, bold = pd.DataFrame({column: ["" if i else NOT_YET] for i, column in enumerate(frame.columns)}), None
    text = frame.to_csv(index=False, lineterminator="\n", float_format="%.6g")
    paths.write_text(out / "tables" / f"{name}.csv", text)
    styler = frame.style.set_uuid(name).set_caption(html.escape(caption)).hide(axis="index")
    styler = styler.set_table_styles(_STYLE).format(precision=3, na_rep="")
    if bold is not None:
        styler = styler.apply(lambda _: bold.map({True: "font-weight: bold", False: ""}.get), axis=None)
    return HTML(styler.to_html())


def title(system: str) -> str:
    """How tables and figures print a system: the name of a model with its default options in capitals."""
    return system.upper() if system in models.entries() else system


def titled(systems: Sequence[str] | Mapping[str, str]) -> Mapping[str, str]:
    """Systems, each with the paper's name for it, which is its ``title`` where none is given."""
    return systems if isinstance(systems, Mapping) else {system: title(system) for system in systems}
