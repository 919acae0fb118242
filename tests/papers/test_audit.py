"""What P2's printed numbers imply about one another."""

from __future__ import annotations

from fabricated import runs_of

from capslib.claims import REFUTED
from capslib.papers import p2_audit


def test_whole_counts_leave_few_totals_open():
    assert p2_audit.fitting_totals([0.5, 0.25, 0.25], 8, 1e-6) == [4, 8]
    assert 7 in p2_audit.fitting_totals([round(k / 7, 4) for k in (3, 3, 1)], 20)
    assert p2_audit.fitting_totals([0.12345, 0.87655], 50, 1e-6) == []


def test_the_two_matrices_are_of_other_test_utterances():
    assert p2_audit.tested_totals()["Angry"] == {"CNN_SeqCap": [155], "CNN_RecCap": [138, 276]}
    assert set(p2_audit.tested_apart()) == {"Neutral", "Angry", "Sad"}  # of happy no total fits SeqCap's row
    totals = p2_audit.totals().set_index("emotion")
    assert totals.loc["Happy", ["in IEMOCAP", "fit CNN_SeqCap", "in common"]].tolist() == ["284", "none", "none"]
    finding = p2_audit.same_utterances(runs_of())
    assert finding.verdict == REFUTED and "Angry: 155 against 138, 276" in finding.evidence


def test_an_accuracy_is_a_share_of_one_number_of_utterances_or_of_another():
    rows = p2_audit.accuracies((1128, 1089)).set_index(["table", "system"])
    assert rows.loc[("Table V", "CNN_SeqCap"), ["of 1,128", "of 1,089"]].tolist() == ["788", ""]
