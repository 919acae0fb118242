"""Figures, in one style; each writes PNG and SVG, and beside them the data that it shows as CSV.

The pictures are not compared by any test, the CSVs are: they say the same.
"""

from capslib.figures.recordings import clips, durations, feature_statistics, player
from capslib.figures.results import accuracies, confusion_matrices, curricula, learning_curves, over_option, plane
from capslib.figures.style import PALETTE, grid, save
