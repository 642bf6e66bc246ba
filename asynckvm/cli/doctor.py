"""`asynckvm doctor`: whether guests run on this host, what the probe found, and what to do about what is missing."""

from __future__ import annotations

import asyncio
import json
import os
import platform as host_platform
import stat
import sys
from dataclasses import asdict
from typing import Any, Final

import asynckvm
from asynckvm.cli.statuses import Status
from asynckvm.errors import AsyncKvmError, HostError

_DEVICE: Final = "/dev/kvm"
# What each found capability means for a user, in the order of the report.
_MEANINGS: Final = {
    "kvm_module": "the module behind /dev/kvm, as far as the host tells",
    "round_trip_ns": "median time from ring 3 to the host and back, in ns",
    "syscall_as_fault": "SYSCALL arrives as a page fault instead of in ring 0",
    "int80_as_ud": "INT 0x80 arrives as an invalid instruction instead of through its gate",
    "host_edits_seen": "the host may change present page-table entries itself",
    "cpuid_faulting": "CPUID in ring 3 can be intercepted",
    "pcid": "address spaces keep their translations across switches",
    "smep": "ring 0 cannot execute the guest's pages",
    "smap": "ring 0 cannot touch the guest's pages",
    "umip": "ring 3 cannot read the descriptor-table registers",
    "fsgsbase": "ring 3 may set its segment bases itself",
    "tsc_offset_exact": "the guest's time stamp counter equals the host's",
    "xsave_bytes": "size of the vector state that is switched",
    "xcr0": "vector state components in use",
    "physical_bits": "width of guest-physical addresses",
    "kernel_base": "lowest address of the kernel half",
    "vcpus_max": "most vCPUs of one machine",
    "slots_max": "most memory slots of one machine",
}
_HEXADECIMAL: Final = frozenset({"xcr0", "kernel_base"})


def main(*, as_json: bool) -> int:
    """Print the report on standard output; returns 0 only when guests run here."""
    report = examine()
    if as_json:
        sys.stdout.write(json.dumps(report, indent=2) + "\n")
    else:
        sys.stdout.write("\n".join(_lines(report)) + "\n")
    sys.stdout.flush()
    return 0 if report["usable"] else Status.UNUSABLE


def examine() -> dict[str, Any]:
    """Look at the host, open a machine, close it. Never raises for what the host lacks: that is the report."""
    report: dict[str, Any] = {
        "version": asynckvm.__version__,
        "usable": False,
        "host": {
            "kernel": host_platform.release(),
            "architecture": host_platform.machine(),
            "python": host_platform.python_version(),
            "cpus": len(os.sched_getaffinity(0)),
        },
        "device": _device(),
        "capabilities": None,
        "error": None,
        "hint": None,
    }
    if report["host"]["architecture"] != "x86_64":
        return report | {"error": "this is not an x86-64 host", "hint": "guests are x86-64 programs: use an x86-64 host"}
    try:
        capabilities = asyncio.run(_probe())
    except ImportError as error:
        return report | {"error": f"the C core is not built: {error}", "hint": "install the package again, with a C compiler"}
    except HostError as error:
        return report | {"error": f"{error.operation}: {os.strerror(error.errno)}", "hint": error.hint or None}
    except AsyncKvmError as error:
        return report | {"error": str(error), "hint": "this is a defect of asynckvm or of this KVM: please report it"}
    return report | {"usable": True, "capabilities": capabilities}


async def _probe() -> dict[str, Any]:
    from asynckvm.platform import Machine  # noqa: PLC0415

    async with Machine.open(vcpus=1, memory=64 << 20) as machine:
        return asdict(machine.capabilities)


def _device() -> dict[str, Any]:
    try:
        status = os.stat(_DEVICE)  # noqa: PTH116  every field of it is wanted
    except OSError as error:
        return {"path": _DEVICE, "present": False, "error": os.strerror(error.errno or 0)}
    return {
        "path": _DEVICE,
        "present": stat.S_ISCHR(status.st_mode),
        "mode": stat.filemode(status.st_mode),
        "owner": status.st_uid,
        "group": status.st_gid,
        "accessible": os.access(_DEVICE, os.R_OK | os.W_OK),
    }


def _lines(report: dict[str, Any]) -> list[str]:
    host, device = report["host"], report["device"]
    where = f"{host['architecture']}, Linux {host['kernel']}, {host['cpus']} CPUs, Python {host['python']}"
    lines = [
        f"asynckvm {report['version']} on {where}",
        f"device {device['path']}: {_device_line(device)}",
    ]
    if report["capabilities"] is not None:
        lines += ["", "found by running a guest:"]
        lines += [f"  {name:<17} {_value(name, report['capabilities'][name]):<20} {_MEANINGS[name]}" for name in _MEANINGS]
    lines += ["", "guests run here" if report["usable"] else f"no guest runs here: {report['error']}"]
    if report["hint"]:
        lines.append(f"what to do: {report['hint']}")
    return lines


def _device_line(device: dict[str, Any]) -> str:
    if not device["present"]:
        return device.get("error") or "not a character device"
    access = "readable and writable" if device["accessible"] else "not accessible to this user"
    return f"{device['mode']}, owner {device['owner']}, group {device['group']}, {access}"


def _value(name: str, value: Any) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    if name in _HEXADECIMAL:
        return hex(value)
    return str(value) or "unknown"
