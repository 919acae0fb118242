"""One run: the same record every time, and test data that decide nothing."""

from __future__ import annotations

import dataclasses
import subprocess
import sys

import numpy as np
import pytest
import soundfile
import torch
from safetensors.torch import load_file
from tiny import SAMPLE_RATE, TONES, tone, write_folder

from capslib import corpora, features, models, records
from capslib.errors import CapslibError
from capslib.features import FeatureConfig
from capslib.training import SCHEDULES, Part, load_parts, loop, predict, restore, train
from capslib.training.loop import reproducibly
from capslib.training.optimizers import LossDecay


def same_tensors(file, other) -> bool:
    """Whether two files hold the same weights, to the last bit; safetensors writes its metadata in any order."""
    ours, theirs = load_file(file), load_file(other)
    return ours.keys() == theirs.keys() and all(torch.equal(ours[name], theirs[name]) for name in ours)


def change_part(monkeypatch, part: str, change) -> None:
    """Let every run see another ``part`` than there is; the others stay."""

    def changed(*given):
        parts = load_parts(*given)
        return parts | {part: change(parts[part])}

    monkeypatch.setattr(loop, "load_parts", changed)


# --- The same again


@pytest.mark.parametrize("model", ["caps", "cnn"])
def test_the_same_configuration_gives_the_same_record(model, config, tmp_path):
    config = dataclasses.replace(config, model=model)
    torch.manual_seed(1)
    first = train(config, tmp_path / "first.safetensors")
    torch.manual_seed(2)  # what was drawn before a run must not matter
    torch.rand(100)
    second = train(config, tmp_path / "second.safetensors")
    assert records.comparable(first) == records.comparable(second)
    assert same_tensors(tmp_path / "first.safetensors", tmp_path / "second.safetensors")


def test_number_of_threads_does_not_change_a_record(config, trained):
    threads = torch.get_num_threads()
    torch.set_num_threads(threads + 1)
    try:
        assert records.comparable(train(config)) == records.comparable(trained[0])
        assert torch.get_num_threads() == threads + 1
    finally:
        torch.set_num_threads(threads)


def test_a_run_leaves_the_caller_s_random_numbers_and_settings_alone(config):
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    train(dataclasses.replace(config, epochs=1))
    assert torch.equal(torch.rand(3), expected)
    assert not torch.are_deterministic_algorithms_enabled()


def test_another_seed_gives_other_weights(config, trained, tmp_path):
    record = train(dataclasses.replace(config, seed=1), tmp_path / "other.safetensors")
    assert record["epochs"] != trained[0]["epochs"]
    other, first = load_file(tmp_path / "other.safetensors"), load_file(trained[1])
    assert not torch.equal(other["capsules.weight"], first["capsules.weight"])
    assert torch.equal(other["standardize.mean"], first["standardize.mean"])  # the data are the same


# --- What decides


def test_recordings_of_the_test_part_decide_nothing(config, trained, tmp_path, monkeypatch):
    corpus = corpora.load(config.corpus)
    poisoned = write_folder(tmp_path / "tones")
    random = np.random.default_rng(0)
    for clip in corpus.table.loc[list(corpus.split("fold1").test), "path"]:
        soundfile.write(poisoned / clip, random.uniform(-1, 1, 3000), SAMPLE_RATE, subtype="PCM_16")
    monkeypatch.setenv("CAPSLIB_DATA", str(tmp_path))
    record = train(config, tmp_path / "caps.safetensors")
    for what in ("epochs", "chosen_epoch", "train", "validation"):
        assert record[what] == trained[0][what], what
    assert same_tensors(tmp_path / "caps.safetensors", trained[1])
    assert record["test"] != trained[0]["test"]
    assert record["data"]["fingerprint"] != trained[0]["data"]["fingerprint"]  # and the record says that data differ


def test_labels_of_the_test_part_decide_nothing(config, trained, monkeypatch, tmp_path):
    change_part(monkeypatch, "test", lambda part: Part(part.clips, (part.targets + 1) % 3))
    record = train(config, tmp_path / "caps.safetensors")
    assert record["epochs"] == trained[0]["epochs"] and record["chosen_epoch"] == trained[0]["chosen_epoch"]
    assert record["predictions"] == trained[0]["predictions"]
    assert same_tensors(tmp_path / "caps.safetensors", trained[1])
    assert record["test"] != trained[0]["test"]


@pytest.mark.parametrize("part", ["test", "validation"])
def test_statistics_do_not_see(part, config, trained, monkeypatch, tmp_path):
    change_part(monkeypatch, part, lambda p: Part([p.clips[0] + 1e6, *p.clips[1:]], p.targets))
    train(config, tmp_path / "caps.safetensors")
    ours, expected = load_file(tmp_path / "caps.safetensors"), load_file(trained[1])
    for name in ("standardize.mean", "standardize.scale"):
        assert torch.equal(ours[name], expected[name])
    if part == "test":
        assert same_tensors(tmp_path / "caps.safetensors", trained[1])


def test_statistics_are_those_of_the_training_clips(config, trained):
    corpus = corpora.load(config.corpus)
    extracted = features.extract(corpus, config.features)
    rows = corpus.table.loc[list(corpus.split("fold1").train), "row"]
    frames = np.concatenate([extracted[row] for row in rows]).astype(np.float64)
    weights = load_file(trained[1])
    np.testing.assert_allclose(weights["standardize.mean"].numpy(), frames.mean(0), rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(weights["standardize.scale"].numpy(), 1 / frames.std(0), rtol=1e-5)


def test_the_epoch_is_the_first_best_on_validation_data(trained):
    record = trained[0]
    ranks = [(e["validation_accuracy"], -e["validation_loss"]) for e in record["epochs"]]
    assert record["chosen_epoch"] == 1 + ranks.index(max(ranks))
    chosen = record["epochs"][record["chosen_epoch"] - 1]
    assert record["validation"] == {name: chosen[f"validation_{name}"] for name in record["validation"]}


def test_a_later_epoch_that_is_worse_on_validation_data_is_not_chosen(config, monkeypatch, tmp_path):
    """With wrong labels for validation, the better the model becomes the worse it looks: the first epoch is chosen."""
    change_part(monkeypatch, "validation", lambda part: Part(part.clips, (part.targets + 1) % 3))
    long = train(config, tmp_path / "long.safetensors")
    chosen = long["chosen_epoch"]
    assert chosen < len(long["epochs"]) == config.epochs
    short = train(dataclasses.replace(config, epochs=chosen), tmp_path / "short.safetensors")
    assert same_tensors(tmp_path / "long.safetensors", tmp_path / "short.safetensors")
    for what in ("train", "validation", "test", "predictions", "confusion"):
        assert long[what] == short[what], what


@pytest.mark.parametrize("model", ["cnn", "lstm", "att", "caps"])
def test_learns_what_can_be_learnt(model, config):
    record = train(dataclasses.replace(config, model=model, epochs=6))
    assert record["test"]["accuracy"] > 0.9
    assert record["epochs"][-1]["train_loss"] < record["epochs"][0]["train_loss"]


def test_learns_nothing_where_nothing_is(config, tones, monkeypatch):
    """Labels dealt at random give chance on test clips; anything better would be a leak."""
    random, folder = np.random.default_rng(3), tones / "dealt"
    folder.mkdir()
    lines = ["path,label,group"]
    for number in range(240):
        samples = tone(random.choice(list(TONES.values())), 0.06, random)
        soundfile.write(folder / f"{number}.wav", samples, SAMPLE_RATE, subtype="PCM_16")
        lines.append(f"{number}.wav,{random.choice(list(TONES))},{number}")
    (folder / "labels.csv").write_text("\n".join(lines))
    record = train(dataclasses.replace(config, corpus="folder:dealt", model="lstm", epochs=2))
    assert len(record["predictions"]) >= 40 and 0.05 < record["test"]["accuracy"] < 0.6


# --- Errors


def test_a_loss_that_is_not_a_number_ends_the_run(config, tmp_path):
    config = dataclasses.replace(config, model="lstm", learning_rate=1e38)
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
        ({"corpus": "emodb"}, r"corpus 'emodb' is not .*: .*emodb"),
        ({"corpus": "folder:nothing"}, r"nothing is not there"),
        ({"split": "fold9"}, r"unknown split of corpus 'folder' 'fold9': did you mean 'fold"),
        ({"model": "capsnet"}, r"unknown model 'capsnet': did you mean 'caps'"),
        (
            {"options": (("num_iteration", 2),)},
            r"unknown option of model 'caps' 'num_iteration': did you mean 'num_iter",
        ),
        ({"features": FeatureConfig("mfccs")}, r"unknown kind of features 'mfccs': did you mean 'mfcc'"),
        ({"perturb": ("gain", (0.0, 6.0)), "segment_frames": 5}, "segment_frames and perturb cannot be combined"),
        (
            {"model": "caps_joined"},
            "60 features with source_features=None and source_capsules=4: give the run a source",
        ),
    ],
)
def test_what_does_not_exist_or_fit_is_named(changes, says, config):
    with pytest.raises(CapslibError, match=says):
        train(dataclasses.replace(config, **changes))


def test_weights_that_cannot_be_written_are_named(config, tmp_path):
    (tmp_path / "taken").write_text("a file, not a folder")
    with pytest.raises(CapslibError, match=r"cannot write caps\.safetensors"):
        train(dataclasses.replace(config, epochs=1), tmp_path / "taken" / "caps.safetensors")


def test_a_disk_that_fills_up_while_weights_are_written_leaves_no_file(tmp_path):
    # A file that may not grow stands for a disk that is full.
    code = (
        "import sys, resource, pathlib, torch\n"
        "from safetensors.torch import save_file\n"
        "from capslib import errors, paths\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (4096, resource.getrlimit(resource.RLIMIT_FSIZE)[1]))\n"
        "try: paths.write_atomically(pathlib.Path(sys.argv[1]), lambda t: save_file({'a': torch.zeros(99_999)}, t))\n"
        "except errors.CapslibError as error: print('said:', error)\n"
    )
    file = tmp_path / "weights.safetensors"
    done = subprocess.run([sys.executable, "-c", code, str(file)], capture_output=True, text=True, check=False)
    assert not list(tmp_path.iterdir())
    assert "said: cannot write weights.safetensors" in done.stdout, done.stderr


# --- Untrained, perturbed, in segments, with a schedule


def test_without_epochs_a_model_is_recorded_as_it_starts(config, tmp_path):
    record = train(dataclasses.replace(config, epochs=0), tmp_path / "caps.safetensors")
    assert record["chosen_epoch"] == 0 and record["epochs"] == []
    assert record["test"]["accuracy"] >= 0 and len(record["predictions"]) == record["data"]["clips"]["test"]
    with reproducibly(config.seed):  # one thread: orthogonal starts depend on how many
        start = models.build("caps", 60, 3).state_dict()
    stored = load_file(tmp_path / "caps.safetensors")
    for name in start:
        assert torch.equal(stored[name], start[name]) != name.startswith("standardize"), name


def test_a_perturbed_run_validates_at_every_level_and_tests_as_recorded(config, trained, tmp_path):
    perturbed = dataclasses.replace(config, perturb=("gain", (-6.0, 0.0, 6.0)))
    record, plain = train(perturbed, tmp_path / "caps.safetensors"), trained[0]
    assert record["config"]["perturb"] == ("gain", (-6.0, 0.0, 6.0))
    expected = plain["data"]["clips"] | {"validation": 3 * plain["data"]["clips"]["validation"]}
    assert record["data"]["clips"] == expected and len(record["predictions"]) == len(plain["predictions"])
    assert record["epochs"] != plain["epochs"]
    ours, theirs = load_file(tmp_path / "caps.safetensors"), load_file(trained[1])
    assert torch.equal(ours["standardize.mean"], theirs["standardize.mean"])  # of clips as recorded
    model = restore(perturbed, tmp_path / "caps.safetensors")
    test = load_parts(corpora.load(config.corpus), config)["test"]  # not perturbed
    assert predict(model, test, torch.device("cpu")).argmax(-1).tolist() == record["predictions"]
    assert records.comparable(train(perturbed)) == records.comparable(record)


def test_a_level_that_leaves_silence_ends_the_run_with_the_clip_s_name(config):
    with pytest.raises(CapslibError, match=r"clip 'high/00' of folder: gain -300 leaves silence"):
        train(dataclasses.replace(config, perturb=("gain", (0.0, -300.0))))


def test_segments_are_trained_on_and_whole_clips_tested(config, trained):
    cut = dataclasses.replace(config, segment_frames=5, order="short_utterances_first", schedule="loss_decay")
    record, plain = train(cut), trained[0]
    lengths = load_parts(corpora.load(config.corpus), config)["train"].lengths
    assert record["data"]["clips"] == plain["data"]["clips"] | {"train": int(sum(-(-n // 5) for n in lengths))}
    assert len(record["predictions"]) == len(plain["predictions"])
    other = train(dataclasses.replace(cut, order="short_segments_first"))
    assert other["epochs"][0]["train_loss"] != record["epochs"][0]["train_loss"]


def test_a_schedule_sees_every_step_and_can_change_the_outcome(config, trained, monkeypatch):
    seen = []

    class Stop(LossDecay):
        def step(self, loss, epoch):
            seen.append((loss, epoch))
            self.optimizer.param_groups[0]["lr"] = 0.0

    monkeypatch.setitem(SCHEDULES, "stop", Stop)
    record, plain = train(dataclasses.replace(config, schedule="stop")), trained[0]
    steps = -(-plain["data"]["clips"]["train"] // config.batch_size)
    assert [epoch for _, epoch in seen] == [epoch for epoch in (1, 2, 3) for _ in range(steps)]
    assert all(loss > 0 for loss, _ in seen) and record["epochs"][-1] != plain["epochs"][-1]


def test_fewer_training_clips_are_the_same_ones_for_every_system_and_seed(config):
    corpus = corpora.load(config.corpus)
    whole = load_parts(corpus, config)
    few = [
        load_parts(corpus, dataclasses.replace(config, max_train_clips=9, seed=seed, model=model))
        for seed, model in ((0, "caps"), (1, "cnn"))
    ]
    assert len(few[0]["train"]) == 9 and len(few[0]["test"]) == len(whole["test"])
    assert all(torch.equal(a, b) for a, b in zip(few[0]["train"].clips, few[1]["train"].clips, strict=True))
    everything = [clip.numpy().tobytes() for clip in whole["train"].clips]
    assert all(clip.numpy().tobytes() in everything for clip in few[0]["train"].clips)
    assert len(load_parts(corpus, dataclasses.replace(config, max_train_clips=999))["train"]) == len(whole["train"])
    assert train(dataclasses.replace(config, max_train_clips=9, epochs=1))["data"]["clips"]["train"] == 9
