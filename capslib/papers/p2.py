"""P2, sequential and recurrent capsules for speech emotion: its systems, which are P1's as well, and its claims.

Names of systems are P2's; reference 15's, which it quotes and we rebuilt, have "[15]" behind them.
"""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import partial
from operator import itemgetter

from capslib import claims, corpora, probes, study
from capslib.claims import Claim, Reading, printed, probe_higher, untried
from capslib.errors import choose
from capslib.features import FeatureConfig
from capslib.papers import Paper
from capslib.papers.p2_audit import gains, quoted_gains, same_utterances
from capslib.papers.p2_tables import parameter_counts
from capslib.probes.gradients import input_gradients
from capslib.statistics import EARLY, METRICS
from capslib.study import Grid, Runs, System

RECURRENT = ("CNN_GRU", "CNN_GRU_Att")
CAPSULES = ("LSTM_Cap", "CNN_SeqCap", "CNN_RecCap")
TABLE_IV = (*RECURRENT, *CAPSULES)
# Models of Table V but its averages, in the order in which they are run.
SYSTEMS = {name: name.lower().replace("-", "_") for name in (*TABLE_IV, "CNN_GRU-SeqCap", "CNN_GRU-RecCap")}
SYSTEMS |= {"CNN [15]": "ref15_cnn", "CNN_LSTM [15]": "ref15_cnn_lstm"}
# Nothing is trained for these: probabilities of two systems, averaged.
AVERAGED = {"CNN_GRU + CNN_SeqCap": ("CNN_GRU", "CNN_SeqCap"), "CNN_GRU + CNN_RecCap": ("CNN_GRU", "CNN_RecCap")}
TABLE_V = (*SYSTEMS, *AVERAGED)
CONTROLLED = ("CNN_SeqCap", "CNN_RecCap")
FIG_8 = ("CNN_GRU_Att", "CNN_SeqCap")
# Fig. 7, by number of routing iterations.
FIG_7 = {f"CNN_SeqCap, {n} iteration{'s' * (n > 1)}" if n != 3 else "CNN_SeqCap": n for n in (1, 2, 3, 4)}
ONE, TWO, THREE, FOUR = FIG_7
# Xavier's range is that of one 8 x 8 matrix; with all 1,280 x 8 matrices of the layer as one variable, as a library's
# function would take it, it is about a hundredth. A tenth lies between.
SMALL = "CNN_SeqCap, a tenth of Xavier"
# LSTM_Cap has matrices for 1,000 frames (Table II, section IV-B), of which segments of 2 s would train the first 200.
FRAMES = {"LSTM_Cap": 1000}
# IEMOCAP, where it is available, and what stands in for it.
CORPORA = ("iemocap:emotion4", "emodb:emotion4_p2", "ravdess:emotion4")


def spectrogram(sample_rate: int) -> FeatureConfig:
    """P2's spectrogram: 10 Hz per bin, 512 bins, or at a low rate (in hertz) as many as there are below half of it."""
    if sample_rate == 16_000:
        return FeatureConfig("spectrogram")
    bins = min(512, sample_rate // 20)
    return FeatureConfig("spectrogram", (("n_fft", sample_rate // 10), ("num_bins", bins)))


def systems(sample_rate: int = 16_000, **changes: object) -> dict[str, System]:
    """Every system of P1's and P2's tables but CNN_Cap, its variants, and our controls, as ``study.grid`` takes them.

    All have the curriculum but ``", no curriculum"`` (random order from the first epoch); ``", segments first"`` sorts
    the first epoch by the segment's length, ``", sorted batches"`` forms the curriculum's batches and shuffles them.
    ``", 1 iteration"`` and so on route so often (both routings); ``SMALL`` starts from smaller matrices. Training clips
    are cut into segments of 2 s, but for LSTM_Cap, which takes up to 10 s; ``", 2 s segments"`` cuts its clips as well,
    and tests it through matrices that were never trained.

    Args:
        sample_rate: of the corpora, in hertz.
        changes: fields of ``RunConfig`` that differ from the papers' protocol (fewer epochs for a quick look).
    """
    protocol = {"features": spectrogram(sample_rate), "segment_frames": 200, "epochs": 20, "batch_size": 16}
    protocol |= {"learning_rate": 1e-3, "schedule": "loss_decay", "order": "short_utterances_first"} | changes

    def variant(system: str, **changes: object) -> System:
        segments = {"segment_frames": FRAMES.get(system, protocol["segment_frames"])}
        return (SYSTEMS[system], {}, protocol | segments | changes)

    variants = {system: variant(system) for system in SYSTEMS}
    variants |= {f"{system}, no curriculum": variant(system, order="random") for system in TABLE_IV}
    variants |= {f"{system}, 2 s segments": (SYSTEMS[system], {}, protocol) for system in FRAMES}
    variants |= {name: ("cnn_seqcap", {"num_iterations": n}, protocol) for name, n in FIG_7.items() if n != 3}
    variants[SMALL] = ("cnn_seqcap", {"init_gain": 0.1}, protocol)
    variants |= {f"{system}, segments first": variant(system, order="short_segments_first") for system in CONTROLLED}
    return variants | {f"{system}, sorted batches": variant(system, order="sorted_batches") for system in CONTROLLED}


def grid(
    keys: Sequence[str],
    profile: str,
    only: Sequence[str] = (),
    seeds: Sequence[int] = range(5),
    folds: int | None = None,
    **changes: object,
) -> Grid:
    """The runs of ``systems`` on corpora of any sample rate: seed by seed, in each system by system. ``only`` names
    systems, by default all; ``changes`` are those of ``systems``; for the rest see ``study.grid``. Five seeds by
    default, as P2. Raises CapslibError for an unknown system, with the nearest."""
    runs, cards, absent = [], {}, {}
    for key in keys:
        known = systems(corpora.parse(key)[0].sample_rate, **changes)
        chosen = {choose(name, known, "system of P2"): known[name] for name in only} or known
        part = study.grid([key], chosen, profile, seeds, folds)
        runs, cards, absent = [*runs, *part.runs], {**cards, **part.cards}, {**absent, **part.absent}
    place = {system: i for i, system in enumerate(systems())}
    runs.sort(key=lambda run: (run.config.seed, place[run.system]))
    return Grid(profile, tuple(runs), cards, absent)


def with_untrained(grid: Grid) -> Grid:
    """A grid, and behind it each of its networks as it was initialized, called "system, untrained"."""
    untrained = (replace(r, system=f"{r.system}, untrained", config=replace(r.config, epochs=0)) for r in grid.runs)
    return replace(grid, runs=(*grid.runs, *untrained))


def grids(profile: str) -> list[Grid]:
    """What P1's and P2's claims need: every system of notebook 09 on IEMOCAP or its stand-ins, and the untrained
    networks of notebook 07's last part; embedded corpora never count."""
    keys = CORPORA if profile == "full" else ()
    return [grid(keys, profile), with_untrained(grid(keys, profile, FIG_8, seeds=(0,)))]


def averages(runs: Runs) -> Runs:
    """The runs, and behind them Table V's averages of two systems, where their probabilities are on file."""
    return probes.averages(runs, AVERAGED, train=False)


def variants(change: str, names: Sequence[str]) -> list[tuple[str, str]]:
    """Each system and its variant: ("CNN_SeqCap", "CNN_SeqCap, no curriculum")."""
    return [(name, f"{name}, {change}") for name in names]


def counted() -> Iterator[tuple[bool, str]]:
    """Whether our systems have P2's numbers of parameters."""
    counts = parameter_counts()
    equal = (counts[""] == "equal").sum()
    yield equal == len(counts), f"{equal} of {len(counts)} counts of Table II are equal to the last digit"


ROLES = ("IEMOCAP",)
WA, UA, BOTH = ("accuracy",), ("unweighted_accuracy",), tuple(METRICS.values())
beats, higher, alike = (partial(f, roles=ROLES, metrics=BOTH) for f in (claims.beats, claims.higher, claims.alike))
worst_at_happy = partial(claims.hardest, label="happy", others=("neutral", "angry", "sad"), roles=ROLES)
# With the curriculum, and without it.
IN_CAPSULES, IN_RECURRENT = (variants("no curriculum", names) for names in (CAPSULES, RECURRENT))
at = partial(Claim, notebook="09")
SEQ, REC, GRU_SEQ, GRU_REC = "CNN_SeqCap", "CNN_RecCap", "CNN_GRU-SeqCap", "CNN_GRU-RecCap"
FOLLOWS = Reading(input_gradients, "correlation x 100", itemgetter("correlation"))
TOO_LARGE = "not trained here: 131 million parameters for some hundred utterances; the paper gives no result either"

CLAIMS = {
    "our question: its parameter counts can be reproduced": at("Table II", printed(counted)),
    "the curriculum helps all three capsule systems at WA and UA": at("section VI-C, Table IV", beats(IN_CAPSULES)),
    "it has little impact on CNN_GRU and CNN_GRU_Att (here: less than one point of WA)": at(
        "section VI-C, Table IV", alike(IN_RECURRENT, metrics=WA)
    ),
    "and slightly improves their UA": at("section VI-C, Table IV", beats(IN_RECURRENT, metrics=UA)),
    "our question: each capsule system gains more from it than each recurrent one": at(
        "section VI-C", claims.helps_more(IN_CAPSULES, IN_RECURRENT, ROLES, BOTH)
    ),
    "our question: in the paper's own table each capsule system gains more than each recurrent one": at(
        "Table IV", printed(partial(gains, CAPSULES, RECURRENT))
    ),
    "the curriculum expedites training (here: a higher mean validation WA over the first five epochs)": at(
        "sections I and IV-D", beats(IN_CAPSULES, metrics=(EARLY,))
    ),
    "our question: it is the order, short before long, and not the sorted batches": at(
        "section IV-D", beats(variants("sorted batches", CONTROLLED))
    ),
    "our question: sorting by the whole utterance's length is better than by the segment's": at(
        "section IV-D", beats(variants("segments first", CONTROLLED))
    ),
    "CNN_Cap's size makes it difficult to train": at("section V-D, Table II", untried(TOO_LARGE)),
    "two routing iterations are better than one and than four": at("section VI-D, Fig. 7", higher([TWO], [ONE, FOUR])),
    "two and three iterations do not differ (here: by less than one point)": at("section VI-D", alike([(THREE, TWO)])),
    "CNN_SeqCap and CNN_RecCap beat the CNN (quoted there, rebuilt here)": at(
        "section VI-E, Table V", higher(CONTROLLED, ["CNN [15]"])
    ),
    "so does LSTM_Cap (against its UA in the table)": at("section VI-E", higher(["LSTM_Cap"], ["CNN [15]"])),
    "CNN_SeqCap and CNN_RecCap beat LSTM_Cap": at("section VI-E, Table V", higher(CONTROLLED, ["LSTM_Cap"])),
    "CNN_SeqCap beats CNN_GRU and CNN_GRU_Att (the latter with p < 0.05)": at(
        "section VI-E, Table V", higher([SEQ], RECURRENT)
    ),
    "CNN_RecCap beats CNN_SeqCap at UA (p < 0.05)": at("section VI-E, Table V", higher([REC], [SEQ], metrics=UA)),
    "in place of the GRU recurrent capsules gain more than sequential ones, at WA and UA (p < 0.005; section VI-E "
    "calls the gain of WA marginal)": at("section VI-F, Table V", higher([REC], [SEQ])),
    "CNN_SeqCap and CNN_RecCap are worst at happy": at("section VI-E, Tables VI and VII", worst_at_happy(CONTROLLED)),
    "our question: both were tested on the same utterances": at("section VI-E, Tables VI and VII", same_utterances),
    "CNN_RecCap recalls more of happy and of sad than CNN_SeqCap": at(
        "section VI-E, Tables VI and VII", higher([REC], [SEQ], metrics=("recall of happy", "recall of sad"))
    ),
    "and less of angry": at("section VI-E, Tables VI and VII", higher([SEQ], [REC], metrics=("recall of angry",))),
    "the gradients of CNN_SeqCap are sensitive to what is salient, those of CNN_GRU_Att are not (here: follow the "
    "level more closely)": Claim("section VI-E, Fig. 8", probe_higher([(SEQ, "CNN_GRU_Att")], FOLLOWS, ROLES), "07"),
    "our question: those of CNN_SeqCap follow the level more closely than before training": Claim(
        "section VI-E, Fig. 8", probe_higher(variants("untrained", [SEQ]), FOLLOWS, ROLES), "07"
    ),
    "CNN_GRU-SeqCap beats the CNN, CNN_GRU, CNN_GRU_Att and CNN_SeqCap": at(
        "section VI-F, Table V", higher([GRU_SEQ], ["CNN [15]", *RECURRENT, SEQ])
    ),
    "CNN_GRU-SeqCap beats CNN_GRU-RecCap (p < 0.005)": at("section VI-F, Table V", higher([GRU_SEQ], [GRU_REC])),
    "CNN_GRU-RecCap is worse than CNN_RecCap (WA equal in the table), but better than CNN_GRU and the CNN": at(
        "section VI-F, Table V", beats([(REC, GRU_REC), (GRU_REC, "CNN_GRU"), (GRU_REC, "CNN [15]")])
    ),
    "averaging the probabilities of two systems improves WA over each": at(
        "section VI-F, Table V", beats([(name, part) for name, parts in AVERAGED.items() for part in parts], metrics=WA)
    ),
    "our question: two branches trained together beat the average of two systems": at(
        "section VI-F, Table V", beats(list(zip([GRU_SEQ, GRU_REC], AVERAGED, strict=True)))
    ),
    "our question: CNN_GRU-SeqCap is the best of its table (whose WA is equal to that of CNN_GRU + CNN_RecCap)": at(
        "Table V", higher([GRU_SEQ], [system for system in TABLE_V if system != GRU_SEQ])
    ),
    "our question: its quoted gains are the differences of its table": at("section VI-F", printed(quoted_gains)),
}

PAPER = Paper(
    "P2", "Speech Emotion Recognition Using Sequential Capsule Networks", claims=CLAIMS, grids=grids, derived=averages
)
