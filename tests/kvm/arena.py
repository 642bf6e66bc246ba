"""An attacker and a witness that take turns on one vCPU: what every test of hostile code is made of."""

from __future__ import annotations

import asyncio
import re
from typing import TYPE_CHECKING

import pytest
from kvm.guestcode import CODE, EXECUTE, READ, Guest, Witness, create_space

from asynckvm.errors import GuestError, InternalError
from asynckvm.platform import Access, Fault, Interrupted, InterruptReason, Restore
from support import tree
from support.pace import paced

if TYPE_CHECKING:
    from asynckvm.platform import Exit, Machine

# What a program can be sent for what it executes; SIGKILL would be the machine's own business.
SIGNALS = {4, 5, 7, 8, 11}
# An attacker that may loop for ever is bounced after SHORT; anything else comes back by itself long before LONG.
SHORT, LONG = max(0.05, paced(0.015)), paced(15.0)


def layout(name: str) -> int:
    """A constant of the guest's kernel half, from the header that C and assembly share."""
    text = (tree.ROOT / "native/include/akvm/layout.h").read_text(encoding="utf-8")
    found = re.search(rf"^#define {name}\s+(0x[0-9a-f]+)", text, re.MULTILINE)
    assert found, name
    return int(found[1], 16)


KERNEL_BASE = layout("AKVM_KERNEL_BASE")
TEXT, TEXT_BYTES = KERNEL_BASE + layout("AKVM_TEXT_OFFSET"), layout("AKVM_TEXT_BYTES")
SYSCALL_ENTRY = TEXT + layout("AKVM_STUB_SYSCALL")
VCPU_AREA, VCPU_BYTES = KERNEL_BASE + layout("AKVM_VCPU_OFFSET"), layout("AKVM_VCPU_BYTES")
TABLES_WINDOW = layout("AKVM_TABLES_WINDOW")

NOT_CANONICAL = [0x800000000000, 0xFFFF7FFFFFFFFFFF, 1 << 63, 0x0123456789ABCDEF]


class Arena:
    """One vCPU, an attacker and a witness. `patience`: seconds until an attack is bounced."""

    def __init__(
        self, machine: Machine, restore: Restore = Restore.AUTO, access: Access = READ | EXECUTE, patience: float = LONG
    ) -> None:
        self.attacker = Guest(machine, space=create_space(machine, code_access=access), restore=restore)
        self.witness = Witness(machine)
        self.machine = machine
        self.patience = patience

    async def prepare(self) -> Arena:
        await self.witness.prepare()
        return self

    async def attack(self, code: str | bytes | None = None, rip: int = CODE, **registers: int) -> Exit:
        """One run of the attacker from a clean start, bounced when it does not end by itself; then the witness."""
        if code is not None:
            self.attacker.load(code)
        self.attacker.go(rip, **registers)
        return await self.go_on()

    async def go_on(self) -> Exit:
        """The attacker's next exit from where it is; then the witness."""
        bounced = []

        def bounce() -> None:
            bounced.append(True)
            self.attacker.context.interrupt()

        timer = asyncio.get_running_loop().call_later(self.patience, bounce)
        try:
            exit_ = await self.attacker.run(2 * LONG)
        except (GuestError, InternalError) as error:
            await self.witness.check()
            pytest.fail(f"ring 3 raised what it cannot raise: {error}")
        finally:
            timer.cancel()
        if isinstance(exit_, Fault):
            assert exit_.signal in SIGNALS, exit_
        elif isinstance(exit_, Interrupted):
            assert exit_.reason is InterruptReason.BOUNCED
        if bounced and not isinstance(exit_, Interrupted):
            # It came back by itself at the last moment: the bounce is still due.
            assert await self.attacker.run() == Interrupted(InterruptReason.BOUNCED)
        await self.witness.check()
        return exit_
