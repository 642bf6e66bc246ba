"""`asynckvm doctor`: on which platform guests run on this host, what the probe found, and what to do about what is missing."""

from __future__ import annotations

import asyncio
import json
import os
import platform as host_platform
import sys
from typing import TYPE_CHECKING, Any, Final

import asynckvm
from asynckvm.cli import doctor_host
from asynckvm.cli.statuses import Status
from asynckvm.errors import AsyncKvmError, CapabilityError, HostError
from asynckvm.platform import choice

if TYPE_CHECKING:
    from collections.abc import Callable

    from asynckvm.model.config import PlatformChoice, PlatformName

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
_TITLES: Final[dict[PlatformName, str]] = {"kvm": "KVM", "ptrace": "ptrace"}
# What can be done about a capability that was found to be missing, where nothing that the host shows explains it.
_LACKING: Final[dict[PlatformName, str]] = {
    "kvm": "this KVM does not do what guests need: use a newer kernel, or another host",
    "ptrace": "this kernel does not do what stub processes need: use Linux itself; some container runtimes (gVisor) bring a "
    "kernel of their own",
}
_FACTS: Final[dict[PlatformName, Callable[[], dict[str, Any]]]] = {
    "kvm": doctor_host.kvm_facts,
    "ptrace": doctor_host.ptrace_facts,
}
_ADVICE: Final[dict[PlatformName, Callable[[dict[str, Any]], str]]] = {
    "kvm": doctor_host.kvm_advice,
    "ptrace": doctor_host.ptrace_advice,
}


def main(platform: PlatformChoice = "auto", *, as_json: bool) -> int:
    """Print the report on standard output; returns 0 only when guests run here, on that platform if it is asked for by name."""
    report = examine(platform)
    if as_json:
        sys.stdout.write(json.dumps(report, indent=2) + "\n")
    else:
        sys.stdout.write("\n".join(_lines(report)) + "\n")
    sys.stdout.flush()
    return 0 if report["usable"] else Status.UNUSABLE


def examine(platform: PlatformChoice = "auto") -> dict[str, Any]:
    """Look at the host, open a machine on each platform, close it. Never raises for what the host lacks: that is the report.

    `platform` is the one that such a choice takes, None if none, `because` says why; `capabilities`, `error` and `hint` are of
    that one, or of the first that was to be had. `platforms`: each that was looked at.
    """
    report: dict[str, Any] = {
        "version": asynckvm.__version__,
        "usable": False,
        "platform": None,
        "because": None,
        "host": {
            "kernel": host_platform.release(),
            "architecture": host_platform.machine(),
            "python": host_platform.python_version(),
            "cpus": len(os.sched_getaffinity(0)),
        },
        "capabilities": None,
        "error": None,
        "hint": None,
        "platforms": {},
    }
    if report["host"]["architecture"] != "x86_64":
        return report | {"error": "this is not an x86-64 host", "hint": "guests are x86-64 programs: use an x86-64 host"}
    try:
        asked = choice.chosen(platform)
    except AsyncKvmError as error:
        return report | {"error": str(error), "hint": f"unset {choice.VARIABLE}, or correct it"}
    names: list[PlatformName] = ["kvm", "ptrace"] if asked == "auto" else [asked]
    looks = {name: _look(name) for name in names}
    report["platforms"] = {name: look for name, (look, _) in looks.items()}
    taken = _taken(looks)
    shown = report["platforms"][taken or names[0]]
    return report | {
        "usable": taken is not None,
        "platform": taken,
        "because": _because(asked, platform, taken),
        **{name: shown[name] for name in ("capabilities", "error", "hint")},
    }


def _look(name: PlatformName) -> tuple[dict[str, Any], Exception | None]:
    """What is to be said of a platform, and the error that opening it ended with."""
    facts = _FACTS[name]()
    look: dict[str, Any] = {"usable": False, "host": facts, "capabilities": None, "error": None, "hint": None}
    try:
        return look | {"usable": True, "capabilities": asyncio.run(_probe(name))}, None
    except ImportError as error:
        return look | {
            "error": f"the C core is not built: {error}",
            "hint": "install the package again, with a C compiler",
        }, error
    except HostError as error:
        hint = _LACKING[name] if isinstance(error, CapabilityError) else error.hint
        if choice.unusable(error):
            hint = _ADVICE[name](facts) or hint
        return look | {"error": f"{error.operation}: {os.strerror(error.errno)}", "hint": hint or None}, error
    except AsyncKvmError as error:
        hint = f"this is a defect of asynckvm or of this host's {_TITLES[name]}: please report it"
        return look | {"error": str(error), "hint": hint}, error


async def _probe(name: PlatformName) -> dict[str, Any]:
    from asynckvm.platform import Machine  # noqa: PLC0415

    async with Machine.open(platform=name, vcpus=1, memory=64 << 20) as machine:
        return machine.capabilities.of_platform()


def _taken(looks: dict[PlatformName, tuple[dict[str, Any], Exception | None]]) -> PlatformName | None:
    """The first that is usable. Errors that say something else than that their platform is not end the search, as in opening."""
    for name, (look, error) in looks.items():
        if look["usable"]:
            return name
        if not isinstance(error, AsyncKvmError) or not choice.unusable(error):
            return None
    return None


def _because(asked: PlatformChoice, given: PlatformChoice, taken: PlatformName | None) -> str:
    if given != "auto":
        return f"--platform asks for {given}"
    if asked != "auto":
        return f"{choice.VARIABLE} asks for {asked}"
    if taken is None:
        return "auto takes KVM, or else ptrace, and finds neither usable"
    return "auto takes KVM, which is usable" if taken == "kvm" else "auto takes ptrace, because KVM is not usable"


def _lines(report: dict[str, Any]) -> list[str]:
    host = report["host"]
    where = f"{host['architecture']}, Linux {host['kernel']}, {host['cpus']} CPUs, Python {host['python']}"
    lines = [f"asynckvm {report['version']} on {where}"]
    for name, look in report["platforms"].items():
        lines += ["", *_platform_lines(name, look)]
    lines += ["", *([report["because"]] if report["because"] else []), _verdict(report)]
    if not report["platforms"] and report["hint"]:
        lines.append(f"what to do: {report['hint']}")
    return lines


def _verdict(report: dict[str, Any]) -> str:
    if report["platform"] == "ptrace":
        return f"guests run here on the ptrace platform, {choice.WEAKER}"
    return "guests run here, on KVM" if report["usable"] else f"no guest runs here: {report['error']}"


def _platform_lines(name: PlatformName, look: dict[str, Any]) -> list[str]:
    lines = [f"{_TITLES[name]}: {'usable' if look['usable'] else 'not usable: ' + look['error']}"]
    if not look["usable"] and look["hint"]:
        lines.append(f"  what to do: {look['hint']}")
    lines += [f"  {line}" for line in (_kvm_lines if name == "kvm" else _ptrace_lines)(look["host"])]
    if look["capabilities"] is not None:
        found = look["capabilities"]
        lines.append("  found by running a guest:" if name == "kvm" else "  what it offers:")
        lines += [f"    {key:<17} {_value(key, found[key]):<20} {about}" for key, about in _MEANINGS.items() if key in found]
    return lines


def _kvm_lines(facts: dict[str, Any]) -> list[str]:
    machine = ", of a virtual machine" if facts["virtual_machine"] else ""
    return [
        f"device {facts['device']['path']}: {_device_line(facts['device'])}",
        f"modules: {' '.join(facts['modules']) or 'none'}",
        f"processor{machine}: {facts['virtualization'] or 'shows neither vmx nor svm'}",
    ]


def _ptrace_lines(facts: dict[str, Any]) -> list[str]:
    yama = "not in this kernel" if facts["yama"] is None else f"ptrace_scope {facts['yama']}"
    return [
        f"yama: {yama}; CAP_SYS_PTRACE: {_value('', facts['cap_sys_ptrace'])}",
        f"under a seccomp filter: {_value('', facts['under_seccomp'])}",
        f"seccomp can kill a process: {_value('', facts['seccomp_kill_process'])}; memfd: {_value('', facts['memfd'])}",
    ]


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
