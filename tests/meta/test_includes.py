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
    "kvm": {"akvm", "host", "mm", "vcpu", "machine"},
    "ptrace": {"akvm", "host", "mm", "vcpu", "machine"},
    "machine": {"akvm", "host", "ring", "mm", "vcpu"},
}
# A mailbox links contexts through a field of theirs.
EXCEPTIONS = {("native/src/ring/mailbox.c", "vcpu/context.h")}
# Knows that KVM exists.
KVM_FOLDERS = {"kvm"}
# What may be called besides the core's own functions, because none of it asks the kernel for anything that can be refused.
# Everything else goes through the table in src/host, allocations included, so that tests can let it fail.
PURE = {
    "assert", "free", "getauxval", "memchr", "memcmp", "memcpy", "memmove", "memset", "offsetof", "qsort", "sigfillset",
    "pthread_cond_destroy", "pthread_cond_init", "pthread_cond_signal", "pthread_cond_timedwait",
    "pthread_condattr_destroy", "pthread_condattr_init", "pthread_condattr_setclock",
    "pthread_mutex_destroy", "pthread_mutex_init", "pthread_mutex_lock",
    "pthread_mutex_trylock", "pthread_mutex_unlock",
}  # fmt: skip
# Keywords and what the compiler itself provides.
LANGUAGE = re.compile(r"(?:if|for|while|switch|return|sizeof|defined|void|int|bool|_\w+|__\w+|atomic_\w+)$")
# Before (* stands what a function pointer returns.
CALL = re.compile(r"(?<![\w.>])([a-z_]\w*)\s*\((?!\*)")
# A function pointer among the parameters is called by the parameter's name.
POINTER = re.compile(r"\(\*(\w+)\)\s*\(")
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


def calls(text: str) -> set[str]:
    """Names of the functions that a C text calls, without what the language provides and function pointers of its own."""
    text = c_source.bare(text)
    return {name for name in CALL.findall(text) if not LANGUAGE.match(name)} - set(POINTER.findall(text))


def test_the_host_is_called_through_its_table() -> None:
    """So that tests can replace it. What is neither ours nor pure asks for a place in the table, or in PURE."""
    ours = {item.name for path in SOURCES for item in c_source.functions(tree.read(path))}
    found = {path: calls(tree.read(path)) - ours - PURE for path in SOURCES if folder(path) != "host"}
    assert {path: names for path, names in found.items() if names} == {}


def test_calls_are_found() -> None:
    text = "void f(int (*g)(int))\n{\n\t/* close(1); */\n\tif (g(2))\n\t\tclose(h->open(3));\n\tatomic_load(&x);\n}\n"
    assert calls(text) == {"f", "close"}


def test_public_headers_stand_alone() -> None:
    allowed = {"stdbool.h", "stddef.h", "stdint.h"}
    headers = tree.files("native/include/*.h")
    assert headers
    for path in headers:
        assert {name for name in INCLUDE.findall(tree.read(path)) if not name.startswith("akvm/")} <= allowed, path
