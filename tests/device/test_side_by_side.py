"""Several artifacts measured in one process."""

import pytest

from edgemtl.device.side_by_side import in_turns
from edgemtl.ground.errors import UsageError


def test_results_come_in_order_with_ratios_to_the_first(fake_artifact):
    first, second = in_turns([fake_artifact, fake_artifact], seconds=0.05)
    assert first["speed"] == 1 and first["path"] == str(fake_artifact)
    assert second["speed"] == pytest.approx(first["p50_ms"] / second["p50_ms"])
    assert 0 < first["p50_ms"] <= first["p95_ms"]


def test_what_cannot_be_run_is_said(fake_artifact, tmp_path):
    with pytest.raises(UsageError, match="not an artifact"):
        in_turns([fake_artifact, tmp_path], seconds=0.05)
    with pytest.raises(UsageError, match="seconds=0"):
        in_turns([fake_artifact], seconds=0)
