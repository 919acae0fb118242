"""Published beside ours: never in one row, each kind of table, and what is missing is said."""

import numpy as np
import pandas as pd
import pytest
from fabricated import CARDS, EMODB, HIGH, LOW, RAVDESS, SPLITS, records, runs_of

from capslib import study, tables
from capslib.errors import CapslibError
from capslib.statistics import METRICS

SYSTEMS = ["cnn", "lstm", "att", "caps"]
TABLE_1 = ("P0", "Table 1")


@pytest.fixture(scope="module")
def runs():
    """The accepted quick records, as the notebooks in git show them."""
    return study.run(study.grid(["synth_digits", "synth_gender", "synth_emotion"], SYSTEMS), train=False)


def read(folder):
    return pd.read_csv(folder / "tables" / "t.csv", dtype=str, keep_default_na=False)


def by_corpus(runs, columns, folder, published=TABLE_1, **more):
    page = tables.results(runs, "corpus", columns, published, "t", folder, **more)
    return page.data, read(folder)


def by_system(runs, rows, published, folder, metrics=METRICS, corpus="IEMOCAP"):
    tables.results(runs, rows, "metric", published, "t", folder, metrics, corpus)
    return read(folder)


def test_the_same_table_is_the_same_bytes(runs, tmp_path):
    pages = [by_corpus(runs, SYSTEMS, tmp_path)[0] for _ in range(2)]
    assert pages[0] == pages[1]
    assert "T_t" in pages[0], "the random id of a styled table must be replaced"


def test_published_values_and_ours_never_share_a_row(runs, tmp_path):
    _, frame = by_corpus(runs, SYSTEMS, tmp_path)
    published = frame[frame["evidence"] == "published"].set_index("corpus")
    assert published.loc["FSDD", ["CNN", "LSTM", "ATT", "CAPS"]].tolist() == ["0.728", "0.673", "0.689", "0.692"]
    ours = frame[frame["corpus"].str.startswith("synth")]
    assert set(ours["evidence"]) == {"synthetic"} and len(ours) == 3
    assert ours["CAPS"].str.fullmatch(r"\d\.\d{3} \[\d\.\d{3}, \d\.\d{3}\]").all()
    assert (frame["evidence"] == "not in this run").sum() == 4


def test_systems_of_other_names_stand_below_the_paper_s_columns(runs, tmp_path):
    _, frame = by_corpus(runs, {"caps": "3", "att": "1"}, tmp_path)
    fsdd = frame[(frame["evidence"] == "published") & (frame["corpus"] == "FSDD")]
    assert fsdd[["3", "1"]].to_numpy().tolist() == [["0.695", "0.760"]]


def test_the_best_of_several_systems_is_bold(tmp_path):
    cards = {"fsdd:digit": CARDS[EMODB] | {"role": "P0 FSDD", "evidence": "same corpus"}}
    made = runs_of(records("fsdd:digit", "caps", HIGH), records("fsdd:digit", "att", LOW), cards=cards)
    page, _ = by_corpus(made, ["att", "caps"], tmp_path)
    # the best of the paper's first row, FSDD, and of ours below it are both CAPS, in the last column
    assert (
        "#T_t_row0_col4, #T_t_row1_col4" in page.replace("\n", " ")
        and "#T_t_row1_col3" not in page.split("</style>")[0]
    )
    page, _ = by_corpus(made, ["caps"], tmp_path)
    assert "bold" not in page.split("</style>")[0], "one system alone is not the best of several"


def test_a_misspelt_row_column_or_metric_is_named_with_the_nearest(runs, tmp_path):
    with pytest.raises(CapslibError, match="unknown column of P0 Table 1 'CAP': did you mean 'CAPS'"):
        by_corpus(runs, {"caps": "CAP"}, tmp_path)
    with pytest.raises(CapslibError, match="unknown metric of P0 Table 1 'weighted accuracy'"):
        by_corpus(runs, ["caps"], tmp_path, metrics="weighted_accuracy")
    with pytest.raises(CapslibError, match="unknown row of P2 Table V 'CNN_GRUU': did you mean 'CNN_GRU'"):
        by_system(runs, {"caps": "CNN_GRUU"}, ("P2", "Table V"), tmp_path)
    with pytest.raises(CapslibError, match="unknown kind of rows 'corpora': did you mean 'corpus'"):
        tables.results(runs, "corpora", ["caps"], TABLE_1, "t", tmp_path)
    with pytest.raises(CapslibError, match="give systems as rows"):
        tables.results(runs, {"caps": "FSDD"}, ["caps"], TABLE_1, "t", tmp_path)


def test_systems_in_the_rows_have_a_row_for_each_corpus_and_what_is_missing_is_said(tmp_path):
    made = runs_of(records(EMODB, "CNN_GRU", LOW), keys=(EMODB, RAVDESS))
    rows = {"CNN_GRU": "CNN_GRU", "CNN_SeqCap": "CNN_SeqCap"}
    frame = by_system(made, rows, ("P2", "Table V"), tmp_path)
    assert list(frame) == ["system", "corpus", "evidence", "WA", "UA", "runs"]
    assert (frame["evidence"] == "published").sum() == 2 and set(frame["evidence"]) == {"published", "stand-in"}
    rows = frame.set_index(["system", "corpus"])
    assert rows.loc[("CNN_GRU", "IEMOCAP"), ["evidence", "WA", "UA"]].tolist() == ["published", "0.670", "0.518"]
    assert rows.loc[("CNN_GRU", EMODB), "WA"].startswith("0.505 [")
    assert rows.loc[("CNN_GRU", EMODB), "runs"] == "5 of 5 folds, 1 seed(s), 5 runs"
    assert rows.loc[("CNN_GRU", RAVDESS), "WA"] == rows.loc[("CNN_SeqCap", EMODB), "UA"] == "not run yet"


def test_a_system_has_a_place_in_row_and_column_or_none(tmp_path):
    rows = {
        "CNN_GRU": ("CNN_GRU", "curriculum"),
        "CNN_GRU, no curriculum": ("CNN_GRU", "no curriculum"),
        "control": None,
    }
    frame = by_system(runs_of(), rows, ("P2", "Table IV"), tmp_path)
    published = frame[frame["evidence"] == "published"]
    assert published[["WA", "UA"]].to_numpy().tolist() == [["0.670", "0.518"], ["0.673", "0.515"]]
    assert frame.loc[frame["system"] == "control", "evidence"].tolist() == ["stand-in"]


# --- P3: rows are systems or classes, metrics are several ------------------------------------------------------------

PODCAST = {
    "podcast:accent": {
        "role": "P3 UT-Podcast",
        "evidence": "same corpus",
        "missing": [],
        "splits": SPLITS,
        "interval_over": "speaker",
        "classes": ["au", "uk", "us"],
    }
}


def accents(system, values):
    """Records with recalls 0.9, 0.5 and, where the class has clips, 0."""
    confusion = [[9, 1, 0], [5, 5, 0], [0, 0, 0]]
    classes = {"classes": ["au", "uk", "us"], "confusion": confusion}
    return [record | classes for record in records("podcast:accent", system, values)]


@pytest.mark.parametrize(
    ("table", "place", "printed"),
    [
        ("Table 4", ("Local frequency only", "4"), ["0.793", "0.759"]),
        ("Table 5", ("Frequency-distributed 2 AC", "Feature-based"), ["0.823", "0.793"]),
        ("Table 8", ("FreqCNN", "Average"), ["0.980", "0.980"]),
        ("Table 9", ("g sigmoid, f tanh", "data set #1"), None),
    ],
)
def test_tables_of_systems_with_two_metrics(table, place, printed, tmp_path):
    made = runs_of(accents("ours", HIGH), cards=PODCAST)
    metrics = {"accuracy": "accuracy", "UAR": "unweighted_accuracy"}
    frame = by_system(made, {"ours": place}, ("P3", table), tmp_path, metrics, "UT-Podcast").set_index("evidence")
    assert (
        frame.loc["published", "corpus"] == "UT-Podcast" and (frame.loc["published", ["accuracy", "UAR"]] != "").all()
    )
    assert printed is None or frame.loc["published", ["accuracy", "UAR"]].tolist() == printed
    ours = frame.loc["same corpus"]
    assert ours["accuracy"].startswith("0.800 [") and ours["UAR"].startswith("0.702 [")


def test_a_table_of_classes_has_the_recall_of_each_and_its_mean(tmp_path):
    made = runs_of(accents("freqcnn", HIGH), accents("cnn", LOW), cards=PODCAST)
    columns = {"freqcnn": "FreqCNN", "cnn": "CNN"}
    metrics = {"recall": "recall", "UAR": "unweighted_accuracy"}
    tables.results(made, "class", columns, ("P3", "Table 3"), "t", tmp_path, metrics, "UT-Podcast")
    frame = read(tmp_path)
    assert list(frame) == ["class", "corpus", "evidence", "FreqCNN", "CNN", "runs"]
    assert list(dict.fromkeys(frame["class"])) == ["AU", "UK", "US", "UAR"]
    rows = frame.set_index(["class", "evidence"])
    assert (
        rows.loc[("AU", "published"), "FreqCNN"] == "0.885" and rows.loc[("AU", "published"), "corpus"] == "UT-Podcast"
    )
    assert rows.loc[("AU", "same corpus"), "CNN"] == "0.900 [0.900, 0.900]"
    assert rows.loc[("US", "same corpus"), "CNN"] == "", "no clip is of this class"
    assert rows.loc[("UAR", "same corpus"), "FreqCNN"].startswith("0.702 [")


def test_several_metrics_of_systems_in_the_columns(tmp_path):
    metrics = {"accuracy": "accuracy", "UAR": "unweighted_accuracy"}
    cards = {
        "chains:speaker": PODCAST["podcast:accent"] | {"role": "P3 FreqCNN"}
    }  # its rows are systems, ours no such corpus
    made = runs_of(
        [r | {"config": r["config"] | {"corpus": "chains:speaker"}} for r in accents("ours", HIGH)], cards=cards
    )
    _, frame = by_corpus(made, {"ours": "Average"}, tmp_path, ("P3", "Table 8"), metrics=metrics)
    ours = frame[frame["corpus"] == "chains:speaker"].iloc[0]
    assert ours["Average, accuracy"].startswith("0.800 [") and ours["Average, UAR"].startswith("0.702 [")


# --- Confusion matrices ----------------------------------------------------------------------------------------------


def confusions(runs, folder, published=("P2", "Table VI"), corpus="IEMOCAP"):
    tables.confusions(runs, "CNN_SeqCap", published, "t", folder, corpus)
    return read(folder).set_index(["true", "evidence"])


def test_confusions_are_shares_of_the_true_class_in_the_paper_s_order(tmp_path):
    frame = confusions(runs_of(records(EMODB, "CNN_SeqCap", LOW, happy=0.3)), tmp_path)
    assert list(dict.fromkeys(true for true, _ in frame.index)) == ["Neutral", "Angry", "Happy", "Sad"]
    assert frame.loc[("Happy", "published"), "predicted Happy"] == "0.017"
    assert frame.loc[("Happy", "stand-in"), ["predicted Neutral", "predicted Happy"]].tolist() == ["0.700", "0.300"]
    assert frame.loc[("Happy", "stand-in"), "clips"] == "50"


def test_a_class_that_a_corpus_lacks_is_left_empty(tmp_path):
    made = runs_of(records(EMODB, "CNN_SeqCap", LOW))
    for record in made.records:
        record["classes"] = ["angry", "neutral", "sad"]
        record["confusion"] = [[5, 2, 0], [1, 9, 0], [0, 3, 7]]
    frame = confusions(made, tmp_path)
    assert frame.loc[("Happy", "stand-in"), "predicted Sad"] == ""
    assert frame.loc[("Sad", "stand-in"), "predicted Sad"] == "0.700"


def test_published_counts_become_shares(tmp_path):
    frame = confusions(runs_of(), tmp_path, ("P3", "Table 12"), "eNTERFACE")
    row = frame.loc[("Angry", "published")]
    assert row["predicted Angry"] == f"{180 / 210:.3f}" and row["corpus"] == "eNTERFACE"
    shares = [
        float(row[f"predicted {name}"]) for name in ("Angry", "Disgust", "Sadness", "Surprise", "Fear", "Happiness")
    ]
    assert np.isclose(sum(shares), 1, atol=0.003)
