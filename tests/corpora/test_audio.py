"""Bad recordings: each is left out or converted and listed with its reason; the others still load."""

import errno
import json
import os

import numpy as np
import pytest
import trees

from capslib import corpora, paths
from capslib.corpora import audio, synthetic
from capslib.errors import CapslibError

RATE = 16_000


@pytest.fixture
def birds(data_folder):
    """Own recordings, all of them good; a test adds to the class ``robin``."""
    return trees.own_folders(data_folder / "birds")


def load():
    corpora._load.cache_clear()
    return corpora.load("folder:birds")


def cut(file, keep):
    """Keep only the first part of a file: a share of it, or a number of bytes."""
    data = file.read_bytes()
    file.write_bytes(data[: keep if isinstance(keep, int) else int(len(data) * keep)])


def clip(file, seconds=0.1, **how):
    return trees.write(file, np.tile(trees.noise(file.stem, RATE), 50)[: int(seconds * RATE)], RATE, **how)


def wav(file, samples, rate=RATE, **how):
    return trees.write(file, samples, rate, **how)


def sine(rate, seconds=0.2, pitch=440):
    return 0.5 * np.sin(2 * np.pi * pitch * np.arange(int(rate * seconds)) / rate)


def without_length(file):
    """As FLAC is when it was written into a pipe, or when the disk was full before its header could be completed."""
    data = bytearray(file.read_bytes())
    data[21] &= 0xF0  # 36 bits: the number of samples
    data[22:26] = bytes(4)
    file.write_bytes(data)
    return file


UNUSABLE = {
    "text.wav": (lambda file: file.write_text("this is not audio"), "unreadable"),
    "text.flac": (lambda file: file.write_text("this is not audio"), "unreadable"),
    "text.mp3": (lambda file: file.write_text("this is not audio"), "unreadable"),
    "a folder.wav": (lambda file: file.mkdir(), "unreadable"),
    "link to nowhere.wav": (lambda file: file.symlink_to("gone.wav"), "unreadable: No such file"),
    "empty.wav": (lambda file: file.touch(), "empty file"),
    "no samples.wav": (lambda file: clip(file, 0), "no samples"),
    "truncated.wav": (lambda file: cut(clip(file, 1), 0.6), "truncated"),
    "header only.wav": (lambda file: cut(clip(file, 1), 44), "truncated"),
    "truncated.flac": (lambda file: cut(clip(file, 1), 0.6), "unreadable"),
    "full disk.flac": (lambda file: cut(without_length(clip(file, 1)), 8_192), "does not say how long it is"),
    "pipe.flac": (lambda file: without_length(clip(file)), "does not say how long it is"),
    "truncated.ogg": (lambda file: cut(clip(file, 5), 0.6), "truncated"),
    "short.wav": (lambda file: clip(file, 0.039), "shorter than a frame of 40 ms"),
    "short.flac": (lambda file: clip(file, 0.001), "shorter than a frame of 40 ms"),
    "silent.wav": (lambda file: wav(file, np.zeros(3_200, np.int16)), "silent"),
    "nearly silent.wav": (lambda file: wav(file, np.full(3_200, 1e-6), subtype="FLOAT"), "silent"),
    "nan.wav": (lambda file: wav(file, np.append(sine(RATE), np.nan), subtype="FLOAT"), "NaN"),
    "infinite.wav": (lambda file: wav(file, np.append(sine(RATE), -np.inf), subtype="DOUBLE"), "infinite"),
    "стрижи № 1.wav": (lambda file: file.touch(), "empty file"),
}
CONVERTED = {
    "stereo.wav": (lambda file: wav(file, np.stack([sine(RATE), np.zeros(3_200)], 1)), "2 channels averaged"),
    "odd.wav": (lambda file: wav(file, sine(11_127), 11_127), "resampled from 11127 Hz"),
    "high.flac": (lambda file: wav(file, sine(44_100), 44_100), "resampled from 44100 Hz"),
    "both.ogg": (lambda file: wav(file, np.stack([sine(8_000)] * 2, 1), 8_000), "2 channels averaged, resampled"),
    "fine.wav": (lambda file: wav(file, sine(RATE), subtype="PCM_24"), "24-bit samples rounded to 16 bits"),
    "fine.flac": (lambda file: wav(file, 0.99 * sine(RATE), subtype="PCM_24"), "24-bit samples rounded to 16 bits"),
    "float.wav": (
        lambda file: wav(file, 0.98 * sine(RATE), subtype="FLOAT"),
        "floating-point samples rounded to 16 bits",
    ),
}
FINE = {
    "Größe ſ.wav": clip,
    "鸟鸣.flac": clip,
    "мухоловка.ogg": clip,
    "o'hara; $(ls) #1.wav": clip,
    "CAPITALS.WAV": lambda file: clip(file.with_suffix(".wav")).rename(file),
    "eight bits.wav": lambda file: wav(file, sine(RATE), subtype="PCM_U8"),
    "one frame.wav": lambda file: clip(file, 0.040),
}


@pytest.mark.parametrize("name", UNUSABLE)
def test_a_bad_clip_is_left_out_with_its_reason_and_the_rest_loads(birds, name):
    make, reason = UNUSABLE[name]
    make(birds / "robin" / name)
    corpus = load()
    assert len(corpus.table) == 12 and corpus.converted.empty
    assert corpus.left_out["path"].tolist() == [f"robin/{name}"]
    assert reason in corpus.left_out["reason"][0] and "\n" not in corpus.left_out["reason"][0]
    assert not any(name.rsplit(".", 1)[0] in item for split in corpus.splits for item in split.train + split.test)


@pytest.mark.parametrize("name", CONVERTED)
def test_a_clip_in_another_form_is_converted_and_listed(birds, name):
    make, reason = CONVERTED[name]
    make(birds / "robin" / name)
    corpus = load()
    assert corpus.converted["path"].tolist() == [f"robin/{name}"] and corpus.left_out.empty
    assert reason in corpus.converted["reason"][0]
    samples = corpus.audio(f"robin/{name.rsplit('.', 1)[0]}")
    assert abs(len(samples) / RATE - 0.2) < 0.001
    spectrum = np.abs(np.fft.rfft(samples * np.hanning(len(samples))))
    assert abs(spectrum.argmax() * RATE / len(samples) - 440) < 6  # still the same tone
    peak = 0.25 if name == "stereo.wav" else 0.5
    assert np.abs(samples[800:-800]).max() == pytest.approx(peak, rel=0.05)


@pytest.mark.parametrize("name", FINE)
def test_unusual_but_good_clips_load_without_a_word(birds, name):
    FINE[name](birds / "robin" / name)
    corpus = load()
    assert f"robin/{name.rsplit('.', 1)[0]}" in corpus.table.index and len(corpus.table) == 13
    assert corpus.left_out.empty and corpus.converted.empty
    assert corpus.fingerprint and json.dumps(corpus.card())


def test_a_name_that_is_not_even_unicode(birds):
    name = b"r\xf6tel.wav".decode("utf-8", "surrogateescape")
    try:
        clip(birds / "robin" / "plain.wav").rename(birds / "robin" / name)
    except (OSError, UnicodeError):
        pytest.skip("this file system has Unicode names only")
    corpus = load()
    assert len(corpus.table) == 13 and corpus.left_out.empty
    assert corpus.fingerprint and json.dumps(corpus.card())


def test_many_bad_clips_are_all_listed(birds):
    # one container a folder, or two of them would be the same clip
    named = {f"robin/{file.rsplit('.', 1)[1]}/{file}": make for file, (make, _) in (UNUSABLE | CONVERTED).items()}
    for path, make in named.items():
        (birds / path).parent.mkdir(exist_ok=True)
        make(birds / path)
    corpus = load()
    assert {path.rsplit("/", 1)[1] for path in corpus.left_out["path"]} == set(UNUSABLE)
    assert {path.rsplit("/", 1)[1] for path in corpus.converted["path"]} == set(CONVERTED)
    assert len(corpus.table) == 12 + len(CONVERTED) and corpus.card()["left_out"] == len(UNUSABLE)


def test_nothing_usable_is_one_clear_sentence(data_folder):
    for label in ("robin", "wren"):
        for number in range(4):
            file = data_folder / "birds" / label / f"{number}.wav"
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text("not audio")
    with pytest.raises(
        CapslibError, match=r"none of 8 clips can be used; the first, robin/0\.wav: unreadable"
    ) as error:
        load()
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("suffix", [".wav", ".flac", ".ogg"])
def test_no_cut_anywhere_is_more_than_a_reason(tmp_path, suffix):
    """Whatever is left of a file, it is decoded or refused with a reason: nothing else may come out."""
    whole = clip(tmp_path / f"whole{suffix}", 0.1).read_bytes()
    pages = [at + more for at in range(len(whole)) if whole[at : at + 4] == b"OggS" for more in range(8)]
    file = tmp_path / f"cut{suffix}"
    for keep in sorted({*range(0, len(whole), 61), *pages, len(whole) - 2}):
        file.write_bytes(whole[:keep])
        with pytest.raises(audio.Unusable):
            audio.decode(file, RATE)


def test_a_header_that_claims_more_than_memory_holds(tmp_path, monkeypatch):
    file = clip(tmp_path / "huge.flac")
    data = bytearray(file.read_bytes())
    data[21] |= 0x0F  # the upper bits of FLAC's number of samples
    file.write_bytes(data)

    def no_memory(*_, **__):
        raise MemoryError("Unable to allocate 512. GiB")

    monkeypatch.setattr(audio.soundfile.SoundFile, "read", no_memory)
    with pytest.raises(audio.Unusable, match="more samples than fit into memory"):
        audio.decode(file, RATE)


# --- the cache of decoded audio ------------------------------------------------------------------------------------


@pytest.fixture
def own_cache(tmp_path, monkeypatch, birds):
    monkeypatch.setenv("CAPSLIB_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def never(*_, **__):
    raise AssertionError("decoded again")


def test_a_second_load_reads_the_cache(own_cache, birds, monkeypatch):
    (birds / "robin" / "empty.wav").touch()
    wav(birds / "robin" / "odd.wav", sine(11_127), 11_127)
    first = load()
    monkeypatch.setattr(audio, "decode", never)
    second = load()
    assert second is not first and second.fingerprint == first.fingerprint
    assert second.left_out.equals(first.left_out) and second.converted.equals(first.converted)
    assert np.array_equal(second.audio("robin/robin0"), first.audio("robin/robin0"))


def test_a_changed_file_is_decoded_again(own_cache, birds):
    before = load().fingerprint
    clip(birds / "robin" / "robin0.wav", 0.3)
    assert load().fingerprint != before


def test_a_cache_of_which_a_part_was_deleted_is_made_again(own_cache, birds):
    before = load().fingerprint
    for pattern in ("*.npy", "*.json"):
        for file in (own_cache / "audio").glob(pattern):
            file.unlink()
        assert load().fingerprint == before


def test_a_cache_that_cannot_be_written_is_named(birds, tmp_path, monkeypatch):
    (tmp_path / "file").write_text("a file where a folder should be")
    monkeypatch.setenv("CAPSLIB_CACHE", str(tmp_path / "file" / "cache"))
    with pytest.raises(CapslibError, match=r"cannot write folder-[0-9a-f]+\.npy: .*CAPSLIB_CACHE") as error:
        load()
    assert "\n" not in str(error.value) and str(tmp_path) not in str(error.value)


@pytest.mark.parametrize(("code", "words"), [(errno.ENOSPC, "No space left"), (errno.EROFS, "Read-only file system")])
def test_a_full_or_read_only_disk_leaves_nothing_half_written(own_cache, birds, monkeypatch, code, words):
    def full(file, array):
        file.write_bytes(b"half")
        raise OSError(code, words)

    with monkeypatch.context() as patch:
        patch.setattr(audio.np, "save", full)
        with pytest.raises(CapslibError, match=rf"cannot write folder-[0-9a-f]+\.npy: {words}"):
            load()
    assert list((own_cache / "audio").iterdir()) == []
    assert len(load().table) == 12  # with space again, all is well


def test_a_disk_that_is_full_when_the_index_is_written(own_cache, birds, monkeypatch):
    def full(self, text, encoding):
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(type(own_cache), "write_text", full)
        with pytest.raises(CapslibError, match=r"cannot write folder-[0-9a-f]+\.json: No space left"):
            load()
    assert not list((own_cache / "audio").glob("*.json"))
    assert len(load().table) == 12


def test_what_was_there_survives_a_failed_write(tmp_path):
    file = paths.write_text(tmp_path / "record.json", "before")

    def fail(temporary):
        temporary.write_text("half of what was to c")
        raise OSError(errno.ENOSPC, "No space left on device")

    with pytest.raises(CapslibError, match=r"record\.json: No space left on device"):
        paths.write_atomically(file, fail)
    assert file.read_text() == "before" and list(tmp_path.iterdir()) == [file]


@pytest.mark.skipif(os.name != "posix", reason="needs a limit on the size of files")
def test_an_embedded_corpus_on_a_disk_that_runs_full_never_looks_finished(own_cache, fresh_loads, monkeypatch):
    run = synthetic.subprocess.run

    def with_little_space(command, **how):  # no file may become longer than 8 KiB
        return run(["sh", "-c", 'ulimit -f 8; exec "$@"', "sh", *command], **how)

    with monkeypatch.context() as patch:
        patch.setattr(synthetic.subprocess, "run", with_little_space)
        with pytest.raises(CapslibError, match=r"'synth_digits' could not be synthesized: .*File too large"):
            corpora.load("synth_digits")
    assert list((own_cache / "synthetic").iterdir()) == []


def test_an_embedded_corpus_without_a_place_to_write(tmp_path, monkeypatch, fresh_loads):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("CAPSLIB_CACHE", str(tmp_path / "file" / "cache"))
    with pytest.raises(CapslibError, match=r"cannot write synth_digits.*CAPSLIB_CACHE"):
        corpora.load("synth_digits")
