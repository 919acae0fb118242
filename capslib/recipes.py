"""Systems that a notebook and the ledger share, as ``study.grid`` takes them: P0's perturbed clips and its transfer, P1's and
P2's recipe."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace

from capslib import corpora, study
from capslib.errors import CapslibError, choose
from capslib.features import FeatureConfig
from capslib.study import Grid, System
from capslib.training import RunConfig

# P0 section 6.1; decibels, full scale, factor. The paper's labels are in its figures, which are not at hand.
LEVELS = {
    "gain": (-12.0, -6.0, 0.0, 6.0, 12.0),
    "offset": (-0.1, -0.05, 0.0, 0.05, 0.1),
    "speed": (0.7, 0.85, 1.0, 1.15, 1.3),
}
NETWORKS = {"capsules": ("caps", {}), "untrained": ("caps", {"epochs": 0}), "LSTM": ("lstm", {})}
SHARED_BAND = "speed (shared band)"
# Where P0's transfer comes from: the paper's own source, or what stands in for it; the first that is here.
TRANSFER_SOURCES = ("iemocap:emotion4", "emodb:emotion4")

# P2 table V but its averages, in the order in which they are run.
P2_SYSTEMS = {
    "CNN_GRU": "cnn_gru",
    "CNN_GRU_Att": "cnn_gru_att",
    "LSTM_Cap": "lstm_cap",
    "CNN_SeqCap": "cnn_seqcap",
    "CNN_RecCap": "cnn_reccap",
    "CNN_GRU-SeqCap": "cnn_gru_seqcap",
    "CNN_GRU-RecCap": "cnn_gru_reccap",
    "CNN [15]": "ref15_cnn",
    "CNN_LSTM [15]": "ref15_cnn_lstm",
}
# Nothing is trained for these: probabilities of two systems, averaged.
AVERAGED = {"CNN_GRU + CNN_SeqCap": ("CNN_GRU", "CNN_SeqCap"), "CNN_GRU + CNN_RecCap": ("CNN_GRU", "CNN_RecCap")}
TABLE_V = (*P2_SYSTEMS, *AVERAGED)
TABLE_IV = ("CNN_GRU", "CNN_GRU_Att", "LSTM_Cap", "CNN_SeqCap", "CNN_RecCap")
CONTROLLED = ("CNN_SeqCap", "CNN_RecCap")
FIG_8 = ("CNN_GRU_Att", "CNN_SeqCap")
PASSES = (1, 2, 4)  # P2 Fig. 7; its third point is CNN_SeqCap itself
# Xavier's range is that of one 8 x 8 matrix; with all 1,280 x 8 matrices of the layer as one variable, as a library's function
# would take it, it is about a hundredth. A tenth lies between.
SMALL = "CNN_SeqCap, a tenth of Xavier"
CURRICULUM = "short_utterances_first"
SEEDS = range(5)
# LSTM_Cap has matrices for 1,000 frames (P2 table II and section IV-B), of which segments of 2 s would train the first 200.
FRAMES = {"LSTM_Cap": 1000}
# IEMOCAP, where it is, and what stands in for it.
P2_CORPORA = ("iemocap:emotion4", "emodb:emotion4_p2", "ravdess:emotion4")


def of_profile(value: str | Mapping[str, str], profile: str) -> str:
    """A parameter of a notebook that may differ between profiles, or be given as one value for the profile at hand."""
    return value if isinstance(value, str) else value[choose(profile, value, "profile")]


def perturbed_systems(sample_rate: int) -> dict[str, System]:
    """Networks on perturbed clips (P0 section 6.1) and the controls, called "network, perturbation".

    Resampled to a lower speed a clip has nothing left above its old band, and that alone tells its speed. ``SHARED_BAND`` reads
    log spectrograms of the band that clips have at every speed, less a tenth for the resampler's slope.

    Args:
        sample_rate: of the corpus, in hertz.
    """
    bins = int(0.9 * min(LEVELS["speed"]) * sample_rate / 2 / 25)
    band = FeatureConfig("spectrogram", (("n_fft", sample_rate // 25), ("num_bins", bins)))
    kinds = {kind: {"perturb": (kind, levels)} for kind, levels in LEVELS.items()}
    kinds[SHARED_BAND] = kinds["speed"] | {"features": band}
    return {
        f"{network}, {kind}": (model, {}, {**changes, **own})
        for kind, own in kinds.items()
        for network, (model, changes) in NETWORKS.items()
    }


def transfer_source(keys: str | Sequence[str], model: str, profile: str, **changes: object) -> RunConfig:
    """The network whose capsules another one hears (P0 section 6.2): of the first corpus that is here, on its first fold.

    Args:
        keys: of corpora, best first; a string has them with commas between.
        model: name.
        profile: "quick" or "full".
        changes: fields of ``RunConfig``; the seed is that of the run which hears it.
    Raises:
        CapslibError: if none of them is here, with how to get the first.
    """
    keys = [key.strip() for key in keys.split(",")] if isinstance(keys, str) else list(keys)
    made = study.grid(keys, [model], profile, seeds=[0], folds=1, **changes)
    if not made.runs:
        key, how = next(iter(made.absent.items()))
        raise CapslibError(f"the source of the transfer, {key}, is not here: {how}")
    return made.runs[0].config


def spectrogram(sample_rate: int) -> FeatureConfig:
    """P2's spectrogram: 10 Hz a bin, 512 bins, or at a low rate as many as there are below half of it."""
    if sample_rate == 16_000:
        return FeatureConfig("spectrogram")
    bins = min(512, sample_rate // 20)
    return FeatureConfig("spectrogram", (("n_fft", sample_rate // 10), ("num_bins", bins)))


def p2_systems(sample_rate: int = 16_000, **changes: object) -> dict[str, System]:
    """Every system of P1's and P2's tables but CNN_Cap, its variants, and our controls, as ``study.grid`` takes them.

    Names are P2's. All have the curriculum but ``", no curriculum"`` (random order from the first epoch); ``", segments
    first"`` sorts the first epoch by the segment's length, ``", sorted batches"`` forms the curriculum's batches and shuffles
    them. ``", 1 pass"`` and so on route so often (both routings); ``SMALL`` starts from smaller matrices. Training clips are
    cut into segments of 2 s, but for LSTM_Cap, which hears up to 10 s; ``", 2 s segments"`` cuts its clips as well, and tests
    it through matrices that were never trained.

    Args:
        sample_rate: of the corpora, in hertz.
        changes: fields of ``RunConfig`` that differ from the papers' recipe (fewer epochs for a quick look).
    """
    recipe = {
        "features": spectrogram(sample_rate),
        "segment_frames": 200,
        "epochs": 20,
        "batch_size": 16,
        "learning_rate": 1e-3,
        "schedule": "loss_decay",
        "order": CURRICULUM,
    } | changes

    def variant(system: str, order: str) -> System:
        segments = {"segment_frames": FRAMES.get(system, recipe["segment_frames"])}
        return (P2_SYSTEMS[system], {}, recipe | {"order": order} | segments)

    found: dict[str, System] = {system: variant(system, recipe["order"]) for system in P2_SYSTEMS}
    found |= {f"{system}, no curriculum": variant(system, "random") for system in TABLE_IV}
    found |= {f"{system}, 2 s segments": (P2_SYSTEMS[system], {}, recipe) for system in FRAMES}
    passes = {f"CNN_SeqCap, {n} pass{'es' * (n > 1)}": n for n in PASSES}
    found |= {name: ("cnn_seqcap", {"num_iterations": n}, recipe) for name, n in passes.items()}
    found[SMALL] = ("cnn_seqcap", {"init_gain": 0.1}, recipe)
    found |= {f"{system}, segments first": variant(system, "short_segments_first") for system in CONTROLLED}
    return found | {f"{system}, sorted batches": variant(system, "sorted_batches") for system in CONTROLLED}


def p2_grid(
    keys: Sequence[str],
    profile: str,
    only: Sequence[str] = (),
    seeds: Iterable[int] = SEEDS,
    folds: int | None = None,
    **changes: object,
) -> Grid:
    """The runs of ``p2_systems`` on corpora of any sample rate: seed by seed, in each system by system.

    Args:
        keys: of corpora; those not here are listed in ``absent``.
        profile: "quick" or "full".
        only: names of systems; all by default.
        seeds, folds: see ``study.grid``; five seeds by default, as P2.
        changes: see ``p2_systems``.
    Raises:
        CapslibError: for an unknown system, with the nearest.
    """
    runs, cards, absent, seeds = [], {}, {}, list(seeds)
    for key in keys:
        systems = p2_systems(corpora.parse(key)[0].sample_rate, **changes)
        chosen = {choose(name, systems, "system of P2"): systems[name] for name in only} or systems
        made = study.grid([key], chosen, profile, seeds, folds)
        runs, cards, absent = [*runs, *made.runs], {**cards, **made.cards}, {**absent, **made.absent}
    place = {system: i for i, system in enumerate(p2_systems())}
    runs.sort(key=lambda run: (run.config.seed, place[run.system]))
    return Grid(profile, tuple(runs), cards, absent)


def with_untrained(grid: Grid) -> Grid:
    """A grid, and behind it each of its networks as it is initialized, called "system, untrained": what that shows is not learnt."""
    untrained = [
        replace(run, system=f"{run.system}, untrained", config=replace(run.config, epochs=0)) for run in grid.runs
    ]
    return replace(grid, runs=(*grid.runs, *untrained))
