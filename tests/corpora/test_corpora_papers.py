"""Loaders of the papers' corpora that have to be asked for or fetched by hand: layout, protocol, and damaged copies."""

import pytest
import soundfile
import trees
from trees import layouts

from capslib import corpora, papers, tables
from capslib.corpora import iemocap, vctk
from capslib.errors import CapslibError

CONTAINERS = (".wav", ".flac", ".ogg")


def said(corpus):
    return " | ".join(corpus.missing)


def parts(corpus, split):
    return [corpus.table.loc[list(ids)] for ids in (split.train, split.validation, split.test)]


def edit(file, change):
    file.write_text(change(file.read_text(encoding="utf-8")), encoding="utf-8")


# --- IEMOCAP -------------------------------------------------------------------------------------------------------


def evaluation(folder, dialog):
    return folder / f"Session{dialog[4]}" / "dialog" / "EmoEvaluation" / f"{dialog}.txt"


@pytest.mark.parametrize("suffix", CONTAINERS)
@pytest.mark.parametrize("top", [".", "IEMOCAP_full_release"])
def test_iemocap_has_four_emotions_of_the_improvised_dialogs(data_folder, suffix, top):
    layouts.iemocap(data_folder / "iemocap" / top, suffix)
    corpus = corpora.load("iemocap")
    assert corpus.key == "iemocap:emotion4" and corpus.sample_rate == 16_000 and len(corpus.table) == 80
    assert corpus.classes == ("angry", "happy", "neutral", "sad")  # neither excited nor without agreement
    assert set(corpus.table["dialog"].str[5:]) == {"F_impro01", "M_impro02"}
    ids = corpus.table.index[corpus.table["utterance"] == "Ses02M_impro02_F001"]
    assert len(ids) == 1 and ids[0].endswith("Session2/sentences/wav/Ses02M_impro02/Ses02M_impro02_F001")
    row = corpus.table.loc[ids[0]]
    assert (row["label"], row["group"], row["gender"]) == ("angry", "Ses02F", "female")  # the woman, in his dialog
    counts = "20 of 1,099 neutral, 20 of 289 angry, 20 of 284 happy, 20 of 608 sad"
    assert corpus.missing == (f"the utterances are not those of P1 and P2: {counts}",)


@pytest.mark.parametrize(
    ("task", "tester", "other"), [("emotion4", "male", "female"), ("emotion4_swapped", "female", "male")]
)
def test_iemocap_one_speaker_of_a_session_validates_and_the_other_tests(data_folder, task, tester, other):
    layouts.iemocap(data_folder / "iemocap")
    corpus = corpora.load("iemocap", task)
    assert [split.name for split in corpus.splits] == [f"session{n}" for n in range(1, 6)]
    for split in corpus.splits:
        train, validation, test = parts(corpus, split)
        assert len(train) == 64 and len(validation) == len(test) == 8 and not split.validation_shares_groups
        assert set(test["session"]) == set(validation["session"]) == {split.name[-1]} != set(train["session"])
        assert (set(test["gender"]), set(validation["gender"])) == ({tester}, {other})
        assert train["speaker"].nunique() == 8
        speakers = [set(part["speaker"]) for part in (train, validation, test)]
        assert not speakers[0] & speakers[1] and not speakers[0] & speakers[2] and not speakers[1] & speakers[2]
        assert set(test["unit"]) == speakers[2]
    assert f"its {tester} speaker tests, its {other} one validates" in corpus.about.protocol


def test_iemocap_says_that_its_roles_are_ours_to_choose(data_folder):
    tasks = corpora.sources()["iemocap"].tasks
    assert "emotion4_swapped" in tasks["emotion4"].protocol and "swapped" in tasks["emotion4_swapped"].protocol
    layouts.iemocap(data_folder / "iemocap")
    plain, swapped = corpora.load("iemocap"), corpora.load("iemocap:emotion4_swapped")
    for one, other in zip(plain.splits, swapped.splits, strict=True):
        assert (one.train, one.validation, one.test) == (other.train, other.test, other.validation)


def test_a_whole_iemocap_lacks_nothing(data_folder, monkeypatch):
    monkeypatch.setattr(iemocap, "COUNTS", {"neutral": 20, "angry": 20, "happy": 20, "sad": 20})
    layouts.iemocap(data_folder / "iemocap")
    corpus = corpora.load("iemocap")
    assert corpus.missing == ()
    assert tables.evidence(corpus.card()) == "same corpus"


def test_the_counts_of_iemocap_are_those_of_p2():
    assert iemocap.COUNTS == {"neutral": 1099, "angry": 289, "happy": 284, "sad": 608}


def test_scripted_dialogs_and_whole_dialogs_are_no_strangers(data_folder):
    folder = layouts.iemocap(data_folder / "iemocap")
    trees.write(folder / "Session1" / "sentences" / "wav" / "Ses02F_impro01" / "Ses02F_impro01_F000.wav", rate=16_000)
    assert "1 audio file(s) bear other names" in said(corpora.load("iemocap"))  # session 2 in the folder of session 1


def test_iemocap_a_torn_label_file(data_folder):
    folder = layouts.iemocap(data_folder / "iemocap")
    torn = evaluation(folder, "Ses03F_impro01")
    edit(torn, lambda text: text[: text.index("Ses03F_impro01_M001") + len("Ses03F_impro01_M001\tan")])
    corpus = corpora.load("iemocap")
    where = "Session3/dialog/EmoEvaluation/Ses03F_impro01.txt"
    assert f"1 label line(s) cannot be read, e.g. {where}, line 31" in said(corpus)
    lost = "Session3/sentences/wav/Ses03F_impro01/Ses03F_impro01_M001.wav"
    assert f"5 improvised utterance(s) have no label and are not used, e.g. {lost}" in said(corpus)
    assert "19 of 289 angry" in said(corpus) and len(corpus.table) == 77


def test_iemocap_label_files_without_a_label(data_folder):
    folder = layouts.iemocap(data_folder / "iemocap")
    evaluation(folder, "Ses01F_impro01").write_bytes(b"")
    evaluation(folder, "Ses02F_impro01").write_bytes(b"\xff\xfe\x00\x81 nothing \x00\n")
    evaluation(folder, "Ses04F_impro01").unlink()
    evaluation(folder, "Ses04F_impro01").mkdir()
    corpus = corpora.load("iemocap")
    assert "3 label file(s) hold no label, e.g. Session1/dialog/EmoEvaluation/Ses01F_impro01.txt" in said(corpus)
    assert "36 improvised utterance(s) have no label" in said(corpus) and len(corpus.table) == 56


def test_iemocap_labels_and_recordings_without_each_other(data_folder):
    folder = layouts.iemocap(data_folder / "iemocap")
    (folder / "Session5/sentences/wav/Ses05F_impro01/Ses05F_impro01_F002.wav").unlink()
    trees.write(folder / "Session5/sentences/wav/Ses05F_impro01/Ses05F_impro01_F099.wav", rate=16_000)
    corpus = corpora.load("iemocap")
    assert "1 labelled utterance(s) have no recording, e.g. Ses05F_impro01_F002" in said(corpus)
    assert "1 improvised utterance(s) have no label and are not used, e.g. Session5/" in said(corpus)
    assert "19 of 284 happy" in said(corpus)


def test_iemocap_an_unknown_code_and_two_labels_for_one_utterance(data_folder):
    folder = layouts.iemocap(data_folder / "iemocap")
    edit(evaluation(folder, "Ses01F_impro01"), lambda text: text.replace("\tsad\t", "\tsda\t", 1))
    edit(evaluation(folder, "Ses02F_impro01"), lambda text: text + text.replace("\tneu\t", "\tang\t", 1))
    corpus = corpora.load("iemocap")
    assert "1 label line(s) cannot be read, e.g. Session1/" in said(corpus)
    assert "1 utterance(s) have two different labels and are not used, e.g. Ses02F_impro01_F000" in said(corpus)
    assert "19 of 1,099 neutral, 20 of 289 angry, 20 of 284 happy, 19 of 608 sad" in said(corpus)


def test_iemocap_a_recording_that_cannot_be_decoded_is_left_out(data_folder):
    folder = layouts.iemocap(data_folder / "iemocap")
    broken = folder / "Session1/sentences/wav/Ses01F_impro01/Ses01F_impro01_F000.wav"
    broken.write_bytes(broken.read_bytes()[:200])
    corpus = corpora.load("iemocap")
    assert len(corpus.table) == 79
    assert corpus.left_out.values.tolist() == [
        [broken.relative_to(folder).as_posix(), "truncated: the file ends before its header says"]
    ]


def test_iemocap_part_of_its_sessions(data_folder):
    folder = layouts.iemocap(data_folder / "iemocap", sessions=(1, 3))
    layouts.iemocap(folder, sessions=(4,), letters="M")
    corpus = corpora.load("iemocap")
    assert [split.name for split in corpus.splits] == ["session1", "session3"]
    assert "session(s) 2, 5 are not available" in said(corpus)
    assert "session(s) 4 have one speaker only: they train, and make no fold" in said(corpus)
    assert all({"Ses04M"} < set(parts(corpus, split)[0]["speaker"]) for split in corpus.splits)


@pytest.mark.parametrize(
    ("how", "part"),
    [
        ({"sessions": (1,)}, "split 'session1': no clips for train"),
        ({"letters": "F"}, "no session has clips of both its speakers"),
        ({"codes": ("neu", "xxx")}, "all clips are of class 'neutral'"),
        ({"codes": ("exc", "fru")}, "no clip of the classes of task 'emotion4'"),
        ({"dialogs": ("F_script01_1",)}, "no clip in iemocap; ask its owners"),
        ({"sessions": ()}, "no clip in iemocap; ask its owners"),
    ],
)
def test_iemocap_too_small_to_split(data_folder, how, part):
    (layouts.iemocap(data_folder / "iemocap", **how) / "README.txt").write_text("-")
    with pytest.raises(CapslibError, match=r"^corpus 'iemocap'") as error:
        corpora.load("iemocap")
    assert part in str(error.value) and "\n" not in str(error.value)


def test_iemocap_without_any_label(data_folder):
    folder = layouts.iemocap(data_folder / "iemocap", sessions=(1, 2))
    for file in folder.rglob("Ses*.txt"):
        file.unlink()
    with pytest.raises(
        CapslibError, match=r"none of the 48 improvised utterances in iemocap has a label: put"
    ) as error:
        corpora.load("iemocap")
    assert str(data_folder) not in str(error.value)


# --- VCTK ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("suffix", CONTAINERS)
@pytest.mark.parametrize("release", ["0.92", "older"])
def test_vctk_in_both_releases(data_folder, suffix, release):
    layouts.vctk(data_folder / "vctk" / "VCTK-Corpus", suffix, release)
    corpus = corpora.load("vctk")
    assert corpus.key == "vctk:gender" and corpus.classes == ("female", "male") and len(corpus.table) == 30
    assert corpus.sample_rate == 16_000 and len(corpus.converted) == 30  # the owners' clips have 48 kHz
    stem = "wav48_silence_trimmed/p226/p226_002_mic1" if release == "0.92" else "wav48/p226/p226_002"
    row = corpus.table.loc[f"VCTK-Corpus/{stem}"]
    assert (row["label"], row["group"], row["sentence"]) == ("male", "p226", "002")
    genders = corpus.table.groupby("speaker")["label"].agg(set)
    assert genders["p225"] == {"female"} and genders["p241"] == {"male"}
    assert (corpus.about.role, corpus.about.evidence) == ("P0 VCTK", "same corpus")
    assert "5 male and 5 female speakers are available, P0 counts 47 and 61" in said(corpus)


def test_vctk_speakers_never_straddle(data_folder):
    layouts.vctk(data_folder / "vctk")
    corpus = corpora.load("vctk")
    assert len(corpus.splits) == 5
    for split in corpus.splits:
        train, validation, test = parts(corpus, split)
        speakers = [set(part["speaker"]) for part in (train, validation, test)]
        assert sum(map(len, speakers)) == len(set.union(*speakers)) == 10
        assert set(test["label"]) == {"female", "male"}


def test_vctk_the_second_microphone_is_counted_not_used(data_folder):
    folder = layouts.vctk(data_folder / "vctk")
    (folder / "wav48_silence_trimmed/p225/p225_001_mic1.flac").unlink()
    (folder / "wav48_silence_trimmed/p226/p226_001_mic2.flac").unlink()
    corpus = corpora.load("vctk")
    assert "28 file(s) are the same clips through the second microphone and are not used" in said(corpus)
    assert (
        "1 clip(s) have no file of the first microphone and are not used, e.g. wav48_silence_trimmed/p225/p225_001_mic2"
        in (said(corpus))
    )
    assert len(corpus.table) == 29 and "other names" not in said(corpus)


def test_vctk_a_whole_older_release_has_one_speaker_without_a_gender(data_folder, monkeypatch):
    monkeypatch.setattr(vctk, "SPEAKERS", {"male": 5, "female": 5})
    layouts.vctk(data_folder / "vctk", release="older", unspecified=("p280",))
    corpus = corpora.load("vctk")
    assert corpus.missing == ("1 speaker(s) without a gender in speaker-info.txt are left out, e.g. p280 (3 clips)",)
    assert "p280" not in set(corpus.table["speaker"]) and len(corpus.table) == 30


def test_vctk_speaker_info_that_names_others_or_nobody(data_folder):
    folder = layouts.vctk(data_folder / "vctk")
    edit(
        folder / "speaker-info.txt",
        lambda text: (
            text.replace("p227  23  M", "p227  23  ?") + "p999  30  F    Irish  Cork (no clips)\ns5  18  F\n;;\np2"
        ),
    )
    corpus = corpora.load("vctk")
    assert "3 line(s) of speaker-info.txt name no speaker or no gender, e.g. speaker-info.txt, line 4" in said(corpus)
    assert "1 speaker(s) without a gender in speaker-info.txt are left out, e.g. p227 (3 clips)" in said(corpus)
    assert "2 speaker(s) of speaker-info.txt have no clip, e.g. p999" in said(corpus)
    assert len(corpus.table) == 27


def test_vctk_s5_of_the_newer_release(data_folder):
    layouts.vctk(data_folder / "vctk", speakers=layouts.VCTK_SPEAKERS | {"s5": "F"})
    assert set(corpora.load("vctk").table.query("speaker == 's5'")["label"]) == {"female"}


def test_vctk_both_releases_in_one_folder(data_folder):
    layouts.vctk(data_folder / "vctk" / "VCTK-Corpus", release="older")
    layouts.vctk(data_folder / "vctk" / "VCTK-Corpus-0.92")
    corpus = corpora.load("vctk")
    assert len(corpus.table) == 30 and corpus.table["path"].str.contains("mic1").all()
    assert "30 clip(s) of an older release are not used, because release 0.92 is there too" in said(corpus)


@pytest.mark.parametrize(
    ("text", "part"),
    [(None, "has clips but no speaker-info.txt"), ("", "gives the gender of none of the 10 speaker(s)")],
)
def test_vctk_without_any_gender(data_folder, text, part):
    info = layouts.vctk(data_folder / "vctk") / "speaker-info.txt"
    info.unlink() if text is None else info.write_text(text)
    with pytest.raises(CapslibError, match=r"^corpus 'vctk'") as error:
        corpora.load("vctk")
    assert part in str(error.value) and "put the owners' file there" in str(error.value)
    assert str(data_folder) not in str(error.value)


@pytest.mark.parametrize(
    ("how", "part"),
    [
        ({"speakers": {"p225": "F", "p228": "F"}}, "all clips are of class 'female'"),
        ({"speakers": {"p225": "F", "p226": "M"}}, "only one speaker is left"),
        ({"sentences": ()}, "no clip in vctk; unpack"),
    ],
)
def test_vctk_too_small_to_split(data_folder, how, part):
    layouts.vctk(data_folder / "vctk", **how)
    with pytest.raises(CapslibError, match=r"^corpus 'vctk'") as error:
        corpora.load("vctk")
    assert part in str(error.value)


# --- MUSAN ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("suffix", CONTAINERS)
@pytest.mark.parametrize("top", [".", "musan"])
def test_musan(data_folder, suffix, top):
    layouts.musan(data_folder / "musan" / top, suffix)
    corpus = corpora.load("musan")
    assert corpus.key == "musan:kind" and corpus.classes == ("music", "noise", "speech") and len(corpus.table) == 30
    row = corpus.table[corpus.table["recording"] == "music-fma-wa-0003"].iloc[0]
    assert (row["label"], row["group"], row["origin"]) == ("music", "music-fma-wa-0003", "fma-western-art")
    assert corpus.table["group"].is_unique and corpus.sample_rate == 16_000 and corpus.about.role == ""
    assert len(corpus.splits) == 5 and set(corpus.table["unit"]) == {f"fold{n}" for n in range(1, 6)}
    assert corpus.missing == ("1986 of 2016 files are not available",)
    assert "minutes long" in corpus.about.protocol


def test_musan_one_recording_under_two_names_stays_together(data_folder):
    folder = layouts.musan(data_folder / "musan")
    samples, rate = soundfile.read(folder / "noise/free-sound/noise-free-sound-0000.wav", dtype="int16")
    for number in (50, 51, 52):
        trees.write(folder / f"noise/sound-bible/noise-sound-bible-{number:04d}.wav", samples, rate)
    corpus = corpora.load("musan")
    same = corpus.table[corpus.table.duplicated("sha256", keep=False)]
    assert len(same) == 4 and same["unit"].nunique() == 1
    for split in corpus.splits:
        assert sum(bool(set(part["sha256"]) & set(same["sha256"])) for part in parts(corpus, split)) == 1


def test_musan_without_its_noise(data_folder):
    layouts.musan(data_folder / "musan", kinds=("speech", "music"))
    corpus = corpora.load("musan")
    assert corpus.classes == ("music", "speech") and "no file of noise | 1996 of 2016 files" in said(corpus)


def test_musan_a_file_in_the_wrong_folder_and_a_torn_one(data_folder):
    folder = layouts.musan(data_folder / "musan")
    trees.write(folder / "speech" / "librivox" / "noise-free-sound-0001.wav")
    torn = folder / "speech" / "us-gov" / "speech-us-gov-0001.wav"
    torn.write_bytes(torn.read_bytes()[:-400])
    corpus = corpora.load("musan")
    assert "1 audio file(s) bear other names and are not used, e.g. speech/librivox/noise-free-sound-0001.wav" in said(
        corpus
    )
    assert corpus.left_out["path"].tolist() == ["speech/us-gov/speech-us-gov-0001.wav"] and len(corpus.table) == 29


@pytest.mark.parametrize(
    ("how", "part"),
    [
        ({"files": 0}, "no clip in musan; unpack musan.tar.gz"),
        ({"kinds": ("noise",)}, "all clips are of class 'noise'"),
        ({"kinds": ("noise", "music"), "files": 1}, "recording"),
    ],
)
def test_musan_too_small_to_split(data_folder, how, part):
    (layouts.musan(data_folder / "musan", **how) / "README.txt").write_text("-")
    with pytest.raises(CapslibError, match=r"^corpus 'musan'") as error:
        corpora.load("musan")
    assert part in str(error.value) and "\n" not in str(error.value)


# --- their place in the study --------------------------------------------------------------------------------------


def test_the_papers_corpora_fill_their_roles_where_they_are_at_hand(data_folder):
    for build in (layouts.iemocap, layouts.vctk):
        build(data_folder / build.__name__)
    trees.ased(data_folder / "ased")
    trees.emodb(data_folder / "emodb")
    keys = corpora.at_hand(embedded=False)
    assert keys == ["ased:gender", "emodb:emotion4", "iemocap:emotion4", "vctk:gender"]
    roles = tables.roles(papers.declared(), {key: corpora.load(key).card() for key in keys}).set_index(
        ["paper", "corpus"]
    )
    for corpus, key in (("IEMOCAP", "iemocap:emotion4"), ("VCTK", "vctk:gender")):
        assert roles.loc[("P0", corpus), "in this run"] == key
        assert roles.loc[("P0", corpus), "evidence"] == "same corpus, incomplete"
