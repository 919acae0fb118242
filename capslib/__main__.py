"""The command line: ``python -m capslib reproduce``; the Makefile's targets call these."""

import argparse
import ast
import sys
from pathlib import Path

from capslib import paths
from capslib.errors import CapslibError, choose


def _literal(text: str) -> tuple[str, object]:
    name, equals, value = text.partition("=")
    if not equals:
        raise argparse.ArgumentTypeError(f"{text!r}: give NAME=VALUE")
    try:
        return name, ast.literal_eval(value)
    except (ValueError, SyntaxError):
        return name, value


def _words(text: str) -> list[str]:
    return text.replace(",", " ").split()


def _reproduce(options: argparse.Namespace) -> None:
    from capslib import report, study

    before = set((study.reports() / options.profile / "records").glob("*.json"))
    defaults = {"CORPORA": "at hand", "RECORDS": "fresh"}
    index = report.make(options.profile, _words(options.notebooks), defaults, dict(options.parameter))
    made = set((study.reports() / options.profile / "records").glob("*.json")) - before
    print(f"{len(made)} runs trained; open {index.relative_to(study.reports().parent).as_posix()}")


def _report(options: argparse.Namespace) -> None:
    from capslib import report

    corpora = "embedded" if options.profile == "quick" else "at hand"
    defaults = {"CORPORA": corpora, "RECORDS": "accepted", "TRAIN": False}
    index = report.make(
        options.profile, _words(options.notebooks), defaults, dict(options.parameter), from_records=True
    )
    print(f"rendered from records, nothing trained; open {index.parent.name}/{index.name} in the reports")


def _accept(_: argparse.Namespace) -> None:
    from capslib import report

    for notebook in report.accept():
        print(f"accepted: {notebook.name}")


def _refresh(_: argparse.Namespace) -> None:
    from capslib import report

    for notebook in report.refresh():
        print(f"executed: {notebook.name}")


def _migrate(options: argparse.Namespace) -> None:
    from capslib import study
    from capslib.migrate import migrate

    profile = choose(options.profile, (*study.PROFILES, "accepted"), "choice of records")
    folder = study.accepted() if profile == "accepted" else study.reports() / profile
    done, compared, left = migrate(folder, Path(options.checkout))
    print(
        f"{done} records and outputs of probes migrated: short runs of {compared} systems were the same to the bit; "
        f"{left} of other code left"
    )


def _data(options: argparse.Namespace) -> None:
    from capslib import corpora
    from capslib.corpora import download

    failures = []
    for name in _words(options.corpora):
        try:
            folder = download.fetch(name, paths.data())
            print(f"{name}: in {paths.shown(folder)}")
        except CapslibError as error:
            failures.append(str(error))
    for key in corpora.at_hand():
        try:
            card = corpora.load(key).card()
        except CapslibError as error:
            print(f"{key}: {error}")
            continue
        print(f"{key}: {card['clips']} clips, {card['groups']} {card['group']}s, {len(card['classes'])} classes")
    if failures:
        raise CapslibError("; ".join(failures))


def _doctor(_: argparse.Namespace) -> None:
    import joblib
    import torch
    from tqdm import tqdm

    from capslib import corpora, study

    device = torch.cuda.get_device_name() if torch.cuda.is_available() else "no GPU: everything runs on the processor"
    print(f"Python {sys.version.split()[0]}, torch {torch.__version__}, {joblib.cpu_count()} cores, {device}")
    print(f"data folder: {'CAPSLIB_DATA' if paths.data() != paths.root() / 'data' else 'data/ of the checkout'}")
    for name, source in corpora.sources().items():
        print(f"  {name}: {'available' if corpora.find(name) else 'not available; ' + source.how_to_get}")
    for profile in study.PROFILES:
        store = study.store(profile)
        print(f"{profile}: {len(store)} records, {len(store.unreadable)} unreadable files")
        for sentence in store.unreadable:
            tqdm.write(f"  {sentence}")


def main(arguments: list[str] | None = None) -> int:
    """Run one command; bad input ends in one sentence and exit status 2."""
    parser = argparse.ArgumentParser(prog="capslib", description="Capsule networks for audio: a reproducible study.")
    commands = parser.add_subparsers(dest="command", required=True)
    for name, action, what in (
        ("reproduce", _reproduce, "run notebooks, train what has no record on this machine, render reports/<profile>"),
        ("report", _report, "render reports/<profile> from committed records, without training"),
    ):
        command = commands.add_parser(name, help=what)
        command.set_defaults(action=action)
        command.add_argument("--profile", default="quick", help="quick or full (default quick)")
        command.add_argument("--notebooks", default="", help='numbers, as "01 02"; all by default')
        command.add_argument("-p", "--parameter", type=_literal, action="append", default=[], metavar="NAME=VALUE")
    commands.add_parser("accept", help="take this machine's quick records into git").set_defaults(action=_accept)
    commands.add_parser("refresh", help="execute the notebooks in git in place").set_defaults(action=_refresh)
    command = commands.add_parser(
        "migrate", help="give records of an older checkout today's version if short runs are equal"
    )
    command.set_defaults(action=_migrate)
    command.add_argument("profile", help="quick, full, or accepted: the quick records in git")
    command.add_argument("checkout", help="of the code that made them, to compare short runs with")
    command = commands.add_parser("data", help="download what its owners let anyone download, list what is available")
    command.set_defaults(action=_data)
    command.add_argument("--corpora", default="fsdd")
    commands.add_parser("doctor", help="what this machine has").set_defaults(action=_doctor)
    options = parser.parse_args(arguments)
    from capslib.study import stopping

    try:
        with stopping():
            options.action(options)
    except CapslibError as error:
        print(f"capslib: {error}", file=sys.stderr)
        return 2
    except OSError as error:
        where = f" ({paths.shown(error.filename)})" if error.filename else ""
        print(f"capslib: {error.strerror or error}{where}: is the disk full or read-only?", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("capslib: interrupted; finished runs are kept, the same command goes on from there", file=sys.stderr)
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
