"""Features: equal to librosa where definitions coincide, independent of padding and batch mates."""

from __future__ import annotations

import librosa
import numpy as np
import pytest
import scipy.signal
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from capslib.errors import CapslibError
from capslib.features import MFCC, FeatureConfig, LogSpectrogram, deltas, lengths_to_mask, mel_filters

# The same examples on every run: a failure in somebody's checkout is then a failure in everybody's.
PROPERTY = settings(max_examples=20, deadline=None, derandomize=True)


def noise(*shape: int, seed: int = 0) -> np.ndarray:
    return 0.1 * np.random.default_rng(seed).standard_normal(shape)


def one(module: torch.nn.Module, samples: np.ndarray) -> torch.Tensor:
    """Features of one clip alone: (frames, features)."""
    waveform = torch.as_tensor(np.array(samples), dtype=module.window.dtype)[None]
    values, num_frames = module(waveform, torch.tensor([len(samples)]))
    return values[0, : num_frames[0]]


def padded(clips: list[np.ndarray], dtype: torch.dtype = torch.float32) -> tuple[torch.Tensor, torch.Tensor]:
    tensors = [torch.as_tensor(clip, dtype=dtype) for clip in clips]
    return torch.nn.utils.rnn.pad_sequence(tensors, batch_first=True), torch.tensor([len(clip) for clip in clips])


# --- Against librosa


@pytest.mark.parametrize(
    "sample_rate, n_fft, n_mels",
    [(8000, 320, 40), (16000, 640, 40), (16000, 1024, 26), (11025, 441, 40)],
)
def test_mel_filters_are_those_of_librosa(sample_rate, n_fft, n_mels):
    theirs = librosa.filters.mel(sr=sample_rate, n_fft=n_fft, n_mels=n_mels, htk=True, norm=None, dtype=np.float64)
    np.testing.assert_allclose(mel_filters(sample_rate, n_fft, n_mels).numpy(), theirs.T, atol=1e-9)


def test_window_is_the_periodic_one_of_scipy_and_librosa():
    ours = MFCC(16000).window.numpy()
    np.testing.assert_allclose(ours, scipy.signal.get_window("hann", 640, fftbins=True), atol=1e-6)
    np.testing.assert_allclose(ours, librosa.filters.get_window("hann", 640), atol=1e-6)


@pytest.mark.parametrize(
    "sample_rate, n_fft",
    [(8000, None), (16000, None), (8000, 512), (16000, 1024), (11025, 512), (11025, None)],
)
def test_mfcc_equals_librosa(sample_rate, n_fft):
    """They coincide with: frames from the first sample (center=False), hop and window in samples, a periodic Hann
    window, power 2, HTK mel scale, triangles of height one (norm=None), natural logarithm, orthonormal DCT-II, no
    lifter.

    Librosa puts a window shorter than n_fft into the middle of its frame, so the clip gets that much silence in front
    and behind. Its coefficient 0 has no counterpart: the log energy takes that place.
    """
    samples = noise(sample_rate) + np.sin(np.arange(sample_rate) * 0.2)
    module = MFCC(sample_rate, n_fft=n_fft, num_derivatives=0)
    mel = librosa.feature.melspectrogram(
        y=np.pad(samples, (module.n_fft - module.frame_length) // 2),
        sr=sample_rate,
        n_fft=module.n_fft,
        hop_length=module.hop_length,
        win_length=module.frame_length,
        window="hann",
        center=False,
        power=2,
        n_mels=40,
        htk=True,
        norm=None,
    )
    theirs = librosa.feature.mfcc(S=np.log(np.maximum(mel, 1e-10)), n_mfcc=20, dct_type=2, norm="ortho", lifter=0)
    ours = one(module, samples).numpy()
    # An odd n_fft - frame_length loses one sample of padding, and with it at most one frame.
    shared = min(len(ours), theirs.shape[1])
    assert shared >= len(ours) - 1
    np.testing.assert_allclose(ours[:shared, 1:], theirs.T[:shared, 1:], atol=1e-3)


def test_coefficient_zero_is_librosa_s_when_energy_is_off():
    samples = noise(8000)
    mel = librosa.feature.melspectrogram(
        y=samples, sr=8000, n_fft=320, hop_length=80, center=False, n_mels=40, htk=True, norm=None
    )
    theirs = librosa.feature.mfcc(S=np.log(mel), n_mfcc=20, norm="ortho")
    ours = one(MFCC(8000, num_derivatives=0, use_energy=False), samples).numpy()
    np.testing.assert_allclose(ours, theirs.T, atol=1e-3)


@pytest.mark.parametrize("width", [1, 2, 4])
@pytest.mark.parametrize("num_frames", [1, 2, 5, 40])
def test_deltas_equal_librosa(width, num_frames):
    values = noise(num_frames, 7)
    theirs = librosa.feature.delta(values.T, width=2 * width + 1, order=1, mode="nearest").T
    ours = deltas(torch.tensor(values)[None], torch.tensor([num_frames]), width)[0]
    np.testing.assert_allclose(ours.numpy(), theirs, atol=1e-12)


def test_mfcc_has_deltas_and_deltas_of_deltas():
    values = one(MFCC(8000), noise(4000)).numpy()
    assert values.shape[1] == MFCC(8000).out_features == 60
    static, first, second = np.split(values, 3, axis=1)
    np.testing.assert_allclose(first, librosa.feature.delta(static.T, width=5, mode="nearest").T, atol=1e-4)
    np.testing.assert_allclose(second, librosa.feature.delta(first.T, width=5, mode="nearest").T, atol=1e-4)


# --- By what they mean


def test_delta_of_a_line_is_its_slope():
    line = 3.0 - 0.25 * torch.arange(20.0, dtype=torch.float64)
    slope = deltas(line.view(1, -1, 1), torch.tensor([20]))[0, :, 0]
    np.testing.assert_allclose(slope[2:-2].numpy(), -0.25, atol=1e-12)


def test_delta_of_a_constant_is_zero_to_the_edges():
    assert deltas(torch.full((1, 9, 3), 4.0), torch.tensor([9])).abs().max() == 0


@PROPERTY
@given(lengths=st.lists(st.integers(1, 12), min_size=1, max_size=5), seed=st.integers(0, 999))
def test_deltas_of_a_padded_batch_are_those_of_each_clip_alone(lengths, seed):
    values = torch.tensor(noise(len(lengths), max(lengths), 3, seed=seed))  # padding is noise, too
    together = deltas(values, torch.tensor(lengths))
    for row, length in enumerate(lengths):
        alone = deltas(values[row : row + 1, :length], torch.tensor([length]))
        torch.testing.assert_close(together[row, :length], alone[0], rtol=0, atol=1e-12)


@pytest.mark.parametrize("sample_rate", [8000, 11025, 16000])
def test_log_energy_is_the_log_of_the_sum_of_squares(sample_rate):
    samples = noise(sample_rate // 2)
    module = MFCC(sample_rate, num_derivatives=0)
    frames = np.lib.stride_tricks.sliding_window_view(samples, module.frame_length)[:: module.hop_length]
    np.testing.assert_allclose(one(module, samples)[:, 0].numpy(), np.log((frames**2).sum(1)), atol=1e-4)


def test_louder_means_more_energy_and_the_same_coefficients():
    samples = noise(8000)
    quiet, loud = (one(MFCC(8000), gain * samples).numpy() for gain in (1.0, 2.0))
    np.testing.assert_allclose(loud[:, 0] - quiet[:, 0], np.log(4.0), atol=1e-4)
    np.testing.assert_allclose(loud[:, 1:], quiet[:, 1:], atol=1e-3)


@pytest.mark.parametrize("frequency", [50.0, 1000.0, 1234.0, 5000.0])
def test_a_pure_tone_peaks_in_its_bin(frequency):
    module = LogSpectrogram()
    assert module.out_features == 512 and module.sample_rate / module.n_fft == 10.0
    values = one(module, np.sin(2 * np.pi * frequency * np.arange(4000) / 16000))
    assert values.shape == (22, 512)
    assert values.argmax(1).unique().tolist() == [round(frequency / 10)]


def test_a_tone_above_the_kept_bins_is_not_in_them():
    inside, outside = (one(LogSpectrogram(), np.sin(np.arange(4000) * 2 * np.pi * f / 16000)) for f in (3000, 7000))
    assert outside.max() < inside.max() - 10


def test_log_spectrogram_is_the_log_of_the_power():
    samples = noise(2000)
    frames = np.lib.stride_tricks.sliding_window_view(samples, 640)[::160] * scipy.signal.get_window("hann", 640)
    power = np.abs(np.fft.rfft(frames, 1600)) ** 2
    ours = one(LogSpectrogram().double(), samples).exp().numpy()
    np.testing.assert_allclose(ours, power[:, :512], rtol=1e-4, atol=1e-8)


def test_silence_is_the_floor_and_nothing_below():
    floor = np.log(1e-10)
    np.testing.assert_allclose(one(LogSpectrogram(), np.zeros(3200)).numpy(), floor, rtol=1e-6)
    silent = one(MFCC(16000), np.zeros(3200)).numpy()
    np.testing.assert_allclose(silent[:, 0], floor, rtol=1e-6)  # its energy; a flat spectrum has no shape
    np.testing.assert_allclose(silent[:, 1:], 0.0, atol=1e-4)
    level = one(MFCC(16000, num_derivatives=0, use_energy=False), np.zeros(3200))[:, 0].numpy()
    np.testing.assert_allclose(level, floor * np.sqrt(40), rtol=1e-5)


# --- Lengths


@PROPERTY
@given(length=st.integers(0, 5000), sample_rate=st.sampled_from([8000, 11025, 16000]))
def test_number_of_frames(length, sample_rate):
    module = MFCC(sample_rate)
    starts = range(0, length - module.frame_length + 1, module.hop_length)  # every frame lies whole in the clip
    values, num_frames = module(torch.zeros(1, length), torch.tensor([length]))
    assert num_frames.tolist() == [len(starts)]
    assert values.shape[1] == max(1, len(starts)) and values.shape[2] == 60


@pytest.mark.parametrize("module", [MFCC(16000), LogSpectrogram()], ids=["mfcc", "spectrogram"])
def test_a_clip_shorter_than_a_frame_has_none(module):
    waveforms, lengths = padded([noise(639), noise(640), noise(1000)])
    values, num_frames = module(waveforms, lengths)
    assert num_frames.tolist() == [0, 1, 3]
    assert (values[0] == 0).all()
    assert one(module, noise(10)).shape == (0, module.out_features)


MODULES = {
    (kind, dtype): build().to(dtype)
    for kind, build in {
        "mfcc": lambda: MFCC(8000),
        "spectrogram": lambda: LogSpectrogram(8000, n_fft=512, num_bins=200),
    }.items()
    for dtype in (torch.float32, torch.float64)
}


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("kind", ["mfcc", "spectrogram"])
@PROPERTY
@given(lengths=st.lists(st.integers(0, 4000), min_size=1, max_size=5), seed=st.integers(0, 999))
def test_neither_padding_nor_batch_mates_change_a_value(kind, dtype, lengths, seed):
    module = MODULES[kind, dtype]
    clips = [noise(length, seed=seed + i) for i, length in enumerate(lengths)]
    waveforms, lengths = padded(clips, dtype)
    together, num_frames = module(waveforms, lengths)
    behind = ~lengths_to_mask(lengths, waveforms.shape[1])
    dirty, _ = module(waveforms + behind * torch.randn_like(waveforms), lengths)
    assert torch.equal(together, dirty), "what lies behind a clip's end shows"
    assert (together[~lengths_to_mask(num_frames, together.shape[1])] == 0).all()
    for row, clip in enumerate(clips):
        # Matrix products of other shapes add in another order, hence 1e-6 of the largest value.
        alone = one(module, clip)
        torch.testing.assert_close(together[row, : num_frames[row]], alone, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("module", [MFCC(16000), LogSpectrogram()], ids=["mfcc", "spectrogram"])
def test_even_nan_behind_a_clip_is_ignored(module):
    waveforms, lengths = padded([noise(1600), noise(3200)])
    clean, _ = module(waveforms, lengths)
    waveforms[0, 1600:] = float("nan")
    assert torch.equal(module(waveforms, lengths)[0], clean)


# --- As a module


@pytest.mark.parametrize("module", [MFCC(16000), LogSpectrogram()], ids=["mfcc", "spectrogram"])
def test_gradients_reach_every_sample_of_a_clip_and_none_behind_it(module):
    waveforms, lengths = padded([noise(1600), noise(3200)])  # both end with a frame: no sample is left over
    waveforms.requires_grad_()
    values, _ = module(waveforms, lengths)
    values.square().sum().backward()
    assert waveforms.grad.isfinite().all()
    # The Hann window is zero at a frame's first sample, so the clip's very first is in no spectrogram.
    assert (waveforms.grad[0, 1:1600] != 0).all() and (waveforms.grad[1, 1:] != 0).all()
    assert (waveforms.grad[0, 1600:] == 0).all()


def test_gradients_are_right():
    module = MFCC(8000, n_mfcc=3, n_mels=8, frame_ms=4, hop_ms=2).double()
    waveforms = torch.tensor(noise(2, 100)).requires_grad_()
    assert torch.autograd.gradcheck(lambda x: module(x, torch.tensor([100, 60]))[0], waveforms, atol=1e-4)


@pytest.mark.parametrize("module", [MFCC(16000), LogSpectrogram()], ids=["mfcc", "spectrogram"])
def test_double_precision_agrees_with_single(module):
    samples = noise(4000)
    single = one(module, samples)
    double = one(type(module)(16000).double(), samples)
    assert double.dtype == torch.float64
    torch.testing.assert_close(single.double(), double, rtol=0, atol=1e-3)


def test_features_add_nothing_to_a_model_s_weights():
    # Filters and windows follow from the configuration; in a file of weights they could only go stale.
    assert not MFCC(16000).state_dict() and not LogSpectrogram().state_dict()


def chirp() -> np.ndarray:
    """A quarter of a second from 200 to 3,400 Hz in seeded noise."""
    time = np.arange(2000) / 8000
    return 0.4 * scipy.signal.chirp(time, 200, 0.25, 3400) + 0.01 * np.random.default_rng(7).standard_normal(2000)


# Records are made from these values: a change here makes every record of the study stale, on purpose or not.
FROZEN = {
    0: [
        3.25199,
        9.98975,
        0.94383,
        -10.73673,
        -0.00234,
        -1.78628,
        -2.83084,
        -0.76648,
        0.00013,
        -0.41795,
        -0.22053,
        0.47567,
    ],
    1: [
        3.24088,
        6.91716,
        -4.73942,
        -13.05342,
        -0.0019,
        -2.8603,
        -3.75997,
        -0.19638,
        0.00054,
        -0.30926,
        0.1399,
        1.00538,
    ],
    11: [
        3.24378,
        -7.88892,
        -3.48211,
        8.43529,
        -0.00127,
        -0.32392,
        1.06414,
        -0.93892,
        -0.00045,
        0.11789,
        -0.14284,
        -0.53027,
    ],
    21: [
        3.24507,
        -9.99543,
        7.45995,
        -3.43753,
        -0.00226,
        -0.01911,
        0.22515,
        -0.37187,
        -5e-05,
        0.01961,
        -0.14789,
        0.11963,
    ],
}


@pytest.mark.parametrize("frame", FROZEN)
def test_mfcc_is_what_it_was(frame):
    values = one(MFCC(8000).double(), chirp())
    assert values.shape == (22, 60)
    # log energy, c1 to c3, their first derivatives, their second
    kept = values[frame, [0, 1, 2, 3, 20, 21, 22, 23, 40, 41, 42, 43]]
    np.testing.assert_allclose(kept.numpy(), FROZEN[frame], atol=1e-4)


# --- Options


def test_a_transform_shorter_than_a_frame_is_refused():
    with pytest.raises(CapslibError, match=r"n_fft=256 is shorter than a frame of 640 samples"):
        MFCC(16000, n_fft=256)


def test_more_bins_than_the_transform_has_are_refused():
    with pytest.raises(CapslibError, match=r"num_bins=512 .* 320 has: 161"):
        LogSpectrogram(8000, n_fft=320)


def test_unknown_features_are_refused():
    with pytest.raises(CapslibError, match=r"unknown kind of features 'mfc': did you mean 'mfcc'"):
        FeatureConfig("mfc").build(16000)


def test_an_unknown_option_of_features_is_refused():
    with pytest.raises(CapslibError, match=r"unknown option of 'mfcc' features 'n_mel': did you mean 'n_mels'"):
        FeatureConfig("mfcc", (("n_mel", 30),)).build(16000)
