"""Waveforms to tensors: MFCCs with energy and derivatives, log spectrograms; in batches, with lengths, on any device.

Frames are cut from real samples only (no centring, no padding), so that neither batch mates nor padding change a value,
and a clip shorter than one frame has none. The logarithm is natural.
"""

import hashlib
import json
import math
import sys
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from inspect import signature

import numpy as np
import torch
from torch import Tensor, nn
from tqdm import tqdm

from capslib import keys, paths
from capslib.augment import perturb
from capslib.corpora import Corpus
from capslib.errors import CapslibError, choose


def lengths_to_mask(lengths: Tensor, num_frames: int) -> Tensor:
    """True at valid frames: (batch,) -> (batch, num_frames)."""
    return torch.arange(num_frames, device=lengths.device) < lengths[:, None]


def mel_filters(sample_rate: int, n_fft: int, n_mels: int) -> Tensor:
    """Triangular filters on the HTK mel scale, of height one, up to half the sample rate: (n_fft // 2 + 1, n_mels).

    Equals ``librosa.filters.mel(htk=True, norm=None)`` transposed, float64.
    """
    highest = 2595.0 * math.log10(1.0 + sample_rate / 2 / 700.0)
    mels = torch.linspace(0.0, highest, n_mels + 2, dtype=torch.float64)
    corners = 700.0 * (10.0 ** (mels / 2595.0) - 1.0)
    bins = torch.arange(n_fft // 2 + 1, dtype=torch.float64) * (sample_rate / n_fft)
    widths = corners.diff()
    slopes = corners[None, :] - bins[:, None]
    rising, falling = -slopes[:, :-2] / widths[:-1], slopes[:, 2:] / widths[1:]
    return torch.minimum(rising, falling).clamp_min(0.0)


def dct_matrix(n_mfcc: int, n_mels: int) -> Tensor:
    """Orthonormal DCT-II: (n_mels, n_mfcc), float64, from coefficient 0."""
    n = torch.arange(n_mels, dtype=torch.float64) + 0.5
    k = torch.arange(n_mfcc, dtype=torch.float64)
    basis = torch.cos(math.pi / n_mels * n[:, None] * k[None, :]) * math.sqrt(2.0 / n_mels)
    basis[:, 0] /= math.sqrt(2.0)
    return basis


def deltas(features: Tensor, lengths: Tensor, width: int = 2) -> Tensor:
    """Slope of the regression line over ``2 * width + 1`` frames; a clip's own first and last frames are repeated.

    (batch, frames, features) and valid frames (batch,) -> (batch, frames, features), undefined past a clip's length.
    Equals ``librosa.feature.delta(width=2 * width + 1, mode="nearest")`` on each clip.
    """
    B, T, F = features.shape  # batch, frames, features
    tail = features.gather(1, (lengths - 1).clamp_min(0).view(B, 1, 1).expand(B, 1, F))  # each clip's last frame
    extended = torch.where(lengths_to_mask(lengths, T).unsqueeze(-1), features, tail)
    padded = torch.cat([extended[:, :1]] * width + [extended] + [tail] * width, dim=1)  # (B, T + 2 * width, F)
    slope = torch.zeros_like(features)
    for k in range(1, width + 1):
        slope += k * (padded[:, width + k : width + k + T] - padded[:, width - k : width - k + T])
    return slope / (2 * sum(k * k for k in range(1, width + 1)))


class Framed(nn.Module):
    """Base of features of windowed frames; a kind of features sets ``out_features`` and computes ``values``.

    Args:
        sample_rate: in hertz.
        frame_ms, hop_ms: length of a frame, and from frame to frame, in milliseconds.
        n_fft: length of the transform in samples, at least a frame's (CapslibError); None for that.
    """

    window: Tensor
    out_features: int

    def __init__(self, sample_rate: int, frame_ms: float, hop_ms: float, n_fft: int | None) -> None:
        super().__init__()
        self.sample_rate = sample_rate
        self.frame_length = round(sample_rate * frame_ms / 1000)
        self.hop_length = round(sample_rate * hop_ms / 1000)
        self.n_fft = n_fft or self.frame_length
        if self.n_fft < self.frame_length:
            frame = f"a frame of {self.frame_length} samples"
            raise CapslibError(f"n_fft={self.n_fft} is shorter than {frame}: raise n_fft")
        self.register_buffer("window", torch.hann_window(self.frame_length), persistent=False)

    def forward(self, waveforms: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        """
        Args:
            waveforms: (batch, samples), samples past ``lengths`` are ignored.
            lengths: valid samples of each clip, (batch,).
        Returns:
            (batch, frames, out_features), zero past each clip's frames, and the number of frames, (batch,).
        """
        num_frames = ((lengths - self.frame_length) // self.hop_length + 1).clamp_min(0)
        if waveforms.shape[-1] < self.frame_length:  # no clip has a frame: one is computed, and masked
            waveforms = nn.functional.pad(waveforms, (0, self.frame_length - waveforms.shape[-1]))
        values = self.values(waveforms, num_frames)
        return values.masked_fill(~lengths_to_mask(num_frames, values.shape[1]).unsqueeze(-1), 0.0), num_frames

    def values(self, waveforms: Tensor, num_frames: Tensor) -> Tensor:
        """(batch, samples), (batch,) -> (batch, frames, out_features), undefined past a clip's frames."""
        raise NotImplementedError

    def spectra(self, waveforms: Tensor) -> Iterator[Tensor]:
        """Real and imaginary parts of every frame's transform, side by side: (clips, frames, 2 * (n_fft // 2 + 1)).

        Squares, summed in pairs, are the power; leaving that sum to the matrix product that follows saves half of the
        time of the whole feature. A few clips come at a time on a processor (a megabyte stays in its cache), all on a
        GPU.
        """
        size = max(1, 2**18 // (waveforms.shape[-1] // self.hop_length * self.n_fft + 1))  # clips in a megabyte
        for clips in waveforms.split(size if waveforms.device.type == "cpu" else len(waveforms)):
            frames = clips.unfold(-1, self.frame_length, self.hop_length)  # (clips, frames, frame_length)
            yield torch.view_as_real(torch.fft.rfft(frames * self.window, n=self.n_fft)).flatten(-2)

    def energy(self, waveforms: Tensor) -> Tensor:
        """Sum of squares of every frame before the window: (batch, samples) -> (batch, frames)."""
        # Frames overlap: samples are squared and summed once in blocks that divide both frame and hop.
        step = math.gcd(self.frame_length, self.hop_length)
        whole = waveforms[..., : waveforms.shape[-1] // step * step]
        blocks = (whole * whole).unflatten(-1, (-1, step)).sum(-1)
        return blocks.unfold(-1, self.frame_length // step, self.hop_length // step).sum(-1)


class MFCC(Framed):
    """Mel-frequency cepstral coefficients with log energy and derivatives: P0's 60 values per frame (P0 section 5).

    "19 leading coefficients along with delta and delta-delta derivatives and energies" is read as HTK's convention:
    coefficients 1 to 19 and the frame's log energy in place of coefficient 0, with their first and second derivatives.

    Args:
        sample_rate, frame_ms, hop_ms, n_fft: as in ``Framed``; frames and hops are P0's by default.
        n_mfcc: coefficients without the energy.
        n_mels: mel bands (HTK scale, triangles of height one).
        num_derivatives: 0, 1 or 2.
        use_energy: log energy first; else coefficient 0.
    """

    def __init__(
        self,
        sample_rate: int,
        n_mfcc: int = 19,
        n_mels: int = 40,
        frame_ms: float = 40.0,
        hop_ms: float = 10.0,
        n_fft: int | None = None,
        num_derivatives: int = 2,
        use_energy: bool = True,
    ) -> None:
        super().__init__(sample_rate, frame_ms, hop_ms, n_fft)
        self.num_derivatives, self.use_energy = num_derivatives, use_energy
        # Each filter twice: for the real and the imaginary part of a bin, which ``spectra`` has side by side.
        filters = mel_filters(sample_rate, self.n_fft, n_mels).float().repeat_interleave(2, dim=0)
        self.register_buffer("filters", filters, persistent=False)
        self.register_buffer("basis", dct_matrix(n_mfcc + 1, n_mels).float(), persistent=False)
        self.out_features = (n_mfcc + 1) * (1 + num_derivatives)

    def values(self, waveforms: Tensor, num_frames: Tensor) -> Tensor:
        mel = torch.cat([(x * x) @ self.filters for x in self.spectra(waveforms)])  # (batch, frames, n_mels)
        coefficients = mel.clamp_min(1e-10).log() @ self.basis  # (batch, frames, n_mfcc + 1)
        if self.use_energy:
            energy = self.energy(waveforms).clamp_min(1e-10).log()
            coefficients = torch.cat([energy.unsqueeze(-1), coefficients[..., 1:]], dim=-1)
        blocks = [coefficients]
        for _ in range(self.num_derivatives):
            blocks.append(deltas(blocks[-1], num_frames))
        return torch.cat(blocks, dim=-1)


class LogSpectrogram(Framed):
    """Log power spectrogram of the ``num_bins`` bins from 0 Hz upwards; the other arguments are as in ``Framed``.

    The defaults are P1's and P2's: Hann window of 40 ms, hop of 10 ms, and of a transform of 1,600 samples at 16 kHz,
    10 Hz per bin, 512 bins, 0 to 5.12 kHz. Raises CapslibError for more bins than the transform has.
    """

    def __init__(
        self, sample_rate: int = 16000, frame_ms: float = 40, hop_ms: float = 10, n_fft: int = 1600, num_bins: int = 512
    ) -> None:
        super().__init__(sample_rate, frame_ms, hop_ms, n_fft)
        if num_bins > self.n_fft // 2 + 1:
            raise CapslibError(f"num_bins={num_bins} is more than a DFT of {self.n_fft} has: {self.n_fft // 2 + 1}")
        self.out_features = num_bins

    def values(self, waveforms: Tensor, num_frames: Tensor) -> Tensor:
        # real and imaginary part of each bin: (clips, frames, 2 * num_bins) -> (clips, frames, num_bins)
        lower = (x[..., : 2 * self.out_features] for x in self.spectra(waveforms))
        power = torch.cat([(x * x).unflatten(-1, (-1, 2)).sum(-1) for x in lower])
        return power.clamp_min(1e-10).log()


# Kind -> class, called with the sample rate and the options of ``FeatureConfig`` by name.
KINDS: dict[str, Callable[..., Framed]] = {"mfcc": MFCC, "spectrogram": LogSpectrogram}


@dataclass(frozen=True)
class FeatureConfig:
    """Which features: a key of ``KINDS``, and options that differ from the kind's defaults."""

    kind: str = "mfcc"
    options: tuple[tuple[str, float], ...] = ()

    def build(self, sample_rate: int) -> Framed:
        """The module that computes them; raises CapslibError for an unknown kind or option, with the nearest."""
        kind = KINDS[choose(self.kind, KINDS, "kind of features")]
        for name, _ in self.options:
            choose(name, list(signature(kind).parameters)[1:], f"option of {self.kind!r} features")
        return kind(sample_rate, **dict(self.options))


@dataclass(frozen=True)
class Features:
    """Features of a corpus, clip after clip, memory-mapped.

    Attributes:
        frames: float32 (total frames, features).
        offsets: int64 (rows + 1,); the clip in row i of the corpus is ``frames[offsets[i]:offsets[i + 1]]``.
        hop_seconds: time from frame to frame.
    """

    frames: np.ndarray
    offsets: np.ndarray
    hop_seconds: float

    def __getitem__(self, row: int) -> np.ndarray:
        return self.frames[self.offsets[row] : self.offsets[row + 1]]

    @property
    def lengths(self) -> np.ndarray:
        """Frames of each clip, (rows,)."""
        return np.diff(self.offsets)


@torch.inference_mode()
def extract(
    corpus: Corpus,
    config: FeatureConfig = FeatureConfig(),
    batch_seconds: float = 20.0,
    perturbation: tuple[str, float] | None = None,
) -> Features:
    """Features of all clips of a corpus, computed once and cached by the audio and the code.

    Args:
        batch_seconds: audio per batch.
        perturbation: kind and level, see ``augment.perturb``; None leaves the clips as they are.
    Raises:
        CapslibError: if a perturbed clip is silence or shorter than one frame.
    """
    module = config.build(corpus.sample_rate).eval()
    audio = corpus.decoded
    code = keys.code_version([("capslib.features", "extract")], {config.kind, *(perturbation or ())[:1]})
    content = [code, asdict(config), audio.sample_rate, audio.hashes, *([perturbation] if perturbation else [])]
    key = hashlib.sha256(json.dumps(content).encode()).hexdigest()[:16]
    stem = paths.cache() / "features" / f"{corpus.name}-{config.kind}-{key}"
    frames_file, offsets_file = stem.with_suffix(".npy"), stem.with_suffix(".offsets.npy")
    if not offsets_file.is_file():
        rows = _in_batches(audio.offsets, audio.sample_rate, batch_seconds)
        bar = tqdm(rows, desc=f"{config.kind} of {corpus.name}", unit="batch", disable=not sys.stderr.isatty())
        blocks, counts = [], []
        for batch in bar:
            clips = [audio[i].astype(np.float32) / 32768.0 for i in batch]  # from 16 bits; full scale is 1
            if perturbation:
                clips = [_perturbed(x, perturbation, corpus, i, module) for x, i in zip(clips, batch, strict=True)]
            waveforms = nn.utils.rnn.pad_sequence([torch.from_numpy(clip) for clip in clips], batch_first=True)
            values, num_frames = module(waveforms, torch.tensor([len(clip) for clip in clips]))
            blocks.append(values[lengths_to_mask(num_frames, values.shape[1])].numpy())
            counts.extend(num_frames.tolist())
        frames, offsets = np.concatenate(blocks), np.concatenate([[0], np.cumsum(counts)])
        paths.write_atomically(frames_file, lambda temporary: np.save(temporary, frames))
        paths.write_atomically(offsets_file, lambda temporary: np.save(temporary, offsets))
    frames, offsets = np.load(frames_file, mmap_mode="r"), np.load(offsets_file)
    return Features(frames, offsets, module.hop_length / module.sample_rate)


def _perturbed(
    clip: np.ndarray, perturbation: tuple[str, float], corpus: Corpus, row: int, module: Framed
) -> np.ndarray:
    """A clip at a level of a perturbation; its name is in the error if nothing usable is left of it."""
    try:
        changed = perturb(clip, *perturbation, corpus.sample_rate)
        if len(changed) < module.frame_length <= len(clip):
            kind, level = perturbation
            raise CapslibError(f"{kind} {level:g} leaves less than one frame: choose a smaller one")
    except CapslibError as error:
        items = corpus.table.index[corpus.table["row"] == row]
        raise CapslibError(f"clip {', '.join(items) or row!r} of {corpus.name}: {error}") from None
    return changed


def _in_batches(offsets: np.ndarray, sample_rate: int, seconds: float) -> list[range]:
    """Consecutive clips, each batch about ``seconds`` long in all."""
    batches, start = [], 0
    for i in range(len(offsets) - 1):
        if i > start and offsets[i + 1] - offsets[start] > seconds * sample_rate:
            batches.append(range(start, i))
            start = i
    return [*batches, range(start, len(offsets) - 1)]
