"""Where runs go: processes on this machine, or a cluster."""

import os
import warnings
from collections.abc import Iterator
from contextlib import contextmanager

import joblib

from capslib.errors import CapslibError


@contextmanager
def executor(workers: int | None = None) -> Iterator[None]:
    """Where runs go: single-threaded processes on this machine, or the Dask scheduler that ``$CAPSLIB_CLUSTER`` names.

    ``workers``: processes; by default ``$CAPSLIB_WORKERS``, or one per core.
    """
    address = os.environ.get("CAPSLIB_CLUSTER")
    if address:
        try:
            from dask.distributed import Client
        except ImportError:
            raise CapslibError(
                "CAPSLIB_CLUSTER is set, but Dask is not installed: pip install 'capslib[cluster]'"
            ) from None
        try:
            client = Client(address)
        except (OSError, ValueError) as error:
            raise CapslibError(f"CAPSLIB_CLUSTER={address}: no Dask scheduler answers there ({error})") from None
        with client, joblib.parallel_config(backend="dask"):
            yield
        return
    named = os.environ.get("CAPSLIB_WORKERS") or "0"
    if not named.isdigit():
        raise CapslibError(f"CAPSLIB_WORKERS={named!r}: give a number of processes, or unset it for one per core")
    workers = workers or int(named) or joblib.cpu_count()
    with warnings.catch_warnings():
        # A worker that has grown by 300 MB is replaced by a fresh one; nothing is lost, and nobody needs to know.
        warnings.filterwarnings("ignore", message="A worker stopped")
        with joblib.parallel_config(backend="loky", n_jobs=workers, inner_max_num_threads=1):
            yield
