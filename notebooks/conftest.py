"""Strict nbval compares everything but stderr: warnings of libraries and progress bars are no results.

The notebooks in git have none (``capslib.report.canonical``).
"""


def pytest_collectstart(collector: object) -> None:
    """Called by pytest for each notebook."""
    if hasattr(collector, "skip_compare"):
        collector.skip_compare += ("stderr",)
