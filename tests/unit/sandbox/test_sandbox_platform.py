"""A sandbox that opens a machine of its own says on what; one that is given a machine takes its."""

from __future__ import annotations

from typing import Any, cast

import pytest

from asynckvm import Sandbox
from asynckvm.errors import DeviceMissingError, UsageError
from asynckvm.platform import Machine


@pytest.mark.parametrize("settings", [{}, {"platform": "auto"}, {"platform": "kvm"}, {"platform": "ptrace"}])
async def test_it_is_passed_to_the_machine(settings: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[dict[str, Any]] = []

    def refuse(**asked: Any) -> None:
        seen.append(asked)
        raise DeviceMissingError("open", 2)

    monkeypatch.setattr(Machine, "open", refuse)
    with pytest.raises(DeviceMissingError):
        await Sandbox(**settings).__aenter__()
    assert seen == [{"platform": settings.get("platform", "auto")}]


def test_a_machine_has_its_platform() -> None:
    with pytest.raises(UsageError, match="of the machine"):
        Sandbox(machine=cast("Machine", object()), platform="kvm")


async def test_an_unknown_name_is_refused() -> None:
    with pytest.raises(UsageError, match="auto, kvm, ptrace"):
        await Sandbox(platform=cast("Any", "xen")).__aenter__()
