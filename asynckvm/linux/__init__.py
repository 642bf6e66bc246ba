"""A Linux personality made of coroutines: unmodified x86-64 programs run, and these modules are their kernel.

`kernel` is what the processes of one sandbox share, `process` a thread group, `task` a thread; `dispatch` drives one:
`switch -> dispatch -> switch`. System calls are the entries of one table, `syscalls.table`; what they work on keeps Linux's own
nouns. Lives: `start`, `clone`, `execve` (with `loader`, `elf`, `script`, `stack`), `ending`, `children`. Memory: `memory`,
`placement`, `shared_memory`, `futex`. Files: `vfs` and `files`, and `direct_reads` for what vCPUs read by themselves. Messages:
`signals`, `timers`, `sockets`, `ipc`. Terminals: `tty`. Who may what: `credentials`, `tracing`; and how much: `limits`, `quota`.
Waiting: `wait`. How a program ended is a `status`, what is logged about it a `report`.
"""

from asynckvm.linux.elf import ElfError, ElfProblem
from asynckvm.linux.stack import ArgumentsTooLongError
from asynckvm.linux.status import Cause, ExitStatus, signal_name

__all__ = ["ArgumentsTooLongError", "Cause", "ElfError", "ElfProblem", "ExitStatus", "signal_name"]
