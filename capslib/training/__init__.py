"""One run: its configuration, its clips, training, choice of the epoch, test, and the model that comes of it."""

from capslib.training.config import ORDERS, RunConfig
from capslib.training.dataset import Part, batches, epoch_batches, load_parts, targets
from capslib.training.inference import map_clips, predict, restore
from capslib.training.loop import reproducibly, train, train_epoch
from capslib.training.metrics import LOSSES, MULTI_LABEL, decide, evaluate
from capslib.training.optimizers import OPTIMIZERS, SCHEDULES
from capslib.training.transfer import Transfer, check_source, source_vectors

__all__ = [
    "LOSSES",
    "MULTI_LABEL",
    "OPTIMIZERS",
    "ORDERS",
    "SCHEDULES",
    "Part",
    "RunConfig",
    "Transfer",
    "batches",
    "check_source",
    "decide",
    "epoch_batches",
    "evaluate",
    "load_parts",
    "map_clips",
    "predict",
    "reproducibly",
    "restore",
    "source_vectors",
    "targets",
    "train",
    "train_epoch",
]
