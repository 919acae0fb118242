"""Results and decisions, by hand."""

from __future__ import annotations

import pytest
import torch

from capslib.training.metrics import MULTI_LABEL, decide, evaluate


def test_unweighted_accuracy_is_over_the_classes_that_occur():
    scores = torch.eye(4)[[0, 0, 0, 3, 1]]  # predicted
    results = evaluate(scores, torch.tensor([0, 0, 0, 0, 1]), torch.nn.CrossEntropyLoss())
    assert results["accuracy"] == 0.8
    assert results["unweighted_accuracy"] == pytest.approx((0.75 + 1.0) / 2)  # not /3 for 3, which was only predicted


def test_results_of_several_labels_per_clip():
    """Five clips, three labels, of which the last is always present."""
    true = torch.tensor([[1, 0, 1], [1, 1, 1], [0, 1, 1], [0, 1, 1], [0, 0, 1]]).float()
    predicted = torch.tensor([[1, 0, 1], [1, 0, 1], [0, 1, 1], [1, 1, 1], [0, 0, 0]]).float()
    results = evaluate(predicted * 0.8 + 0.1, true, MULTI_LABEL["margin"][0](), 0.5)
    # First label: present 2 of 2, absent 2 of 3. Second: present 2 of 3, absent 2 of 2. Third: present 4 of 5.
    expected = ((2 / 2 + 2 / 3) / 2 + (2 / 3 + 2 / 2) / 2 + 4 / 5) / 3
    assert results["weighted_accuracy"] == pytest.approx(expected, abs=1e-6)
    assert results["accuracy"] == 0.4  # clips 1 and 3 have exactly their labels
    # Sets that occur: first+third, all, second+third (twice), third alone; correct of each: 1, 0, 1 of 2, 0.
    assert results["unweighted_accuracy"] == pytest.approx((1 + 0 + 1 / 2 + 0) / 4)
    # Scores are 0.9 and 0.1: on the margins where right, 0.8 beyond where wrong; four labels are wrong in five clips.
    assert results["loss"] == pytest.approx(3 * 0.64 / 5, abs=1e-6)


def test_a_label_is_present_above_its_threshold():
    assert decide(torch.tensor([[0.49, 0.51], [-1.0, 2.0]]), 0.5).tolist() == [[False, True], [False, True]]
    assert decide(torch.tensor([[0.49, 0.51]])).tolist() == [1]
