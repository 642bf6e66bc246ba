"""What the host refuses comes out typed: the operation's name, the errno and, where something usually helps, a hint."""

from __future__ import annotations

import errno
from typing import TYPE_CHECKING

import pytest

from asynckvm.errors import CapabilityError, HostError, OutOfMemoryError, SlotsExhaustedError
from asynckvm.platform import Access, Machine

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from unit.platform.fake_core import FakeCore

# What the core answers, and what the caller is to see: its class and a word of its hint.
REFUSALS = [
    (errno.ENOMEM, OutOfMemoryError, "memory"),
    (errno.ENOSPC, SlotsExhaustedError, "files"),
    (errno.ENOTSUP, CapabilityError, "doctor"),
    (errno.EIO, HostError, ""),
    (errno.EMFILE, HostError, ""),
    (errno.EFAULT, HostError, ""),
]
CALLS: dict[str, Callable[[Machine, Path], object]] = {
    "akvm_space_create": lambda machine, _: machine.create_address_space(),
    "akvm_space_fork": lambda machine, _: machine.create_address_space().fork(),
    "akvm_space_map": lambda machine, _: machine.create_address_space().map(0x10000, 0x1000, Access.READ),
    "akvm_context_create": lambda machine, _: machine.create_context(machine.create_address_space()),
    "akvm_file_open": lambda machine, path: machine.open_file(path),
}


@pytest.mark.parametrize("call", CALLS)
@pytest.mark.parametrize(("code", "kind", "hint"), REFUSALS)
@pytest.mark.filterwarnings("ignore::ResourceWarning")  # spaces dropped by the calls that fail on them
async def test_refused_calls(core: FakeCore, tmp_path: Path, call: str, code: int, kind: type[HostError], hint: str) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"x")
    async with Machine.open(memory=2 << 20, binding=core.binding()) as machine:
        setattr(core, call, lambda *_: -code)
        with pytest.raises(kind) as caught:
            CALLS[call](machine, path)
        delattr(core, call)
        CALLS[call](machine, path)  # the machine is none the worse for it
    error = caught.value
    assert type(error) is kind
    assert (error.operation, error.errno) == ("fake operation", code)
    assert hint in error.hint
    assert bool(error.hint) == bool(hint)


@pytest.mark.parametrize("operation", ["KVM_SET_USER_MEMORY_REGION", "start vCPU thread", "kick vCPU", "mmap file"])
@pytest.mark.parametrize("code", [errno.EAGAIN, errno.EINVAL, errno.EBUSY])
async def test_what_the_host_will_not_do_is_no_mistake_of_the_caller_s(core: FakeCore, operation: str, code: int) -> None:
    """The same errnos from the core's own checks are."""
    name = core.ffi.new("char[]", operation.encode())
    async with Machine.open(memory=2 << 20, binding=core.binding()) as machine:
        core.akvm_last_error = lambda: name  # type: ignore[method-assign]
        core.akvm_space_create = lambda *_: -code  # type: ignore[method-assign]
        with pytest.raises(HostError) as caught:
            machine.create_address_space()
    assert (caught.value.operation, caught.value.errno) == (operation, code)
