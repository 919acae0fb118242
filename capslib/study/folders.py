"""Where the records, cards and weights of a profile lie."""

import os
from pathlib import Path

from capslib import paths
from capslib.errors import choose
from capslib.records import Store

PROFILES = ("quick", "full")


def reports() -> Path:
    """Where reports and records go: ``$CAPSLIB_REPORTS``, by default ``reports/`` of the checkout."""
    named = os.environ.get("CAPSLIB_REPORTS")
    return Path(named).expanduser().resolve() if named else paths.root() / "reports"


def accepted() -> Path:
    """Quick records that were looked at and committed; the notebooks in git show these."""
    return paths.root() / "data" / "accepted" / "quick"


def store(profile: str, records: str = "accepted") -> Store:
    """The records of a profile.

    Args:
        profile: "quick" or "full".
        records: "accepted" reads the committed ones, then this machine's; "fresh" only this machine's. The full
            profile's are committed where they are trained, so there it makes no difference.
    Raises:
        CapslibError: for an unknown profile or choice.
    """
    own = reports() / choose(profile, PROFILES, "profile") / "records"
    choose(records, ("accepted", "fresh"), "choice of records")
    return Store((accepted() / "records", own) if profile == "quick" and records == "accepted" else (own,))


def card_file(profile: str, key: str) -> Path:
    """Where the card of a corpus is written beside the records of its runs."""
    return reports() / profile / "corpora" / f"{key.replace(':', '-')}.json"


def weights_file(profile: str, key: str) -> Path:
    """Where the weights of a run are written; never in git."""
    return reports() / profile / "weights" / f"{key}.safetensors"
