"""capslib: capsule layers for audio, the corpora to try them on, and the study that asks whether the papers' claims hold."""

__version__ = "0.1.0"
