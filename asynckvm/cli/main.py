"""The command line: what there is to say, and who is asked to do it. No command's work is done here."""

from __future__ import annotations

import argparse
import sys
from typing import TYPE_CHECKING

import asynckvm
from asynckvm.cli import statuses

if TYPE_CHECKING:
    from collections.abc import Sequence

_DESCRIPTION = "Run untrusted x86-64 programs in KVM guest ring 3."
_RUN_DESCRIPTION = """\
Run a statically linked Linux program as a guest. It sees this host's files read-only, has no network, and uses the three
standard streams of this command. PROGRAM is found through PATH. Of the environment it gets only what describes the terminal,
the language and the user; --env adds to that.
"""


def main(arguments: Sequence[str] | None = None) -> int:
    """Entry point of the console script; returns the exit status. `statuses` lists what it can be."""
    arguments = sys.argv[1:] if arguments is None else list(arguments)
    parser = _parser()
    if arguments[:1] == ["bench"]:
        from asynckvm.cli import bench  # noqa: PLC0415

        return bench.main(arguments[1:])
    chosen = parser.parse_args(arguments)
    if chosen.command == "run":
        # Nothing after PROGRAM is ours; a leading -- only says where it begins.
        command = chosen.argv[1:] if chosen.argv[:1] == ["--"] else chosen.argv
        if not command:
            parser.error("run: PROGRAM is missing")
        from asynckvm.cli import run  # noqa: PLC0415

        return run.main(
            run.Options(chosen.timeout, chosen.memory << 20, chosen.env, chosen.stats, chosen.json, chosen.trace, command)
        )
    if chosen.command == "doctor":
        from asynckvm.cli import doctor  # noqa: PLC0415

        return doctor.main(as_json=chosen.json)
    parser.print_help(sys.stderr)
    return statuses.Status.USAGE


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="asynckvm", description=_DESCRIPTION)
    parser.add_argument("--version", action="version", version=f"asynckvm {asynckvm.__version__}")
    commands = parser.add_subparsers(dest="command", metavar="COMMAND")

    run = commands.add_parser(
        "run",
        help="run a program as a guest",
        description=_RUN_DESCRIPTION,
        epilog=f"exit status:\n{statuses.table()}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    run.add_argument("--timeout", type=_seconds, metavar="S", help="kill the program after S seconds")
    run.add_argument("--memory", type=_mebibytes, metavar="MIB", default=1024, help="guest memory in MiB (default: 1024)")
    run.add_argument("--env", action="append", metavar="NAME[=VALUE]", default=[], help="pass on, or set, a variable")
    run.add_argument("--stats", action="store_true", help="print what it took on standard error")
    run.add_argument("--json", action="store_true", help="print the result as one JSON object, the last line on standard error")
    run.add_argument("--trace", action="store_true", help="log every system call on standard error")
    run.add_argument("argv", metavar="PROGRAM ARGS", nargs=argparse.REMAINDER)

    doctor = commands.add_parser("doctor", help="tell whether and how guests run here")
    doctor.add_argument("--json", action="store_true", help="print the report as JSON")

    # Its arguments are parsed where its work is done.
    commands.add_parser("bench", help="measure, beside plain C programs that do the least possible", add_help=False)
    return parser


def _seconds(text: str) -> float:
    value = float(text)
    if not 0 < value < float("inf"):
        raise argparse.ArgumentTypeError("must be more than 0 seconds")
    return value


def _mebibytes(text: str) -> int:
    value = int(text)
    if value < 2 or value % 2:
        raise argparse.ArgumentTypeError("must be a positive multiple of 2 MiB")
    return value


if __name__ == "__main__":
    sys.exit(main())
