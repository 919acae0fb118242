"""P0's capsule network with a decoder, the one that reads a source's capsules, and the other routing rules."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from capslib import models
from capslib.errors import CapslibError
from capslib.layers import MarginLoss
from capslib.training import Part

FEATURES, CLASSES, FRAMES = 6, 3, 9
SMALL = {"hidden_features": 4, "capsule_features": 5, "dropout": 0.0}
DECODER = {"out_features": 4, "decoder_features": (7,), "num_frames": FRAMES, **SMALL}


def batch(lengths: list[int], num_features: int = FEATURES, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    random = np.random.default_rng(seed)
    clips = [torch.as_tensor(3 + 2 * random.standard_normal((n, num_features))).float() for n in lengths]
    return nn.utils.rnn.pad_sequence(clips, batch_first=True), torch.tensor(lengths)


def clip(frames: torch.Tensor) -> Part:
    """A training part of one clip."""
    return Part([frames], torch.zeros(1))


def decoded(seed: int = 0, **options: object) -> models.AudioModel:
    """A network with a decoder, fitted; in evaluation mode, so that batch normalization is the same for any batch."""
    torch.manual_seed(seed)
    model = models.build("caps_decoder", FEATURES, CLASSES, **(DECODER | options))
    model.fit(clip(batch([50], seed=9)[0][0]))
    return model.eval()


# --- The decoder


@settings(max_examples=15, deadline=None, derandomize=True)
@given(
    lengths=st.lists(st.integers(1, FRAMES), min_size=1, max_size=4),
    weight=st.floats(0.0, 3.0),
    several=st.booleans(),
    seed=st.integers(0, 9),
)
def test_objective_is_margin_loss_and_weighted_mean_absolute_error(lengths, weight, several, seed):
    """By loops in float64 over clips, frames and features, with min-max scaling written out."""
    model = decoded(seed, weight=weight).double()
    x, sizes = batch(lengths, seed=seed)
    x = x.double()
    random = np.random.default_rng(seed)
    multi_hot = random.integers(0, 2, (len(lengths), CLASSES))
    index = random.integers(0, CLASSES, len(lengths))
    present = multi_hot if several else np.eye(CLASSES)[index]
    targets = torch.from_numpy(multi_hot).float() if several else torch.from_numpy(index)
    loss = MarginLoss(down_weighting=1.0 if several else 0.5)
    with torch.no_grad():
        found = model.objective(x, sizes, targets, loss).item()
        capsules = model.capsule_vectors(x, sizes).numpy()
        wanted, low, high = x.numpy(), model.low.numpy(), model.high.numpy()
        expected = 0.0
        for b, length in enumerate(lengths):
            for k in range(CLASSES):
                size = np.sqrt((capsules[b, k] ** 2).sum())
                missed, false = max(0.0, 0.9 - size) ** 2, max(0.0, size - 0.1) ** 2
                expected += missed if present[b, k] else loss.down_weighting * false
            masked = np.concatenate([capsules[b, k] * present[b, k] for k in range(CLASSES)])
            frames = model.decoder(torch.from_numpy(masked)).numpy().reshape(FRAMES, 4)
            error = 0.0
            for t in range(length):
                for f in range(4):
                    scaled = min(1.0, max(0.0, (wanted[b, t, f] - low[f]) / (high[f] - low[f])))
                    error += abs(frames[t, f] - scaled)
            expected += weight * error / (length * 4)
    assert found == pytest.approx(expected / len(lengths), rel=1e-9)


def test_padding_changes_neither_objective_nor_error():
    model, (x, lengths), targets = decoded(), batch([3, 7, 1]), torch.tensor([0, 2, 1])
    with torch.no_grad():
        together = model.error(model.capsule_vectors(x, lengths), x, lengths, targets)
        for row, n in enumerate(lengths.tolist()):
            alone, own = x[row : row + 1, :n], lengths[row : row + 1]
            error = model.error(model.capsule_vectors(alone, own), alone, own, targets[row : row + 1])
            torch.testing.assert_close(error[0], together[row], rtol=0, atol=1e-6)
        behind = torch.arange(FRAMES)[:, None] >= lengths[:, None, None]
        longer = nn.functional.pad(x, (0, 0, 0, 2)) + 100.0 * behind
        found, expected = (model.objective(given, lengths, targets, MarginLoss()) for given in (longer, x))
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-6)


def test_a_clip_longer_than_the_decoder_writes_is_an_error():
    model, (x, lengths) = decoded(), batch([FRAMES + 1, 2])
    assert model(x, lengths).shape == (2, CLASSES)  # scores need no decoder
    with pytest.raises(CapslibError, match="the decoder writes 9 frames and a clip has 10: set num_frames to the long"):
        model.objective(x, lengths, torch.tensor([0, 1]), MarginLoss())


@pytest.mark.parametrize("changes", [{"num_frames": None}, {"num_frames": 0}, {"out_features": FEATURES + 1}])
def test_a_decoder_that_cannot_be_built_is_an_error(changes):
    with pytest.raises(CapslibError, match="give the frames of the longest clip, and no more features than there are"):
        models.build("caps_decoder", FEATURES, CLASSES, **(DECODER | changes))


def test_range_is_that_of_the_training_frames():
    model, frames = decoded(), batch([50], seed=9)[0][0]
    assert torch.equal(model.low, frames[:, :4].amin(0)) and torch.equal(model.high, frames[:, :4].amax(0))
    torch.testing.assert_close(model.standardize.mean, frames.mean(0))
    scaled = model.scaled(frames)
    assert scaled.shape == (50, 4) and (scaled.amin(0) == 0).all() and (scaled.amax(0) == 1).all()
    beyond = model.scaled(torch.stack([frames.amin(0) - 5, frames.amax(0) + 5]))
    assert beyond.tolist() == [[0.0] * 4, [1.0] * 4]


def test_a_feature_that_never_changes_is_scaled_to_a_finite_number():
    model, frames = decoded(), batch([50], seed=9)[0][0]
    frames[:, 1] = 2.0
    model.fit(clip(frames))
    assert model.scaled(frames).isfinite().all()


def test_reconstruction_reads_the_chosen_capsules_alone():
    model, classes = decoded(), torch.tensor([1, 0])
    torch.manual_seed(1)
    capsules = torch.randn(2, CLASSES, 5)
    with torch.no_grad():
        found = model.reconstruct(capsules, classes)
        assert found.shape == (2, FRAMES, 4) and ((found > 0) & (found < 1)).all()
        lone = capsules * nn.functional.one_hot(classes, CLASSES)[..., None]
        assert torch.equal(model.reconstruct(lone, classes), found)
        changed = capsules.clone()
        changed[0, 1] += 1.0
        again = model.reconstruct(changed, classes)
        assert not torch.allclose(again[0], found[0]) and torch.equal(again[1], found[1])
        both = model.reconstruct(capsules, torch.tensor([[0.0, 1.0, 0.0], [1.0, 0.0, 1.0]]))
        assert torch.equal(both[0], found[0]) and not torch.allclose(both[1], found[1])


def test_scores_and_start_are_those_of_the_network_without_a_decoder():
    x, lengths = batch([3, 7])
    states = {}
    for name, options in (("caps", SMALL), ("caps_decoder", DECODER)):
        torch.manual_seed(4)
        states[name] = models.build(name, FEATURES, CLASSES, **options).state_dict()
    for name, start in states["caps"].items():  # one seed, one trunk: only the objective tells the two runs apart
        assert torch.equal(states["caps_decoder"][name], start), name
    model, plain = decoded(), models.build("caps", FEATURES, CLASSES, **SMALL).eval()
    plain.load_state_dict({name: value for name, value in model.state_dict().items() if name in states["caps"]})
    with torch.no_grad():
        assert torch.equal(model(x, lengths), plain(x, lengths))
        assert torch.equal(model.embed(x, lengths), plain.embed(x, lengths))


def test_the_weight_decides_whether_the_decoder_learns_and_what_the_trunk_learns_of_it():
    (x, lengths), targets, felt = batch([3, 7]), torch.tensor([0, 1]), []
    for weight in (0.0, 1.0):
        model = decoded(weight=weight).train()
        model.objective(x, lengths, targets, MarginLoss()).backward()
        norms = [parameter.grad.norm().item() for parameter in model.decoder.parameters()]
        assert all(norms) if weight else not any(norms)
        felt.append(torch.cat([parameter.grad.flatten() for parameter in model.trunk.parameters()]))
    assert not torch.allclose(*felt)


def test_num_frames_is_the_longest_training_clip_s_unless_it_is_given():
    known = {"num_frames": 31, "source_features": 8}
    assert models.complete("caps_decoder", {}, known) == {"num_frames": 31}
    assert models.complete("caps_decoder", {"num_frames": 9, "weight": 1.0}, known) == {"num_frames": 9, "weight": 1.0}
    assert models.complete("caps_joined", {"source_capsules": 2}, known) == {"source_features": 8, "source_capsules": 2}
    for name in ("caps", "lstm", "cnn", "att"):
        assert models.complete(name, {}, known) == {}


# --- Joined to a source's capsules

OWN, SOURCE, COUNT = FEATURES, 8, 2


def joined(**options: object) -> models.AudioModel:
    torch.manual_seed(0)
    given = {"source_features": SOURCE, "source_capsules": COUNT, **SMALL} | options
    model = models.build("caps_joined", OWN + SOURCE, CLASSES, **given)
    model.fit(clip(source_batch([50], seed=9)[0][0]))
    return model.eval()


def source_batch(lengths: list[int], seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    """The source's vector is the same in all frames of a clip."""
    x, sizes = batch(lengths, OWN + SOURCE, seed)
    if len(lengths) > 1:
        x[..., OWN:] = x[:, :1, OWN:] * (torch.arange(x.shape[1]) < sizes[:, None])[..., None]
    return x, sizes


def test_padding_does_not_change_the_scores_of_a_joined_network():
    model, (x, lengths) = joined(), source_batch([3, 7, 1])
    with torch.no_grad():
        together = model(x, lengths)
        for row, n in enumerate(lengths.tolist()):
            alone = model(x[row : row + 1, :n], lengths[row : row + 1])
            torch.testing.assert_close(alone[0], together[row], rtol=0, atol=1e-5)
        behind = torch.arange(20)[:, None] >= lengths[:, None, None]
        longer = nn.functional.pad(x, (0, 0, 0, 13)) + 100.0 * behind
        torch.testing.assert_close(model(longer, lengths), together, rtol=0, atol=1e-5)


def test_source_capsules_vote_beside_the_time_steps():
    """Written out: the trunk's steps and the projected capsules through one layer of class capsules."""
    model, (x, lengths) = joined(), source_batch([4, 6])
    with torch.no_grad():
        scaled = (x - model.standardize.mean) * model.standardize.scale
        for row, n in enumerate(lengths.tolist()):
            steps, _ = model.trunk(scaled[row : row + 1, :n, :OWN], lengths[row : row + 1])
            capsules = scaled[row, 0, OWN:].view(COUNT, SOURCE // COUNT)
            votes = torch.stack([model.project.weight @ c + model.project.bias for c in capsules])
            inputs = torch.cat([steps[0], votes])[None]
            expected = model.capsules(inputs, torch.ones(1, n + COUNT, dtype=torch.bool))
            torch.testing.assert_close(model.capsule_vectors(x, lengths)[row], expected[0], rtol=0, atol=1e-5)


def test_the_trunk_does_not_see_the_source():
    model, (x, lengths) = joined(), source_batch([5, 5])
    seen = []
    model.trunk.register_forward_hook(lambda _, given, __: seen.append(given[0]))
    other = x.clone()
    other[..., OWN:] += 1.0
    with torch.no_grad():
        before, after = model(x, lengths), model(other, lengths)
    assert seen[0].shape[-1] == OWN and torch.equal(*seen)
    assert not torch.allclose(before, after)


def test_gradients_reach_the_projection_and_the_source():
    model, (x, lengths) = joined().train(), source_batch([5, 7])
    x.requires_grad_()
    MarginLoss()(model(x, lengths), torch.tensor([0, 1])).backward()
    for parameter in model.parameters():
        assert parameter.grad is not None and parameter.grad.isfinite().all()
    assert (model.project.weight.grad != 0).all(0).any() and (model.project.bias.grad != 0).any()
    assert (x.grad[:, 0, OWN:] != 0).any()


@pytest.mark.parametrize(
    "changes, says",
    [
        (
            {"source_features": OWN + SOURCE},
            r"14 features with source_features=14 and source_capsules=2: give the run a",
        ),
        ({"source_features": 7}, r"14 features with source_features=7 and source_capsules=2: give the run a source"),
        ({"source_features": 64, "source_capsules": 4}, r"14 features with source_features=64"),
    ],
)
def test_a_source_of_another_size_is_an_error(changes, says):
    with pytest.raises(CapslibError, match=says):
        joined(**changes)


@pytest.mark.parametrize("made", [decoded, joined])
def test_weights_and_options_as_they_are_stored_give_the_same_scores(made):
    model = made()
    name, options, width = (
        ("caps_decoder", DECODER, FEATURES)
        if made is decoded
        else ("caps_joined", {"source_features": SOURCE, "source_capsules": COUNT, **SMALL}, OWN + SOURCE)
    )
    x, lengths = batch([3, 7], width)
    again = models.build(name, width, CLASSES, **json.loads(json.dumps(options))).eval()
    again.load_state_dict(model.state_dict())
    with torch.no_grad():
        assert torch.equal(again(x, lengths), model(x, lengths))
