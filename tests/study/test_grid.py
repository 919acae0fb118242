"""Grids: only what is missing is trained, an interruption loses the runs under way, and whatever fails is named."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
from tiny import write_folder
from tone_grids import MODELS, files, tones_grid

from capslib import corpora, records, study, training
from capslib.errors import CapslibError


@pytest.fixture
def instant(monkeypatch) -> list[training.RunConfig]:
    """Runs that take no time; the list of those that were made."""
    made = []

    def train(config, weights=None, device=None, source=None):
        made.append(config)
        return {
            "config": config.described(),
            "data": {"fingerprint": corpora.load(config.corpus).split_fingerprint(config.split), "clips": {}},
            "test": {"accuracy": config.seed / 10},
            "provenance": {"date": "2026-01-01", "seconds": 0.0},
        }

    monkeypatch.setattr(training, "train", train)
    return made


# --- Grids


def test_a_grid_is_every_combination():
    grid = study.grid(["folder:tones"], ["lstm", ("caps", {"num_iterations": 1}), "caps"], profile="full", seeds=[3, 5])
    assert len(grid) == 5 * 3 * 2  # splits, systems, seeds
    assert len({run.key for run in grid.runs}) == len(grid)
    seen = {(r.config.split, r.config.model, r.config.options, r.config.seed) for r in grid.runs}
    assert seen == {
        (f"fold{fold}", *system, seed)
        for fold in range(1, 6)
        for system in (("lstm", ()), ("caps", (("num_iterations", 1),)), ("caps", ()))
        for seed in (3, 5)
    }
    assert [r.config.seed for r in grid.runs] == sorted(r.config.seed for r in grid.runs)  # round by round


def test_a_profile_sets_the_budget():
    quick, full = (study.grid(["folder:tones"], ["lstm"], profile=profile) for profile in ("quick", "full"))
    for grid, profile in ((quick, "quick"), (full, "full")):
        budget = study.grids.BUDGETS[profile]
        assert len(grid) == (budget.max_splits or 5) * budget.seeds
        for run in grid.runs:
            assert (run.config.epochs, run.config.batch_size) == (budget.epochs, budget.batch_size)
            assert run.config.max_train_clips == budget.max_train_clips


def test_changes_apply_to_every_run():
    assert {run.config.learning_rate for run in tones_grid(learning_rate=0.01).runs} == {0.01}


def test_a_grid_knows_the_data_it_is_for():
    grid, corpus = tones_grid(), corpora.load("folder:tones")
    assert {run.data for run in grid.runs} == {corpus.split_fingerprint("fold1")}
    assert grid.cards == {"folder:tones": corpus.card()} and grid.absent == {}


def test_seeds_may_be_any_iterable():
    assert len(tones_grid(seeds=iter([0, 1]))) == 4


def test_a_corpus_that_is_not_here_is_listed_with_how_to_get_it(reports):
    grid = study.grid(["emodb", "folder:tones", "fsdd:digit"], ["lstm"])
    assert set(grid.absent) == {f"emodb:{next(iter(corpora.sources()['emodb'].tasks))}", "fsdd:digit"}
    assert grid.absent["fsdd:digit"] == corpora.sources()["fsdd"].how_to_get
    assert set(grid.cards) == {"folder:tones"} and len(grid) == 1  # the others go on


@pytest.mark.parametrize(
    "call, says",
    [
        (lambda: study.grid(["fsd"], ["lstm"]), r"unknown corpus 'fsd': did you mean 'fsdd'"),
        (lambda: study.grid(["folder:tones"], ["lsm"]), r"unknown model 'lsm': did you mean 'lstm'"),
        (
            lambda: study.grid(["folder:tones"], ["lstm"], profile="quik"),
            r"unknown profile 'quik': did you mean 'quick'",
        ),
        (lambda: study.store("fast"), r"unknown profile 'fast'"),
        (lambda: study.store("quick", "acepted"), r"unknown choice of records 'acepted': did you mean 'accepted'"),
        (
            lambda: study.grid(["folder:tones"], ["lstm"], epoch=3),
            r"unknown .* 'epoch': did you mean 'epochs'",
        ),
    ],
)
def test_unknown_names_are_told_with_the_nearest(call, says):
    with pytest.raises(CapslibError, match=says):
        call()


# --- What is run


def test_only_what_is_missing_is_trained(reports, instant):
    runs = study.run(tones_grid())
    assert len(instant) == 6 and len(runs.records) == 6 and runs.missing == () == runs.older
    study.run(tones_grid())
    assert len(instant) == 6
    next(iter(files(reports).values())).unlink()
    study.run(tones_grid())
    assert len(instant) == 7
    study.run(tones_grid(seeds=range(4)))
    assert len(instant) == 9
    assert instant[-1].seed == 3
    study.run(tones_grid(learning_rate=0.1))
    assert len(instant) == 15


def test_records_come_in_the_order_of_the_grid(reports, instant):
    grid = tones_grid()
    study.run(replace(grid, runs=grid.runs[::-1]))
    assert [r["key"] for r in study.run(grid).records] == [run.key for run in grid.runs]


def test_other_recordings_are_other_runs(reports, instant, tmp_path, monkeypatch):
    study.run(tones_grid())
    write_folder(tmp_path / "data" / "tones", seed=1)
    monkeypatch.setenv("CAPSLIB_DATA", str(tmp_path / "data"))
    study.run(tones_grid())
    assert len(instant) == 12 and len(files(reports)) == 12


def test_other_code_is_another_run(reports, instant, monkeypatch):
    study.run(tones_grid())
    monkeypatch.setattr(study.grids.keys, "code_version", lambda *_: "0" * 16)
    study.run(tones_grid())
    assert len(instant) == 12


def test_recordings_that_change_while_a_grid_is_running_are_told(reports, instant):
    grid = tones_grid()
    stale = replace(grid, runs=tuple(replace(run, data="0" * 16) for run in grid.runs[:1]))
    with pytest.raises(CapslibError, match=r"the recordings changed while the grid was running"):
        study.run(stale)
    assert files(reports) == {}


def test_broken_records_are_noted_and_made_again(reports, instant):
    study.run(tones_grid())
    empty, older, half = sorted(files(reports).values())[:3]
    empty.write_text("")
    older.write_text(json.dumps(json.loads(older.read_text()) | {"schema": records.SCHEMA - 1}))
    half.write_text(half.read_text()[:50])
    runs = study.run(tones_grid())
    assert len(instant) == 9 and len(runs.records) == 6
    assert len(runs.notes) == 3 and all(any(f.name in note for note in runs.notes) for f in (empty, older, half))
    assert study.run(tones_grid()).notes == ()


def test_what_fails_is_named_and_the_others_are_kept(reports):
    grid = study.grid(["folder:tones"], ["lstm", ("caps", {"num_iteration": 2}), "caps"], seeds=[0, 1], epochs=1)
    with pytest.raises(CapslibError) as caught:
        study.run(grid)
    said = str(caught.value)
    assert said.startswith("2 of 6 runs failed, the others are kept: ")
    assert "unknown option of model 'caps' 'num_iteration': did you mean 'num_iterations'" in said
    assert len(files(reports)) == 4
    runs = study.run(grid, train=False)
    assert len(runs.records) == 4
    assert [run.config.options for run in runs.missing] == [(("num_iteration", 2),)] * 2


@pytest.mark.parametrize("error", [ValueError("num_iterations=0"), RuntimeError("out of memory"), MemoryError()])
def test_whatever_fails_is_named_and_the_others_are_kept(error, reports, instant, monkeypatch):
    quick = training.train

    def train(config, *rest, **named):
        if config.seed == 0:
            raise error
        return quick(config, *rest, **named)

    monkeypatch.setattr(training, "train", train)
    with pytest.raises(CapslibError, match=r"2 of 6 runs failed.* seed 0"):
        study.run(tones_grid())
    assert len(files(reports)) == 4


def test_a_full_disk_ends_the_grid_with_a_sentence_and_loses_nothing(reports, instant, monkeypatch):
    put = records.Store.put

    def full_after_two(self, record):
        if len(files(reports)) == 2:
            raise CapslibError("cannot write x.json: No space left on device; free some space")
        return put(self, record)

    with monkeypatch.context() as patch:
        patch.setattr(records.Store, "put", full_after_two)
        with pytest.raises(CapslibError, match="No space left on device"):
            study.run(tones_grid())
    assert len(files(reports)) == 2
    study.run(tones_grid())
    assert len(files(reports)) == 6


def test_weights_lie_beside_the_records(reports):
    grid = tones_grid(seeds=[0], epochs=1)
    study.run(grid)
    assert {f.name for f in (reports / "quick" / "weights").iterdir()} == {f"{r.key}.safetensors" for r in grid.runs}


def test_weights_need_not_be_kept(reports):
    study.run(tones_grid(seeds=[0], epochs=1), keep_weights=False)
    assert not (reports / "quick" / "weights").exists() and len(files(reports)) == 2


def test_an_empty_grid_has_no_records(reports):
    runs = study.run(study.grid([], MODELS))
    assert runs.records == () and runs.frame().empty


def test_records_are_the_same_whether_made_or_read(reports, instant):
    grid = study.grid(["folder:tones"], [("caps", {"num_iterations": 1})], seeds=[0])
    assert study.run(grid).records == study.run(grid).records


# --- What is read


def test_accepted_records_come_first_and_fresh_ones_ignore_them(reports, instant, tmp_path, monkeypatch):
    grid = tones_grid()
    study.run(grid)
    chosen = grid.runs[0].key
    (tmp_path / "accepted" / "records").mkdir(parents=True)
    monkeypatch.setattr(study.folders, "accepted", lambda: tmp_path / "accepted")
    mine = next(file for name, file in files(reports).items() if chosen in name)
    theirs = json.loads(mine.read_text()) | {"test": {"accuracy": 0.99}}
    (tmp_path / "accepted" / "records" / mine.name).write_text(json.dumps(theirs))

    def accuracy(records: str) -> float:
        return study.run(grid, records=records).records[0]["test"]["accuracy"]

    assert accuracy("accepted") == 0.99 and accuracy("fresh") == 0.0
    mine.unlink()
    made = len(instant)
    assert accuracy("accepted") == 0.99 and len(instant) == made  # what is accepted need not be made
    assert accuracy("fresh") == 0.0 and len(instant) == made + 1
    assert theirs == json.loads((tmp_path / "accepted" / "records" / mine.name).read_text())  # and is never written


def test_accepted_records_are_those_of_quick(tmp_path, monkeypatch, reports):
    monkeypatch.setattr(study.folders, "accepted", lambda: tmp_path / "accepted")
    assert study.store("full").folders == (reports / "full" / "records",)
    assert study.store("quick").folders == (tmp_path / "accepted" / "records", reports / "quick" / "records")


def test_reading_trains_nothing_and_shows_older_records(reports, instant, monkeypatch):
    study.run(tones_grid(seeds=[0]))
    monkeypatch.setattr(study.grids.keys, "code_version", lambda *_: "0" * 16)
    grid = tones_grid(seeds=[0, 1])
    runs = study.run(grid, train=False)
    assert len(instant) == 2
    assert len(runs.records) == len(runs.older) == 2  # made by other code, and said so
    assert set(runs.older).isdisjoint(run.key for run in grid.runs)
    assert [run.config.seed for run in runs.missing] == [1, 1]
    again = study.run(grid)
    assert len(instant) == 6 and again.older == () == again.missing


def test_reading_where_nothing_is_says_what_to_do(reports, instant):
    with pytest.raises(CapslibError, match=r"no record for any of the 6 runs: run `make reproduce`"):
        study.run(tones_grid(), train=False)
    assert not reports.exists()


def test_records_are_shown_without_the_recordings(reports, instant, tmp_path, monkeypatch):
    """A clone has the records of the full profile and not the corpora: their cards stand in for them."""
    card = corpora.load("folder:tones").card() | {"corpus": "fsdd:digit"}
    card["splits"] = {name: card["splits"]["fold1"] for name in ("jackson", "nicolas", "theo")}
    cards = reports / "full" / "corpora"
    cards.mkdir(parents=True)
    (cards / "fsdd-digit.json").write_text(json.dumps(card))
    grid = study.grid(["fsdd"], ["lstm", "caps"], profile="full")
    assert len(grid) == 3 * 2 * corpora.sources()["fsdd"].budgets["full"].seeds and grid.absent == {}
    shelf, run = study.store("full"), grid.runs[0]
    shelf.put({"schema": records.SCHEMA, "key": run.key, "config": run.config.described(), "provenance": {"date": ""}})
    runs = study.run(grid, train=False)
    assert [r["key"] for r in runs.records] == [run.key] and len(runs.missing) == len(grid) - 1


def test_records_can_be_picked_and_put_into_a_table(reports):
    runs = study.run(study.grid(["folder:tones"], ["lstm", ("caps", {"num_iterations": 1})], seeds=[0, 1], epochs=1))
    table = runs.frame()
    assert len(table) == 4 and set(table["model"]) == {"lstm", "caps"}
    assert set(table["options"]) == {"", "num_iterations=1"}
    assert table["accuracy"].between(0, 1).all() and (table["test_clips"] == 6).all()
    assert list(table["key"]) == [r["key"] for r in runs.records]
    assert [r["config"]["seed"] for r in runs.of(model="caps", corpus="folder:tones")] == [0, 1]
    assert runs.of(model="att") == [] and runs.of(system="caps, num_iterations=1") == runs.of(model="caps")
