"""``python -m bench [part ...]``: measure, print one line per measurement, store it for notebook 12."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from pathlib import Path

import torch

from bench import timing
from bench.store import PARTS, Store
from capslib import paths
from capslib.errors import CapslibError, choose


def _parts() -> dict[str, Callable[[Store], None]]:
    try:
        from bench import features, routing, training
    except ImportError as error:
        raise CapslibError(f"the bench needs {error.name}: pip install 'capslib[bench]'") from None
    return {
        "routing": routing.measure,
        "growth": routing.growth,
        "features": features.measure,
        "training": training.measure,
        "emotion": training.measure_emotion,
        "reproduce": training.measure_reproduce,
    }


ON_GPU = ("routing", "growth", "features")


def main(arguments: list[str] | None = None) -> int:
    """Measure the named parts, by default all, on this machine's processor and on its GPU if it has one.

    Returns:
        Exit status: 0, 2 after an error, 130 after an interruption.
    """
    parser = argparse.ArgumentParser(prog="bench", description="Speed and memory, as ratios within one run.")
    parser.add_argument("parts", nargs="*", metavar="part", help=f"{' '.join(PARTS)}; default: all")
    parser.add_argument("--repeats", type=int, default=timing.REPEATS, help="turns that count; fewer than 7: a trial")
    parser.add_argument("--device", choices=("cpu", "cuda"), action="append", help="default: all that are available")
    parser.add_argument("--into", type=Path, help="folder; default: data/measured")
    options = parser.parse_args(arguments)
    try:
        if options.repeats < 1:
            raise CapslibError(f"--repeats {options.repeats}: give at least 1")
        known = _parts()
        wanted = [choose(part, known, "part of the bench") for part in options.parts] or list(known)
        for device in options.device or (["cpu", "cuda"] if torch.cuda.is_available() else ["cpu"]):
            for part in wanted:
                if device == "cuda" and part not in ON_GPU:
                    continue
                store = Store(part, device, options.repeats, options.into)
                print(f"== {part}, {device}, {torch.get_num_threads()} thread(s)", flush=True)
                known[part](store)
                print(f"stored in {paths.shown(store.file)}", flush=True)
    except CapslibError as error:
        print(f"bench: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("bench: interrupted; what was measured is stored", file=sys.stderr)
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
