"""How slow this machine is: every bound of a test is a number of seconds on an ordinary machine, times PACE.

An emulated processor runs Python twenty times slower (scripts/hwtest sets ASYNCKVM_PACE); a bound that is right there would
hide a hang here for minutes.
"""

from __future__ import annotations

import os

PACE = int(os.environ.get("ASYNCKVM_PACE", "1"))


def paced(seconds: float) -> float:
    """A bound in seconds on this machine, from the one on an ordinary machine."""
    return seconds * PACE
