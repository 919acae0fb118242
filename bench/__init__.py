"""Speed and memory as ratios in one run: ``make bench``. Nothing in the tests asserts a time.

Each part prints a line a measurement and keeps what it measured in ``data/measured/<kind of machine>/<part>.json``, from
which notebook 12 reads. Other people's formulations are re-expressed here in our own lines and named by what they do.
"""
