"""The walk through the host's files: what it reaches, what it refuses, and that it never leaves its root."""

import errno
import gc
import os
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from asynckvm.linux.errors import SyscallError
from asynckvm.linux.vfs import NODES_MAX, View


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    (tmp_path / "outside").write_text("outside")
    root = tmp_path / "root"
    (root / "dir/sub").mkdir(parents=True)
    (root / "file").write_text("content")
    (root / "dir/inner").write_text("inner")
    for name, target in {
        "link": "file", "absolute": "/dir/inner", "todir": "dir", "up": "../../../outside", "loop": "loop",
        "chain": "todir/sub/../inner", "dangling": "nowhere", "toproc": "/proc/self",
    }.items():  # fmt: skip
        (root / name).symlink_to(target)
    os.mkfifo(root / "fifo")
    return root


@pytest.fixture
def view(tree: Path) -> View:
    return View(os.fsencode(tree), b"/bin/program", lambda: os.open("/dev/null", os.O_RDONLY))


@pytest.fixture
def host() -> View:
    return View(b"/", b"/bin/program", lambda: os.open("/dev/null", os.O_RDONLY))


def read(view: View, path: bytes) -> bytes:
    fd = view.open(view.resolve(view.root, path), os.O_RDONLY)
    try:
        return os.read(fd, 100)
    finally:
        os.close(fd)


def failure(view: View, path: bytes, flags: int = os.O_RDONLY) -> int:
    with pytest.raises((SyscallError, OSError)) as caught:
        os.close(view.open(view.resolve(view.root, path), flags))
    return caught.value.number if isinstance(caught.value, SyscallError) else caught.value.errno or 0


@pytest.mark.parametrize(
    ("path", "content"),
    [
        (b"/file", b"content"), (b"file", b"content"), (b"//dir/./sub/../inner", b"inner"), (b"link", b"content"),
        (b"/absolute", b"inner"), (b"todir/inner", b"inner"), (b"chain", b"inner"), (b"/../../file", b"content"),
    ],
)  # fmt: skip
def test_what_a_path_reaches(view: View, path: bytes, content: bytes) -> None:
    assert read(view, path) == content


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        (b"", errno.ENOENT), (b"missing", errno.ENOENT), (b"file/", errno.ENOTDIR), (b"file/x", errno.ENOTDIR),
        (b"loop", errno.ELOOP), (b"dangling", errno.ENOENT), (b"up", errno.ENOENT), (b"/../outside", errno.ENOENT),
        (b"fifo", errno.EACCES), (b"x" * 300, errno.ENAMETOOLONG), (b"toproc/mem", errno.ENOENT),
    ],
)  # fmt: skip
def test_what_a_path_does_not_reach(view: View, path: bytes, expected: int) -> None:
    assert failure(view, path) == expected


@pytest.mark.parametrize("flags", [os.O_WRONLY, os.O_RDWR, os.O_RDONLY | os.O_TRUNC])
def test_nothing_can_be_written(view: View, flags: int) -> None:
    assert failure(view, b"file", flags) == errno.EROFS
    assert failure(view, b"dir", flags) == errno.EISDIR


def test_a_link_in_the_last_place_may_be_looked_at(view: View) -> None:
    node = view.resolve(view.root, b"todir", follow=False)
    assert node.is_link
    assert view.resolve(view.root, b"todir/", follow=False).is_directory
    assert view.read_link(view.root, b"todir") == b"dir"
    with pytest.raises(SyscallError, match="EINVAL"):
        view.read_link(view.root, b"file")
    with pytest.raises(SyscallError, match="ELOOP"):
        view.open(node, os.O_RDONLY)


def test_a_node_knows_its_path_and_its_parent(view: View) -> None:
    inner = view.resolve(view.root, b"todir/sub")
    assert inner.path == b"/dir/sub"
    assert view.resolve(inner, b"..").path == b"/dir"
    assert view.resolve(inner, b"../../../..").path == b"/"
    assert view.root.path == b"/"


def test_a_directory_that_is_moved_away_does_not_let_go_of_the_root(view: View, tree: Path) -> None:
    inner = view.resolve(view.root, b"dir/sub")
    (tree / "dir/sub").rename(tree.parent / "moved")
    with pytest.raises(FileNotFoundError):
        view.resolve(inner, b"../../outside")


@pytest.mark.parametrize(
    "path",
    [
        b"/proc/self/mem", b"/proc/self/fd/0", b"/proc/1/environ", b"/proc/kcore", b"/proc/sys/kernel/hostname",
        b"/proc/self/root/etc/passwd", b"/dev/fd/0", b"/dev/stdin", b"/proc/thread-self/maps", b"/proc",
    ],
)  # fmt: skip
def test_this_process_cannot_be_entered_through_proc(host: View, path: bytes) -> None:
    assert failure(host, path) == errno.EACCES


def test_what_proc_says_to_everybody_can_be_read(host: View) -> None:
    assert read(host, b"/proc/version").startswith(b"Linux")
    assert host.resolve(host.root, b"/proc").is_directory


def test_the_program_finds_itself(host: View) -> None:
    assert host.read_link(host.root, b"/proc/self/exe") == b"/bin/program"
    assert read(host, b"/proc/self/exe") == b""


@pytest.fixture
def listening(tmp_path: Path) -> Iterator[bytes]:
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(tmp_path / "socket"))
        yield os.fsencode(tmp_path / "socket")


def test_devices_and_sockets(host: View, listening: bytes) -> None:
    assert read(host, b"/dev/zero") == bytes(100)
    os.close(host.open(host.resolve(host.root, b"/dev/null"), os.O_WRONLY))
    assert failure(host, b"/dev/tty") in (errno.EACCES, errno.ENOENT)
    assert failure(host, b"/dev/kvm") in (errno.EACCES, errno.ENOENT)
    assert failure(host, listening) == errno.EACCES


def test_access(view: View, host: View) -> None:
    node = view.resolve(view.root, b"file")
    view.check_access(node, os.F_OK)
    view.check_access(node, os.R_OK)
    for mode, expected in ((os.W_OK, "EROFS"), (os.X_OK, "EACCES")):
        with pytest.raises(SyscallError, match=expected):
            view.check_access(node, mode)
    host.check_access(host.resolve(host.root, b"/dev/null"), os.W_OK)


def test_no_descriptor_is_left_behind(tree: Path) -> None:
    before = len(os.listdir("/proc/self/fd"))
    view = View(os.fsencode(tree), b"/bin/program", lambda: os.open("/dev/null", os.O_RDONLY))
    for path in (b"dir/sub", b"chain", b"loop", b"missing", b"up"):
        try:
            view.resolve(view.root, path)
        except (SyscallError, OSError):
            continue
    del view
    assert len(os.listdir("/proc/self/fd")) == before


def test_the_descriptors_of_a_view_are_bounded(view: View, tree: Path) -> None:
    """Each open directory keeps those above it open: of this process, which other guests need too."""
    deep = tree
    for _ in range(30):
        deep /= "d"
        deep.mkdir()
    gc.collect()  # what earlier tests left is not counted
    before = len(os.listdir("/proc/self/fd"))
    kept: list[object] = []
    with pytest.raises(SyscallError) as caught:
        kept.extend(view.resolve(view.root, b"/".join([b"d"] * 30)) for _ in range(NODES_MAX))
    assert caught.value.number == errno.EMFILE
    assert len(os.listdir("/proc/self/fd")) - before <= NODES_MAX
    kept.clear()
    del caught  # its traceback has the last of them
    assert read(view, b"file") == b"content"
    assert len(os.listdir("/proc/self/fd")) == before
