"""The reader of published numbers: every table of every paper, as the papers print it."""

import pandas as pd
import pytest

from capslib import paths, published
from capslib.errors import CapslibError


@pytest.mark.parametrize(("paper", "name"), published.tables())
def test_every_published_table_can_be_read(paper, name):
    table, values = published.table(paper, name), published.values(paper, name)
    assert list(table) == ["row", "column", "metric", "value", "note"] and len(table) == len(values) > 0
    assert table["value"].notna().all()


def test_tables_of_several_metrics_keep_them_apart():
    assert len(published.tables()) == 37
    values = published.values("P3", "Table 4")
    assert values["Local frequency only", "2", "UAR"] == pytest.approx(0.7053)
    assert values["Local frequency only", "2", "accuracy"] == pytest.approx(0.7685)


def test_percents_are_fractions_and_other_units_are_not():
    assert published.values("P0", "Table 1")["Urban8K", "CAPS", "accuracy"] == 0.662
    assert published.values("P1", "Table 1")["CNN_GRU", "WA", "WA"] == pytest.approx(0.6702)
    assert published.values("P2", "Table III")["Utt #", "Happy", "utterances"] == 284


def test_a_misspelt_paper_or_table_is_named_with_the_nearest():
    with pytest.raises(CapslibError, match="unknown table of P0 'Tabel 1': did you mean 'Table 1'"):
        published.table("P0", "Tabel 1")
    with pytest.raises(CapslibError, match="unknown paper 'P9'"):
        published.values("P9", "Table 1")


def test_the_files_are_whole():
    files = sorted((paths.root() / "data" / "published").glob("*.csv"))
    printed = [pd.read_csv(file, dtype=str, keep_default_na=False) for file in files]
    assert [set(frame["paper"]) for frame in printed] == [{file.stem.upper()} for file in files]
    everything = pd.concat(printed)
    assert list(everything) == ["paper", "table", "row", "column", "metric", "unit", "value", "note"]
    assert not everything.duplicated(["paper", "table", "row", "column", "metric"]).any()
    assert set(everything["paper"]) == {"P0", "P1", "P2", "P3", "P4"}
    description = (paths.root() / "data" / "published.md").read_text()
    assert f"{len(everything)} numbers" in description
    for paper, rows in everything["paper"].value_counts().items():
        assert f"| {paper} | {rows} |" in description
