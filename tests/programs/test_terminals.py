"""`asynckvm run` on a terminal: the program has one of its own, and the user's is as it was afterwards, whatever happens."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeAlias

import pytest

from support.typist import SECONDS, Typist

Build: TypeAlias = Callable[..., Path]
RUN = (sys.executable, "-m", "asynckvm", "run", "--cwd", "/tmp")


def bash(*options: str, **streams: Any) -> Typist:
    argv = [*RUN, *options, "--env", "PS1=ready> ", "--env", "TERM=dumb", "--", "bash", "--norc", "--noprofile", "-i"]
    return Typist(argv, **streams)


def test_job_control() -> None:
    with bash() as user:
        user.until(b"ready> ")
        user.type(b"echo begun; cat\r")
        user.until(rb"^begun\r\n")
        user.type(b"one\r")
        user.until(rb"^one\r\none\r\n")
        user.type(b"\x1a")
        user.until(rb"^\^Z\r\n\[1\]\+  Stopped +cat\r\nready> ")
        user.type(b"sleep 100 &\r")
        user.until(rb"ready> ")
        user.type(b"jobs\r")
        user.until(rb"^\[1\]\+  Stopped +cat\r\n\[2\]-  Running +sleep 100 &\r\nready> ")
        user.type(b"bg\r")  # it reads: in the background that is not for it
        # Told before this prompt if it has happened by then, else before the next one.
        if b"Stopped" not in user.until(rb"^\[1\]\+ cat &\r\n(.*\r\n)*ready> ").group():
            user.type(b"\r")
            user.until(rb"^\[1\]\+  Stopped +cat\r\n(\r\n)?ready> ")
        user.type(b"fg\r")
        user.until(rb"^cat\r\n")
        user.type(b"two\r")
        user.until(rb"^two\r\ntwo\r\n")
        user.type(b"\x03")
        user.until(rb"^\^C\r\nready> ")
        user.type(b"echo was $?; kill %2; wait; exit 7\r")
        user.until(rb"^was 130\r\n")
        assert user.is_raw
        assert user.wait() == 7
        assert user.is_as_before


def test_a_pipeline_and_a_line_that_is_edited() -> None:
    with bash() as user:
        user.until(b"ready> ")
        user.type(b"yes | head -n 3000 | wc -lX\x7f\r")
        user.until(rb"^3000\r\nready> ")
        user.type(b"sh -c 'echo begun; cat'\r")
        user.until(rb"^begun\r\n")
        user.type(b"line\r")
        user.until(rb"^line\r\nline\r\n")
        user.type(b"\x04")
        user.until(rb"ready> ")
        user.type(b"\x04")
        assert user.wait() == 0


def test_the_python_interpreter() -> None:
    with Typist([*RUN, "--env", "TERM=dumb", "--", "python3", "-q"]) as user:
        user.until(b">>> ")
        user.type(b"6 * 7\r")
        user.until(rb"\r\n42\r\n>>> ")
        user.type(b"import time; print('begun'); time.sleep(100)\r")
        user.until(rb"^begun\r\n")
        user.type(b"\x03")
        user.until(rb"KeyboardInterrupt\r\n>>> ")
        user.type(b"import os; os.get_terminal_size()\r")
        user.until(rb"columns=100, lines=30\)\r\n>>> ")
        user.type(b"\x04")
        assert user.wait() == 0
        assert user.is_as_before


def test_its_size_follows_the_user_s() -> None:
    with bash() as user:
        user.until(b"ready> ")
        user.type(b"stty size\r")
        user.until(rb"\r\n30 100\r\n")
        user.type(b"trap 'stty size' WINCH; echo set\r")
        user.until(rb"\r\nset\r\n.*ready> ")
        user.resize(24, 81)
        user.type(b"\r")
        user.until(rb"24 81\r\n")
        user.type(b"exit\r")
        assert user.wait() == 0


def test_its_modes_begin_as_the_user_s() -> None:
    with Typist([*RUN, "--", "sh", "-c", "stty -a; stty -echo -icanon; stty -g; tty; exec stty sane"]) as user:
        user.until(rb"speed 38400 baud; rows 30; columns 100; line = 0;\r\nintr = \^C; quit = \^\\; erase = \^\?;")
        user.until(rb" icanon .* echo ")
        user.until(rb"/dev/pts/0\r\n")
        assert user.wait() == 0
        assert user.is_as_before


def test_everything_is_shown_before_the_end() -> None:
    with Typist([*RUN, "--", "sh", "-c", "seq 1 40000"]) as user:
        assert user.wait() == 0
        assert user.shown.endswith(b"\r\n39999\r\n40000\r\n")
        assert len(user.shown) == sum(len(str(number)) + 2 for number in range(1, 40001))


def test_it_is_restored_after_a_crash(build: Build) -> None:
    program = build("deaths")
    with Typist([*RUN[:4], "--", str(program), "null"]) as user:
        assert user.wait() == 128 + signal.SIGSEGV
        assert user.is_as_before
        assert b"alive until null\r\n" in user.shown
        assert user.shown.endswith(b"\r\n"), "the message about it"


def test_what_is_said_about_it_has_its_line_ends() -> None:
    with Typist([sys.executable, "-m", "asynckvm", "trace", "--", "sh", "-c", "echo shown"]) as user:
        assert user.wait() == 0
        assert user.is_as_before
        assert b"\r\nshown\r\n" in b"\r\n" + user.shown
        assert user.shown.count(b"\r\n") == user.shown.count(b"\n") > 10


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP, signal.SIGINT, signal.SIGQUIT], ids=lambda number: number.name)
def test_it_is_restored_after_a_signal_to_the_command(number: signal.Signals) -> None:
    with Typist([*RUN, "--", "sh", "-c", "stty raw -echo; echo ready; sleep 100"]) as user:
        user.until(rb"ready")
        assert user.is_raw
        user.signal(number)
        assert user.wait() == 128 + number
        assert user.is_as_before


def test_it_is_restored_while_the_command_is_stopped() -> None:
    with bash() as user:
        user.until(b"ready> ")
        user.signal(signal.SIGTSTP)
        _, status = os.waitpid(user.process.pid, os.WUNTRACED)
        assert os.WIFSTOPPED(status)
        assert user.is_as_before
        user.resize(50, 51)
        user.signal(signal.SIGCONT)
        user.type(b"stty size\r")
        user.until(rb"\r\n50 51\r\n")
        assert user.is_raw
        user.type(b"exit 3\r")
        assert user.wait() == 3


def test_a_terminal_that_goes_away_ends_the_program() -> None:
    """As a shell at home when the connection breaks."""
    argv = [*RUN, "--", "sh", "-c", "trap '' HUP; echo ready; cat"]
    with Typist(argv) as user:
        user.until(b"ready")
        os.close(user.master)
        user.master = os.open(os.devnull, os.O_RDWR)
        assert user.process.wait(SECONDS) in (128 + signal.SIGHUP, 0)


def test_pipes_stay_pipes(tmp_path: Path) -> None:
    """Somebody else in the pipeline may want the terminal: it is not touched."""
    look = "for n in 0 1 2; do if [ -t $n ]; then printf t; else printf p; fi; done; echo"
    with Typist([*RUN, "--", "sh", "-c", look], stdin=subprocess.DEVNULL) as user:
        user.until(rb"p.t\r\n|p..\r\n")
        assert user.wait() == 0
        assert user.is_as_before
    with (tmp_path / "errors").open("wb") as errors, Typist([*RUN, "--", "sh", "-c", look], stderr=errors) as user:
        user.until(rb"ttp\r\n")
        assert user.wait() == 0
    with Typist([*RUN, "--tty", "--", "sh", "-c", look + "; head -n 1 < /dev/tty"], stdin=subprocess.DEVNULL) as user:
        user.until(rb"ptt\r\n")
        user.type(b"typed\r")
        user.until(rb"typed\r\ntyped\r\n")
        assert user.wait() == 0
        assert user.is_as_before
    with Typist([*RUN, "--no-tty", "--", "sh", "-c", "tty < /dev/tty"]) as user:
        user.until(rb"/dev/tty")
        assert user.wait() != 0


def test_in_the_background_the_terminal_is_left_alone() -> None:
    shell = f"{' '.join(RUN)} -- sh -c 'test -t 0; echo ended' & wait"
    with Typist(["bash", "-c", f"set -m; {shell}"]) as user:
        user.until(rb"ended\r\n")
        assert user.wait() == 0
        assert user.is_as_before


def test_streams_flow_while_the_program_runs() -> None:
    argv = [*RUN, "--", "cat"]
    with subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, bufsize=0) as running:
        assert running.stdin is not None
        assert running.stdout is not None
        for number in range(3):
            running.stdin.write(b"line %d\n" % number)
            assert running.stdout.readline() == b"line %d\n" % number
        running.stdin.close()
        assert running.wait(SECONDS) == 0


def test_without_a_terminal_there_is_none_to_give() -> None:
    done = subprocess.run([*RUN, "--tty", "--", "true"], capture_output=True, stdin=subprocess.DEVNULL, start_new_session=True)
    assert done.returncode == 2
    assert b"no terminal" in done.stderr
