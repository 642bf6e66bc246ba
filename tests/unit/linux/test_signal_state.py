"""Signal state: what is pending, blocked, ignored, and in which order it is acted on."""

import signal

import pytest

from asynckvm.linux.errors import SyscallError
from asynckvm.linux.signals.state import SIG_BLOCK, SIG_IGN, SIG_SETMASK, SIG_UNBLOCK, Action, AlternateStack, Signals
from asynckvm.linux.status import ExitStatus, signal_name


def bit(number: int) -> int:
    return 1 << (number - 1)


def test_a_signal_is_taken_once() -> None:
    signals = Signals()
    signals.send(signal.SIGTERM)
    signals.send(signal.SIGTERM)
    assert signals.take() == signal.SIGTERM
    assert signals.take() == 0


def test_kill_comes_first_then_the_lowest() -> None:
    signals = Signals()
    for number in (signal.SIGTERM, signal.SIGHUP, signal.SIGKILL):
        signals.send(number)
    assert [signals.take() for _ in range(3)] == [signal.SIGKILL, signal.SIGHUP, signal.SIGTERM]


def test_ignored_signals_are_forgotten() -> None:
    signals = Signals()
    signals.send(signal.SIGCHLD)
    signals.set_action(signal.SIGUSR1, Action(SIG_IGN))
    signals.send(signal.SIGUSR1)
    assert signals.pending == 0


def test_blocked_signals_wait() -> None:
    signals = Signals()
    signals.change_mask(SIG_BLOCK, bit(signal.SIGUSR1) | bit(signal.SIGKILL))
    assert signals.blocked == bit(signal.SIGUSR1)
    signals.send(signal.SIGUSR1)
    assert signals.take() == 0
    signals.change_mask(SIG_UNBLOCK, bit(signal.SIGUSR1))
    assert signals.take() == signal.SIGUSR1
    signals.change_mask(SIG_SETMASK, bit(40))
    assert signals.blocked == bit(40)
    with pytest.raises(SyscallError, match="EINVAL"):
        signals.change_mask(3, 0)


def test_ignoring_discards_what_is_pending() -> None:
    signals = Signals()
    signals.change_mask(SIG_BLOCK, bit(signal.SIGUSR1))
    signals.send(signal.SIGUSR1)
    signals.set_action(signal.SIGUSR1, Action(SIG_IGN))
    assert signals.pending == 0


@pytest.mark.parametrize("number", [0, 65, -1, signal.SIGKILL, signal.SIGSTOP])
def test_actions_that_cannot_be_set(number: int) -> None:
    with pytest.raises(SyscallError, match="EINVAL"):
        Signals().set_action(number, Action(SIG_IGN))


def test_the_alternate_stack() -> None:
    signals = Signals()
    stack = AlternateStack(0x1000, 0, 8192)
    signals.set_alternate_stack(stack)
    assert signals.alternate_stack == stack
    with pytest.raises(SyscallError, match="ENOMEM"):
        signals.set_alternate_stack(AlternateStack(0x1000, 0, 100))
    with pytest.raises(SyscallError, match="EINVAL"):
        signals.set_alternate_stack(AlternateStack(0x1000, 4, 8192))
    signals.set_alternate_stack(AlternateStack(0, 2, 0))
    assert signals.alternate_stack == AlternateStack()


def test_how_a_status_is_shown() -> None:
    exited, killed = ExitStatus(code=3), ExitStatus(signal=11)
    assert (exited.shell_status, exited.returncode, str(exited)) == (3, 3, "exited with 3")
    assert (killed.shell_status, killed.returncode, str(killed)) == (139, -11, "killed by SIGSEGV")
    assert signal_name(40) == "SIG40"
