"""One run: its configuration, its clips, training, choice of the epoch, test, and the model that comes of it."""

from capslib.training.config import RunConfig
from capslib.training.dataset import Part, load_parts
from capslib.training.inference import map_clips, predict, restore
from capslib.training.loop import train, train_epoch
from capslib.training.metrics import LOSSES, MULTI_LABEL, evaluate
from capslib.training.optimizers import OPTIMIZERS, SCHEDULES
from capslib.training.transfer import Transfer, check_source, source_vectors
