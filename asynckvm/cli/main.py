"""The command line: what there is to say, and who is asked to do it. No command's work is done here."""

from __future__ import annotations

import argparse
import dataclasses
import sys
from typing import TYPE_CHECKING, Any, Final

import asynckvm
from asynckvm.cli import statuses
from asynckvm.cli.options import add_platform

if TYPE_CHECKING:
    from collections.abc import Sequence

_LEAST_BYTES: Final = 2 << 20
_MOST_BYTES: Final = 1 << 40
_DESCRIPTION = "Run untrusted Linux programs, in KVM guest ring 3 where there is a usable KVM."
_SANDBOX = """\
PROGRAM gets a sandbox of its own: the programs and libraries of this host to read, everything else its own and gone afterwards,
no network but what --allow-connect says, and the three standard streams of this command, on a terminal as one of its own. It is
found through PATH, in the sandbox. Two things of the host are bound into it without being asked for, read-only, if the sandbox
has no such path itself: the current directory (where PROGRAM starts, unless --cwd is given), and PROGRAM, if its name has a
slash; so ./a.out works. Of the environment it gets only what describes the terminal, the language and the user; --env adds to
that.
"""
# Those whose arguments are parsed where their work is done, with what is said about them.
_OTHERS = {
    "demo": "run a hundred untrusted programs at once, and check how each of them ends",
    "bench": "measure, beside plain C programs that do the least possible",
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Entry point of the console script; returns the exit status. `statuses` lists what it can be."""
    arguments = sys.argv[1:] if arguments is None else list(arguments)
    parser = _parser()
    if arguments and arguments[0] in _OTHERS:
        import importlib  # noqa: PLC0415

        return int(importlib.import_module(f"asynckvm.cli.{arguments[0]}").main(arguments[1:]))
    chosen = parser.parse_args(arguments)
    if chosen.command in ("run", "trace"):
        return _run(parser, chosen)
    if chosen.command == "syscalls":
        from asynckvm.cli import coverage  # noqa: PLC0415

        return coverage.main(missing=chosen.missing)
    if chosen.command == "doctor":
        from asynckvm.cli import doctor  # noqa: PLC0415

        return doctor.main(chosen.platform, as_json=chosen.json)
    parser.print_help(sys.stderr)
    return statuses.Status.USAGE


def _run(parser: argparse.ArgumentParser, chosen: argparse.Namespace) -> int:
    # Nothing after PROGRAM is ours; a leading -- only says where it begins.
    command = chosen.argv[1:] if chosen.argv[:1] == ["--"] else chosen.argv
    if not command:
        parser.error(f"{chosen.command}: PROGRAM is missing")
    from asynckvm.cli import run  # noqa: PLC0415

    options = run.Options(
        command,
        chosen.timeout,
        chosen.memory,
        chosen.env,
        chosen.bind,
        chosen.cwd,
        chosen.tty,
        chosen.allow_connect,
        platform=chosen.platform,
    )
    if chosen.command == "trace":
        from asynckvm.cli import trace  # noqa: PLC0415

        return trace.main(options, chosen.output, count=chosen.count)
    return run.main(dataclasses.replace(options, stats=chosen.stats, json=chosen.json))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="asynckvm", description=_DESCRIPTION)
    parser.add_argument("--version", action="version", version=f"asynckvm {asynckvm.__version__}")
    commands = parser.add_subparsers(dest="command", metavar="COMMAND")

    run = _add_program(commands, "run", "run a program in a sandbox")
    run.add_argument("--stats", action="store_true", help="print what it took on standard error")
    run.add_argument("--json", action="store_true", help="print the result as one JSON object, the last line on standard error")

    trace = _add_program(commands, "trace", "run a program and show its system calls and signals, of all its processes")
    trace.add_argument("-o", "--output", metavar="FILE", help="write there instead of standard error")
    trace.add_argument(
        "-c", "--count", action="store_true", help="count calls, time and errors instead, and show a table at the end"
    )

    syscalls = commands.add_parser("syscalls", help="list the system calls that programs can make here")
    syscalls.add_argument("--missing", action="store_true", help="those of Linux that do not exist here instead")

    doctor = commands.add_parser("doctor", help="tell whether and how guests run here")
    add_platform(doctor)
    doctor.add_argument("--json", action="store_true", help="print the report as JSON")

    for name, about in _OTHERS.items():
        commands.add_parser(name, help=about, add_help=False)
    return parser


def _add_program(commands: Any, name: str, about: str) -> argparse.ArgumentParser:
    """A command that runs PROGRAM."""
    parser: argparse.ArgumentParser = commands.add_parser(
        name,
        help=about,
        description=f"{about[0].upper()}{about[1:]}.\n\n{_SANDBOX}",
        epilog=f"exit status:\n{statuses.table()}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "--bind",
        action="append",
        metavar="SRC[:DST][:ro|:rw]",
        default=[],
        help="show a directory or file of the host, at its own path if there is no DST, read-only unless :rw; may be given again",
    )
    parser.add_argument("--env", action="append", metavar="NAME[=VALUE]", default=[], help="pass on, or set, a variable")
    parser.add_argument("--cwd", metavar="DIR", help="where the program starts: a path of the sandbox")
    parser.add_argument(
        "--allow-connect",
        action="append",
        metavar="ADDR[/BITS]:PORT[/udp][=ADDR:PORT]",
        default=[],
        help="let programs reach these addresses outside, or what is said after =; PORT may be *; may be given again",
    )
    parser.add_argument(
        "--tty",
        action=argparse.BooleanOptionalAction,
        help="give the program a terminal for those of its streams that are one; default: if input and output are one",
    )
    parser.add_argument("--timeout", type=_seconds, metavar="S", help="kill the program after S seconds")
    parser.add_argument(
        "--memory", type=_bytes, metavar="SIZE", default=1 << 30, help="memory of all its processes: 512M, 2G; default: 1G"
    )
    add_platform(parser)
    parser.add_argument("argv", metavar="PROGRAM ARGS", nargs=argparse.REMAINDER)
    return parser


def _seconds(text: str) -> float:
    value = float(text)
    if not 0 < value < float("inf"):
        raise argparse.ArgumentTypeError("must be more than 0 seconds")
    return value


def _bytes(text: str) -> int:
    """A number and K, M or G; MiB without one."""
    units = {"K": 10, "M": 20, "G": 30}
    unit = text[-1:].upper()
    value = int(text[:-1]) << units[unit] if unit in units else int(text) << 20
    if not _LEAST_BYTES <= value <= _MOST_BYTES:
        raise argparse.ArgumentTypeError("must be from 2M to 1024G")
    return value


if __name__ == "__main__":
    sys.exit(main())
