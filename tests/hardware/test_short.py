"""The platform's core on a KVM that is like hardware's, in emulation: scripts/hwtest --short as one test among the others.

So a run of everything has one summary, and the emulator, which keeps one processor busy for minutes, does so beside other tests.
"""

from __future__ import annotations

import faulthandler
import os

import pytest

from support import native
from support.tree import ROOT

SECONDS = 1200


@pytest.mark.timeout(SECONDS + 60)
@pytest.mark.skipif(os.environ.get("ASYNCKVM_HARDWARE") != "1", reason="minutes of emulation; ASYNCKVM_HARDWARE=1 runs it")
def test_the_core_on_hardware_like_kvm() -> None:
    faulthandler.cancel_dump_traceback_later()  # it takes longer than that allows, and has bounds of its own
    done = native.run(native.Command((str(ROOT / "scripts/hwtest"), "--short"), str(ROOT), os.environ, seconds=SECONDS))
    print(done.stdout.decode(errors="replace"), done.stderr.decode(errors="replace"), sep="\n")
    assert done.status == "exit 0", done.status
