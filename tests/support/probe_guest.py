"""A program that opens a machine and runs the smallest guest: one system call. Exit status 0 when it arrived.

Its last line then is the name of the platform and what was found out about it.
"""

import asyncio

from pace import paced

from asynckvm.model.exits import Syscall
from asynckvm.platform import Access, Machine

CODE = bytes.fromhex("b827000000 0f05")  # mov $39, %eax; syscall
ADDRESS = 0x400000


async def main() -> None:
    async with Machine.open(vcpus=1, memory=64 << 20) as machine:
        space = machine.create_address_space()
        space.map(ADDRESS, 0x1000, Access.READ | Access.EXECUTE)
        space.write(ADDRESS, CODE, force=True)
        context = machine.create_context(space)
        context.registers = context.registers.replace(rip=ADDRESS)
        async with asyncio.timeout(paced(20)):
            exit_ = await context.switch()
        if not isinstance(exit_, Syscall) or exit_.number != 39:
            raise SystemExit(f"the guest's system call came back as {exit_}")
        print(machine.platform, machine.capabilities)


asyncio.run(main())
