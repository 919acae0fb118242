"""Perturbed waveforms: louder, shifted by a constant, or faster (P0 section 6.1).

P0 varies "the amplitude by adding and reducing constant signals": a constant added to every sample is one reading, a
constant factor the other; both are provided. Its levels are labels of figures that our copy of the paper does not have.
"""

from collections.abc import Callable

import numpy as np
import soxr

from capslib.errors import CapslibError, choose

_SILENT = 1 / 32768  # one step of 16 bits


def _gain(waveform: np.ndarray, decibels: float, sample_rate: int) -> np.ndarray:
    with np.errstate(over="ignore", invalid="ignore"):  # ``perturb`` refuses what is not finite
        return waveform * np.float32(np.power(10.0, decibels / 20))


def _offset(waveform: np.ndarray, constant: float, sample_rate: int) -> np.ndarray:
    return waveform + np.float32(constant)


def _speed(waveform: np.ndarray, factor: float, sample_rate: int) -> np.ndarray:
    if factor <= 0:
        raise CapslibError(f"speed {factor:g}: a factor must be above 0; P0's examples lie around 1")
    return soxr.resample(waveform, sample_rate * factor, sample_rate, quality="HQ") if factor != 1 else waveform


# Kind -> function of (waveform, level, sample_rate).
PERTURBATIONS: dict[str, Callable[[np.ndarray, float, int], np.ndarray]] = {
    "gain": _gain,
    "offset": _offset,
    "speed": _speed,
}


def perturb(waveform: np.ndarray, kind: str, level: float, sample_rate: int) -> np.ndarray:
    """A clip at one level of a perturbation, float32 in [-1, 1) before it and never clipped: (samples,) -> (samples,).

    Args:
        kind, level: "gain" in decibels, "offset" (a constant, 1 being full scale) or "speed" (a factor; pitch changes
            with it, as on a tape, and samples become samples / level). 0, 0 and 1 change nothing.
        sample_rate: in hertz.
    Raises:
        CapslibError: for an unknown kind, a speed that is not above 0, or if the result is silent or not finite.
    """
    change = PERTURBATIONS[choose(kind, PERTURBATIONS, "perturbation")]
    if not np.isfinite(level):
        raise CapslibError(f"{kind} {level}: give a finite level")
    changed = np.asarray(change(waveform, level, sample_rate), dtype=np.float32)
    if len(waveform) and not (np.isfinite(changed).all() and np.abs(changed).max(initial=0.0) >= _SILENT):
        raise CapslibError(f"{kind} {level:g} leaves silence or no numbers: choose a level nearer to no change")
    return changed
