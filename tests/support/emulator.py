"""What an emulated processor does otherwise than real ones, for the few tests that meet it.

`scripts/hwtest` names the emulator in ASYNCKVM_EMULATOR; "" is a real processor, or none that we know of.
"""

from __future__ import annotations

import os

EMULATOR = os.environ.get("ASYNCKVM_EMULATOR", "")

# QEMU's translator, up to 9.0 at least: IRETQ and LRETQ in ring 3 pop with the rights of ring 0, the error code of INT n without
# a gate for ring 3 counts gates of 16 bytes as two; WRMSR, WRFSBASE and WRGSBASE take non-canonical
# addresses.
POPS_AS_RING_0 = INT_COUNTS_TWICE = WRITES_ANY_LSTAR = TAKES_ANY_BASE = EMULATOR == "qemu"
