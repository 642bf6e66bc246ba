"""/proc, /dev, locks, watches and moved bytes as ordinary programs use them."""

from __future__ import annotations

import pytest

from asynckvm import Sandbox


async def output(script: str) -> list[str]:
    """Lines that a shell script prints."""
    async with Sandbox() as sandbox:
        result = await sandbox.run(["bash", "-c", script], timeout=40)
    assert result.stderr == b""
    assert result.stdout is not None
    return result.stdout.decode().splitlines()


async def test_a_shell_looks_at_itself() -> None:
    script = """
    echo $$; cut -d" " -f1,2,3 /proc/self/stat; tr "\\0" " " < /proc/$$/cmdline | head -c 7; echo; cat /proc/$$/comm
    readlink /proc/$$/exe /proc/$$/cwd; grep -c "\\[heap\\]" /proc/self/maps; ls /proc | grep -cx $$
    /proc/self/exe -c "echo again"
    """
    pid, stat, command, name, exe, cwd, heap, listed, again = await output(script)
    assert stat.split()[1:] == ["(cut)", "R"]
    assert (command, name, exe, cwd, heap, listed, again) == ("bash -c", "bash", "/usr/bin/bash", "/work", "1", "1", "again")
    assert int(pid) > 1


async def test_descriptors_by_name() -> None:
    script = """
    echo out > /dev/stdout; echo piped | cat /dev/stdin; cat <(echo one) <(echo two)
    echo kept > file; exec 5< file; rm file; cat /dev/fd/5; readlink /proc/self/fd/5; [ -w /dev/null ] && echo writable
    """
    assert await output(script) == ["out", "piped", "one", "two", "kept", "/work/file (deleted)", "writable"]


async def test_devices() -> None:
    script = """
    head -c 100000 /dev/zero | tr "\\0" a | wc -c; head -c 16 /dev/urandom | wc -c
    echo x 2>&- > /dev/full || echo full; cat /dev/null; echo gone > /dev/null
    script -qc tty /dev/null | tr -d "\\r"
    """
    assert await output(script) == ["100000", "16", "full", "/dev/pts/0"]


async def test_locks_and_watches() -> None:
    script = """
    flock -n lock sh -c "flock -n lock echo wrong || echo held"; flock -n lock echo free
    touch log; tail -n +1 -f log > seen & follower=$!
    echo first >> log; echo second >> log
    until [ "$(wc -l < seen)" = 2 ]; do sleep 0.05; done
    kill $follower; cat seen
    """
    assert await output(script) == ["held", "free", "first", "second"]


@pytest.mark.timeout(90)
async def test_bytes_that_never_pass_the_program() -> None:
    program = """
import fcntl, mmap, os
source = open("/tmp/source", "wb+"); source.write(bytes(range(256)) * 1000); source.flush()
target = open("/tmp/target", "wb+")
assert os.copy_file_range(source.fileno(), target.fileno(), 1000, 0) == 1000
assert os.sendfile(target.fileno(), source.fileno(), 1000, 255000) == 255000
target.seek(0); source.seek(0); assert target.read() == source.read()
reading, writing = os.pipe()
assert os.splice(source.fileno(), writing, 300, offset_src=10) == 300
assert os.read(reading, 1000) == (bytes(range(256)) * 2)[10:310]
fcntl.lockf(source, fcntl.LOCK_EX)
shared = mmap.mmap(os.open("/dev/zero", os.O_RDWR), 4096)
if os.fork() == 0:
    try:
        fcntl.lockf(source, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        shared[0] = 1
    os._exit(0)
os.wait()
print(shared[0])
"""
    assert await output(f"python3 - <<'EOF'\n{program}\nEOF") == ["1"]
