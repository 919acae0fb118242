"""The clips of a run: levels, segments, orders, sets of labels."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from capslib import corpora, features
from capslib.errors import CapslibError
from capslib.training.config import ORDERS, RunConfig
from capslib.training.dataset import Part, batches, epoch_batches, load_parts, targets

CONFIG = RunConfig("folder:tones", "fold1", "caps", batch_size=4)


@pytest.fixture
def corpus() -> corpora.Corpus:
    return corpora.load("folder:tones")


def part(lengths: list[int], levels: int = 0, num_classes: int = 3) -> Part:
    """Clip i holds the number i, plus 100 a level."""
    clips = [torch.full((n, 2), float(i)) for i, n in enumerate(lengths)]
    variants = tuple([clip + 100 * (level + 1) for clip in clips] for level in range(levels))
    return Part(clips, torch.arange(len(lengths)) % num_classes, variants, tuple(range(levels)))


# --- Targets


def test_targets_are_places_among_the_classes():
    assert targets(["b", "a", "b"], ["a", "b"]).tolist() == [1, 0, 1]
    several = targets(["noise", "noise+speech", "speech"], ["noise", "speech"], multi_label=True)
    assert several.tolist() == [[1, 0], [1, 1], [0, 1]] and several.dtype == torch.float32


# --- Levels


def test_a_part_without_levels_is_itself_and_draws_nothing():
    plain, random = part([3, 4]), np.random.default_rng(0)
    assert plain.drawn(random) is plain and plain.at_all_levels() is plain
    assert random.integers(1 << 30) == np.random.default_rng(0).integers(1 << 30)


def test_every_clip_is_drawn_at_one_of_its_levels_anew_each_time():
    whole, random = part([3] * 40, levels=3), np.random.default_rng(0)
    seen = []
    for _ in range(30):
        drawn = whole.drawn(random)
        values = np.array([clip[0, 0].item() for clip in drawn.clips])
        assert (values % 100 == np.arange(40)).all() and torch.equal(drawn.targets, whole.targets)
        seen.append(values // 100)
    assert {*np.concatenate(seen)} == {1, 2, 3}
    assert len({tuple(levels) for levels in seen}) == 30
    assert all(len(set(clip)) > 1 for clip in np.array(seen).T)


@pytest.mark.parametrize("several", [False, True])
def test_at_all_levels_every_clip_comes_once_a_level_with_its_target(several):
    whole = part([3, 5], levels=3)
    if several:
        whole = dataclasses.replace(whole, targets=torch.tensor([[1.0, 0.0], [1.0, 1.0]]))
    spread = whole.at_all_levels()
    assert [clip[0, 0].item() for clip in spread.clips] == [100, 101, 200, 201, 300, 301]
    assert torch.equal(spread.targets, torch.cat([whole.targets] * 3))
    assert not spread.variants


# --- Segments


@settings(max_examples=40, deadline=None, derandomize=True)
@given(lengths=st.lists(st.integers(1, 50), min_size=1, max_size=8), size=st.integers(1, 60))
def test_segments_put_together_are_the_clips(lengths, size):
    whole = part(lengths)
    cut = whole.segmented(size)
    owners = np.array([segment[0, 0].item() for segment in cut.clips], int)
    assert np.array_equal(owners, np.sort(owners))
    for i, clip in enumerate(whole.clips):
        own = [segment for segment, owner in zip(cut.clips, owners, strict=True) if owner == i]
        assert torch.equal(torch.cat(own), clip)
        assert all(len(segment) == size for segment in own[:-1]) and 1 <= len(own[-1]) <= size
    assert cut.targets.tolist() == (owners % 3).tolist()
    assert cut.parents.tolist() == [lengths[i] for i in owners]


def test_segments_of_perturbed_clips_are_refused():
    with pytest.raises(CapslibError, match="segment_frames and perturb cannot be combined: leave one of them out"):
        part([3, 4], levels=2).segmented(2)


def test_a_batch_is_padded_behind_each_clip():
    padded, lengths, wanted = part([2, 4, 1]).batch([2, 1], torch.device("cpu"))
    assert padded[..., 0].tolist() == [[2, 0, 0, 0], [1, 1, 1, 1]]
    assert lengths.tolist() == [1, 4] and wanted.tolist() == [2, 1]


# --- Batches


@settings(max_examples=30, deadline=None, derandomize=True)
@given(lengths=st.lists(st.integers(1, 500), min_size=1, max_size=300), size=st.integers(1, 40), seed=st.integers(0, 9))
def test_batches_hold_every_clip_once(lengths, size, seed):
    for random in (None, np.random.default_rng(seed)):
        made = batches(np.array(lengths), size, random)
        assert sorted(np.concatenate(made)) == list(range(len(lengths)))
        assert all(1 <= len(batch) <= size for batch in made)


def test_batches_of_training_are_shuffled_and_of_like_length():
    lengths = np.random.default_rng(0).integers(10, 300, 1000)
    random = np.random.default_rng(1)
    first, second = batches(lengths, 16, random), batches(lengths, 16, random)
    assert [b.tolist() for b in first] != [b.tolist() for b in second]
    again = batches(lengths, 16, np.random.default_rng(1))
    assert [b.tolist() for b in first] == [b.tolist() for b in again]

    def padding(made):
        return sum(lengths[b].max() * len(b) for b in made) / lengths.sum() - 1

    plain = [range(i, min(i + 16, 1000)) for i in range(0, 1000, 16)]
    assert padding(first) < 0.3 * padding([np.array(b) for b in plain])


# --- Order of the first epoch

# Segments of 10 of utterances of 25, 12, 30 and 5 frames.
CUT = part([25, 12, 30, 5]).segmented(10)


def first_epoch(order: str, part: Part = CUT, epoch: int = 1, seed: int = 0, size: int = 3) -> list[list[int]]:
    config = dataclasses.replace(CONFIG, order=order, batch_size=size)
    return [made.tolist() for made in epoch_batches(part, config, epoch, np.random.default_rng(seed))]


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("epoch", [1, 2])
def test_every_order_holds_every_segment_once(order, epoch):
    made = first_epoch(order, epoch=epoch)
    assert sorted(np.concatenate(made)) == list(range(len(CUT))) and max(map(len, made)) <= 3


@pytest.mark.parametrize("order", ORDERS)
def test_from_the_second_epoch_on_order_is_random(order):
    expected = [made.tolist() for made in batches(CUT.lengths, 3, np.random.default_rng(0))]
    assert first_epoch(order, epoch=2) == expected
    assert (first_epoch(order) == expected) == (order == "random")


def test_short_utterances_come_first_with_all_their_segments():
    made = list(np.concatenate(first_epoch("short_utterances_first")))
    assert CUT.parents[made].tolist() == [5, 12, 12, 25, 25, 25, 30, 30, 30]
    assert CUT.lengths[made].tolist() == [5, 2, 10, 5, 10, 10, 10, 10, 10]
    whole = part([25, 12, 30, 5])
    assert list(np.concatenate(first_epoch("short_utterances_first", whole))) == [3, 1, 0, 2]


def test_short_segments_come_first_whatever_they_were_cut_from():
    made = list(np.concatenate(first_epoch("short_segments_first")))
    assert CUT.lengths[made].tolist() == [2, 5, 5, 10, 10, 10, 10, 10, 10]


def test_sorted_batches_are_those_of_short_utterances_in_another_order():
    plain = first_epoch("short_utterances_first", size=1)
    shuffled = [first_epoch("sorted_batches", size=1, seed=seed) for seed in range(3)]
    assert all(sorted(made) == sorted(plain) for made in shuffled)
    assert len({str(made) for made in (plain, *shuffled)}) == 4
    in_threes = first_epoch("sorted_batches")
    assert sorted(in_threes) == sorted(first_epoch("short_utterances_first"))


def test_an_unknown_order_names_the_nearest():
    with pytest.raises(CapslibError, match="unknown order 'short_segment_first': did you mean 'short_segments_first'"):
        first_epoch("short_segment_first")


# --- Parts of a corpus


def test_vectors_are_appended_to_every_frame_of_their_clip(corpus):
    vectors = torch.randn(len(corpus.table), 5, generator=torch.Generator().manual_seed(0))
    plain, joined = load_parts(corpus, CONFIG), load_parts(corpus, CONFIG, vectors)
    for name, found in joined.items():
        rows = corpus.table.loc[list(getattr(corpus.split("fold1"), name)), "row"]
        for clip, before, row in zip(found.clips, plain[name].clips, rows, strict=True):
            assert torch.equal(clip[:, :-5], before)
            assert torch.equal(clip[:, -5:], vectors[row].expand(len(clip), 5))


def test_a_perturbed_run_has_every_part_at_every_level_and_as_recorded(corpus):
    config = dataclasses.replace(CONFIG, perturb=("gain", (0.0, 6.0206)), max_train_clips=5)
    parts, plain = load_parts(corpus, config), load_parts(corpus, dataclasses.replace(CONFIG, max_train_clips=5))
    for name, found in parts.items():
        assert found.levels == (0.0, 6.0206) and len(found.variants) == 2
        for clip, same, louder, before in zip(found.clips, *found.variants, plain[name].clips, strict=True):
            assert torch.equal(clip, before) and torch.equal(same, before)
            torch.testing.assert_close(louder[:, 0] - before[:, 0], torch.full((len(clip),), np.log(4.0)).float())


def test_only_training_clips_are_cut(corpus):
    parts, plain = load_parts(corpus, dataclasses.replace(CONFIG, segment_frames=4)), load_parts(corpus, CONFIG)
    assert parts["train"].lengths.max() == 4 and parts["train"].lengths.sum() == plain["train"].lengths.sum()
    for name in ("validation", "test"):
        assert np.array_equal(parts[name].lengths, plain[name].lengths) and parts[name].parents is None


def test_a_clip_whose_features_are_not_finite_is_named(corpus, monkeypatch):
    extract = features.extract

    def broken(*given, **named):
        extracted = extract(*given, **named)
        frames = np.array(extracted.frames)
        frames[extracted.offsets[3], 1] = np.nan
        return dataclasses.replace(extracted, frames=frames)

    monkeypatch.setattr(features, "extract", broken)
    with pytest.raises(CapslibError, match=r"the features of clip high/03 of folder are not finite: check the rec"):
        load_parts(corpus, CONFIG)
