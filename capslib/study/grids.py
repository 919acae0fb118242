"""Grids: which runs a question needs, each with the key of its record."""

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, fields, replace

from capslib import corpora, keys, models
from capslib.corpora import Budget
from capslib.errors import choose
from capslib.records import run_key
from capslib.study.folders import PROFILES, card_file, reports
from capslib.training import RunConfig
from capslib.training.config import OMITTED

# A model's name, options that differ from its defaults, and fields of ``RunConfig`` that differ from the profile's.
System = tuple[str, Mapping[str, object]] | tuple[str, Mapping[str, object], Mapping[str, object]]


# Of corpora that name no budget of their own (``Source.budgets``). The full profile's epochs, here and there, are what
# two cores could do, the same for every system: 250 (EmoDB) to 1,100 batches a run.
BUDGETS: Mapping[str, Budget] = {
    "quick": Budget(epochs=5, batch_size=16, max_splits=1, max_train_clips=300),
    "full": Budget(epochs=20, batch_size=16),
}
# Where training begins, for the version of its code.
TRAIN = ("capslib.training.loop", "train")


@dataclass(frozen=True)
class Run:
    """One cell's worth of training: its configuration, the data it is for, the code, and the system it is a run of."""

    config: RunConfig
    data: str
    code: str
    system: str

    @property
    def key(self) -> str:
        """The key of its record."""
        return run_key(plain(self.config), self.data, self.code)


@dataclass(frozen=True)
class Grid:
    """Runs to make, and what is known of the corpora they are on.

    Attributes:
        profile: "quick" or "full".
        runs: in the order in which they are made.
        cards: facts about each corpus, by key (see ``Corpus.card``).
        absent: how to get each corpus that was asked for and is not available, by key.
    """

    profile: str
    runs: tuple[Run, ...]
    cards: Mapping[str, dict]
    absent: Mapping[str, str]

    def __len__(self) -> int:
        return len(self.runs)


def code_of(config: Mapping) -> str:
    """Version of the code that decides a run, ``config`` as its record has it: all that ``train``, its model and its
    source's can reach."""
    runs = [config, *([config["source"]] if "source" in config else [])]
    named = {name for run in runs for name in keys.words({**OMITTED, **run, "corpus": "", "split": ""})}
    named |= {word for run in runs for word in models.words(run["model"])}
    transfer = [("capslib.training.transfer", "source_vectors")] * (len(runs) - 1)
    roots = [TRAIN, *transfer, *((models.home(run["model"]), "MODELS") for run in runs)]
    return keys.code_version(dict.fromkeys(roots), named)


def plain(config: RunConfig) -> dict:
    """As JSON gives it back."""
    return json.loads(json.dumps(config.described()))


def _card(key: str, profile: str) -> dict:
    """Facts about a corpus: from its recordings, or as they were when the profile's records were made."""
    source, task = corpora.parse(key)
    key = f"{source.name}:{task}"
    file = card_file(profile, key)
    if corpora.find(key) is None and file.is_file():
        return json.loads(file.read_text(encoding="utf-8"))
    return corpora.load(key).card()


def grid(
    corpus: Sequence[str],
    model: Sequence[str | System] | Mapping[str, System],
    profile: str = "quick",
    seeds: Iterable[int] | None = None,
    folds: int | None = None,
    **changes: object,
) -> Grid:
    """All combinations of corpora, their splits, models and seeds.

    Args:
        corpus: keys; those not available are listed in ``absent``, with how to get them.
        model: names, or systems: a model with options that differ from its defaults, and perhaps fields of
            ``RunConfig`` that differ from the profile's; or a mapping that names such systems: ``{"5 iterations":
            ("caps", {"num_iterations": 5}), "untrained": ("caps", {}, {"epochs": 0})}``. A source takes the run's seed.
        profile: "quick" or "full": how many epochs, seeds and folds (``Source.budgets``, else ``BUDGETS``).
        seeds: instead of the profile's.
        folds: the first so many of each corpus, if that is fewer than the profile's.
        changes: fields of ``RunConfig``, for all runs.
    Raises:
        CapslibError: for an unknown corpus, model, profile or field, with the nearest.
    """
    default = BUDGETS[choose(profile, PROFILES, "profile")]
    seeds = None if seeds is None else list(seeds)
    systems = _systems(model)
    for name in {*changes, *(name for *_, own in systems.values() for name in own)}:
        choose(name, [field.name for field in fields(RunConfig)], "field of a run")
    cards, absent, runs = {}, {}, []
    for key in corpus:
        source, task = corpora.parse(key)
        full_key = f"{source.name}:{task}"
        if corpora.find(key) is None and not card_file(profile, full_key).is_file():
            absent[full_key] = source.how_to_get
            continue
        card = cards[full_key] = _card(full_key, profile)
        budget = source.budgets.get(profile, default)
        for split in list(card["splits"])[: budget.max_splits][:folds]:
            for system, (name, options, own) in systems.items():
                config = RunConfig(
                    corpus=full_key,
                    split=split,
                    model=name,
                    options=tuple(sorted(options.items())),
                    epochs=budget.epochs,
                    batch_size=budget.batch_size,
                    max_train_clips=budget.max_train_clips,
                )
                config = replace(config, **changes, **own)
                data = card["splits"][split]["fingerprint"]
                if config.source is not None:
                    origins = _card(config.source.corpus, profile)["splits"]
                    origin = origins[choose(config.source.split, origins, f"fold of {config.source.corpus}")]
                    data = f"{data}+{origin['fingerprint']}"
                code = code_of(plain(config))
                for seed in range(budget.seeds) if seeds is None else seeds:
                    source_run = config.source and replace(config.source, seed=seed)
                    runs.append(Run(replace(config, seed=seed, source=source_run), data, code, system))
    runs.sort(key=lambda run: run.config.seed)  # one complete round before the next seed
    return Grid(profile, tuple(runs), cards, absent)


def _systems(model: Sequence | Mapping) -> dict[str, tuple[str, Mapping[str, object], Mapping[str, object]]]:
    """Model, options and changes of each system, by name."""
    if not isinstance(model, Mapping):
        entries = [(entry,) if isinstance(entry, str) else entry for entry in model]
        words = [[name, *(f"{k}={v}" for part in rest for k, v in part.items())] for name, *rest in entries]
        model = {", ".join(word): entry for word, entry in zip(words, entries, strict=True)}
    return {system: (*entry, *({},) * (3 - len(entry))) for system, entry in model.items()}


def corpora_in(profile: str, wanted: str, multi_label: bool = False) -> list[str]:
    """Keys of the corpora that a notebook uses.

    Args:
        profile: "quick" or "full".
        wanted: "embedded"; "at hand" (quick: embedded ones and what real recordings there are; full: recordings only,
            and those whose records are committed); or keys, "fsdd, ased:emotion".
        multi_label: those with several labels per clip in place of those with one.
    """
    if wanted == "embedded":
        return corpora.at_hand(real=False, multi_label=multi_label)
    if wanted == "at hand":
        known = [p.stem.replace("-", ":", 1) for p in sorted((reports() / profile / "corpora").glob("*.json"))]
        available = corpora.at_hand(embedded=profile == "quick", multi_label=multi_label)
        recorded = [key for key in known if key not in available and _default_recordings(key, multi_label)]
        return sorted([*available, *recorded]) if profile == "full" else available
    parsed = [corpora.parse(key.strip()) for key in wanted.split(",")]
    return [f"{source.name}:{task}" for source, task in parsed]


def _default_recordings(key: str, multi_label: bool) -> bool:
    source, task = corpora.parse(key)
    default, about = next(iter(source.tasks.items()))
    return not corpora.is_embedded(key) and task == default and about.multi_label == multi_label


def first_line(profile: str, keys: Sequence[str]) -> str:
    """What a notebook says first: the profile, and which recordings it is about."""
    embedded = [key for key in keys if corpora.is_embedded(key)]
    real = [key for key in keys if key not in embedded]
    return (
        f"Profile {profile}. Embedded synthetic corpora: {', '.join(embedded) or 'none'}. "
        f"Real recordings: {', '.join(real) or 'none in this run'}."
    )
