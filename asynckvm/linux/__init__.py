"""A Linux personality made of coroutines: unmodified x86-64 programs run, and these modules are their kernel.

The way of a program: `program` opens its file, `loader` maps it (`elf` and `script` check it, `stack` lays out its first
stack), `guest` makes a `process` around it, and `dispatch` drives its thread: `switch -> dispatch -> switch`. System calls are
the entries of one table, `syscalls.table`; what they work on keeps Linux's own nouns: `memory`, `files`, `streams`, `vfs`,
`signals`, `clock`, `identity`. How a program ended is a `status`, what is logged about it a `report`.

    async with Machine.open() as machine:
        with Program("/bin/busybox") as program:
            async with Guest(machine, program, ["busybox", "echo", "hello"]) as guest:
                status = await guest.run()
"""

from asynckvm.linux.elf import ElfError, ElfProblem
from asynckvm.linux.guest import Guest, Statistics
from asynckvm.linux.program import Program, find
from asynckvm.linux.stack import ArgumentsTooLongError
from asynckvm.linux.status import ExitStatus, signal_name
from asynckvm.linux.streams import Capture

__all__ = [
    "ArgumentsTooLongError",
    "Capture",
    "ElfError",
    "ElfProblem",
    "ExitStatus",
    "Guest",
    "Program",
    "Statistics",
    "find",
    "signal_name",
]
