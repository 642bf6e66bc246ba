"""The table: every handler takes what its entry decodes, so no call of a guest can end in a TypeError of ours."""

from __future__ import annotations

import inspect

import pytest

from asynckvm.linux.syscalls.call import Call
from asynckvm.linux.syscalls.table import TABLE


@pytest.mark.parametrize("call", TABLE, ids=lambda call: call.name)
def test_a_handler_takes_what_its_entry_decodes(call: Call) -> None:
    inspect.signature(call.handler).bind(object(), *call.kinds)


def test_numbers_and_names_are_there_once() -> None:
    assert len({call.number for call in TABLE}) == len({call.name for call in TABLE}) == len(TABLE)
