"""Cases that once broke something, each run again until it would break."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from fuzz import case_file
from fuzz.campaign import Campaign
from fuzz.storm import Storm
from fuzz.storm_campaign import StormCampaign

from asynckvm.platform import Machine
from support import tree

if TYPE_CHECKING:
    from pathlib import Path

CORPUS = sorted((tree.ROOT / "tests/fuzz/corpus").glob("*.json"))
TIMES = 25


def test_there_is_a_corpus() -> None:
    assert CORPUS


@pytest.mark.parametrize("path", CORPUS, ids=lambda path: path.stem)
async def test_it_stays_mended(path: Path, tmp_path: Path) -> None:
    case, broke = case_file.load(path)
    assert broke
    async with Machine.open(vcpus=2, memory=256 << 20, contexts=64) as machine:
        if isinstance(case, Storm):
            storms = StormCampaign(machine, tmp_path)
            totals = await storms.run(case for _ in range(TIMES))
            storms.close()
            assert totals.cases == TIMES
        else:
            campaign = Campaign(machine)
            await campaign.run(case for _ in range(TIMES))
            campaign.close()
            assert campaign.totals.cases == TIMES
