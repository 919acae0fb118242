"""What recurrent capsules gain from the window before (P1 section 2.3, P2 section IV-C)."""

import copy

import torch

from capslib import models, training
from capslib.layers import RecurrentCapsules
from capslib.probes.parts import Probe, find_module, rounded, test_part
from capslib.training import Part

COLUMNS = {
    "decisions that change": ("changed", 0.0, 1.0),
    "WA as trained": ("accuracy", 0.0, 1.0),
    "WA without": ("without", 0.0, 1.0),
    "WA without, minus as trained": (lambda result: result["without"] - result["accuracy"], -1.0, 1.0),
}


def without_recurrence(model: models.AudioModel, part: Part) -> dict:
    """What a network with recurrent capsules predicts if no window depends on the one before: its matrix W^o at zero.

    Returns changed, the share of test clips that are predicted as another class; accuracy as trained, and without.
    Raises CapslibError if the model, CNN_RecCap or one with such a branch, has no recurrent capsules.
    """
    cut = copy.deepcopy(model)
    layer = find_module(cut, RecurrentCapsules, "recurrent capsules: choose CNN_RecCap")
    torch.nn.init.zeros_(layer.recurrent.weight)
    cpu = torch.device("cpu")
    predicted, others = (training.predict(one, part, cpu).argmax(-1) for one in (model, cut))
    right = (predicted == part.targets, others == part.targets)
    shares = {"changed": predicted != others, "accuracy": right[0], "without": right[1]}
    return {name: rounded(values.double().mean()) for name, values in shares.items()}


PROBES = {"without_recurrence": Probe(without_recurrence, test_part)}
