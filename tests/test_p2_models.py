"""P1's and P2's systems: their sizes to the last parameter, and what a user would notice of how they work."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from capslib import models
from capslib.models import AudioModel

PUBLISHED = {  # P2 table II: four classes, 512 bins
    "cnn_gru": 833_012,
    "cnn_cap": 131_110_832,
    "lstm_cap": 17_607_492,
    "cnn_seqcap": 703_540,
    "cnn_reccap": 708_148,
    "cnn_gru_seqcap": 1_523_448,
    "cnn_gru_reccap": 1_528_056,
}
SMALL = {"cnn_cap": {"num_frames": 120}, "lstm_cap": {"num_frames": 120, "hidden_features": 8}}
NAMES = sorted([*PUBLISHED, "cnn_gru_att", "cnn_gru+cnn_seqcap", "cnn_gru+cnn_reccap", "ref15_cnn", "ref15_cnn_lstm"])
HYBRIDS = ["cnn_gru_seqcap", "cnn_gru_reccap", "cnn_gru+cnn_seqcap", "cnn_gru+cnn_reccap"]
BINS, CLASSES = 40, 4
LENGTHS = [97, 7, 120, 41, 1, 40]  # several windows of 40 frames, one exactly, and less than one

each = pytest.mark.parametrize("name", NAMES)


def fresh(name: str, **options) -> AudioModel:
    torch.manual_seed(0)
    return models.build(name, BINS, CLASSES, **SMALL.get(name, {}), **options).eval()


def batch(lengths: list[int] = LENGTHS, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    torch.manual_seed(seed)
    return nn.utils.rnn.pad_sequence([torch.randn(n, BINS) for n in lengths], batch_first=True), torch.tensor(lengths)


@pytest.mark.parametrize("name, published", PUBLISHED.items())
def test_parameters_are_those_of_p2_to_the_last_digit(name, published):
    with torch.device("meta"):  # counted without memory: CNN_Cap alone would take half a gigabyte
        model = models.build(name, 512, 4)
    assert models.count_parameters(model) == published
    assert not hasattr(model, "trunk") or models.count_parameters(model.trunk) == 13_104
    assert all(p.requires_grad for p in model.parameters())


@pytest.mark.parametrize("capsules", ["seqcap", "reccap"])
def test_a_combination_is_as_large_as_its_systems(capsules):
    with torch.device("meta"):
        model = models.build(f"cnn_gru+cnn_{capsules}", 512, 4)
    assert models.count_parameters(model) == PUBLISHED["cnn_gru"] + PUBLISHED[f"cnn_{capsules}"]


@each
def test_scores_of_a_padded_batch_are_those_of_each_clip_alone(name):
    model, (x, lengths) = fresh(name), batch()
    with torch.inference_mode():
        together = model(x, lengths)
        assert together.shape == (len(LENGTHS), CLASSES) and together.isfinite().all()
        assert together.std(0).min() > 1e-6  # else nothing of the clips would be in the scores
        for row, length in enumerate(LENGTHS):
            alone = model(x[row : row + 1, :length], lengths[row : row + 1])
            torch.testing.assert_close(alone[0], together[row], rtol=0, atol=1e-5)
        noisy = torch.where(
            torch.arange(200)[:, None] < lengths[:, None, None], nn.functional.pad(x, (0, 0, 0, 80)), 9.0
        )
        torch.testing.assert_close(model(noisy, lengths), together, rtol=0, atol=1e-5)
