"""/proc/sys: the settings of the kernel, as far as programs ask for them; those of a sandbox do not change.

Source: Documentation/admin-guide/sysctl/{kernel,vm,fs,net}.rst, random(4).
"""

from __future__ import annotations

import os
import uuid
from typing import TYPE_CHECKING, Final

from asynckvm.linux.aio import EVENTS_MAX
from asynckvm.linux.credentials import CAPABILITIES_ALL
from asynckvm.linux.files import DESCRIPTORS_MAX
from asynckvm.linux.files.epoll import WATCHES_MAX
from asynckvm.linux.ipc.segments import SEGMENTS_MAX, SIZE_MAX
from asynckvm.linux.ipc.semaphores import OPERATIONS_MAX, SET_MAX, SETS_MAX, TOTAL_MAX
from asynckvm.linux.vfs.synthetic import FixedDirectory, Text

if TYPE_CHECKING:
    from collections.abc import Callable

    from asynckvm.linux.kernel import Kernel
    from asynckvm.linux.vfs.synthetic import SyntheticFileSystem

_PIDS: Final = 32768
_GROUPS_MAX: Final = 65536
_MAPS_MAX: Final = 65530
_PIPE_BYTES_MAX: Final = 1 << 20
_INOTIFY: Final = {"max_queued_events": 16384, "max_user_instances": 128, "max_user_watches": 8192}


def directory(fs: SyntheticFileSystem, kernel: Kernel) -> FixedDirectory:
    """The tree. The number of a boot is made here: each sandbox boots once."""
    boot = str(uuid.uuid4())
    host = os.uname()
    settings: dict[str, Callable[[], object]] = {
        "kernel/ostype": lambda: host.sysname,
        "kernel/osrelease": lambda: host.release,
        "kernel/version": lambda: host.version,
        "kernel/hostname": lambda: os.fsdecode(kernel.names.node),
        "kernel/domainname": lambda: os.fsdecode(kernel.names.domain),
        "kernel/arch": lambda: "x86_64",
        "kernel/pid_max": lambda: _PIDS,
        "kernel/threads-max": lambda: kernel.threads_max,
        "kernel/ngroups_max": lambda: _GROUPS_MAX,
        "kernel/cap_last_cap": lambda: CAPABILITIES_ALL.bit_length() - 1,
        "kernel/overflowuid": lambda: 65534,
        "kernel/overflowgid": lambda: 65534,
        "kernel/randomize_va_space": lambda: 2,
        "kernel/core_pattern": lambda: "core",
        "kernel/core_uses_pid": lambda: 0,
        "kernel/tainted": lambda: 0,
        "kernel/printk": lambda: "4\t4\t1\t7",
        "kernel/perf_event_paranoid": lambda: 4,
        "kernel/kptr_restrict": lambda: 2,
        "kernel/dmesg_restrict": lambda: 1,
        "kernel/seccomp/actions_avail": lambda: "",
        "kernel/random/boot_id": lambda: boot,
        "kernel/random/uuid": uuid.uuid4,
        "kernel/random/entropy_avail": lambda: 256,
        "kernel/random/poolsize": lambda: 256,
        "vm/overcommit_memory": lambda: 1,
        "vm/overcommit_ratio": lambda: 50,
        "vm/max_map_count": lambda: _MAPS_MAX,
        "vm/mmap_min_addr": lambda: 65536,
        "vm/swappiness": lambda: 60,
        "vm/nr_hugepages": lambda: 0,
        "vm/legacy_va_layout": lambda: 0,
        "fs/file-max": lambda: kernel.open_files.bound,
        "fs/file-nr": lambda: f"{kernel.open_files.count}\t0\t{kernel.open_files.bound}",
        "fs/nr_open": lambda: DESCRIPTORS_MAX,
        "fs/pipe-max-size": lambda: _PIPE_BYTES_MAX,
        "fs/pipe-user-pages-hard": lambda: 0,
        "fs/pipe-user-pages-soft": lambda: 16384,
        "kernel/msgmax": lambda: 8192,
        "kernel/msgmnb": lambda: 16384,
        "kernel/msgmni": lambda: 256,
        "kernel/sem": lambda: f"{SET_MAX}\t{TOTAL_MAX}\t{OPERATIONS_MAX}\t{SETS_MAX}",
        "kernel/shmmax": lambda: SIZE_MAX,
        "kernel/shmall": lambda: SIZE_MAX,
        "kernel/shmmni": lambda: SEGMENTS_MAX,
        "fs/aio-max-nr": lambda: EVENTS_MAX,
        "fs/epoll/max_user_watches": lambda: WATCHES_MAX,
        "fs/aio-nr": lambda: kernel.aio_events.used,
        "fs/lease-break-time": lambda: 45,
        "fs/protected_symlinks": lambda: 0,
        "fs/protected_hardlinks": lambda: 0,
        "net/core/somaxconn": lambda: 4096,
        "net/ipv4/ip_local_port_range": lambda: "32768\t60999",
        "net/ipv4/ip_unprivileged_port_start": lambda: 1024,
        "net/ipv4/tcp_rmem": lambda: "4096\t131072\t6291456",
        "net/ipv4/tcp_wmem": lambda: "4096\t16384\t4194304",
        "net/ipv6/conf/all/disable_ipv6": lambda: 0,
        "net/ipv6/bindv6only": lambda: 0,
    }
    for name, value in _INOTIFY.items():
        settings[f"fs/inotify/{name}"] = lambda value=value: value  # type: ignore[misc]
    root = FixedDirectory(fs, b"sys")
    for path, produce in settings.items():
        _add(fs, root, path.encode(), produce)
    return root


def _add(fs: SyntheticFileSystem, root: FixedDirectory, path: bytes, produce: Callable[[], object]) -> None:
    *folders, name = path.split(b"/")
    place, key = root, root.key
    for folder in folders:
        key += b"/" + folder
        found = place.nodes.get(folder)
        if not isinstance(found, FixedDirectory):
            found = FixedDirectory(fs, key)
            place.add(folder, found)
        place = found
    place.add(name, Text(fs, key + b"/" + name, lambda: (b"%s\n" % str(produce()).encode(),)))
