"""Layers: plain ``nn.Module``s, batch first, masks for variable length. They import nothing but torch."""

from capslib.layers.attention import AttentionPooling, TopDownAttention, masked_mean
from capslib.layers.capsules import CapsuleLayer
from capslib.layers.em import EMRouting
from capslib.layers.inverted_attention import InvertedAttentionRouting
from capslib.layers.margin import MarginLoss
from capslib.layers.recurrent import BiLSTM, MaskedBatchNorm, Standardize, reverse
from capslib.layers.routing import DynamicRouting, route, squash
from capslib.layers.rules import ROUTINGS
from capslib.layers.self_attention import SelfAttentionRouting
from capslib.layers.sequential import PrimaryCapsules, RecurrentCapsules, SequentialCapsules, emotion_vector, slide
