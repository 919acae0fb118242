"""A trained model back from its file, and what it gives for each clip."""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file
from torch import Tensor, nn

from capslib import models, paths
from capslib.errors import CapslibError
from capslib.training.config import RunConfig
from capslib.training.dataset import Part, batches


def default_device() -> torch.device:
    """A GPU if there is one."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


@torch.inference_mode()
def map_clips(
    function: Callable[[Tensor, Tensor], Tensor], part: Part, device: torch.device, batch_size: int = 32
) -> Tensor:
    """A function of padded features (B, T, F) and lengths (B,), for every clip: (clips, ...), float32, in the order of
    the part, on the processor; clips of similar length are computed together."""
    order = batches(part.lengths, batch_size)
    values = [function(*part.batch(indices, device)[:2]).float().cpu() for indices in order]
    return torch.cat(values)[torch.from_numpy(np.argsort(np.concatenate(order)))]


def predict(model: nn.Module, part: Part, device: torch.device, batch_size: int = 32) -> Tensor:
    """Scores of every clip, in the order of the part: (clips, classes), on the processor."""
    model.eval()
    return map_clips(model, part, device, batch_size)


def restore(config: RunConfig, weights: Path) -> models.AudioModel:
    """The model of a run with the weights that ``train`` saved, in evaluation mode.

    Raises:
        CapslibError: if the file cannot be read, or has another model's weights.
    """
    try:
        stored = load_file(weights)
        with safe_open(weights, "pt") as file:
            metadata = {name: json.loads(value) for name, value in (file.metadata() or {}).items()}
        options, wanted = metadata["options"], json.loads(json.dumps(dict(config.options)))
        if metadata["model"] != config.model or not wanted.items() <= options.items():
            raise CapslibError(f"they are of {metadata['model']} with {options}")
        model = models.build(config.model, stored["standardize.mean"].shape[0], len(metadata["classes"]), **options)
        model.load_state_dict(stored)
    except (CapslibError, OSError, SafetensorError, KeyError, RuntimeError, ValueError) as error:
        reason = str(error).splitlines()[0]
        raise CapslibError(
            f"{paths.shown(weights)} does not hold the weights of {config.title()} ({reason}): delete it"
        ) from None
    return model.eval()
