"""Every system that can be built by name: what training and tables rely on, whatever is inside."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn

from capslib import models
from capslib.errors import CapslibError
from capslib.layers import MarginLoss
from capslib.models import AudioModel

NAMES = sorted(models.entries())
P0 = ("cnn", "lstm", "att", "caps")  # Table 1's four columns
FEATURES, CLASSES = 12, 10
LENGTHS = [7, 90, 1, 18]

OPTIONS = {  # without which they cannot be built for so few features
    "caps_decoder": {"num_frames": 90, "out_features": 4},
    "caps_joined": {"source_features": 6, "source_capsules": 2},
}

each = pytest.mark.parametrize("name", NAMES)


def built(name: str) -> AudioModel:
    return models.build(name, FEATURES, CLASSES, **OPTIONS.get(name, {}))


def fresh(name: str, training: bool = False) -> AudioModel:
    """A model with scaling and running statistics that are not the trivial ones."""
    torch.manual_seed(0)
    model = built(name)
    x, lengths = batch(seed=1)
    model.standardize.fit(torch.cat([clip[:n] for clip, n in zip(x, lengths, strict=True)]))
    model.train()
    with torch.no_grad():
        model(x, lengths)
    return model.train(training)


def batch(lengths: list[int] = LENGTHS, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    random = np.random.default_rng(seed)
    clips = [torch.as_tensor(3 + 2 * random.standard_normal((n, FEATURES)), dtype=torch.float32) for n in lengths]
    return nn.utils.rnn.pad_sequence(clips, batch_first=True), torch.tensor(lengths)


def test_the_four_systems_of_p0_are_there():
    assert set(P0) <= set(NAMES)


@each
def test_scores_of_a_padded_batch_are_those_of_each_clip_alone(name):
    model, (x, lengths) = fresh(name), batch()
    with torch.inference_mode():
        together = model(x, lengths)
        assert together.shape == (len(LENGTHS), CLASSES) and together.isfinite().all()
        for row, length in enumerate(LENGTHS):
            alone = model(x[row : row + 1, :length], lengths[row : row + 1])
            torch.testing.assert_close(alone[0], together[row], rtol=0, atol=1e-5)
        longer = nn.functional.pad(x, (0, 0, 0, 25))
        torch.testing.assert_close(model(longer, lengths), together, rtol=0, atol=1e-5)


@each
def test_what_pads_a_clip_does_not_show(name):
    model, (x, lengths) = fresh(name), batch()
    behind = torch.arange(x.shape[1]) >= lengths[:, None]
    with torch.inference_mode():
        clean = model(x, lengths)
        torch.testing.assert_close(model(x + 100.0 * behind[..., None], lengths), clean, rtol=0, atol=1e-5)


@each
def test_order_of_the_batch_does_not_matter(name):
    model, (x, lengths) = fresh(name), batch()
    order = torch.tensor([2, 0, 3, 1])
    with torch.inference_mode():
        torch.testing.assert_close(model(x[order], lengths[order]), model(x, lengths)[order], rtol=0, atol=1e-5)


@each
def test_a_clip_without_frames_has_finite_scores(name):
    model = fresh(name)
    x, _ = batch([5, 9])
    with torch.inference_mode():
        assert model(x, torch.tensor([0, 9])).isfinite().all()


@each
def test_constant_offset_and_gain_of_the_features_are_scaled_away(name):
    """Statistics live in the model: fitted on features in other units, it starts from the same scores."""
    plain, moved, (x, lengths) = fresh(name), fresh(name), batch()
    frames = torch.cat([clip[:n] for clip, n in zip(x, lengths, strict=True)])
    plain.standardize.fit(frames)
    moved.standardize.fit(50.0 + 4.0 * frames)
    with torch.inference_mode():
        torch.testing.assert_close(moved(50.0 + 4.0 * x, lengths), plain(x, lengths), rtol=0, atol=1e-4)


@each
def test_gradients_reach_every_parameter(name):
    model, (x, lengths) = fresh(name, training=True), batch()
    torch.manual_seed(1)
    loss = {"cross_entropy": nn.CrossEntropyLoss(), "margin": MarginLoss()}[model.loss]
    model.objective(x, lengths, torch.arange(len(LENGTHS)), loss).backward()
    for parameter_name, parameter in model.named_parameters():
        assert parameter.grad is not None and parameter.grad.isfinite().all(), parameter_name
        assert (parameter.grad != 0).any(), parameter_name


@each
def test_gradients_of_silence_are_finite(name):
    model = fresh(name, training=True)
    model(torch.zeros(2, 8, FEATURES), torch.tensor([8, 3])).square().sum().backward()
    assert all(p.grad.isfinite().all() for p in model.parameters() if p.grad is not None)


@each
def test_bf16_autocast_runs_and_stays_near(name):
    model, (x, lengths) = fresh(name), batch()
    with torch.inference_mode():
        exact = model(x, lengths)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            rough = model(x, lengths)
    assert rough.isfinite().all()
    assert (rough.float() - exact).abs().max() < 0.05 * max(1.0, exact.abs().max().item())


@each
def test_weights_from_a_file_give_the_same_scores(name, tmp_path):
    model, (x, lengths) = fresh(name), batch()
    save_file(model.state_dict(), tmp_path / "weights.safetensors")
    torch.manual_seed(99)
    other = built(name).eval()
    with torch.inference_mode():
        assert not torch.allclose(other(x, lengths), model(x, lengths))
        other.load_state_dict(load_file(tmp_path / "weights.safetensors"))
        assert torch.equal(other(x, lengths), model(x, lengths))


@each
def test_the_same_seed_starts_from_the_same_weights(name):
    states = []
    for seed in (3, 3, 4):
        torch.manual_seed(seed)
        states.append(torch.cat([p.detach().flatten() for p in built(name).parameters()]))
    assert torch.equal(states[0], states[1]) and not torch.equal(states[0], states[2])


@each
def test_dropout_is_off_when_predicting(name):
    model, (x, lengths) = fresh(name), batch()
    with torch.inference_mode():
        assert torch.equal(model(x, lengths), model(x, lengths))


@pytest.mark.parametrize("classes", [2, 10, 50])
def test_capsule_scores_are_lengths(classes):
    model = models.build("caps", FEATURES, classes).eval()
    x, lengths = batch()
    with torch.inference_mode():
        scores, vectors = model(x, lengths), model.capsule_vectors(x, lengths)
    assert vectors.shape == (len(LENGTHS), classes, 16)
    assert (scores >= 0).all() and (scores < 1).all()
    torch.testing.assert_close(scores, vectors.square().sum(-1).sqrt())


def test_sizes_are_comparable():
    """P0 gives none; a system must not win by being larger. At 10 classes and P0's 60 features."""
    counts = {name: models.count_parameters(models.build(name, 60, 10)) for name in P0}
    assert max(counts.values()) / min(counts.values()) < 1.2, counts


def test_count_parameters_counts_what_is_trained():
    model = models.build("lstm", FEATURES, CLASSES)
    whole = models.count_parameters(model)
    model.classify.weight.requires_grad_(False)
    assert whole - models.count_parameters(model) == 128 * CLASSES


@pytest.mark.parametrize("misspelt, nearest", [("cap", "caps"), ("LSTM", None), ("lstmm", "lstm"), ("", None)])
def test_an_unknown_model_names_the_nearest(misspelt, nearest):
    with pytest.raises(CapslibError, match=r"known are .*lstm") as caught:
        models.build(misspelt, FEATURES, CLASSES)
    assert f"unknown model {misspelt!r}" in str(caught.value)
    assert nearest is None or f"did you mean {nearest!r}?" in str(caught.value)
    with pytest.raises(CapslibError, match="unknown model"):
        models.home(misspelt)


@pytest.mark.parametrize(
    "name, misspelt, nearest",
    [("caps", "iterations", "num_iterations"), ("lstm", "hidden", "hidden_features"), ("cnn", "drop_out", "dropout")],
)
def test_an_unknown_option_names_the_nearest(name, misspelt, nearest):
    with pytest.raises(CapslibError, match=f"unknown option of model {name!r} {misspelt!r}: did you mean {nearest!r}"):
        models.build(name, FEATURES, CLASSES, **{misspelt: 3})


def test_options_change_the_model():
    assert models.build("caps", FEATURES, CLASSES, num_iterations=1).capsules.routing.num_iterations == 1
    assert models.build("lstm", FEATURES, CLASSES, hidden_features=8).trunk.out_features == 16


@each
def test_home_is_the_module_that_defines_it(name):
    assert models.home(name).startswith("capslib.models.")
