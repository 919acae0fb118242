"""P1's and P2's declarations: systems, grids, tables and claims."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch
import trees
from fabricated import CARDS, EMODB, HIGH, LOW, RAVDESS, records, runs_of

from capslib import claims, corpora, models, published, training
from capslib.claims import NO_DATA, REFUTED, SUPPORTED
from capslib.errors import CapslibError
from capslib.papers import p1, p2, p2_tables


@pytest.mark.parametrize(("rate", "bins"), [(16_000, 512), (8_000, 400)])
def test_spectrograms_keep_10_hertz_per_bin(rate, bins):
    made = p2.spectrogram(rate).build(rate)
    assert rate / made.n_fft == 10 and made.out_features == bins and made.frame_length == 0.04 * rate


def test_systems_are_the_papers_and_their_variants():
    systems = p2.systems(epochs=2)
    printed = {row for row, _, _ in published.values("P2", "Table V")}
    assert {name.removesuffix(" [15]") for name in p2.TABLE_V} == printed
    for name, (model, options, changes) in systems.items():
        models.entries()[model].config(**options)
        config = training.RunConfig("c", "s", model, tuple(options.items()), **changes)
        assert config.epochs == 2 and config.schedule == "loss_decay"
        assert config.segment_frames == (1000 if name in ("LSTM_Cap", "LSTM_Cap, no curriculum") else 200)
        assert config.order in training.config.ORDERS
        assert (config.order == "random") == name.endswith("no curriculum")
    assert dict(systems["CNN_SeqCap, 2 iterations"][1]) == {"num_iterations": 2} and set(p2.FIG_7) < set(systems)


def test_a_grid_goes_seed_by_seed_and_system_by_system():
    grid = p2.grid(["synth_emotion", "iemocap"], "quick", ["CNN_RecCap", "CNN_GRU"], range(2), folds=2, epochs=1)
    assert list(grid.absent) == ["iemocap:emotion4"] and len(grid) == 8
    order = [(run.config.seed, run.system) for run in grid.runs]
    assert order == sorted(order, key=lambda pair: (pair[0], ["CNN_GRU", "CNN_RecCap"].index(pair[1])))
    assert dict(grid.runs[0].config.features.options) == {"n_fft": 800, "num_bins": 400}
    with pytest.raises(CapslibError, match="unknown system of P2 'CNN_GRUU': did you mean 'CNN_GRU'"):
        p2.grid(["synth_emotion"], "quick", ["CNN_GRUU"])


def test_untrained_networks_stand_behind_the_same_trained_ones():
    grid = p2.grid(["synth_emotion"], "quick", ["CNN_SeqCap"], seeds=(0, 1), folds=1, epochs=2)
    both = p2.with_untrained(grid)
    assert both.runs[:2] == grid.runs and [run.system for run in both.runs[2:]] == ["CNN_SeqCap, untrained"] * 2
    assert [dataclasses.replace(run.config, epochs=2) for run in both.runs[2:]] == [run.config for run in grid.runs]
    assert {run.config.epochs for run in both.runs[2:]} == {0} and len({run.key for run in both.runs}) == 4


def test_counts_are_published_and_equal():
    counts = p2_tables.parameter_counts()
    assert len(counts) == 7 and set(counts[""]) == {"equal"} and (counts["published"] == counts["ours"]).all()
    literal = p2_tables.literal_counts().set_index("published")
    assert literal.loc["833,012", "would count"] == "144,884"
    assert (literal["would count"] != literal.index).all()
    biases = literal[literal["taken literally"].str.contains("b_ij")]  # one for each of 1,280 x 8 capsules of 8
    assert biases["would count"].item() == f"{703_540 - 64 + 1_280 * 64:,}"


def test_segments_are_those_that_training_cuts(data_folder):
    trees.emodb(data_folder / "emodb")
    corpus = corpora.load(EMODB)
    row = p2_tables.segments({EMODB: {}, RAVDESS: {}}, frames=4, window=3)
    clips = [torch.zeros(1 + (len(corpus.audio(item)) - 640) // 160, 1) for item in corpus.table.index]
    pieces = training.Part(clips, torch.zeros(len(clips))).segmented(4).lengths
    assert list(row["corpus"]) == [EMODB] and row["segments"].item() == len(pieces)
    assert row["of 4 frames"].item() == f"{np.mean(pieces == 4):.0%}" != "100%"
    assert row["below 3"].item() == f"{np.mean(pieces < 3):.0%}" != "0%"


def test_utterances_are_counted_or_said_to_be_elsewhere(data_folder):
    trees.emodb(data_folder / "emodb")
    frame = p2_tables.utterances({key: CARDS[key] for key in (EMODB, RAVDESS)}).set_index("corpus")
    assert frame.loc["IEMOCAP, improvised", "Happy"] == "284" and frame.loc[EMODB, "Happy"] == "10"
    assert frame.loc[RAVDESS, "Sad"] == "recordings not available"


def test_the_text_s_comparisons_stand_beside_ours():
    tests = p2_tables.text_tests(runs_of(records(EMODB, "CNN_SeqCap", HIGH), records(EMODB, "CNN_GRU_Att", LOW)))
    rows = tests.set_index(["comparison", "metric"])
    ours = rows.loc[("CNN_SeqCap - CNN_GRU_Att", "accuracy")]
    assert ours["published gain in points"] == "+1.66" and ours["published p"] == "< 0.05"  # 69.86 - 68.20
    assert ours["difference"] == pytest.approx(0.298) and ours["verdict"] == "higher"
    assert rows.loc[("CNN_RecCap - CNN [15]", "unweighted_accuracy"), "verdict"] == "not run yet"
    quoted = rows.loc[("CNN_RecCap - CNN_GRU", "accuracy"), "published gain in points"]
    assert quoted == "+3.42", "as quoted in the text, not 3.60 as by the table"


def test_every_claim_answers_where_nothing_was_run():
    findings = {words: claim.answer(runs_of()) for words, claim in {**p1.CLAIMS, **p2.CLAIMS}.items()}
    assert {finding.verdict for finding in findings.values()} == {NO_DATA, SUPPORTED, REFUTED} and len(findings) >= 30
    counts = findings["our question: its parameter counts can be reproduced"]
    assert counts.verdict == SUPPORTED and counts.evidence.startswith("7 of 7")
    table = findings["our question: in the paper's own table each capsule system gains more than each recurrent one"]
    assert table.verdict == REFUTED and "CNN_GRU_Att +1.82" in table.evidence and "LSTM_Cap +0.72" in table.evidence
    assert findings["our question: its quoted gains are the differences of its table"].verdict == REFUTED


def test_claims_name_systems_that_the_grid_has(monkeypatch):
    asked = set()
    monkeypatch.setattr(claims.statistics, "records_of", lambda runs, key, system: asked.add(system) or [])
    monkeypatch.setattr(claims.probes, "run", lambda *_, system, **__: asked.add(system) or [])
    for claim in (*p1.CLAIMS.values(), *p2.CLAIMS.values()):
        claim.answer(runs_of())
    assert asked <= {*p2.systems(), *p2.AVERAGED, "CNN_SeqCap, untrained"} and len(asked) > 20
