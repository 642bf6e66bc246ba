"""ioctl(2) of terminals: numbers, structures in guest memory, and what each asks of a `Terminal`. Source: ioctl_tty(2)."""

from __future__ import annotations

import errno
import os
import signal
from typing import TYPE_CHECKING, Final

from asynckvm.linux.errors import SyscallError
from asynckvm.linux.tty import termios as t
from asynckvm.linux.tty.termios import Termios, WindowSize

if TYPE_CHECKING:
    from collections.abc import Callable

    from asynckvm.linux.task import Task
    from asynckvm.linux.tty.terminal import Terminal

TCGETS, TCSETS, TCSETSW, TCSETSF = 0x5401, 0x5402, 0x5403, 0x5404
TCGETS2, TCSETS2, TCSETSW2, TCSETSF2 = 0x802C542A, 0x402C542B, 0x402C542C, 0x402C542D
TCSBRK, TCXONC, TCFLSH, TIOCEXCL, TIOCNXCL, TIOCSCTTY = 0x5409, 0x540A, 0x540B, 0x540C, 0x540D, 0x540E
TIOCGPGRP, TIOCSPGRP, TIOCOUTQ, TIOCSTI, TIOCGWINSZ, TIOCSWINSZ = 0x540F, 0x5410, 0x5411, 0x5412, 0x5413, 0x5414
FIONREAD, TIOCNOTTY, TIOCSETD, TIOCGETD, TCSBRKP, TIOCGSID = 0x541B, 0x5422, 0x5423, 0x5424, 0x5425, 0x5429
TIOCGPTN, TIOCSPTLCK, TIOCGDEV, TIOCSIG = 0x80045430, 0x40045431, 0x80045432, 0x40045436
TIOCGPTLCK, TIOCGEXCL, TIOCGPTPEER = 0x80045439, 0x80045440, 0x5441
TCGETA, TCSETA, TCSETAW, TCSETAF = 0x5405, 0x5406, 0x5407, 0x5408
_SETTING: Final = frozenset({TCSETS, TCSETSW, TCSETSF, TCSETS2, TCSETSW2, TCSETSF2, TCSETA, TCSETAW, TCSETAF})
_FLUSHING: Final = frozenset({TCSETSF, TCSETSF2, TCSETAF})
_TCIFLUSH, _TCOFLUSH, _TCIOFLUSH = 0, 1, 2
_TCOOFF, _TCOON, _TCIOFF, _TCION = 0, 1, 2, 3
_N_TTY: Final = 0
_KEYS: Final = frozenset({signal.SIGINT, signal.SIGQUIT, signal.SIGTSTP})


# Requests that only ask for a number; queues are seen from each side.
_ANSWERS: Final[dict[int, Callable[[Terminal], int]]] = {
    TIOCGETD: lambda terminal: _N_TTY,  # noqa: ARG005
    TIOCGEXCL: lambda terminal: int(terminal.exclusive),
    TIOCGDEV: lambda terminal: os.makedev(136, terminal.number),
}
_GETTING: Final[dict[int, Callable[[Terminal], bytes]]] = {
    TCGETS: lambda terminal: terminal.termios.pack(),
    TCGETS2: lambda terminal: terminal.termios.pack_2(),
    TCGETA: lambda terminal: terminal.termios.pack_old(),
    TIOCGWINSZ: lambda terminal: terminal.window.pack(),
}
_SLAVE_ANSWERS: Final[dict[int, Callable[[Terminal], int]]] = _ANSWERS | {
    FIONREAD: lambda terminal: terminal.discipline.available,
    TIOCOUTQ: lambda terminal: len(terminal.output),
}
_MASTER_ANSWERS: Final[dict[int, Callable[[Terminal], int]]] = _ANSWERS | {
    FIONREAD: lambda terminal: len(terminal.output),
    TIOCOUTQ: lambda terminal: terminal.discipline.available,
    TIOCGPTN: lambda terminal: terminal.number,
    TIOCGPTLCK: lambda terminal: int(terminal.locked),
}


def slave(task: Task, terminal: Terminal, request: int, argument: int) -> int:
    """A request on the side that programs use."""
    if request in _SLAVE_ANSWERS:
        _write_int(task, argument, _SLAVE_ANSWERS[request](terminal))
    elif request in (TIOCGPGRP, TIOCGSID):
        if not terminal.controls(task.process):
            raise SyscallError(errno.ENOTTY)
        _tell_owner(task, terminal, request, argument)
    elif request == TIOCSCTTY:
        terminal.become_controlling(task.process, steal=argument == 1 and task.process.credentials.is_root)
    elif request == TIOCNOTTY:
        terminal.give_up(task.process)
    elif request == TIOCSTI:
        _type(task, terminal, argument)
    else:
        _either(task, terminal, request, argument, background=True)
    return 0


def master(task: Task, terminal: Terminal, request: int, argument: int) -> int:
    """A request on the side that shows the terminal: settings are those of the slave, and nobody is in the background."""
    if request in _MASTER_ANSWERS:
        _write_int(task, argument, _MASTER_ANSWERS[request](terminal))
    elif request in (TIOCGPGRP, TIOCGSID):
        _tell_owner(task, terminal, request, argument)
    elif request == TIOCSPTLCK:
        terminal.locked = bool(_read_int(task, argument))
    elif request == TIOCSIG:
        if argument not in _KEYS:
            raise SyscallError(errno.EINVAL)
        terminal.signal_foreground(argument)
    else:
        _either(task, terminal, request, argument, background=False)
    return 0


def _tell_owner(task: Task, terminal: Terminal, request: int, argument: int) -> None:
    """tcgetpgrp(3), tcgetsid(3)."""
    if request == TIOCGPGRP:
        _write_int(task, argument, terminal.foreground.id if terminal.foreground is not None else 0)
    elif terminal.session is None:
        raise SyscallError(errno.ENOTTY)
    else:
        _write_int(task, argument, terminal.session.id)


def _either(task: Task, terminal: Terminal, request: int, argument: int, *, background: bool) -> None:
    """What is the same on both sides. Changes from the `background` stop the process."""
    if request in _GETTING:
        task.space.write(argument, _GETTING[request](terminal))
    elif request in _SETTING:
        _set_termios(task, terminal, request, argument, background=background)
    elif request == TIOCSWINSZ:
        terminal.set_window(WindowSize.unpack(task.space.read(argument, t.WINDOW_BYTES)))
    elif request == TIOCSPGRP:
        terminal.set_foreground(task, _read_int(task, argument))
    elif request in (TCSBRK, TCSBRKP, TCXONC, TCFLSH):
        if background:
            terminal.check_change(task)
        _control(terminal, request, argument, background=background)
    elif request in (TIOCEXCL, TIOCNXCL):
        terminal.exclusive = request == TIOCEXCL
    elif request != TIOCSETD:
        raise SyscallError(errno.ENOTTY)
    elif _read_int(task, argument) != _N_TTY:
        raise SyscallError(errno.EINVAL)


def _set_termios(task: Task, terminal: Terminal, request: int, argument: int, *, background: bool) -> None:
    """tcsetattr(3). What was written is shown already, so that there is nothing to wait for."""
    if request in (TCSETA, TCSETAW, TCSETAF):
        termios = terminal.termios.with_old(task.space.read(argument, t.BYTES_OLD))
    else:
        size = t.BYTES_2 if request in (TCSETS2, TCSETSW2, TCSETSF2) else t.BYTES
        termios = Termios.unpack(task.space.read(argument, size))
    if background:
        terminal.check_change(task)
    if request in _FLUSHING:
        terminal.flush(typed=True, shown=False)
    terminal.set_termios(termios)


def _control(terminal: Terminal, request: int, argument: int, *, background: bool) -> None:
    """tcflush(3) and tcflow(3); a break or a drain has nothing to do or to wait for."""
    if request == TCFLSH:
        if argument not in (_TCIFLUSH, _TCOFLUSH, _TCIOFLUSH):
            raise SyscallError(errno.EINVAL)
        # Input of the one side is output of the other.
        incoming, outgoing = argument != _TCOFLUSH, argument != _TCIFLUSH
        terminal.flush(typed=incoming if background else outgoing, shown=outgoing if background else incoming)
    elif request == TCXONC:
        if argument in (_TCOOFF, _TCOON):
            terminal.set_stopped(stopped=argument == _TCOOFF)
        elif argument not in (_TCIOFF, _TCION):
            raise SyscallError(errno.EINVAL)


def _type(task: Task, terminal: Terminal, argument: int) -> None:
    """TIOCSTI: as if the byte were typed. A way to make others run commands, so only for the privileged, as newer kernels do."""
    if not task.process.credentials.is_root:
        raise SyscallError(errno.EIO)
    terminal.receive(task.space.read(argument, 1))


def _read_int(task: Task, address: int) -> int:
    return int.from_bytes(task.space.read(address, 4), "little", signed=True)


def _write_int(task: Task, address: int, value: int) -> None:
    task.space.write(address, value.to_bytes(4, "little", signed=True))
