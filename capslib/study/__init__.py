"""The study: grids of runs, their records, and where both lie.

``grid`` says which runs, ``run`` trains those that have no record, ``Runs`` holds the records for tables and tests.
"""

from capslib.study.executors import executor
from capslib.study.folders import PROFILES, accepted, reports, store, weights_file
from capslib.study.grids import Grid, Run, System, code_of, corpora_in, first_line, grid
from capslib.study.results import Runs, recorded
from capslib.study.runner import make_record, run, source_of, stopping, train_run
