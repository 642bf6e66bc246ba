"""Programs on a pseudo terminal which a program in the row makes: an interactive shell, the REPL, line discipline, sizes, job control."""

from __future__ import annotations

from programs.row import Normal, Row

# Types each line when the prompt, or what it waits for, was shown, and prints all that came, without the escapes of line editors.
_TYPIST = r"""
import os, pty, re, select, signal, sys, termios, struct, fcntl, time
def play(argv, script, rows=24, columns=80):
    pid, fd = pty.fork()
    if pid == 0:
        os.environ.update(PS1="$ ", TERM="dumb", PYTHON_BASIC_REPL="1")
        os.execvp(argv[0], argv)
    fcntl.ioctl(fd, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))
    seen = b""
    def until(text, seconds=15):
        nonlocal seen
        deadline = time.monotonic() + seconds
        start = 0
        while text not in seen:
            ready, _, _ = select.select([fd], [], [], max(0, deadline - time.monotonic()))
            if not ready:
                print("TIMED OUT for", text, "after", seen); os.kill(pid, 9); return False
            try: data = os.read(fd, 4096)
            except OSError: data = b""
            if not data: return False
            sys.stdout.buffer.write(data); seen += data
        seen = seen[seen.index(text) + len(text):]
        return True
    for wait, keys in script:
        if not until(wait): break
        if callable(keys): keys(pid, fd)
        else: os.write(fd, keys)
    until(b"no such text ever", 10)
    status = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    sys.stdout.flush()
    print("\nended", status)
"""
_ESCAPES = Normal(rb"\x1b\[[?0-9;]*[a-zA-Z]|\x07", b"", "line editors ask terminals in any order")
_JOBS = Normal(rb"(?m)(\[\d+\]) \d+", rb"\1 PID", "process numbers of jobs")
_ECHO = Normal(rb"\r", b"", "carriage returns come with the writes they came with")


def _row(name: str, call: str) -> Row:
    return Row(f"terminal-{name}", ("/usr/bin/python3", "-c", _TYPIST + call), normal=(_ESCAPES, _JOBS, _ECHO))


_BASH = 'play(["bash", "--norc", "--noediting", "-i"], '

# Keys are sent when the prompt is there, or what waits for them has said so: the echo then has one place.
ROWS: tuple[Row, ...] = (
    _row("dash", 'play(["dash", "-i"], [(b"$ ", b"echo hello; tty | cut -c 1-9; test -t 0; echo $?\\n"), (b"\\n0\\r\\n$ ", b"stty size\\n"), (b"$ ", b"exit 3\\n")])'),
    _row("bash", _BASH + '[(b"$ ", b"echo $-; echo $((6*7))\\n"), (b"42\\r\\n$ ", b"echo on; cat\\n"), (b"\\non\\r\\n", b"typed\\n"), (b"typed\\r\\ntyped\\r\\n", b"\\x04"), (b"$ ", b"exit 5\\n")])'),
    _row("bash-readline", 'play(["bash", "--norc", "-i"], [(b"$ ", b"echo abd\\x7fc\\n"), (b"\\nabc\\r\\n", b""), (b"$ ", b"ech\\t tab\\n"), (b"tab\\r\\n", b""), (b"$ ", b"exit\\n")])'),
    _row("interrupt", _BASH + '[(b"$ ", b"echo st\'\'art; sleep 30; echo no\\n"), (b"start\\r\\n", lambda pid, fd: (time.sleep(0.5), os.write(fd, b"\\x03"))), (b"$ ", b"echo $?\\n"), (b"130\\r\\n$ ", b"exit\\n")])'),
    _row("suspend", _BASH + '[(b"$ ", b"echo st\'\'art; sleep 30\\n"), (b"start\\r\\n", lambda pid, fd: (time.sleep(0.5), os.write(fd, b"\\x1a"))), (b"Stopped", b""), (b"$ ", b"jobs\\n"), (b"Stopped", b""), (b"$ ", b"bg\\n"), (b"$ ", b"jobs\\n"), (b"Running", b""), (b"$ ", b"kill %1; wait %1; echo $?\\n"), (b"143\\r\\n", b""), (b"$ ", b"exit\\n")])'),
    _row("foreground", _BASH + '[(b"$ ", b"cat\\n"), (b"cat\\r\\n", lambda pid, fd: (time.sleep(0.5), os.write(fd, b"\\x1a"))), (b"Stopped", b""), (b"$ ", b"fg\\n"), (b"fg\\r\\ncat\\r\\n", b"line\\n"), (b"line\\r\\nline\\r\\n", b"\\x04"), (b"$ ", b"echo $?; exit\\n")])'),
    _row("background-read", _BASH + '[(b"$ ", b"cat & sleep 0.5; jobs\\n"), (b"Stopped", b""), (b"$ ", b"kill -9 %1; sleep 0.2; echo do\'\'ne\\n"), (b"done\\r\\n", b""), (b"$ ", b"exit\\n")])'),
    _row("quit", 'play(["sh", "-c", "trap \'echo quit\' QUIT; echo re\'\'ady; sleep 30; echo after $?"], [(b"ready\\r\\n", lambda pid, fd: (time.sleep(0.5), os.write(fd, b"\\x1c")))])'),
    _row("raw", 'play(["python3", "-c", "import sys, tty, termios, os; old = termios.tcgetattr(0); tty.setraw(0); os.write(1, b\'raw\'); d = os.read(0, 1); d += os.read(0, 1); termios.tcsetattr(0, termios.TCSADRAIN, old); print(repr(d), old[3] & termios.ICANON != 0)"], [(b"raw", b"\\x03"), (b"", b"\\r")])'),
    _row("canonical", 'play(["sh", "-c", "echo re\'\'ady; read a; echo \\"<$a>\\"; cat"], [(b"ready\\r\\n", b"wrog\\x7fng\\x15right word\\x17line\\n"), (b">\\r\\n", b"ab\\x16\\x04c\\n"), (b"c\\r\\nab\\x04c\\r\\n", b"partial\\x04\\x04")])'),
    _row("no-echo", 'play(["sh", "-c", "stty -echo; echo re\'\'ady; read p; stty echo; echo; echo \\"got $p\\"; stty -a | grep -o \'speed [0-9]* baud\'; stty sane; stty -g | tr -d 0-9a-f | wc -c"], [(b"ready\\r\\n", b"secret\\n")])'),
    _row("size", 'play(["bash", "-c", "stty size; trap \'stty size; exit 0\' WINCH; echo re\'\'ady; while :; do sleep 0.1; done"], [(b"ready\\r\\n", lambda pid, fd: fcntl.ioctl(fd, termios.TIOCSWINSZ, struct.pack("HHHH", 50, 132, 0, 0)))], 30, 100)'),
    _row("repl", 'play(["python3", "-q"], [(b">>> ", b"6 * 7\\n"), (b"42\\r\\n", b""), (b">>> ", b"def f(x):\\n"), (b"... ", b"  return x + 1\\n"), (b"... ", b"\\n"), (b">>> ", b"f(1)\\n"), (b"2\\r\\n", b""), (b">>> ", b"1 / 0\\n"), (b"ZeroDivisionError", b""), (b">>> ", b"import sys; sys.stdin.isatty()\\n"), (b"True", b""), (b">>> ", b"\\x04")])'),
    _row("repl-interrupt", 'play(["python3", "-q"], [(b">>> ", b"import time; print(\'st\' + \'art\'); time.sleep(30)\\n"), (b"start\\r\\n", lambda pid, fd: (time.sleep(0.5), os.write(fd, b"\\x03"))), (b"KeyboardInterrupt", b""), (b">>> ", b"exit(4)\\n")])'),
    _row("hangup", 'import signal\npid, fd = pty.fork()\nif pid == 0:\n    os.write(1, b"up"); time.sleep(20); os._exit(0)\nprint(os.read(fd, 10)); os.close(fd); print(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))'),
    Row("terminal-script", "script -qec 'tty -s && echo terminal; stty -a | grep -c isig; exit 6' /dev/null </dev/null; echo $?", normal=(_ECHO,), needs=("script",)),
    Row("terminal-none", "tty; stty size; echo $?; [ -t 0 ]; echo $?; ps -o tty= -p $$ | wc -l", needs=("ps",)),
)  # fmt: skip
