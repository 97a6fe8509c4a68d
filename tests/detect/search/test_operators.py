"""The operator table: reads between its points, adds up, survives a file, and follows a real measurement."""

from __future__ import annotations

from pathlib import Path

import pytest

from bevstack.detect.search import cost
from bevstack.detect.search.operators import (
    REFERENCES,
    OperatorTable,
    TableError,
    _units,
    measure_backbone,
    measure_table,
)

HW = (128, 160)


def flat(speed: float) -> OperatorTable:
    speeds: dict[str, dict[tuple[int, int], float]] = {}
    for name, widths, *_ in _units(HW):
        speeds.setdefault(name, {})[widths] = speed
    return OperatorTable("onnx", 1, HW, "test", speeds)


@pytest.mark.parametrize("config", REFERENCES)
def test_equal_speeds_add_up_to_the_macs(config: object) -> None:
    # Pooling is in the sum by elements: a little more than the MACs alone.
    table, macs = flat(1e6), cost(config, HW).macs  # type: ignore[arg-type]
    assert macs / 1e6 <= table.latency(config) <= 1.1 * macs / 1e6  # type: ignore[arg-type]


def test_reads_between_and_beyond_its_points() -> None:
    pairs = {(a, b): float(a + b) for a in (16, 32) for b in (16, 32)}
    table = OperatorTable("onnx", 1, HW, "", {"k3@8": {(16, 16): 10.0, (32, 32): 20.0}, "pair@8": pairs})
    assert table.speed("k3@8", 16, 16) == 10
    assert table.speed("k3@8", 24, 24) == pytest.approx(15.85, abs=0.01)
    assert table.speed("k3@8", 8, 8) == 10
    assert table.speed("k3@8", 512, 512) == 20
    assert table.speed("pair@8", 24, 16) == pytest.approx(16 + 16 + 16 * 0.585, abs=0.01)
    assert 32 <= table.speed("pair@8", 999, 999) <= 64


def test_file_round_trip_and_bad_files(tmp_path: Path) -> None:
    table = flat(12345.6)
    table.save(tmp_path / "t.json")
    assert OperatorTable.load(tmp_path / "t.json") == table
    for content in ("", "{}", '{"format": "bevstack-operators-1", "speeds": {"stem": 3}}'):
        (tmp_path / "bad.json").write_text(content)
        with pytest.raises(TableError):
            OperatorTable.load(tmp_path / "bad.json")
    with pytest.raises(TableError, match="cannot be read"):
        OperatorTable.load(tmp_path / "none.json")


@pytest.mark.slow
@pytest.mark.parametrize("engine", ["onnx", "torch"])
def test_measured_table_ranks_networks_as_a_clock_does(engine: str) -> None:
    table = measure_table(HW, engine, 1, seconds=0.005)
    predicted = [table.latency(c) for c in REFERENCES]
    real = [measure_backbone(c, HW, engine, 1, 0.3) for c in REFERENCES]
    assert sorted(range(3), key=predicted.__getitem__) == sorted(range(3), key=real.__getitem__)
    assert all(0.4 < p / r < 2.5 for p, r in zip(predicted, real))
