"""What this host shows of the things its platforms need, and what to do when one of them is not usable.

For people: whether guests run is found by running one, and nothing here takes part in that. All of it can be wrong where /proc or
/sys are not the host's own, so an error's own hint stands whenever nothing here explains it.

Source: proc(5), the kernel's Documentation/admin-guide/LSM/Yama.rst and Documentation/userspace-api/seccomp_filter.rst,
capabilities(7), close_range(2), kvm's Documentation/virt/kvm/x86/nested-vmx.rst.
"""

from __future__ import annotations

import os
import re
import stat
from pathlib import Path
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from typing import Any

__all__ = ["kvm_advice", "kvm_facts", "ptrace_advice", "ptrace_facts"]

_ROOT: Final = Path("/")
_CAP_SYS_PTRACE: Final = 19
_SECCOMP_FILTER: Final = 2
_YAMA_ADMIN_ONLY: Final = 2
_YAMA_NOBODY: Final = 3
_CLOSE_RANGE_SINCE: Final = (5, 9)
_MODULES: Final = {"vmx": "kvm_intel", "svm": "kvm_amd"}


def kvm_facts(root: Path = _ROOT) -> dict[str, Any]:
    """The device, the modules that are loaded, and what the processor tells of itself."""
    lines = _text(root / "proc/cpuinfo").splitlines()
    flags = next((line.partition(":")[2].split() for line in lines if line.startswith("flags")), [])
    return {
        "device": _device(root / "dev/kvm"),
        "modules": sorted(path.name for path in root.glob("sys/module/kvm*")),
        "virtualization": next((flag for flag in _MODULES if flag in flags), None),
        "virtual_machine": "hypervisor" in flags,
    }


def kvm_advice(facts: dict[str, Any]) -> str:
    """How to get a usable /dev/kvm, as far as the facts tell; "" when they do not explain what is missing."""
    device = facts["device"]
    if device["present"]:
        if device["accessible"]:
            return ""
        return "let this user open /dev/kvm: add it to the group that owns the device (usermod -aG kvm USER, then log in again)"
    if any(name.startswith("kvm_") for name in facts["modules"]):
        return "the module is loaded, but there is no /dev/kvm here: in a container, pass it in (--device /dev/kvm)"
    if facts["virtualization"] is not None:
        return f"load the module, as root of the host: modprobe {_MODULES[facts['virtualization']]}"
    if facts["virtual_machine"]:
        return (
            "this is a virtual machine whose processor offers no virtualization: switch on nested virtualization where it is "
            "configured; many clouds offer that for some kinds of machine only"
        )
    return "the processor offers no virtualization: switch on VT-x or AMD-V (SVM) in the firmware"


def ptrace_facts(root: Path = _ROOT) -> dict[str, Any]:
    """What may forbid tracing, and what stub processes need of the kernel. `yama`: kernel.yama.ptrace_scope, None without."""
    yama = _text(root / "proc/sys/kernel/yama/ptrace_scope").strip()
    status = dict(line.split(":", 1) for line in _text(root / "proc/self/status").splitlines() if ":" in line)
    actions = _text(root / "proc/sys/kernel/seccomp/actions_avail").split()
    return {
        "yama": int(yama) if yama.isdecimal() else None,
        "cap_sys_ptrace": bool(int(status.get("CapEff", "0").strip(), 16) >> _CAP_SYS_PTRACE & 1),
        "under_seccomp": status.get("Seccomp", "").strip() == str(_SECCOMP_FILTER),
        "seccomp_kill_process": "kill_process" in actions,
        "memfd": _memfd_works(),
        "kernel": _text(root / "proc/sys/kernel/osrelease").strip(),
    }


def ptrace_advice(facts: dict[str, Any]) -> str:
    """How to get ptrace to work, as far as the facts tell; "" when they do not explain what is missing."""
    advice = []
    if facts["yama"] is not None and facts["yama"] >= _YAMA_NOBODY:
        advice.append("kernel.yama.ptrace_scope=3 forbids ptrace until the next boot: boot with 1 or 0 (/etc/sysctl.d)")
    elif facts["yama"] == _YAMA_ADMIN_ONLY and not facts["cap_sys_ptrace"]:
        advice.append(
            "kernel.yama.ptrace_scope=2 leaves ptrace to CAP_SYS_PTRACE: sysctl kernel.yama.ptrace_scope=1, or grant that"
        )
    if not facts["memfd"]:
        advice.append("memfd_create(2) is refused: it needs Linux 3.17 or later and a seccomp profile that allows it")
    if not facts["seccomp_kill_process"]:
        advice.append("seccomp filters that kill a process need Linux 4.14 or later, built with CONFIG_SECCOMP_FILTER")
    if _version(facts["kernel"]) < _CLOSE_RANGE_SINCE:
        advice.append("close_range(2) needs Linux 5.9 or later")
    if facts["under_seccomp"] and not advice:
        advice.append(
            "this process is under a seccomp filter, as in a container, which may refuse ptrace: docker run "
            "--cap-add SYS_PTRACE, or a profile that allows it (--security-opt seccomp=FILE)"
        )
    return "; ".join(advice)


def _device(path: Path) -> dict[str, Any]:
    try:
        status = path.stat()
    except OSError as error:
        return {"path": str(path), "present": False, "error": os.strerror(error.errno or 0)}
    return {
        "path": str(path),
        "present": stat.S_ISCHR(status.st_mode),
        "mode": stat.filemode(status.st_mode),
        "owner": status.st_uid,
        "group": status.st_gid,
        "accessible": os.access(path, os.R_OK | os.W_OK),
    }


def _memfd_works() -> bool:
    try:
        os.close(os.memfd_create("asynckvm-doctor"))
    except OSError:
        return False
    return True


def _version(release: str) -> tuple[int, ...]:
    """The first two numbers of a release like 6.1.0-13-amd64; what is no such thing counts as new."""
    match = re.match(r"(\d+)\.(\d+)", release)
    return tuple(map(int, match.groups())) if match is not None else _CLOSE_RANGE_SINCE


def _text(path: Path) -> str:
    try:
        return path.read_text(errors="replace")
    except OSError:
        return ""
