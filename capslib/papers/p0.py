"""P0, capsule networks for audio classification: its claims, and the systems that they and notebooks 02 to 08 need."""

from collections.abc import Iterator
from contextlib import suppress
from dataclasses import replace
from operator import itemgetter

from capslib import corpora, probes, study
from capslib.claims import Claim, Reading, above, higher, most_on, overfits, printed, probe_higher
from capslib.errors import CapslibError
from capslib.features import FeatureConfig
from capslib.papers import Paper, Role
from capslib.published import values
from capslib.study import Grid, System
from capslib.training import RunConfig

# The corpora of Table 1, in its order.
ROLES = ("VCTK", "IEMOCAP", "Urban8K", "FSDD")
BASELINES = {name: (name, {}) for name in ("cnn", "lstm", "att", "caps")}
# Section 5.2: names by number of routing iterations; 3 is the default. P0 does not say how many its CAPS column has.
ITERATIONS = {n: f"{n} iteration" + "s" * (n > 1) for n in (1, 2, 3, 4, 5)}
ONE, FIVE = ITERATIONS[1], ITERATIONS[5]
ROUTING = {name: ("caps", {} if n == 3 else {"num_iterations": n}) for n, name in ITERATIONS.items()}
RULES = {
    "inner iterations detached": ("caps_routed", {"routing": "dynamic_detached"}),
    "EM": ("caps_routed", {"routing": "em"}),
    "self-attention": ("caps_routed", {"routing": "self_attention"}),
    "inverted attention": ("caps_routed", {"routing": "inverted_attention"}),
}
# Section 5.3: names by dimension of the capsules; 16 is the default.
DIMENSIONS = {d: f"D = {d}" for d in (2, 4, 8, 16, 32)}
SIZES = {name: ("caps", {} if d == 16 else {"capsule_features": d}) for d, name in DIMENSIONS.items()}
# Section 5.4: weights of the reconstruction by name. P0 does not give its own.
WEIGHTS = {"no decoder": 0, "weight 0.05": 0.05, "weight 0.5": 0.5, "weight 5": 5.0}
DECODERS = {name: ("caps_decoder", {"weight": w}) if w else ("caps", {}) for name, w in WEIGHTS.items()}
# Section 6.1; decibels, full scale, factor. The paper's labels are in its figures, which our copy does not have.
LEVELS = {
    "gain": (-12.0, -6.0, 0.0, 6.0, 12.0),
    "offset": (-0.1, -0.05, 0.0, 0.05, 0.1),
    "speed": (0.7, 0.85, 1.0, 1.15, 1.3),
}
NETWORKS = {"capsules": ("caps", {}), "untrained": ("caps", {"epochs": 0}), "LSTM": ("lstm", {})}
SHARED_BAND = "speed (shared band)"
# Section 6.2: the paper's own source, or what stands in for it; the first that is available.
TRANSFER_SOURCES = "iemocap:emotion4, emodb:emotion4"


def perturbed_systems(sample_rate: int) -> dict[str, System]:
    """Networks on perturbed clips (section 6.1) and the controls, called "network, perturbation".

    Resampled to a lower speed a clip has nothing left above its old band, and that alone gives its speed away. So
    ``SHARED_BAND`` reads log spectrograms of the band that clips have at every speed, less a tenth for the resampler's
    slope. The sample rate is the corpus', in hertz.
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


def transfer_source(keys: str, model: str, profile: str) -> RunConfig:
    """The network whose capsules another one reads (section 6.2): of the first corpus available, on its first fold. The
    keys are of corpora, best first, with commas between. Raises CapslibError if none of them is available, with how to
    get the first."""
    sources = study.grid(study.corpora_in(profile, keys), [model], profile, seeds=[0], folds=1)
    if not sources.runs:
        key, how = next(iter(sources.absent.items()))
        raise CapslibError(f"the source of the transfer, {key}, is not available: {how}")
    return sources.runs[0].config


def transfer_systems(keys: str, profile: str) -> dict[str, System]:
    """MFCCs alone, and beside the vectors of networks of another corpus (section 6.2), with our controls. See
    ``transfer_source``; the seed of a source is that of the run which reads its capsules."""
    source = transfer_source(keys, "caps", profile)
    classes = study.grid([source.corpus], [], profile).cards[source.corpus]["classes"]
    return {
        "MFCC only": ("caps", {}),
        "capsules, tiled": ("caps", {}, {"source": source}),
        "capsules, joined": ("caps_joined", {"source_capsules": len(classes)}, {"source": source}),
        "LSTM, tiled": ("caps", {}, {"source": replace(source, model="lstm")}),
        "untrained, tiled": ("caps", {}, {"source": replace(source, epochs=0)}),
    }


def resolved() -> Iterator[tuple[bool, str]]:
    """Whether P0's three nominally equal columns are closer to each other than its CAPS and ATT, by corpus."""
    table = {(row, column): value for (row, column, _), value in values("P0", "Table 1").items()}
    for row in ROLES:
        equal = [table[row, column] for column in ("CAPS", "3", "No Regularization")]
        spread, lead = max(equal) - min(equal), abs(table[row, "CAPS"] - table[row, "ATT"])
        yield spread < lead, f"{row}: equal columns differ by {spread:.3f}, CAPS and ATT by {lead:.3f}"


def grids(profile: str) -> list[Grid]:
    """What the claims need: notebooks 02 to 05 on every corpus, 06 on mixtures, 07 on FSDD and 08 on RAVDESS."""
    named = ROUTING | SIZES | DECODERS
    systems = BASELINES | {name: named[name] for name in (ONE, FIVE, "D = 2", "D = 32", "weight 0.5")}
    wanted = "at hand" if profile == "full" else "embedded"
    keys, mixtures = (study.corpora_in(profile, wanted, multi_label=several) for several in (False, True))
    plain = [study.grid(keys, systems, profile), study.grid(mixtures, ["att", "caps"], profile)]
    if profile != "full":
        return plain
    sources: dict[str, System] = {}
    with suppress(CapslibError):  # no source is available: these claims have no runs
        systems = transfer_systems(TRANSFER_SOURCES, profile)
        sources = {name: systems[name] for name in ("capsules, tiled", "untrained, tiled")}
    perturbed = perturbed_systems(corpora.parse("fsdd")[0].sample_rate)
    return [*plain, study.grid(["fsdd"], perturbed, profile), study.grid(["ravdess"], sources, profile)]


SIDE = Reading(probes.perturbed.components, "share of clips that a linear map separates", itemgetter("side"))
TWO = Reading(probes.perturbed.components, "share of variance in two components", probes.perturbed.two)


def with_untrained(*kinds: str) -> list[tuple[str, str]]:
    """The capsules on perturbed clips, and the same network as it was initialized."""
    return [(f"capsules, {kind}", f"untrained, {kind}") for kind in kinds]


CLAIMS = {
    "capsules beat CNN, LSTM and ATT on gender, emotion and city sounds": Claim(
        "section 5.1, Table 1", higher(["caps"], ["cnn", "lstm", "att"], ROLES[:3]), "02"
    ),
    "on FSDD the CNN is best": Claim("section 5.1, Table 1", higher(["cnn"], ["lstm", "att", "caps"], ["FSDD"]), "02"),
    "capsules beat ATT on all four corpora": Claim("section 5.1", higher(["caps"], ["att"], ROLES), "02"),
    "and most on UrbanSound8K": Claim("section 5.1", most_on("Urban8K", ("caps", "att"), ROLES), "02"),
    "our question: its accuracies resolve its differences, three columns of one model being closer than CAPS and "
    "ATT": Claim("Table 1", printed(resolved), "02"),
    "more routing iterations tend to overfit, on FSDD (1 iteration against 5)": Claim(
        "section 5.2, Table 1", overfits(ONE, FIVE, "FSDD"), "03"
    ),
    "and most on FSDD": Claim("section 5.2, Table 1", most_on("FSDD", (ONE, FIVE), ROLES), "03"),
    "more routing iterations overfit on city sounds (part of its general sentence)": Claim(
        "section 5.2, Table 1", overfits(ONE, FIVE, "Urban8K"), "03"
    ),
    "accuracy rises with the dimension, up to P0's 16 (16 against 2)": Claim(
        "section 5.3, Fig. 2", higher(["caps"], ["D = 2"], ROLES), "04"
    ),
    "and falls beyond it (16 against 32)": Claim("section 5.3, Fig. 2", higher(["caps"], ["D = 32"], ROLES), "04"),
    "corpora with less data suffer more from a larger dimension (16 against 32; P0 names VCTK, which is not "
    "small)": Claim("section 5.3", most_on(None, ("caps", "D = 32"), ROLES), "04"),
    "a reconstruction decoder is generally beneficial (all four corpora)": Claim(
        "section 5.4, Table 1", higher(["weight 0.5"], ["caps"], ROLES), "05"
    ),
    "especially on little data (FSDD)": Claim("section 5.4, Table 1", higher(["weight 0.5"], ["caps"], ["FSDD"]), "05"),
    "a decoder lowers accuracy on VCTK (the table, against the text)": Claim(
        "section 5.4, Table 1", higher(["caps"], ["weight 0.5"], ["VCTK"]), "05"
    ),
    "capsules beat ATT where two classes sound at once": Claim(
        "section 5.5, Table 2", higher(["caps"], ["att"], ["Multi-VCTK", "Multi-MUSAN"], ["weighted_accuracy"]), "06"
    ),
    "louder and faster clips are clearly separated from quieter and slower ones (here: a linear map tells them apart "
    "in over three quarters of unseen speakers' clips)": Claim(
        "section 6.1, Figs. 3 and 4", above(["capsules, gain", "capsules, speed"], SIDE, 0.75, ["FSDD"]), "07"
    ),
    "our question: a trained network separates them better than an untrained one, and speed also in the band that all "
    "speeds share": Claim(
        "section 6.1", probe_higher(with_untrained("gain", "speed", SHARED_BAND), SIDE, ["FSDD"]), "07"
    ),
    "two components explain most of the variance under perturbation (gain, offset, speed)": Claim(
        "section 6.1, Figs. 3 and 4", above([f"capsules, {kind}" for kind in LEVELS], TWO, 0.5, ["FSDD"]), "07"
    ),
    "our question: they explain more in a trained network than in an untrained one": Claim(
        "section 6.1", probe_higher(with_untrained(*LEVELS), TWO, ["FSDD"]), "07"
    ),
    "capsules of another emotion corpus help on RAVDESS (41% to 50%)": Claim(
        "section 6.2", higher(["capsules, tiled"], ["caps"], ["RAVDESS"]), "08"
    ),
    "our question: they help more than the capsules of an untrained network": Claim(
        "section 6.2", higher(["capsules, tiled"], ["untrained, tiled"], ["RAVDESS"]), "08"
    ),
}

PAPER = Paper(
    "P0",
    "capsule networks for audio classification",
    corpora=(
        Role("FSDD", "ten digits", "run make data"),
        Role("RAVDESS", "six emotions", "run make data CORPORA=ravdess"),
        Role("IEMOCAP", "four emotions", "ask its owners at sail.usc.edu/iemocap; emodb stands in"),
        Role("VCTK", "gender", "from datashare.ed.ac.uk; ased stands in"),
        Role("Urban8K", "ten city sounds", "from urbansounddataset.weebly.com"),
        Role("Multi-VCTK", "genders of two speakers", "made from VCTK"),
        Role("Multi-MUSAN", "speech and noise", "made from MUSAN; from openslr.org/17"),
    ),
    claims=CLAIMS,
    grids=grids,
)
