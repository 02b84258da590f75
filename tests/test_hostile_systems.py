"""Damaged files with bit planes, binary layers, Fastfood or experts: a result or a ModelError."""
from __future__ import annotations

import pytest

from tests.damage import process
from tests.fuzz_systems import NETWORKS


@pytest.mark.parametrize("network", NETWORKS)
def test_random_damage(device, network):
    process("fuzz_systems", device.info.platform, network, "150")
