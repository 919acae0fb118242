"""What decides a run."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field, replace

from capslib.augment import PERTURBATIONS
from capslib.errors import CapslibError, choose
from capslib.features import FeatureConfig
from capslib.training.optimizers import OPTIMIZERS, SCHEDULES

# Order of the first epoch: random; by increasing length of the utterance that a segment was cut from, or of the segment
# itself; or the batches of "by utterance", shuffled (P2 section IV-D and our control of it).
ORDERS = ("random", "short_utterances_first", "short_segments_first", "sorted_batches")


# Fields that came later, at what runs did before: left out of records, so that the keys of earlier runs stay.
# A value never changes here, whatever becomes of a default.
OMITTED = {"perturb": None, "source": None, "segment_frames": None, "order": "random", "schedule": "constant"}
OMITTED |= {"optimizer": "adam", "momentum": 0.0, "weight_decay": 0.0}


@dataclass(frozen=True)
class RunConfig:
    """Everything that decides a run.

    Attributes:
        corpus, split: key of the corpus, "fsdd:digit", and name of the fold.
        model, options: name in ``models.entries()``, and what differs from its defaults.
        seed: of initialization, order and dropout.
        epochs: fixed number; the epoch that is best on validation data is selected. 0: no gradient step.
        learning_rate, gradient_clip: at the start; largest norm of the gradient.
        max_train_clips: train on a random subset of so many clips (quick runs on large corpora); None for all.
        perturb: kind and levels (see ``augment``): each training clip comes at one level, drawn anew in every epoch;
            validation has every clip at all levels, the test part as recorded.
        source: another run, whose embedding of each clip is appended to all of its frames (P0 section 6.2).
        segment_frames: cut training clips into segments of so many frames, the last one shorter; None for whole clips.
        order: of the first epoch, one of ``ORDERS``.
        schedule, optimizer: names in ``SCHEDULES`` (of learning rates) and ``OPTIMIZERS``.
        momentum, weight_decay: of the optimizers that have them.
    Raises:
        CapslibError: for a value that no run can have.
    """

    corpus: str
    split: str
    model: str
    options: tuple[tuple[str, float], ...] = ()
    seed: int = 0
    features: FeatureConfig = field(default_factory=FeatureConfig)
    epochs: int = 30
    batch_size: int = 32
    learning_rate: float = 1e-3
    gradient_clip: float = 5.0
    max_train_clips: int | None = None
    # From here on a field at its default is left out of ``described``: add new ones at the end.
    perturb: tuple[str, tuple[float, ...]] | None = None
    source: RunConfig | None = None
    segment_frames: int | None = None
    order: str = "random"
    schedule: str = "constant"
    optimizer: str = "adam"
    momentum: float = 0.0
    weight_decay: float = 0.0

    def __post_init__(self) -> None:
        choose(self.order, ORDERS, "order")
        choose(self.schedule, SCHEDULES, "schedule")
        choose(self.optimizer, OPTIMIZERS, "optimizer")
        if self.epochs < 0 or (self.segment_frames is not None and self.segment_frames < 1):
            raise CapslibError(
                f"{self.title()}: epochs={self.epochs}, segment_frames={self.segment_frames}: give epochs from 0 on, "
                "and segments of at least one frame"
            )
        if self.perturb is not None:
            kind, levels = self.perturb
            choose(kind, PERTURBATIONS, "perturbation")
            if not levels:
                raise CapslibError(f"{self.title()}: perturb={kind!r} without a level: give at least one")
        if self.source is not None and self.source.source is not None:
            raise CapslibError(f"{self.title()}: its source has a source itself: leave that out")

    def title(self) -> str:
        """For progress bars and errors: "caps on fsdd:digit, split theo, seed 0"."""
        options = "".join(f" {name}={value}" for name, value in self.options)
        return f"{self.model}{options} on {self.corpus}, split {self.split}, seed {self.seed}"

    def described(self) -> dict:
        """As a record stores it, without the fields that are at their values in ``OMITTED``."""
        values = asdict(replace(self, source=None))
        if self.source is not None:
            values["source"] = self.source.described()
        return {name: value for name, value in values.items() if name not in OMITTED or value != OMITTED[name]}
