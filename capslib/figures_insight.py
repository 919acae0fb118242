"""Figures of what trained networks do with a clip; see ``insight``."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import pandas as pd
from IPython.display import HTML, display

from capslib.figures import PALETTE, _grid, save

_LEVELS = ["#2166ac", "#67a9cf", "#404040", "#f4a582", "#b2182b"]
_NOT_YET = "<p>Not run yet: no trained network was looked into.</p>"


def couplings(found: Sequence[Mapping], name: str, out: Path) -> None:
    """Entropy of the couplings by pass, coupling to the true class and energy over relative time, and one clip.

    Args:
        found: from ``insight.looks(runs, insight.couplings)``.
    """
    if not found:
        display(HTML(_NOT_YET))
        return
    keys = list(dict.fromkeys(look["corpus"] for look in found))
    figure, axes = _grid(3, 3, 3.6, 2.6)
    rows = []
    for i, key in enumerate(keys):
        here = [look for look in found if look["corpus"] == key]
        for axis, what in zip(axes[0, :2], ("entropy", "by_time"), strict=True):
            lines = np.array([look[what] for look in here])
            x = (
                np.arange(1, lines.shape[1] + 1)
                if what == "entropy"
                else (np.arange(lines.shape[1]) + 0.5) / lines.shape[1]
            )
            axis.plot(x, lines.mean(0), "o-", color=PALETTE[i], label=key, markersize=3)
            axis.fill_between(x, lines.min(0), lines.max(0), color=PALETTE[i], alpha=0.12, linewidth=0)
            rows += [{"corpus": key, "what": what, "x": a, "mean": b} for a, b in zip(x, lines.mean(0), strict=True)]
    clip = found[0]["clip"]
    for what, colour in (("coupling", PALETTE[0]), ("energy", PALETTE[1])):
        values = np.array(clip[what])
        axes[0, 2].plot((values - values.mean()) / max(values.std(), 1e-9), color=colour, label=what)
    lowest = min(min(look["entropy"]) for look in found)
    axes[0, 0].set(xlabel="pass", ylabel="entropy (1: even)", ylim=(min(0.9, lowest - 0.02), 1.005))
    axes[0, 1].set(xlabel="relative time", ylabel="coupling to the\ntrue class (standardized)")
    axes[0, 2].set(xlabel="step", title=f"one clip of {found[0]['corpus']}", ylabel="standardized")
    axes[0, 0].legend(fontsize=7)
    axes[0, 2].legend(fontsize=7)
    save(figure, name, pd.DataFrame(rows), out)


def components(found: Sequence[Mapping], networks: Sequence[str], name: str, out: Path) -> None:
    """One class' clips at every level of each perturbation, in the plane of their first two principal components (P0 Figs. 3
    and 4), one row a network.

    Args:
        found: from ``insight.looks(runs, insight.components)``; systems are called "network, perturbation".
        networks: the rows.
    """
    if not found:
        display(HTML(_NOT_YET))
        return
    first = {look["system"]: look for look in reversed(found)}  # of the first fold and seed
    kinds = list(dict.fromkeys(look["system"].split(", ")[1] for look in found))
    figure, axes = _grid(len(networks) * len(kinds), len(kinds), 3.4, 2.9)
    rows = []
    for axis, (network, kind) in zip(axes.flat, [(n, k) for n in networks for k in kinds], strict=True):
        look = first.get(f"{network}, {kind}")
        if look is None:
            axis.set_title(f"{network}, {kind}: not run yet", fontsize=9)
            axis.set_axis_off()
            continue
        points, levels = np.array(look["scatter"]["points"]), look["levels"]
        for place, (level, clips) in enumerate(zip(levels, points, strict=True)):
            colour = _LEVELS[round(place * (len(_LEVELS) - 1) / max(1, len(levels) - 1))]
            axis.scatter(*clips.T, s=9, color=colour, label=f"{level:g}", alpha=0.8, linewidths=0)
            rows += [{"network": network, "perturbation": kind, "level": level, "x": x, "y": y} for x, y in clips]
        explained = 100 * sum(look["pooled"][:2])
        axis.set_title(f"{network}, {kind}: {explained:.0f}% in two of {look['features']}", fontsize=9)
        axis.legend(fontsize=6, loc="best", handletextpad=0.1, borderpad=0.1)
    save(figure, name, pd.DataFrame(rows), out)


def reconstructions(found: Sequence[Mapping], classes: Sequence[str], name: str, out: Path) -> None:
    """Scaled MFCCs of a few clips, and below them what the decoder writes from the predicted class' capsule.

    Args:
        found: from ``insight.looks(runs, insight.reconstructions)``; the first is shown.
        classes: names.
    """
    if not found or not found[0]["shown"]:
        display(HTML(_NOT_YET))
        return
    look, shown = found[0], found[0]["shown"]
    figure, axes = _grid(2 * len(shown), len(shown), 3.0, 1.9, sharey=True)
    figure.suptitle(f"{look['corpus']}, {look['split']}: {look['system']}", fontsize=9)
    rows = []
    for column, (target, pair) in enumerate(shown.items()):
        for row, what in enumerate(("input", "reconstruction")):
            values = np.array(pair[what])
            axes[row, column].imshow(values.T, origin="lower", aspect="auto", vmin=0, vmax=1, cmap="magma")
            axes[row, column].grid(visible=False)
            rows += [
                {
                    "corpus": look["corpus"],
                    "class": classes[int(target)],
                    "what": what,
                    "frame": t,
                    "feature": f,
                    "value": v,
                }
                for t, frame in enumerate(values)
                for f, v in enumerate(frame)
            ]
        error = np.abs(np.array(pair["input"]) - np.array(pair["reconstruction"])).mean()
        axes[0, column].set_title(f"{classes[int(target)]}: input", fontsize=9)
        axes[1, column].set_title(f"told as {classes[pair['predicted']]}, MAE {error:.3f}", fontsize=9)
        axes[1, column].set_xlabel("frame")
    axes[0, 0].set_ylabel("energy, MFCC 1-19")
    save(figure, name, pd.DataFrame(rows), out)


def over_snr(found: Sequence[Mapping], classes: Sequence[str], name: str, out: Path) -> None:
    """Mean score of each class over the signal-to-noise ratio, and dashed the share of clips in which it is told, a panel for
    each corpus and system; band: over folds and seeds.

    Args:
        found: from ``insight.looks(runs, insight.over_snr, given=insight.mixed_again)``.
        classes: in the order of the corpora.
    """
    if not found:
        display(HTML(_NOT_YET))
        return
    panels = list(dict.fromkeys((look["corpus"], look["system"]) for look in found))
    figure, axes = _grid(len(panels), 2, 3.8, 2.7, sharey=True)
    rows = []
    for axis, (corpus, system) in zip(axes.flat, panels, strict=False):
        here = [look for look in found if (look["corpus"], look["system"]) == (corpus, system)]
        snr = here[0]["snr"]
        for k, label in enumerate(classes):
            lines = np.array([look["scores"][k] for look in here])
            axis.plot(snr, lines.mean(0), "o-", color=PALETTE[k], label=f"{label}: score", markersize=4)
            axis.fill_between(snr, lines.min(0), lines.max(0), color=PALETTE[k], alpha=0.15, linewidth=0)
            detected = np.array([look["detected"][k] for look in here]).mean(0)
            axis.plot(snr, detected, "--", color=PALETTE[k], linewidth=1, label=f"{label}: share told")
            values = zip(snr, lines.mean(0), detected, strict=True)
            rows += [
                {"corpus": corpus, "system": system, "class": label, "snr": x, "score": y, "detected": d}
                for x, y, d in values
            ]
        axis.axhline(0.5, color="grey", linewidth=0.8, linestyle=":")
        axis.axvline(5, color="grey", linewidth=0.8, linestyle=":")
        axis.set(xlabel="speech over noise in dB", ylim=(0, 1))
        axis.set_title(f"{system} on {corpus}", fontsize=9)
    axes[0, 0].set_ylabel("length (CAPS), probability\n(ATT), or share told")
    figure.legend(*axes[0, 0].get_legend_handles_labels(), loc="outside upper center", ncols=4, fontsize=8)
    save(figure, name, pd.DataFrame(rows), out)
