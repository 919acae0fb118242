"""``python -m bench [part ...]``: measure, print a line a measurement, keep it for notebook 12."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from pathlib import Path

import torch

from bench import timing
from bench.store import Shelf
from capslib import paths
from capslib.errors import CapslibError, choose


def _parts() -> dict[str, Callable[[Shelf], None]]:
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
    """Measure the named parts, all by default, on this machine's processor and on its GPU if it has one."""
    parser = argparse.ArgumentParser(prog="bench", description="Speed and memory, as ratios in one run.")
    parser.add_argument(
        "parts", nargs="*", metavar="part", help="routing growth features training emotion reproduce; all by default"
    )
    parser.add_argument("--repeats", type=int, default=timing.REPEATS, help="turns that count; fewer than 7: a trial")
    parser.add_argument("--device", choices=("cpu", "cuda"), action="append", help="default: all that are here")
    parser.add_argument("--into", type=Path, help="folder; default data/measured")
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
                shelf = Shelf(part, device, options.repeats, options.into)
                print(f"== {part}, {device}, {torch.get_num_threads()} thread(s)", flush=True)
                known[part](shelf)
                print(f"kept in {paths.shown(shelf.file)}", flush=True)
    except CapslibError as error:
        print(f"bench: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("bench: interrupted; what was measured is kept", file=sys.stderr)
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
