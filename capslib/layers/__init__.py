"""Layers: plain ``nn.Module``s, batch first, masks for variable length. They import nothing but torch."""

from capslib.layers.attention import AttentionPooling, masked_mean
from capslib.layers.capsules import CapsuleLayer
from capslib.layers.margin import MarginLoss
from capslib.layers.recurrent import BiLSTM, MaskedBatchNorm, Standardize, reverse
from capslib.layers.routing import DynamicRouting, route, squash

__all__ = [
    "AttentionPooling",
    "BiLSTM",
    "CapsuleLayer",
    "DynamicRouting",
    "MarginLoss",
    "MaskedBatchNorm",
    "Standardize",
    "masked_mean",
    "reverse",
    "route",
    "squash",
]
