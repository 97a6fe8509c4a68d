"""The first instant does not pay for compilation."""

from __future__ import annotations

from bevstack.bev.config import CONFIGS
from bevstack.bev.fastbev import FastBEV
from bevstack.bev.gather import _copy_rows
from bevstack.bev.tables import _fill_table
from bevstack.frames.sim import SimulatedDrive
from bevstack.geometry.overlap import _suppress, _suppress_circles

COMPILED = (_copy_rows, _fill_table, _suppress, _suppress_circles)


def test_hot_loops_are_compiled_before_the_first_instant() -> None:
    model = FastBEV(CONFIGS["fastbev-micro"], "torch", threads=1)
    before = [len(f.signatures) for f in COMPILED]
    assert all(before)
    with SimulatedDrive(1, duration=0.3, image_width=400) as drive:
        for frame_set in drive:
            model(frame_set)
    assert [len(f.signatures) for f in COMPILED] == before
