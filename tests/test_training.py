"""One run: the same record every time, test data that decide nothing, and everything in it that a table needs."""

from __future__ import annotations

import dataclasses
import json
import platform
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors import safe_open
from safetensors.torch import load_file
from tiny import SAMPLE_RATE, write_folder

from capslib import corpora, features, models, paths, records, schedules, training
from capslib.corpora.folder import source as folder_source
from capslib.errors import CapslibError
from capslib.features import FeatureConfig
from capslib.runs import Part, RunConfig, batches, load_parts
from capslib.training import LOSSES, MULTI_LABEL, evaluate, predict, train

CONFIG = RunConfig("folder:tones", "fold1", "caps", epochs=3, batch_size=8, learning_rate=3e-3)


@pytest.fixture(scope="module", autouse=True)
def tones(tmp_path_factory):
    """The data folder with a tiny corpus that can be learnt."""
    base = tmp_path_factory.mktemp("training")
    write_folder(base / "data" / "tones")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("CAPSLIB_CACHE", str(base / "cache"))
        patch.setenv("CAPSLIB_DATA", str(base / "data"))
        yield base / "data"


@pytest.fixture(scope="module")
def made(tones, tmp_path_factory) -> tuple[dict, Path]:
    """A record and its weights."""
    weights = tmp_path_factory.mktemp("weights") / "caps.safetensors"
    return train(CONFIG, weights), weights


def same_tensors(file: Path, other: Path) -> bool:
    """Whether two files hold the same weights, to the last bit; safetensors writes its metadata in any order."""
    ours, theirs = load_file(file), load_file(other)
    return ours.keys() == theirs.keys() and all(torch.equal(ours[name], theirs[name]) for name in ours)


def change_part(monkeypatch, part: str, change) -> None:
    """Let every run see another ``part`` than is there; the others stay."""

    def changed(*given):
        parts = load_parts(*given)
        return parts | {part: change(parts[part])}

    monkeypatch.setattr(training, "load_parts", changed)


# --- The same again


@pytest.mark.parametrize("model", ["caps", "cnn"])
def test_the_same_configuration_gives_the_same_record(model, tmp_path):
    config = dataclasses.replace(CONFIG, model=model)
    torch.manual_seed(1)
    first = train(config, tmp_path / "first.safetensors")
    torch.manual_seed(2)  # what was drawn before a run must not matter
    torch.rand(100)
    second = train(config, tmp_path / "second.safetensors")
    assert records.comparable(first) == records.comparable(second)
    assert same_tensors(tmp_path / "first.safetensors", tmp_path / "second.safetensors")


def test_number_of_threads_does_not_change_a_record(made):
    threads = torch.get_num_threads()
    torch.set_num_threads(threads + 1)
    try:
        assert records.comparable(train(CONFIG)) == records.comparable(made[0])
        assert torch.get_num_threads() == threads + 1
    finally:
        torch.set_num_threads(threads)


def test_a_run_leaves_the_caller_s_random_numbers_and_settings_alone():
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    train(dataclasses.replace(CONFIG, epochs=1))
    assert torch.equal(torch.rand(3), expected)
    assert not torch.are_deterministic_algorithms_enabled()


def test_another_seed_gives_other_weights(made, tmp_path):
    record = train(dataclasses.replace(CONFIG, seed=1), tmp_path / "other.safetensors")
    assert record["epochs"] != made[0]["epochs"]
    other, first = load_file(tmp_path / "other.safetensors"), load_file(made[1])
    assert not torch.equal(other["capsules.weight"], first["capsules.weight"])
    assert torch.equal(other["standardize.mean"], first["standardize.mean"])  # the data are the same


# --- What decides


def test_recordings_of_the_test_part_decide_nothing(made, tones, tmp_path, monkeypatch):
    corpus = corpora.load(CONFIG.corpus)
    poisoned = write_folder(tmp_path / "tones")
    random = np.random.default_rng(0)
    for clip in corpus.table.loc[list(corpus.split("fold1").test), "path"]:
        soundfile.write(poisoned / clip, random.uniform(-1, 1, 3000), SAMPLE_RATE, subtype="PCM_16")
    monkeypatch.setenv("CAPSLIB_DATA", str(tmp_path))
    record = train(CONFIG, tmp_path / "caps.safetensors")
    for what in ("epochs", "chosen_epoch", "train", "validation"):
        assert record[what] == made[0][what], what
    assert same_tensors(tmp_path / "caps.safetensors", made[1])
    assert record["test"] != made[0]["test"]
    assert record["data"]["fingerprint"] != made[0]["data"]["fingerprint"]  # and the record says that data differ


def test_labels_of_the_test_part_decide_nothing(made, monkeypatch, tmp_path):
    change_part(monkeypatch, "test", lambda part: Part(part.clips, (part.targets + 1) % 3))
    record = train(CONFIG, tmp_path / "caps.safetensors")
    assert record["epochs"] == made[0]["epochs"] and record["chosen_epoch"] == made[0]["chosen_epoch"]
    assert record["predictions"] == made[0]["predictions"]
    assert same_tensors(tmp_path / "caps.safetensors", made[1])
    assert record["test"] != made[0]["test"]


@pytest.mark.parametrize("part", ["test", "validation"])
def test_statistics_do_not_see(part, made, monkeypatch, tmp_path):
    change_part(monkeypatch, part, lambda p: Part([p.clips[0] + 1e6, *p.clips[1:]], p.targets))
    train(CONFIG, tmp_path / "caps.safetensors")
    ours, expected = load_file(tmp_path / "caps.safetensors"), load_file(made[1])
    for name in ("standardize.mean", "standardize.scale"):
        assert torch.equal(ours[name], expected[name])
    if part == "test":
        assert same_tensors(tmp_path / "caps.safetensors", made[1])


def test_statistics_are_those_of_the_training_clips(made):
    corpus = corpora.load(CONFIG.corpus)
    extracted = features.extract(corpus, CONFIG.features)
    rows = corpus.table.loc[list(corpus.split("fold1").train), "row"]
    frames = np.concatenate([extracted[row] for row in rows]).astype(np.float64)
    weights = load_file(made[1])
    np.testing.assert_allclose(weights["standardize.mean"].numpy(), frames.mean(0), rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(weights["standardize.scale"].numpy(), 1 / frames.std(0), rtol=1e-5)


def test_the_epoch_is_the_first_best_on_validation_data(made):
    record = made[0]
    ranks = [(e["validation_accuracy"], -e["validation_loss"]) for e in record["epochs"]]
    assert record["chosen_epoch"] == 1 + ranks.index(max(ranks))
    chosen = record["epochs"][record["chosen_epoch"] - 1]
    assert record["validation"] == {name: chosen[f"validation_{name}"] for name in record["validation"]}


def test_validation_data_do_decide(monkeypatch, tmp_path):
    """Were every epoch worse than the one before, a long run would end with what a run of one epoch ends with."""
    seen = []

    def worse_every_epoch(scores, targets, loss, threshold=None):
        result = evaluate(scores, targets, loss)
        if len(seen) == CONFIG.epochs:  # validation comes first, once an epoch
            return result
        seen.append(result)
        return result | {"accuracy": 1.0 / len(seen)}

    short = train(dataclasses.replace(CONFIG, epochs=1), tmp_path / "short.safetensors")
    monkeypatch.setattr(training, "evaluate", worse_every_epoch)
    long = train(CONFIG, tmp_path / "long.safetensors")
    assert long["chosen_epoch"] == 1 and len(long["epochs"]) == 3
    assert same_tensors(tmp_path / "long.safetensors", tmp_path / "short.safetensors")
    for what in ("train", "validation", "test", "predictions", "confusion"):
        assert long[what] == short[what], what


@pytest.mark.parametrize("model", ["cnn", "lstm", "att", "caps"])
def test_learns_what_can_be_learnt(model):
    record = train(dataclasses.replace(CONFIG, model=model, epochs=6))
    assert record["test"]["accuracy"] > 0.9
    assert record["epochs"][-1]["train_loss"] < record["epochs"][0]["train_loss"]


def test_learns_nothing_where_nothing_is(monkeypatch):
    """Labels dealt at random give chance on test clips; anything better would be a leak."""

    def shuffled(*given):
        random = np.random.default_rng(3)
        return {
            name: Part(part.clips * 8, torch.as_tensor(random.integers(0, 3, 8 * len(part))))
            for name, part in load_parts(*given).items()
        }

    monkeypatch.setattr(training, "load_parts", shuffled)
    monkeypatch.setattr(training, "_details", lambda *_: {})
    record = train(dataclasses.replace(CONFIG, model="lstm", epochs=2))
    assert 0.05 < record["test"]["accuracy"] < 0.65


# --- What goes wrong


def test_a_loss_that_is_not_a_number_is_told(tmp_path):
    config = dataclasses.replace(CONFIG, model="lstm", learning_rate=1e38)
    with pytest.raises(
        CapslibError, match=r"lstm on folder:tones, split fold1, seed 0: the loss is not a number in epoch \d"
    ):
        train(config, tmp_path / "lstm.safetensors")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    "changes, says",
    [
        ({"corpus": "fsd"}, r"unknown corpus 'fsd': did you mean 'fsdd'"),
        ({"corpus": "synth_gender:genre"}, r"unknown task of corpus 'synth_gender' 'genre': did you mean 'gender'"),
        ({"corpus": "emodb"}, r"corpus 'emodb' is not available: .*emodb"),
        ({"corpus": "folder:nothing"}, r"nothing is not there"),
        ({"split": "fold9"}, r"unknown split of corpus 'folder' 'fold9': did you mean 'fold"),
        ({"model": "capsnet"}, r"unknown model 'capsnet': did you mean 'caps'"),
        (
            {"options": (("num_iteration", 2),)},
            r"unknown option of model 'caps' 'num_iteration': did you mean 'num_iter",
        ),
        ({"features": FeatureConfig("mfccs")}, r"unknown kind of features 'mfccs': did you mean 'mfcc'"),
    ],
)
def test_unknown_names_are_told_with_the_nearest(changes, says):
    with pytest.raises(CapslibError, match=says):
        train(dataclasses.replace(CONFIG, **changes))


def test_weights_that_cannot_be_written_are_told(tmp_path):
    (tmp_path / "taken").write_text("a file, not a folder")
    with pytest.raises(CapslibError, match=r"cannot write caps\.safetensors"):
        train(dataclasses.replace(CONFIG, epochs=1), tmp_path / "taken" / "caps.safetensors")


def test_a_disk_that_fills_up_while_weights_are_written_is_told(tmp_path):
    # A file that may not grow stands for a disk that is full.
    code = (
        "import sys, resource, pathlib, torch\n"
        "from safetensors.torch import save_file\n"
        "from capslib import errors, paths\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (4096, resource.getrlimit(resource.RLIMIT_FSIZE)[1]))\n"
        "try: paths.write_atomically(pathlib.Path(sys.argv[1]), lambda t: save_file({'a': torch.zeros(99_999)}, t))\n"
        "except errors.CapslibError as error: print('told:', error)\n"
    )
    file = tmp_path / "weights.safetensors"
    done = subprocess.run([sys.executable, "-c", code, str(file)], capture_output=True, text=True, check=False)
    assert not list(tmp_path.iterdir())
    assert "told: cannot write weights.safetensors" in done.stdout, done.stderr


# --- What is in a record


def test_a_record_holds_what_a_table_cell_must_trace_to(made):
    """STUDY.md section 5: configuration, seed, fold, data fingerprint, machine kind, seconds, metrics an epoch."""
    record, _ = made
    corpus = corpora.load(CONFIG.corpus)
    assert record["config"] == CONFIG.described()
    assert record["config"]["seed"] == 0 and record["config"]["split"] == "fold1"
    assert record["data"]["fingerprint"] == corpus.split_fingerprint("fold1")
    split = corpus.split("fold1")
    assert record["data"]["clips"] == {part: len(getattr(split, part)) for part in ("train", "validation", "test")}
    assert record["classes"] == ["high", "low", "mid"]
    assert record["parameters"] == models.count_parameters(models.build("caps", 60, 3))
    assert [entry["epoch"] for entry in record["epochs"]] == [1, 2, 3]
    for entry in record["epochs"]:
        assert set(entry) >= {"train_loss", "validation_loss", "validation_accuracy", "validation_unweighted_accuracy"}
    for part in ("train", "validation", "test"):
        assert set(record[part]) == {"loss", "accuracy", "unweighted_accuracy"}
    provenance = record["provenance"]
    assert set(provenance) >= {"seconds", "seconds_per_epoch", "device", "machine", "torch", "python", "date"}
    assert provenance["seconds"] >= provenance["seconds_per_epoch"] > 0
    assert platform.machine() in provenance["machine"]


def test_a_record_says_nothing_about_who_made_it(made, tones):
    text = json.dumps(made[0])
    assert len(platform.node()) < 6 or platform.node() not in text  # a host called "cores" would be no leak
    assert str(tones) not in text and str(Path.home()) not in text


def test_a_record_survives_json(made):
    text = json.dumps(made[0], allow_nan=False)
    assert json.dumps(json.loads(text)) == text


def test_confusion_units_and_predictions_belong_together():
    # Hardly trained, so that there is something to confuse.
    record = train(dataclasses.replace(CONFIG, model="cnn", epochs=1, learning_rate=1e-4))
    corpus = corpora.load(CONFIG.corpus)
    labels = corpus.table.loc[list(corpus.split("fold1").test), "label"]
    true = [record["classes"].index(label) for label in labels]
    confusion = np.zeros((3, 3), int)
    for t, p in zip(true, record["predictions"], strict=True):
        confusion[t, p] += 1  # rows are the true classes
    assert (confusion != confusion.T).any()
    assert record["confusion"] == confusion.tolist()
    assert record["test"]["accuracy"] == pytest.approx(np.trace(confusion) / confusion.sum(), abs=1e-6)
    recalls = np.diag(confusion) / confusion.sum(1)
    assert record["test"]["unweighted_accuracy"] == pytest.approx(recalls.mean(), abs=1e-6)
    assert record["units"] == {"fold1": [int(np.trace(confusion)), len(true)]}


def test_weights_reproduce_the_test_predictions(made):
    record, file = made
    corpus = corpora.load(CONFIG.corpus)
    with safe_open(file, "pt") as opened:
        metadata = opened.metadata()
    told = {name: json.loads(value) for name, value in metadata.items()}
    assert told == {"model": "caps", "corpus": "folder:tones", "classes": ["high", "low", "mid"], "options": {}}
    model = models.build("caps", 60, 3)
    model.load_state_dict(load_file(file))
    test = load_parts(corpus, CONFIG)["test"]
    scores = predict(model, test, torch.device("cpu"))
    assert scores.argmax(-1).tolist() == record["predictions"]
    assert evaluate(scores, test.targets, LOSSES[model.loss]()) == pytest.approx(record["test"], abs=1e-5)


def test_fewer_training_clips_are_the_same_ones_for_every_system_and_seed():
    corpus = corpora.load(CONFIG.corpus)
    whole = load_parts(corpus, CONFIG)
    few = [
        load_parts(corpus, dataclasses.replace(CONFIG, max_train_clips=9, seed=seed, model=model))
        for seed, model in ((0, "caps"), (1, "cnn"))
    ]
    assert len(few[0]["train"]) == 9 and len(few[0]["test"]) == len(whole["test"])
    assert all(torch.equal(a, b) for a, b in zip(few[0]["train"].clips, few[1]["train"].clips, strict=True))
    everything = [clip.numpy().tobytes() for clip in whole["train"].clips]
    assert all(clip.numpy().tobytes() in everything for clip in few[0]["train"].clips)
    assert len(load_parts(corpus, dataclasses.replace(CONFIG, max_train_clips=999))["train"]) == len(whole["train"])
    assert train(dataclasses.replace(CONFIG, max_train_clips=9, epochs=1))["data"]["clips"]["train"] == 9


# --- Its pieces


def test_unweighted_accuracy_is_over_the_classes_that_occur():
    scores = torch.eye(4)[[0, 0, 0, 3, 1]]  # predicted
    seen = evaluate(scores, torch.tensor([0, 0, 0, 0, 1]), torch.nn.CrossEntropyLoss())
    assert seen["accuracy"] == 0.8
    assert seen["unweighted_accuracy"] == pytest.approx((0.75 + 1.0) / 2)  # not /3 for 3, which was only predicted


@pytest.fixture(scope="module")
def part(tones) -> Part:
    return load_parts(corpora.load(CONFIG.corpus), CONFIG)["train"]


@pytest.mark.parametrize("model", ["cnn", "lstm", "att", "caps"])
def test_predictions_depend_neither_on_batches_nor_on_order(model, part):
    torch.manual_seed(0)
    net, device = models.build(model, 60, 3).train(), torch.device("cpu")
    net.standardize.fit(torch.cat(list(part.clips)))
    expected = predict(net, part, device)
    for batch_size in (1, 5, 999):
        torch.testing.assert_close(predict(net, part, device, batch_size), expected, rtol=0, atol=1e-5)
    backwards = Part(part.clips[::-1], part.targets.flip(0))
    torch.testing.assert_close(predict(net, backwards, device).flip(0), expected, rtol=0, atol=1e-5)


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


# --- Several labels a clip


def test_results_of_several_labels_a_clip_by_hand():
    """Five clips, three labels, of which the last is always there."""
    wanted = torch.tensor([[1, 0, 1], [1, 1, 1], [0, 1, 1], [0, 1, 1], [0, 0, 1]]).float()
    found = torch.tensor([[1, 0, 1], [1, 0, 1], [0, 1, 1], [1, 1, 1], [0, 0, 0]]).float()
    seen = evaluate(found * 0.8 + 0.1, wanted, MULTI_LABEL["margin"][0](), 0.5)
    # First label: there 2 of 2, absent 2 of 3. Second: there 2 of 3, absent 2 of 2. Third: there 4 of 5, never absent.
    expected = ((2 / 2 + 2 / 3) / 2 + (2 / 3 + 2 / 2) / 2 + 4 / 5) / 3
    assert seen["weighted_accuracy"] == pytest.approx(expected, abs=1e-6)
    assert seen["accuracy"] == 0.4  # clips 1 and 3 have exactly their labels
    # Sets that occur: first+third, all, second+third (twice), third alone; found of each: 1, 0, 1 of 2, 0.
    assert seen["unweighted_accuracy"] == pytest.approx((1 + 0 + 1 / 2 + 0) / 4)
    # Scores are 0.9 and 0.1: on the margins where right, and 0.8 beyond where wrong; four labels are wrong in five clips.
    assert seen["loss"] == pytest.approx(3 * 0.64 / 5, abs=1e-6)


def test_a_label_is_there_above_its_threshold():
    assert training.decide(torch.tensor([[0.49, 0.51], [-1.0, 2.0]]), 0.5).tolist() == [[False, True], [False, True]]
    assert training.decide(torch.tensor([[0.49, 0.51]])).tolist() == [1]


@pytest.fixture
def several(monkeypatch) -> RunConfig:
    """The tiny corpus with two labels in place of three classes: "mid" is both, "high" and "low" are one each."""
    made = folder_source(paths.data() / "tones", "tones")
    task = dataclasses.replace(made.tasks["tones"], multi_label=True)

    def read(folder: Path):
        table, missing = made.read(folder)
        return table.replace({"label": {"mid": "high+low"}}), missing

    register(monkeypatch, dataclasses.replace(made, name="chords", read=read, tasks={"tones": task}))
    return dataclasses.replace(CONFIG, corpus="chords:tones", epochs=8)


def register(monkeypatch, source: corpora.Source) -> None:
    """Let a corpus be known by its name."""
    known = corpora.sources() | {source.name: source}
    monkeypatch.setattr(corpora, "sources", lambda: known)


@pytest.mark.parametrize("model", ["att", "caps"])
def test_a_run_with_several_labels_a_clip(model, several):
    record = train(dataclasses.replace(several, model=model))
    assert record["classes"] == ["high", "low"]
    for part in ("train", "validation", "test"):
        assert set(record[part]) == {"loss", "accuracy", "unweighted_accuracy", "weighted_accuracy"}
    assert record["test"]["weighted_accuracy"] > 0.8
    names = ["+".join(name for k, name in enumerate(("high", "low")) if code >> k & 1) for code in range(4)]
    assert set(record["label_sets"]) >= {"high", "low", "high+low"} and set(record["label_sets"]) <= set(names)
    corpus = corpora.load(several.corpus)
    labels = corpus.table.loc[list(corpus.split("fold1").test), "label"]
    confusion = np.zeros((len(record["label_sets"]),) * 2, int)
    for true, predicted in zip(labels, record["predictions"], strict=True):
        confusion[record["label_sets"].index(true), record["label_sets"].index(names[predicted])] += 1
    assert record["confusion"] == confusion.tolist()
    assert record["test"]["accuracy"] == pytest.approx(np.trace(confusion) / len(labels), abs=1e-6)
    assert record["units"] == {"fold1": [int(np.trace(confusion)), len(labels)]}
    json.dumps(record, allow_nan=False)


# --- Untrained, perturbed, in segments


def test_without_epochs_a_model_is_recorded_as_it_starts(tmp_path):
    record = train(dataclasses.replace(CONFIG, epochs=0), tmp_path / "caps.safetensors")
    assert record["chosen_epoch"] == 0 and record["epochs"] == []
    assert record["test"]["accuracy"] >= 0 and len(record["predictions"]) == record["data"]["clips"]["test"]
    with training.reproducibly(CONFIG.seed):  # one thread: orthogonal starts depend on how many
        start = models.build("caps", 60, 3).state_dict()
    stored = load_file(tmp_path / "caps.safetensors")
    for name in start:
        assert torch.equal(stored[name], start[name]) != name.startswith("standardize"), name
    json.dumps(record, allow_nan=False)


def test_a_perturbed_run_validates_at_every_level_and_tests_as_recorded(made, tmp_path):
    config = dataclasses.replace(CONFIG, perturb=("gain", (-6.0, 0.0, 6.0)))
    record, plain = train(config, tmp_path / "caps.safetensors"), made[0]
    assert record["config"]["perturb"] == ("gain", (-6.0, 0.0, 6.0))
    expected = plain["data"]["clips"] | {"validation": 3 * plain["data"]["clips"]["validation"]}
    assert record["data"]["clips"] == expected and len(record["predictions"]) == len(plain["predictions"])
    assert record["epochs"] != plain["epochs"]
    ours, theirs = load_file(tmp_path / "caps.safetensors"), load_file(made[1])
    assert torch.equal(ours["standardize.mean"], theirs["standardize.mean"])  # of clips as recorded
    model = training.restore(config, tmp_path / "caps.safetensors")
    test = load_parts(corpora.load(CONFIG.corpus), CONFIG)["test"]  # not perturbed
    assert predict(model, test, torch.device("cpu")).argmax(-1).tolist() == record["predictions"]
    assert records.comparable(train(config)) == records.comparable(record)


def test_a_level_that_leaves_silence_ends_the_run_with_the_clip_s_name():
    with pytest.raises(CapslibError, match=r"clip 'high/00' of folder: gain -300 leaves silence"):
        train(dataclasses.replace(CONFIG, perturb=("gain", (0.0, -300.0))))


def test_segments_are_trained_on_and_whole_clips_tested(made):
    config = dataclasses.replace(CONFIG, segment_frames=5, order="short_utterances_first", schedule="loss_decay")
    record, plain = train(config), made[0]
    corpus = corpora.load(CONFIG.corpus)
    lengths = load_parts(corpus, CONFIG)["train"].lengths
    assert record["data"]["clips"] == plain["data"]["clips"] | {"train": int(sum(-(-n // 5) for n in lengths))}
    assert len(record["predictions"]) == len(plain["predictions"])
    other = train(dataclasses.replace(config, order="short_segments_first"))
    assert other["epochs"][0]["train_loss"] != record["epochs"][0]["train_loss"]


def test_a_schedule_sees_every_step_and_can_change_the_outcome(made, monkeypatch):
    seen = []

    class Stop(schedules.LossDecay):
        def step(self, loss, epoch):
            seen.append((loss, epoch))
            self.optimizer.param_groups[0]["lr"] = 0.0

    monkeypatch.setitem(schedules.SCHEDULES, "stop", Stop)
    record, plain = train(dataclasses.replace(CONFIG, schedule="stop")), made[0]
    steps = -(-plain["data"]["clips"]["train"] // CONFIG.batch_size)
    assert [epoch for _, epoch in seen] == [epoch for epoch in (1, 2, 3) for _ in range(steps)]
    assert all(loss > 0 for loss, _ in seen) and record["epochs"][-1] != plain["epochs"][-1]


@pytest.mark.parametrize(
    "changes, says",
    [
        ({"order": "sorted"}, "unknown order 'sorted': did you mean 'sorted_batches'"),
        ({"schedule": "loss_decy"}, "unknown schedule 'loss_decy': did you mean 'loss_decay'"),
        ({"perturb": ("sped", (1.1,))}, "unknown perturbation 'sped': did you mean 'speed'"),
        ({"perturb": ("gain", (0.0, 6.0)), "segment_frames": 5}, "segment_frames and perturb cannot be combined"),
        (
            {"model": "caps_joined"},
            "60 features with source_features=None and source_capsules=4: give the run a source",
        ),
    ],
)
def test_what_does_not_go_together_is_told(changes, says):
    with pytest.raises(CapslibError, match=says):
        train(dataclasses.replace(CONFIG, **changes))


def test_a_decoder_writes_as_many_frames_as_the_longest_training_clip_has(tmp_path):
    config = dataclasses.replace(CONFIG, model="caps_decoder", epochs=1)
    record = train(config, tmp_path / "weights.safetensors")
    longest = load_parts(corpora.load(CONFIG.corpus), CONFIG)["train"].lengths.max()
    model = training.restore(config, tmp_path / "weights.safetensors")
    assert model.num_frames == longest and record["config"]["options"] == ()


# --- Weights that come back


@pytest.mark.parametrize(
    "model, options",
    [("cnn", (("channels", (8, 8)), ("kernel_sizes", (3, 3)), ("pools", (1, 2)))), ("caps", (("num_iterations", 1),))],
)
def test_restored_weights_give_the_recorded_predictions(model, options, tmp_path):
    config = dataclasses.replace(CONFIG, model=model, options=options, epochs=1)
    record = train(config, tmp_path / "weights.safetensors")
    net = training.restore(config, tmp_path / "weights.safetensors")
    assert not net.training
    test = load_parts(corpora.load(CONFIG.corpus), config)["test"]
    assert predict(net, test, torch.device("cpu")).argmax(-1).tolist() == record["predictions"]


@pytest.mark.parametrize("trouble", ["cut short", "no weights", "another model's", "not there"])
def test_weights_of_no_use_are_told_with_their_file(trouble, made, tmp_path):
    file, model = tmp_path / "weights.safetensors", "lstm" if trouble == "another model's" else "caps"
    if trouble != "not there":
        whole = made[1].read_bytes()
        file.write_bytes({"cut short": whole[:-100], "no weights": b"{}"}.get(trouble, whole))
    with pytest.raises(
        CapslibError, match=rf"weights\.safetensors does not hold the weights of {model} on folder:tones"
    ):
        training.restore(dataclasses.replace(CONFIG, model=model), file)


# --- A source


@pytest.fixture
def transfer(tones, monkeypatch, tmp_path) -> RunConfig:
    """A run with a source trained on another corpus of the same sample rate."""
    if not (tones / "chirps").is_dir():
        write_folder(tones / "chirps", clips_a_class=6, seed=7)
    register(monkeypatch, dataclasses.replace(folder_source(tones / "chirps", "chirps"), name="chirps"))
    source = RunConfig("chirps:chirps", "fold1", "caps", (("capsule_features", 4),), epochs=1, batch_size=8)
    return dataclasses.replace(CONFIG, source=source, epochs=1)


@pytest.fixture
def empty_sources(monkeypatch):
    """Sources are trained anew; features and decoded clips stay."""
    shutil.rmtree(paths.cache() / "sources", ignore_errors=True)


def test_a_source_s_embedding_is_appended_to_all_frames_of_a_clip(transfer, monkeypatch, empty_sources):
    seen = {}

    def noting(*given):
        seen.update(load_parts(*given))
        return seen

    monkeypatch.setattr(training, "load_parts", noting)
    record = train(transfer)
    (weights,) = (paths.cache() / "sources").glob("*.safetensors")
    source = training.restore(transfer.source, weights)
    monkeypatch.setattr(training, "load_parts", load_parts)
    plain = load_parts(corpora.load(CONFIG.corpus), CONFIG)
    assert record["parameters"] > models.count_parameters(models.build("caps", 60, 3))
    for name, part in plain.items():
        for clip, before in zip(seen[name].clips, part.clips, strict=True):
            assert clip.shape == (len(before), 60 + 3 * 4) and torch.equal(clip[:, :60], before)
            assert torch.equal(clip[:, 60:], clip[:1, 60:].expand(len(clip), -1))
            with torch.inference_mode():
                expected = source.embed(before[None], torch.tensor([len(before)]))[0]
            torch.testing.assert_close(clip[0, 60:], expected, rtol=0, atol=1e-5)
    assert record["config"]["source"] == transfer.source.described()


def test_a_source_is_trained_once_and_read_again(transfer, monkeypatch, empty_sources):
    trained, real = [], training.train
    monkeypatch.setattr(training, "train", lambda config, *more: trained.append(config) or real(config, *more))
    first, second = real(transfer), real(transfer)
    other = real(dataclasses.replace(transfer, seed=1, model="lstm"))
    assert trained == [transfer.source]
    assert records.comparable(first) == records.comparable(second)
    assert first["source"] == other["source"]
    alone = json.loads(json.dumps(real(transfer.source)))
    assert first["source"] == {name: alone[name] for name in first["source"]}
    real(dataclasses.replace(transfer, source=dataclasses.replace(transfer.source, seed=1)))
    assert len(trained) == 2


def test_a_joined_network_reads_its_source(transfer):
    options = (("source_capsules", 3), ("source_features", 12))
    record = train(dataclasses.replace(transfer, model="caps_joined", options=options))
    assert len(record["epochs"]) == 1 and record["source"]["config"]["model"] == "caps"


@pytest.mark.parametrize(
    "changes, says",
    [
        (
            {"corpus": "folder:tones"},
            r"caps on folder:tones.*: the source has heard clips of this corpus: transfer needs another",
        ),
        (
            {"features": FeatureConfig("spectrogram")},
            r"the source was made for other features .*spectrogram.*: use the",
        ),
        ({"corpus": "low:low"}, r"the source low has 8000 Hz and folder has 16000 Hz: choose a source of the same"),
        ({"split": "fold9"}, r"unknown split of corpus 'chirps' 'fold9'"),
    ],
)
def test_a_source_that_does_not_fit_is_told(changes, says, transfer, tones, monkeypatch):
    low = dataclasses.replace(folder_source(tones / "chirps", "low", sample_rate=8000), name="low", folder="chirps")
    register(monkeypatch, low)
    with pytest.raises(CapslibError, match=says):
        train(dataclasses.replace(transfer, source=dataclasses.replace(transfer.source, **changes)))
