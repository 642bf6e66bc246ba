"""The layering of the C core: what may include what, and who may call the host kernel.

import-linter holds the same rule for the Python side.
"""

import re

from support import c_source, tree

INCLUDE = re.compile(r'^\s*#\s*include\s*[<"]([^>"]+)[>"]', re.MULTILINE)
# Folder of native/src -> folders whose headers it may include besides its own. A vCPU and its machine know each other.
MAY_INCLUDE = {
    "host": {"akvm"},
    "ring": {"akvm", "host"},
    "mm": {"akvm", "host"},
    "vcpu": {"akvm", "host", "ring", "mm", "machine"},
    "machine": {"akvm", "host", "ring", "mm", "vcpu"},
}
# A mailbox links contexts through a field of theirs.
EXCEPTIONS = {("native/src/ring/mailbox.c", "vcpu/context.h")}
# Knows that KVM exists.
KVM_FOLDERS = {"vcpu", "machine"}
# Calls that only the table in src/host may make.
HOST_CALLS = re.compile(
    r"(?<![\w.>])(?:open|openat|close|ioctl|mmap|munmap|madvise|eventfd|write|read|pthread_create|tgkill)\s*\("
)
SOURCES = tree.files("native/src/*.c", "native/src/*.h")


def folder(path: str) -> str:
    return path.split("/")[2]


def offences(path: str) -> list[str]:
    """What a file includes and should not."""
    own = folder(path)
    if own not in MAY_INCLUDE:
        return [f"{path}: give the folder {own} its place in MAY_INCLUDE"]
    found = []
    for name in INCLUDE.findall(tree.read(path)):
        target = name.split("/")[0]
        upwards = target in MAY_INCLUDE and target != own and target not in MAY_INCLUDE[own]
        kvm = name in ("linux/kvm.h", "asm/kvm.h") and own not in KVM_FOLDERS
        if name == "Python.h" or kvm or (upwards and (path, name) not in EXCEPTIONS):
            found.append(f"{path} includes {name}")
    return found


def test_includes_point_down() -> None:
    assert [offence for path in SOURCES for offence in offences(path)] == []


def test_the_host_is_called_through_its_table() -> None:
    """So that tests can replace it."""
    found = [
        f"{path}:{number} {line.strip()}"
        for path in SOURCES
        if folder(path) != "host"
        for number, line in enumerate(c_source.bare(tree.read(path)).splitlines(), 1)
        if HOST_CALLS.search(line)
    ]
    assert found == []


def test_public_headers_stand_alone() -> None:
    allowed = {"stdbool.h", "stddef.h", "stdint.h"}
    headers = tree.files("native/include/*.h")
    assert headers
    for path in headers:
        assert {name for name in INCLUDE.findall(tree.read(path)) if not name.startswith("akvm/")} <= allowed, path
