"""Mixtures: nothing straddles a split, only the classes tell clips apart, and the same sources give the same clips."""

import dataclasses
import json
import re

import numpy as np
import pytest
import soundfile
import trees
from trees import layouts

from capslib import corpora, published
from capslib.corpora import mixtures
from capslib.errors import CapslibError

# A promise for every machine, as those in test_synthetic.py.
FINGERPRINTS = {
    "multi_gender_synth": "9783e6831dad5665",
    "multi_noise_synth": "cdb41db1e45eab18",
    "synth_noise": "973f41332105f27e",
    "synth_speech": "eca80d3fb8a52761",
}
BUILDERS = {
    "ased": lambda folder, **how: trees.ased(folder, **{"speakers": range(1, 21)} | how),
    "ravdess": lambda folder, **how: trees.ravdess(folder, **{"actors": range(1, 25)} | how),
    "vctk": lambda folder: layouts.vctk(folder, speakers={f"p{n}": "FM"[n % 2] for n in range(300, 320)}),
    "urbansound8k": trees.urbansound8k,
    "musan": layouts.musan,
}
ALL = sorted(mixtures.MIXTURES)
NOISY = [name for name in ALL if "noise" in name]
ATOMS = {
    "F-F": {"female"},
    "M-M": {"male"},
    "M-F": {"female", "male"},
    "F-M": {"female", "male"},
    "speech": {"speech"},
    "noise": {"noise"},
    "speech+noise": {"noise", "speech"},
}


@pytest.fixture(autouse=True)
def few(monkeypatch):
    """Eight clips per category and pool are enough to see; the embedded mixtures are whole."""
    for name, mixture in mixtures.MIXTURES.items():
        if not name.endswith("synth"):
            monkeypatch.setitem(mixtures.MIXTURES, name, dataclasses.replace(mixture, each=8))


def mixed(data_folder, name):
    """The mixture, from tiny archives where it needs some."""
    for source in corpora.sources()[name].made_from:
        if source in BUILDERS:
            BUILDERS[source](data_folder / source)
    return corpora.load(name)


def values(rows, *columns):
    return {value for column in columns for value in rows.get(column, []) if isinstance(value, str)}


@pytest.mark.parametrize("name", ALL)
def test_no_speaker_no_source_and_no_noise_recording_straddles(data_folder, name):
    corpus = mixed(data_folder, name)
    used = set()
    for split in corpus.splits:
        parts = [corpus.table.loc[list(ids)] for ids in (split.train, split.validation, split.test)]
        assert sorted([*split.train, *split.validation, *split.test]) == sorted(corpus.table.index)
        for columns in (
            ("speech", "length_of", "first", "second"),
            ("noise",),
            ("recording",),
            ("speaker", "first_speaker", "second_speaker"),
        ):
            train, validation, test = (values(part, *columns) for part in parts)
            assert not train & validation and not train & test and not validation & test
            used |= train | validation | test
        assert all(set(part["category"]) == set(corpus.table["category"]) for part in parts)
    assert len(used) > 20 and len(corpus.splits) == (3 if name.endswith("synth") else 5)
    assert sorted(item for split in corpus.splits for item in split.test) == sorted(corpus.table.index)


@pytest.mark.parametrize("name", ALL)
def test_labels_are_the_classes_that_are_present(data_folder, name):
    corpus = mixed(data_folder, name)
    assert corpus.classes == (("noise", "speech") if name in NOISY else ("female", "male"))
    assert corpus.card()["multi_label"] is True and json.loads(json.dumps(corpus.card())) == corpus.card()
    counts = corpus.table.groupby(["pool", "category"]).size()
    assert counts.nunique() == 1 and len(counts) == corpus.table["pool"].nunique() * (3 if name in NOISY else 4)
    for _, row in corpus.table.iterrows():
        assert set(row["label"].split("+")) == ATOMS[row["category"]]
        assert row["label"] == "+".join(sorted(row["label"].split("+")))
    if name not in NOISY:
        assert (corpus.table["first_speaker"] != corpus.table["second_speaker"]).all()
        assert not corpus.table.duplicated(["first", "second"]).any()
    else:
        assert not corpus.table.duplicated(["category", "speech", "noise"]).any()
        assert corpus.table["speech"].notna().eq(corpus.table["category"] != "noise").all()
        assert corpus.table["noise"].notna().eq(corpus.table["category"] != "speech").all()


@pytest.mark.parametrize(
    "name", ["multi_gender_ased", "multi_gender_ravdess", "multi_gender_vctk", "multi_gender_synth"]
)
def test_genders_are_those_of_the_speakers_in_their_order(data_folder, name):
    corpus = mixed(data_folder, name)
    (source,) = corpora.sources()[name].made_from
    table = corpora.load(source).table if source != "ravdess" else corpora.load("ravdess:emotion8").table
    genders = table.set_index("path")["gender"].map({"female": "F", "male": "M"})
    for _, row in corpus.table.iterrows():
        assert row["category"] == f"{genders[row['first']]}-{genders[row['second']]}"


def test_city_noise_has_neither_speech_nor_music(data_folder):
    corpus = mixed(data_folder, "multi_noise_ravdess")
    assert set(corpus.table["sound"].dropna()) == set(trees.URBAN_CLASSES) - {"children_playing", "street_music"}


def test_musan_gives_speech_and_noise_and_no_music(data_folder):
    corpus = mixed(data_folder, "multi_noise_musan")
    assert {path.split("/")[0] for path in values(corpus.table, "speech")} == {"speech"}
    assert {path.split("/")[0] for path in values(corpus.table, "noise")} == {"noise"}
    assert (corpus.about.role, corpus.about.evidence) == ("P0 Multi-MUSAN", "same corpus")
    assert "one reader" in corpus.about.protocol


def test_long_recordings_give_excerpts_of_four_seconds(data_folder):
    for kind in ("speech", "noise"):
        for number in range(5):
            samples = np.random.default_rng(number).integers(-9_000, 9_000, 16_000 * (9 + number)).astype(np.int16)
            name = f"{kind}-us-gov-{number:04d}"
            trees.write(data_folder / "musan" / kind / "us-gov" / f"{name}.wav", samples + len(kind), 16_000)
    corpus = corpora.load("multi_noise_musan")
    assert len(corpus.table) == 15 and set(corpus.table["duration"]) == {4.0}
    noise = corpus.table[corpus.table["category"] == "noise"].iloc[0]
    whole, _ = soundfile.read(data_folder / "musan" / noise["noise"])
    start = int(noise["noise_place"] * (len(whole) - 4 * 16_000 + 1))
    correlation = np.corrcoef(corpus.audio(noise.name), whole[start : start + 4 * 16_000])[0, 1]
    assert correlation > 0.999


@pytest.mark.parametrize("name", ["multi_gender_synth", "multi_noise_synth", "multi_noise_ased", "multi_gender_vctk"])
def test_loudness_and_length_do_not_tell(data_folder, name):
    corpus = mixed(data_folder, name)
    for item, row in corpus.table.iterrows():
        clip = corpus.audio(item).astype(np.float64)
        rms = np.sqrt(np.mean(clip**2))
        assert abs(clip).max() < 1 and abs(clip.mean()) < 1e-3
        assert rms < mixtures.LEVEL if row["quieter"] else abs(rms / mixtures.LEVEL - 1) < 1e-3
    assert corpus.table["quieter"].mean() < 0.05
    lengths = corpus.table.groupby("category")["duration"].mean()
    assert lengths.max() < 1.1 * lengths.min()


def test_speech_is_five_decibels_above_noise():
    corpus = corpora.load("multi_noise_synth")
    speech, noise = (corpora.load(source) for source in corpora.sources()[corpus.name].made_from)
    by_path = {table.name: table.table.reset_index().set_index("path")["id"] for table in (speech, noise)}
    rows = corpus.table[corpus.table["category"] == "speech+noise"]
    assert len(rows) == 78 and set(rows["snr"]) == {5.0}
    for item, row in rows[::6].iterrows():
        said = speech.audio(by_path["synth_speech"][row["speech"]]).astype(np.float64)
        played = noise.audio(by_path["synth_noise"][row["noise"]]).astype(np.float64)
        start = int(row["noise_place"] * (len(played) - len(said) + 1))
        pair = np.stack([said, played[start : start + len(said)]])
        pair -= pair.mean(axis=1, keepdims=True)
        gains, residue, *_ = np.linalg.lstsq(pair.T, corpus.audio(item), rcond=None)
        assert residue[0] < 1e-8 * len(said)  # nothing else is in the clip
        powers = (gains[:, None] * pair).var(axis=1)
        assert abs(10 * np.log10(powers[0] / powers[1]) - 5) < 0.01


def test_two_speakers_follow_each_other_after_a_short_pause():
    corpus, voices = corpora.load("multi_gender_synth"), corpora.load("synth_speech")
    ids = voices.table.reset_index().set_index("path")["id"]
    for item, row in corpus.table[::20].iterrows():
        first, second, clip = voices.audio(ids[row["first"]]), voices.audio(ids[row["second"]]), corpus.audio(item)
        pause = len(clip) - len(first) - len(second)
        assert 0 <= pause <= 0.1 * 8_000 and not clip[len(first) : len(first) + pause].any()
        for said, mixed_part in ((first, clip[: len(first)]), (second, clip[len(first) + pause :])):
            assert np.corrcoef(said, mixed_part)[0, 1] > 0.999
            assert abs(np.sqrt(np.mean(mixed_part**2)) / np.sqrt(np.mean(clip**2)) - 1) < 0.05


# --- the same again ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", FINGERPRINTS)
def test_the_same_samples_on_every_machine(name):
    assert corpora.load(name).fingerprint == FINGERPRINTS[name]


def test_made_anew_it_is_the_same_and_with_another_source_it_is_another(data_folder, tmp_path, monkeypatch):
    before = mixed(data_folder, "multi_gender_ased")
    monkeypatch.setenv("CAPSLIB_CACHE", str(tmp_path / "cache"))
    corpora._load.cache_clear()
    again = corpora.load("multi_gender_ased")
    assert again.fingerprint == before.fingerprint and again.splits == before.splits
    folder = tmp_path / "cache" / "mixtures"
    assert len(list(folder.iterdir())) == 1  # nothing half-made is left beside it
    clip = data_folder / "ased" / before.table["first"].iloc[0]
    trees.write(clip, trees.noise("other", 16_000), 16_000)
    corpora._load.cache_clear()
    assert corpora.load("multi_gender_ased").fingerprint != before.fingerprint
    assert len(list(folder.iterdir())) == 2


def test_a_small_archive_gives_fewer_clips_and_says_so(data_folder):
    BUILDERS["ravdess"](data_folder / "ravdess")
    trees.urbansound8k(data_folder / "urbansound8k", recordings=1)
    corpus = corpora.load("multi_noise_ravdess")
    assert len(corpus.table) == 5 * 3 * 4  # 24 recordings of noise in five pools
    assert "4 instead of 8 clips per category and pool: no more sources" in corpus.missing
    assert "urbansound8k: official folds 3, 4, 5, 6, 7, 8, 9 are not available" in corpus.missing
    assert {len(list(folder.glob("*.flac"))) for folder in (mixtures.make(corpus.name),)} == {len(corpus.table)}


def test_sources_that_cannot_be_used_are_replaced_by_others(data_folder):
    folder = BUILDERS["ased"](data_folder / "ased")
    BUILDERS["urbansound8k"](data_folder / "urbansound8k")
    (folder / "01Neutral/n1-01-01-01-01.wav").write_bytes(b"")
    trees.write(folder / "01Neutral/n1-01-01-02-02.wav", np.zeros(2_000, np.int16), 16_000)
    noises = sorted((data_folder / "urbansound8k").glob("audio/fold2/*-0-0-*.wav"))
    trees.write(noises[0], np.full(2_000, 99, np.int16), 16_000)  # constant: nothing is left without its mean
    corpus = corpora.load("multi_noise_ased")
    assert not {"01Neutral/n1-01-01-01-01.wav", "01Neutral/n1-01-01-02-02.wav"} & values(corpus.table, "speech")
    assert f"audio/fold2/{noises[0].name}" not in values(corpus.table, "noise")
    assert re.search(r"\d+ mixture\(s\) could not be made and were replaced", " | ".join(corpus.missing))


def test_one_recording_under_two_names_stays_in_one_pool(data_folder):
    folder = layouts.musan(data_folder / "musan")
    files = sorted(folder.glob("noise/*/*.wav"))
    for copy in files[1:4]:
        copy.write_bytes(files[0].read_bytes())
    same = {file.relative_to(folder).as_posix() for file in files[:4]}
    corpus = corpora.load("multi_noise_musan")
    assert corpus.table.loc[corpus.table["noise"].isin(same), "pool"].nunique() == 1
    assert "the same recording lies in another pool" in " | ".join(corpus.missing)


# --- speech in noise at other ratios -------------------------------------------------------------------------------


@pytest.mark.parametrize("name", NOISY)
def test_remixed_at_five_decibels_a_clip_is_itself(data_folder, name):
    corpus = mixed(data_folder, name)
    items = list(corpus.table.index[corpus.table["category"] == "speech+noise"])[::5]
    for item, clip in zip(items, mixtures.remix(corpus, items, 5), strict=True):
        assert clip.dtype == np.float32 and clip.shape == corpus.audio(item).shape
        assert np.abs(clip - corpus.audio(item)).max() < 0.51 / 32768


def test_remixed_clips_go_from_noise_to_speech():
    corpus = corpora.load("multi_noise_synth")
    items = list(corpus.table.index[corpus.table["category"] == "speech+noise"])[::9]
    loud, soft = mixtures.remix(corpus, items, 60), mixtures.remix(corpus, items, -60)
    for snr in (-5, 0, 20):
        gain = 10 ** (-snr / 20)
        for clip, speech, noise in zip(mixtures.remix(corpus, items, snr), loud, soft, strict=True):
            shares, *_ = np.linalg.lstsq(np.stack([speech, noise]).T.astype(np.float64), clip, rcond=None)
            assert abs(shares[1] / shares[0] / gain - 1) < 0.02


@pytest.mark.parametrize(
    ("name", "items", "snr", "part"),
    [
        ("synth_digits", [], 5, "corpus 'synth_digits' has no speech in noise to remix: take one of multi_noise_ased"),
        ("multi_gender_synth", ["F-F_1_00"], 5, "corpus 'multi_gender_synth' has no speech in noise"),
        ("multi_noise_synth", ["speech_1_00"], 5, "clip 'speech_1_00' of corpus 'multi_noise_synth' is speech alone"),
        ("multi_noise_synth", ["noise_2_03"], 5, "is noise alone: remix takes speech+noise"),
        ("multi_noise_synth", ["speech+noise_9_00"], 5, "has no clip 'speech+noise_9_00'"),
        ("multi_noise_synth", ["speech+noise_1_00"], float("nan"), "snr is nan: give a finite number"),
        ("multi_noise_synth", ["speech+noise_1_00"], "5 dB", "snr is '5 dB'"),
    ],
)
def test_what_cannot_be_remixed(name, items, snr, part):
    with pytest.raises(CapslibError, match=re.escape(part)):
        mixtures.remix(corpora.load(name), items, snr)


def test_a_source_that_has_gone_since_is_named(data_folder):
    corpus = mixed(data_folder, "multi_noise_ased")
    row = corpus.table[corpus.table["category"] == "speech+noise"].iloc[0]
    (data_folder / "ased" / row["speech"]).unlink()
    with pytest.raises(CapslibError, match=r"cannot be mixed again: .*[Nn]o such file") as error:
        mixtures.remix(corpus, [row.name], 0)
    assert row.name in str(error.value) and str(data_folder) not in str(error.value)


# --- too little, or nothing ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "how", "part"),
    [
        (
            "multi_gender_ased",
            {"speakers": range(1, 19)},
            "pool 4 has 1 male speaker(s), needs 2: add recordings to 'ased'",
        ),
        ("multi_gender_ased", {"speakers": range(1, 41, 2)}, "pool 1 has 0 male speaker(s), needs 2"),
        (
            "multi_gender_ravdess",
            {"actors": (1, 2)},
            "pool 1 has 1 female actor(s), needs 2: add recordings to 'ravdess'",
        ),
        ("multi_noise_ased", {"speakers": (1, 2, 3)}, "pool 4 has 0 speaker(s), needs 1: add recordings to 'ased'"),
    ],
)
def test_too_few_sources(data_folder, name, how, part):
    for source in corpora.sources()[name].made_from:
        BUILDERS[source](data_folder / source, **(how if source in name else {}))
    with pytest.raises(CapslibError, match=re.escape(f"corpus '{name}': {part}")):
        corpora.load(name)


def test_too_little_noise(data_folder):
    BUILDERS["ased"](data_folder / "ased")
    trees.write(data_folder / "urbansound8k/audio/fold1/1-2-0-0.wav", rate=16_000)
    with pytest.raises(CapslibError, match="there is nothing to mix in 'urbansound8k'"):
        corpora.load("multi_noise_ased")
    trees.write(data_folder / "urbansound8k/audio/fold1/1-3-0-0.wav", rate=16_000)
    with pytest.raises(CapslibError, match=r"pool 2 has 0 recording\(s\), needs 1: add recordings to 'urbansound8k'"):
        corpora.load("multi_noise_ased")


def test_a_pool_of_which_nothing_can_be_used(data_folder):
    BUILDERS["ased"](data_folder / "ased")
    for file in BUILDERS["urbansound8k"](data_folder / "urbansound8k", folds=(1,)).glob("audio/*/*.wav"):
        file.write_bytes(b"")
    with pytest.raises(
        CapslibError, match=r"no clip of noise can be mixed from pool 1 \(.*empty file\): add recordings"
    ):
        corpora.load("multi_noise_ased")


@pytest.mark.parametrize("name", [name for name in ALL if not name.endswith("synth")])
def test_without_its_sources_it_says_which_and_how_to_get_them(data_folder, name):
    needs = corpora.sources()[name].made_from
    for present in needs[:-1]:
        BUILDERS[present](data_folder / present)
    assert corpora.find(name) is None and f"{name}:kind" not in corpora.at_hand(multi_label=True)
    with pytest.raises(CapslibError) as error:
        corpora.load(name)
    assert f"'{needs[-1]}', from which clips are mixed, is not available" in str(error.value)
    assert corpora.sources()[needs[-1]].how_to_get in str(error.value)


def test_a_cache_that_cannot_be_written(data_folder, monkeypatch, tmp_path):
    BUILDERS["ased"](data_folder / "ased")
    (tmp_path / "file").write_text("no folder")
    monkeypatch.setenv("CAPSLIB_CACHE", str(tmp_path / "file"))
    with pytest.raises(CapslibError, match=r"cannot write .*set CAPSLIB_CACHE"):
        corpora.load("multi_gender_ased")


# --- what is offered -----------------------------------------------------------------------------------------------


def test_mixtures_are_offered_to_those_who_ask_for_several_labels(data_folder):
    synthetic = ["multi_gender_synth:gender", "multi_noise_synth:kind"]
    assert corpora.at_hand(multi_label=True) == synthetic == corpora.at_hand(real=False, multi_label=True)
    for source in ("ased", "urbansound8k", "musan"):
        BUILDERS[source](data_folder / source)
    real = ["multi_gender_ased:gender", "multi_noise_ased:kind", "multi_noise_musan:kind"]
    assert corpora.at_hand(multi_label=True) == [*synthetic, *real]
    assert corpora.at_hand(embedded=False, multi_label=True) == real
    assert not (data_folder.parent / "cache").exists()


def test_corpora_that_are_there_to_be_mixed_are_not_offered(data_folder):
    BUILDERS["musan"](data_folder / "musan")
    offered = " ".join(corpora.at_hand())
    assert "musan" not in offered and "synth_noise" not in offered and "synth_speech" not in offered
    assert "multi" not in offered and corpora.load("musan").key == "musan:kind"  # who asks for it by name gets it


@pytest.mark.parametrize("name", ALL)
def test_a_mixture_of_embedded_corpora_is_embedded(name):
    assert corpora.is_embedded(name) == name.endswith("synth")
    assert corpora.is_embedded("synth_digits") and not corpora.is_embedded("fsdd")
    source = corpora.sources()[name]
    assert (source.tasks[next(iter(source.tasks))].evidence == "synthetic") == name.endswith("synth")


def test_roles_are_rows_of_the_published_table():
    rows = {f"P0 {row}" for row in published.table("P0", "Table 2")["row"]}
    roles = {next(iter(corpora.sources()[name].tasks.values())).role for name in ALL}
    assert roles - {""} == rows


def test_a_card_of_an_ordinary_corpus_says_nothing_of_several_labels():
    assert "multi_label" not in corpora.load("synth_digits").card()
