"""P1's and P2's protocol: one speaker of a pair validates, the other tests."""

from __future__ import annotations

import pytest
import trees

from capslib import corpora
from capslib.errors import CapslibError


@pytest.mark.parametrize(
    ("task", "tester", "other"), [("emotion4_p2", "male", "female"), ("emotion4_p2_swapped", "female", "male")]
)
def test_emodb_one_speaker_of_a_pair_validates_and_the_other_tests(data_folder, task, tester, other):
    trees.emodb(data_folder / "emodb")
    corpus = corpora.load("emodb", task)
    assert [split.name for split in corpus.splits] == [f"fold{n}" for n in range(1, 6)]
    for split in corpus.splits:
        train, validation, test = (corpus.table.loc[list(p)] for p in (split.train, split.validation, split.test))
        assert (set(test["gender"]), set(validation["gender"])) == ({tester}, {other})
        assert train["speaker"].nunique() == 8 and test["speaker"].nunique() == validation["speaker"].nunique() == 1
        assert not set(train["speaker"]) & {*test["speaker"], *validation["speaker"]}
    assert f"its {tester} speaker tests" in corpus.about.protocol and corpus.about.role == "P1 IEMOCAP"
    assert corpora.load("emodb").key == "emodb:emotion4"


def test_emodb_without_a_whole_pair_says_so(data_folder):
    trees.emodb(data_folder / "emodb", speakers=("03", "10"))
    with pytest.raises(CapslibError, match="corpus 'emodb': no fold has clips of both its speakers"):
        corpora.load("emodb:emotion4_p2")
