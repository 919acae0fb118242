"""Mixtures: clips that can have two classes at once, made on first use from the corpora at hand (P0 section 3).

``multi_gender``: two speakers, one after the other, as in P0's Multi-VCTK. ``multi_noise``: speech, noise, or both at
5 dB, as in P0's Multi-MUSAN. P0 gives neither sizes nor splits; here speakers, and the recordings that noise is cut
from, are dealt into pools, a clip takes all it needs from one pool, and every pool lies whole in one part of a split.

Loudness tells nothing: sources are brought to one root mean square (RMS) before they are mixed, and finished clips,
pure ones too, to another. Signal-to-noise ratios are of whole clips, pauses included. Clips are the same wherever their
sources are the same: double precision, drawn by a seeded generator, rounded to 16 bits at the end.
"""

import functools
import hashlib
import itertools
import json
import math
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from numbers import Real
from pathlib import Path

import numpy as np
import pandas as pd
from tqdm import tqdm

from capslib import corpora
from capslib.corpora import ased, musan, noises, ravdess, synthetic, urbansound8k, vctk
from capslib.corpora.audio import Unusable, decode
from capslib.corpora.layout import Listing, some
from capslib.corpora.splits import Split
from capslib.corpora.table import Budget, Corpus, Source, Task
from capslib.errors import CapslibError

SNR = 5.0  # decibels; P0 section 3
LEVEL = 10 ** (-30 / 20)  # RMS of every clip; so low that hardly any noise has peaks beyond full scale
LONGEST_PAUSE = 0.1  # seconds between two speakers
_PEAK = 0.999
_SILENT = 1e-4  # RMS
_LETTERS = {"F": "female", "M": "male"}
_MODULES = (ased, musan, noises, ravdess, synthetic, urbansound8k, vctk)
_ABOUT = {source.name: source for module in _MODULES for source in module.SOURCES}


@dataclass(frozen=True)
class _Material:
    """What a mixture takes from one corpus."""

    corpus: str
    group: str  # column whose values (speakers, recordings) never straddle pools
    even: str  # column whose values are spread evenly over the pools
    only: tuple[str, Sequence[str]] | None = None  # a column, and its values to use; None for all clips
    seconds: float = math.inf  # length of an excerpt, where recordings are minutes long


@dataclass(frozen=True)
class Mixture:
    """How one corpus is mixed: of two speakers, or of ``speech`` and ``noise``."""

    speech: _Material
    noise: _Material | None
    num_pools: int
    each: int  # clips per category and pool
    role: str
    evidence: str

    @property
    def materials(self) -> tuple[_Material, ...]:
        return (self.speech, self.noise) if self.noise else (self.speech,)


_ASED = _Material("ased", "speaker", "gender")
_RAVDESS = _Material("ravdess", "actor", "gender")
_VCTK = _Material("vctk", "speaker", "gender")
_VOICES = _Material("synth_speech", "voice", "gender")
_READERS = _Material("musan", "recording", "origin", ("kind", ["speech"]), seconds=4.0)
_CITY_SOUNDS = sorted({*urbansound8k.CLASSES} - {"children_playing", "street_music"})
_CITY = _Material("urbansound8k", "recording", "sound", ("sound", _CITY_SOUNDS))
_NOISES = _Material("musan", "recording", "origin", ("kind", ["noise"]))
_SYNTHETIC_NOISES = _Material("synth_noise", "recording", "sound")
MIXTURES = {
    "multi_gender_ased": Mixture(_ASED, None, 5, 50, "P0 Multi-VCTK", "stand-in"),
    "multi_gender_ravdess": Mixture(_RAVDESS, None, 5, 50, "P0 Multi-VCTK", "stand-in"),
    "multi_gender_synth": Mixture(_VOICES, None, 3, 20, "", "synthetic"),
    "multi_gender_vctk": Mixture(_VCTK, None, 5, 50, "P0 Multi-VCTK", "same corpus"),
    "multi_noise_ased": Mixture(_ASED, _CITY, 5, 66, "P0 Multi-MUSAN", "stand-in"),
    "multi_noise_musan": Mixture(_READERS, _NOISES, 5, 66, "P0 Multi-MUSAN", "same corpus"),
    "multi_noise_ravdess": Mixture(_RAVDESS, _CITY, 5, 66, "P0 Multi-MUSAN", "stand-in"),
    "multi_noise_synth": Mixture(_VOICES, _SYNTHETIC_NOISES, 3, 26, "", "synthetic"),
}


def _folder(corpus: str) -> Path:
    folder = corpora.find(corpus)
    if folder is None:
        raise CapslibError(f"{corpus!r}, from which clips are mixed, is not available: {_ABOUT[corpus].how_to_get}")
    return folder


class _Reader:
    """Reads sources; the same samples in two pools, whatever their names, are refused to the second."""

    def __init__(self, mixture: Mixture) -> None:
        self.sample_rate = _ABOUT[mixture.speech.corpus].sample_rate
        self.folders = {material.corpus: _folder(material.corpus) for material in mixture.materials}
        self.pools: dict[bytes, int] = {}

    def take(self, material: _Material, path: str, pool: int) -> np.ndarray:
        """float64 (n,) in [-1, 1)."""
        try:
            samples, _ = decode(self.folders[material.corpus] / path, self.sample_rate)
        except OSError as error:
            raise Unusable(f"unreadable: {error.strerror}") from None
        if self.pools.setdefault(hashlib.sha256(samples.tobytes()).digest(), pool) != pool:
            raise Unusable("the same recording lies in another pool under another name")
        return samples / 32768.0


def _unit(samples: np.ndarray) -> np.ndarray:
    """Without its mean, which is inaudible, and with an RMS of 1."""
    samples = samples - samples.mean()
    rms = math.sqrt(np.mean(samples**2))
    if rms < _SILENT:
        raise Unusable("silent where it was cut")
    return samples / rms


def _cut(samples: np.ndarray, length: float, place: float) -> np.ndarray:
    """``length`` samples from a ``place`` in [0, 1) of all places where they fit; too short a recording is repeated."""
    spare = len(samples) - int(length)
    start = int(place * (spare + 1 if spare >= 0 else len(samples)))
    return samples.take(np.arange(start, start + int(length)), mode="wrap")


def _sound(reader: _Reader, mixture: Mixture, row: Mapping, snr: float) -> tuple[np.ndarray, bool]:
    """Samples of one clip, float64 (n,), and whether they are below the common level, because peaks would clip."""
    pool = int(row["pool"])
    if mixture.noise is None:
        first, second = (_unit(reader.take(mixture.speech, row[which], pool)) for which in ("first", "second"))
        mixed = np.concatenate([first, np.zeros(int(row["pause"] * reader.sample_rate)), second])
    else:
        mixed = reader.take(mixture.speech, row["length_of"], pool)
        mixed = _cut(mixed, min(len(mixed), mixture.speech.seconds * reader.sample_rate), row["speech_place"])
        if row["noise"]:
            noise = _unit(_cut(reader.take(mixture.noise, row["noise"], pool), len(mixed), row["noise_place"]))
            mixed = _unit(mixed) + 10 ** (-snr / 20) * noise if row["speech"] else noise
    finished = _unit(mixed) * LEVEL
    peak = np.abs(finished).max()
    return finished * min(1.0, _PEAK / peak), bool(peak > _PEAK)


def _in_turn(clips: pd.DataFrame, random: np.random.Generator) -> list[Mapping]:
    """In an order in which kinds take turns, within a kind its speakers or recordings, and within those at random."""
    clips = clips.iloc[random.permutation(len(clips))]
    for column in ("group", "even"):
        clips = clips.assign(turn=clips.groupby(column).cumcount()).sort_values("turn", kind="stable")
    return clips.to_dict("records")


def _pairs(first: pd.DataFrame, second: pd.DataFrame, random: np.random.Generator) -> Iterator[tuple[Mapping, Mapping]]:
    """Every pair once; as long as there are others, no source twice."""
    ones, others = _in_turn(first, random), _in_turn(second, random)
    for shift in range(len(others)):
        for number, one in enumerate(ones):
            yield one, others[(number + shift) % len(others)]


def _two_speakers(category: str, speech: pd.DataFrame, random: np.random.Generator) -> Iterator[dict]:
    for one, other in _pairs(*(speech[speech["even"] == _LETTERS[letter]] for letter in category.split("-")), random):
        if one["group"] != other["group"]:
            yield {
                "gender": "+".join(sorted({one["even"], other["even"]})),
                "first": one["path"],
                "first_speaker": one["group"],
                "second": other["path"],
                "second_speaker": other["group"],
                "pause": random.uniform(0, LONGEST_PAUSE),
            }


def _speech_or_noise(
    category: str, speech: pd.DataFrame, noise: pd.DataFrame, random: np.random.Generator
) -> Iterator[dict]:
    if category == "speech":
        pairs: Iterator = zip(_in_turn(speech, random), itertools.repeat({}))
    elif category == "noise":  # as long as some speech is, or the length would tell
        pairs = zip(itertools.cycle(_in_turn(speech, random)), _in_turn(noise, random))
    else:
        pairs = _pairs(speech, noise, random)
    for length_of, played in pairs:
        said = {} if category == "noise" else length_of
        yield {
            "kind": "+".join(sorted(category.split("+"))),
            "speech": said.get("path"),
            "speaker": said.get("group"),
            "length_of": length_of["path"],
            "speech_place": random.random(),
            "noise": played.get("path"),
            "recording": played.get("group"),
            "sound": played.get("even"),
            "noise_place": random.random(),
            "snr": SNR if said and played else None,
        }


def _in_pools(name: str, material: _Material, random: np.random.Generator) -> Listing:
    """Columns path, group, even, pool (from 1) of the clips that may be used; and what of the corpus is missing. Raises
    CapslibError for a subset of an archive from which some pool cannot be mixed."""
    mixture, source = MIXTURES[name], _ABOUT[material.corpus]
    table, missing = source.read(_folder(source.name))
    if material.only:
        column, values = material.only
        table = table[table[column].isin(values)]
    if table.empty:
        raise CapslibError(f"corpus {name!r}: there is nothing to mix in {source.name!r}: {source.how_to_get}")
    table = table.sort_values("path").rename(columns={material.group: "group", material.even: "even"})
    kinds = table.groupby("group")["even"].first()
    pools: dict[str, int] = {}
    for kind in sorted(kinds.unique()):
        groups = kinds.index[kinds == kind]
        for group in groups[random.permutation(len(groups))]:
            pools[group] = len(pools) % mixture.num_pools + 1
    table = table[["path", "group", "even"]].assign(pool=table["group"].map(pools))
    wanted, needed = ([""], 1) if mixture.noise else (_LETTERS.values(), 2)  # any recording, or two of each gender
    for pool, kind in itertools.product(range(1, mixture.num_pools + 1), wanted):
        number = table.loc[(table["pool"] == pool) & (not kind or table["even"] == kind), "group"].nunique()
        if number < needed:
            raise CapslibError(
                f"corpus {name!r}: pool {pool} has {number} {f'{kind} {material.group}'.strip()}(s), needs {needed}: "
                f"add recordings to {source.name!r}"
            )
    return table, [f"{source.name}: {sentence}" for sentence in missing]


def _mix(
    name: str, tables: Sequence[pd.DataFrame], missing: list[str], random: np.random.Generator, folder: Path
) -> None:
    """Write every clip, and items.json with how each was made."""
    mixture = MIXTURES[name]
    reader, mixed, refused = _Reader(mixture), [], []
    draw, categories = _two_speakers, ("M-M", "M-F", "F-M", "F-F")
    if mixture.noise:
        draw, categories = _speech_or_noise, ("speech", "noise", "speech+noise")
    places = list(itertools.product(range(1, mixture.num_pools + 1), categories))
    for pool, category in tqdm(places, desc=f"mixing {name}", unit="category", disable=not sys.stderr.isatty()):
        rows, reasons = [], []
        for drawn in draw(category, *(clips[clips["pool"] == pool] for clips in tables), random):
            row = {"path": f"{category}_{pool}_{len(rows):02d}.flac", "category": category, "pool": pool} | drawn
            try:
                samples, row["quieter"] = _sound(reader, mixture, row, SNR)
            except Unusable as problem:
                reasons.append(f"{category} in pool {pool}: {problem}")
                continue
            synthetic.write_clip(folder / row["path"], samples, reader.sample_rate)
            rows.append(row)
            if len(rows) == mixture.each:
                break
        if not rows:
            raise CapslibError(
                f"corpus {name!r}: no clip of {category} can be mixed from pool {pool} "
                f"({'; '.join(reasons[:1]) or 'no pairs'}): add recordings"
            )
        mixed.append(rows)
        refused += reasons
    fewest = min(map(len, mixed))  # of every category as many in every pool
    for surplus in itertools.chain.from_iterable(rows[fewest:] for rows in mixed):
        (folder / surplus["path"]).unlink()
    if fewest < mixture.each:
        missing = [*missing, f"{fewest} instead of {mixture.each} clips per category and pool: no more sources"]
    missing = [*missing, *some(refused, "mixture(s) could not be made and were replaced by others")]
    items = [row for rows in mixed for row in rows[:fewest]]
    (folder / "items.json").write_text(json.dumps({"missing": missing, "items": items}), encoding="utf-8")


def make(name: str) -> Path:
    """The folder with the clips of a mixture, made on the first call (about a minute) and cached. It is made anew when
    this file, or the name, size or time of any source file changes. Raises CapslibError if the sources are too few, or
    the cache cannot be written."""
    random, inputs, tables, missing = synthetic.generator(name), [Path(__file__).read_bytes()], [], {}
    for material in MIXTURES[name].materials:
        clips, notes = _in_pools(name, material, random)
        tables.append(clips)
        missing |= dict.fromkeys(notes)
        for path in clips["path"]:
            status = (_folder(material.corpus) / path).lstat()
            line = f"{material.corpus}/{path} {status.st_size} {status.st_mtime_ns}\n"
            inputs.append(line.encode("utf-8", "replace"))
    mix = functools.partial(_mix, name, tables, [*missing], random)
    return synthetic.make_once("mixtures", name, b"".join(inputs), mix)


def remix(corpus: Corpus, items: Sequence[str], snr: float) -> list[np.ndarray]:
    """Clips of speech and noise mixed again, from the same excerpts, at another signal-to-noise ratio.

    Args:
        corpus: one of the ``multi_noise`` corpora.
        items: ids of clips of the category "speech+noise".
        snr: in decibels; at ``SNR`` the clips are those of the corpus.
    Returns:
        One waveform per item, float32 (n,) in [-1, 1), at the corpus' sample rate and level.
    Raises:
        CapslibError: for another corpus, another item, no number, or when a source cannot be read any more.
    """
    mixture = MIXTURES.get(corpus.name)
    if mixture is None or mixture.noise is None:
        noisy = ", ".join(name for name, one in MIXTURES.items() if one.noise)
        raise CapslibError(f"corpus {corpus.name!r} has no speech in noise to remix: take one of {noisy}")
    if not isinstance(snr, Real) or not math.isfinite(snr):
        raise CapslibError(f"snr is {snr!r}: give a finite number of decibels")
    reader, waveforms = _Reader(mixture), []
    for item in items:
        if item not in corpus.table.index:
            raise CapslibError(f"corpus {corpus.name!r} has no clip {item!r}: its ids are in .table.index")
        row, clip = corpus.table.loc[item], f"clip {item!r} of corpus {corpus.name!r}"
        if row["category"] != "speech+noise":
            raise CapslibError(f"{clip} is {row['category']} alone: remix takes speech+noise")
        try:
            samples, _ = _sound(reader, mixture, row, float(snr))
        except Unusable as problem:
            raise CapslibError(f"{clip} cannot be mixed again: a source is {problem}") from None
        waveforms.append(samples.astype(np.float32))
    return waveforms


def _read(folder: Path) -> Listing:
    facts = json.loads((folder / "items.json").read_text(encoding="utf-8"))
    return pd.DataFrame(facts["items"]), facts["missing"]


def _splits(table: pd.DataFrame, *_: str) -> list[Split]:
    """Pool k tests and the next one validates."""
    pools = {pool: tuple(table.index[table["pool"] == pool]) for pool in sorted(table["pool"].unique())}
    splits = []
    for test, validation in zip(pools, [*pools][1:] + [*pools][:1], strict=True):
        train = tuple(item for pool, items in pools.items() if pool not in (test, validation) for item in items)
        splits.append(Split(f"fold{test}", train, pools[validation], pools[test]))
    return splits


def _source(name: str, mixture: Mixture) -> Source:
    needs = [_ABOUT[corpus] for corpus in dict.fromkeys(material.corpus for material in mixture.materials)]
    label, dealt = ("kind", "speakers and noise recordings") if mixture.noise else ("gender", "speakers")
    if mixture.speech is _READERS:
        dealt = "files of speech (one reader may have given several) and of noise"
    protocol = f"{dealt} are dealt into {mixture.num_pools} pools; each tests in turn, the next one validates"
    task = Task(label, "pool", protocol, _splits, "fold", mixture.role, mixture.evidence, multi_label=True)
    return Source(
        name=name,
        read=_read,
        tasks={label: task},
        sample_rate=needs[0].sample_rate,
        citation="mixed here from: " + "; ".join(source.citation for source in needs),
        licence="; ".join(f"{source.name}: {source.licence}" for source in needs),
        how_to_get="mixed on first use; " + "; ".join(f"{source.name}: {source.how_to_get}" for source in needs),
        # The full profile's default budget: with 8 epochs, as ASED has, CAPS does not learn the mixtures.
        budgets={"quick": Budget(epochs=8, batch_size=16)} if mixture.evidence == "synthetic" else {},
        make=functools.partial(make, name),
        made_from=tuple(source.name for source in needs),
    )


SOURCES = tuple(_source(name, mixture) for name, mixture in MIXTURES.items())
