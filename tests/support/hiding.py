"""Commands that find no usable /dev/kvm, though this machine may have one.

They run in a mount namespace of their own, where it is hidden in one of the ways in which machines lack it. Needs root; what
cannot be hidden here is skipped by whoever asks.
"""

from __future__ import annotations

import functools
import os
import shutil
import subprocess
from typing import Final

SECONDS = 30
_OTHER_USER: Final = "65534"
# /dev made anew of everything in it but the device; a file system of its own, so nothing of the host's is touched.
_ABSENT: Final = """
new=$(mktemp -d) && mount -t tmpfs -o mode=755 dev "$new"
for path in /dev/* /dev/.[!.]*; do
	name=${path#/dev/}
	if [ "$name" = kvm ]; then continue
	elif [ -L "$path" ]; then cp -P "$path" "$new/$name"
	elif [ -d "$path" ]; then mkdir "$new/$name" && mount --rbind "$path" "$new/$name"
	elif [ -e "$path" ]; then : >"$new/$name" && mount --bind "$path" "$new/$name"
	fi
done
mount --move "$new" /dev && rmdir "$new" && [ ! -e /dev/kvm ]
"""
# Another device in its place; a machine that has none needs nothing.
_OTHER_DEVICE: Final = "[ ! -e /dev/kvm ] || mount --bind /dev/null /dev/kvm"
# A device that only its owner's privilege opens, and that privilege is taken below.
_UNREADABLE: Final = """
new=$(mktemp -d) && mount -t tmpfs dev "$new" && mknod -m 000 "$new/kvm" c 10 232
[ ! -e /dev/kvm ] || mount --bind "$new/kvm" /dev/kvm
umount -l "$new" && rmdir "$new"
"""
# How it is hidden: the script that does it, and what the command then runs under.
WAYS: Final[dict[str, tuple[str, tuple[str, ...]]]] = {
    "absent": (_ABSENT, ()),
    "another device": (_OTHER_DEVICE, ()),
    "unreadable": (_UNREADABLE, ("setpriv", "--bounding-set", "-dac_override,-dac_read_search")),
    "another user": (
        _UNREADABLE,
        ("setpriv", "--reuid", _OTHER_USER, "--regid", _OTHER_USER, "--clear-groups", "--no-new-privs"),
    ),
}


def hidden(way: str, argv: list[str]) -> list[str]:
    """The command that runs another one without a usable /dev/kvm."""
    script, under = WAYS[way]
    return ["unshare", "--mount", "--propagation", "private", "sh", "-euc", f'{script}\nexec "$@"', "sh", *under, *argv]


@functools.cache
def obstacle(way: str) -> str:
    """Why the device cannot be hidden like that here; "" when it can."""
    if os.geteuid() != 0:
        return "only root may hide a device from a process"
    if missing := next((name for name in ("unshare", "setpriv", "mount") if shutil.which(name) is None), ""):
        return f"{missing} is not installed"
    done = subprocess.run(hidden(way, ["true"]), capture_output=True, text=True, timeout=SECONDS, check=False)
    return f"it cannot be hidden: {done.stderr.strip()}" if done.returncode else ""
