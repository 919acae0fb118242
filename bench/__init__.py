"""Speed and memory, as ratios within one run: ``make bench``, or ``python -m bench`` in the project's root.

The benchmarks lie beside the package and are not installed with it. ``routing``, ``features`` and ``training`` measure,
``store`` writes what they measure to ``data/measured``, and ``results``, ``routing_results`` and ``figures`` show it in
notebook 12. Other people's formulations are re-implemented here in a few lines and named by what they do.
"""
