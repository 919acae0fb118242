"""One style for all figures, and how each is written."""

from functools import partial
from pathlib import Path

import matplotlib as mpl
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from IPython.display import HTML, display
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.image import AxesImage

from capslib import paths

# Okabe and Ito's palette, which can be read with any colour vision.
PALETTE = ["#0072B2", "#E69F00", "#009E73", "#D55E00", "#CC79A7", "#56B4E9", "#F0E442", "#000000"]
_STYLE = {
    "figure.dpi": 80,
    "font.size": 10,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.alpha": 0.25,
    "axes.prop_cycle": mpl.cycler(color=PALETTE),
    "legend.frameon": False,
}


def grid(panels: int, columns: int, width: float, height: float, **options: object) -> tuple[Figure, np.ndarray]:
    """A figure of so many panels, at most ``columns`` beside one another; the last row may have empty places.

    Args:
        width, height: of a panel, in inches.
        options: of ``plt.subplots``.
    Returns:
        The figure, and its axes (rows, columns).
    """
    columns = max(1, min(columns, panels))
    rows = -(-panels // columns)
    size = (width * columns, height * rows)
    with mpl.rc_context(_STYLE):
        figure, axes = plt.subplots(rows, columns, figsize=size, squeeze=False, layout="constrained", **options)
    for axis in axes.flat[panels:]:
        axis.set_visible(False)
    return figure, axes


def band(axis: Axes, x: np.ndarray, lines: np.ndarray, style: str = "-", **options: object) -> np.ndarray:
    """Draw the mean of lines (n, len(x)) and their range; return the mean. ``options`` are those of ``Axes.plot``."""
    (line,) = axis.plot(x, mean := lines.mean(0), style, **options)
    axis.fill_between(x, lines.min(0), lines.max(0), color=line.get_color(), alpha=0.12, linewidth=0)
    return mean


def image(axis: Axes, cells: np.ndarray, title: str = "", **options: object) -> AxesImage:
    """Draw cells (x, y) as an image with its origin below left. ``options`` are those of ``Axes.imshow``."""
    axis.grid(visible=False)
    axis.set_title(title, fontsize=9)
    return axis.imshow(np.transpose(cells), origin="lower", aspect="auto", **options)


def legend(figure: Figure, columns: int, place: str = "outside upper center", size: float = 8) -> None:
    """One legend for all panels, with each label once."""
    handles = {
        label: handle for axis in figure.axes for handle, label in zip(*axis.get_legend_handles_labels(), strict=True)
    }
    figure.legend(handles.values(), handles.keys(), loc=place, ncols=columns, fontsize=size)


def save(figure: Figure, name: str, data: pd.DataFrame, out: Path) -> None:
    """Write ``figures/<name>.png`` and ``.svg``, and what they show as ``.csv``, below ``out``, and show the figure."""
    folder = out / "figures"
    figure.set_dpi(_STYLE["figure.dpi"])
    mpl.rcParams["svg.hashsalt"], mpl.rcParams["svg.fonttype"] = "capslib", "none"
    for suffix, metadata in ((".png", {"Software": None}), (".svg", {"Date": None})):
        options = {"metadata": metadata, "bbox_inches": "tight", "dpi": 120}
        paths.write_atomically(folder / f"{name}{suffix}", partial(figure.savefig, **options))
    paths.write_text(folder / f"{name}.csv", data.to_csv(index=False, lineterminator="\n", float_format="%.6g"))
    plt.show()
    plt.close(figure)


def not_yet() -> None:
    """Say in the page that there is nothing to draw."""
    display(HTML("<p>Not run yet.</p>"))
