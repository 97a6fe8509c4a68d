"""BD-rate against figures computed by others, and its refusals."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bevstack.codec.bd_rate import Curve, CurveError, Point, bd_rate, quality_at
from bevstack.codec.published import published_curves

pytest.importorskip("scipy")


def curve(name: str, rates: list[float], psnr: list[float]) -> Curve:
    return Curve(name, tuple(Point(r, q) for r, q in zip(rates, psnr)))


ANCHOR = curve("anchor", [0.1, 0.2, 0.4, 0.8, 1.6], [27.0, 29.5, 32.2, 35.1, 38.3])


def test_itself_is_zero_and_scaled_rates_are_their_factor() -> None:
    assert bd_rate(ANCHOR, ANCHOR).percent == pytest.approx(0.0, abs=1e-12)
    cheaper = Curve("cheaper", tuple(Point(0.7 * p.bpp, p.psnr) for p in ANCHOR.points))
    assert bd_rate(ANCHOR, cheaper).percent == pytest.approx(-30.0)
    # Not -30 the other way round: the difference is of logarithms.
    assert bd_rate(cheaper, ANCHOR).percent == pytest.approx(100 * (1 / 0.7 - 1))


@settings(max_examples=40, deadline=None)
@given(st.floats(0.2, 5.0), st.permutations(range(5)))
def test_order_and_unit_of_rate_do_not_matter(unit: float, order: list[int]) -> None:
    other = curve("other", [0.08, 0.22, 0.37, 0.9, 1.4], [26.5, 29.9, 32.0, 35.9, 38.0])
    plain = bd_rate(ANCHOR, other)
    shuffled = Curve("s", tuple(Point(unit * other.points[k].bpp, other.points[k].psnr) for k in order))
    anchor = Curve("a", tuple(Point(unit * p.bpp, p.psnr) for p in ANCHOR.points))
    found = bd_rate(anchor, shuffled)
    assert found.percent == pytest.approx(plain.percent, rel=1e-9)
    assert (found.low, found.high) == (27.0, 38.0)


# bjontegaard 1.3.0, bd_rate(..., method="pchip", require_matching_points=False) on the same published points within 26-40.6 dB.
@pytest.mark.parametrize(
    ("name", "percent"),
    [
        ("AV1", 17.168910825789553),
        ("BPG 4:4:4", 28.562282025340547),
        ("mbt2018-mean", 23.128191196481286),
        ("mbt2018", 11.72910875769475),
        ("cheng2020-anchor", 3.6873148236209685),
        ("JPEG (published)", 202.9023478107179),
        ("WebP (published)", 82.02375828463578),
    ],
)
def test_published_curves_as_another_package_compares_them(name: str, percent: float) -> None:
    curves = published_curves()
    found = bd_rate(curves["VTM"], curves[name], within=(26.0, 40.6))
    assert found.percent == pytest.approx(percent, rel=1e-9)
    akima = bd_rate(curves["VTM"], curves[name], within=(26.0, 40.6), method="akima")
    assert akima.percent == pytest.approx(percent, abs=0.2)


def test_the_anchor_file_of_the_brief(shared: Path) -> None:
    """Every curve of the file reads, and every BD-rate that the brief computed comes out."""
    path = shared / "briefs" / "kodak-rd-anchors.json"
    if not path.exists():
        pytest.skip(f"{path} is not here")
    curves = published_curves(path)
    rows = json.loads(path.read_text())["computed_bd_rate_vs_vtm"]["rows"]
    for row in rows:
        if "bd_vs_vtm_pchip" in row and row["id"] in curves:
            found = bd_rate(curves["vtm"], curves[row["id"]], within=(26.0, 40.6))
            assert found.percent == pytest.approx(row["bd_vs_vtm_pchip"], abs=0.051), row["id"]
            assert [found.low, found.high] == pytest.approx(row["range_db"], abs=0.006), row["id"]


def test_bundled_curves_say_where_they_come_from() -> None:
    everything = published_curves(optimised_for=None)
    assert {"VTM", "BPG 4:4:4", "mbt2018-mean", "mbt2018-mean (MS-SSIM)"} <= everything.keys()
    assert "mbt2018-mean (MS-SSIM)" not in published_curves()
    for found in everything.values():
        assert "@" in found.source
        assert len(found.samples("psnr")[0]) >= 6
        assert len(found.samples("ms_ssim_db")[0]) >= 6


@pytest.mark.parametrize(
    ("points", "said"),
    [
        ([(0.1, 27.0), (0.2, 29.0), (0.4, 32.0)], "has 3 points"),
        ([(0.1, 27.0), (0.2, 29.0), (0.2, 29.0), (0.4, 32.0)], "has 3 points"),
        ([(0.1, 27.0), (0.2, 29.0), (0.4, 28.9), (0.8, 35.0)], "does not rise from 0.2000 bpp"),
        ([(0.1, 27.0), (0.2, 29.0), (0.2, 30.0), (0.8, 35.0)], "does not rise"),
        ([(0.0, 27.0), (0.2, 29.0), (0.4, 30.0), (0.8, 35.0)], "must be positive"),
        ([(0.1, 37.5), (0.2, 39.0), (0.4, 42.0), (0.8, 45.0)], "0.80 dB of psnr in common"),
        ([(0.1, 47.5), (0.2, 49.0), (0.4, 52.0), (0.8, 55.0)], "0.00 dB of psnr in common"),
        ([(0.1, 27.0), (0.2, 29.0), (0.4, 32.0), (0.8, float("inf"))], "has 3 points"),
    ],
)
def test_refusals(points: list[tuple[float, float]], said: str) -> None:
    with pytest.raises(CurveError, match=said):
        bd_rate(ANCHOR, Curve("test", tuple(Point(*p) for p in points)))


def test_missing_metric_is_no_point() -> None:
    with pytest.raises(CurveError, match="0 points with ms_ssim_db"):
        bd_rate(ANCHOR, ANCHOR, "ms_ssim_db")


def test_quality_at_fixed_rates_does_not_extrapolate() -> None:
    found = quality_at(ANCHOR, [0.05, 0.1, 0.3, 1.6, 2.0])
    assert found[0] is None
    assert found[4] is None
    assert found[1] == pytest.approx(27.0)
    assert found[3] == pytest.approx(38.3)
    assert found[2] is not None
    assert 29.5 < found[2] < 32.2
    # The brief's table, interpolated the same way.
    vtm = quality_at(published_curves()["VTM"], [0.1, 0.25, 1.0])
    assert np.round(vtm, 2).tolist() == [28.13, 31.27, 38.21]


@pytest.mark.parametrize(
    "text", ["{", "[]", '{"curves": [{"name": "x"}]}', '{"codecs": [{"id": "x", "optimised_for": "mse"}]}']
)
def test_other_files_are_refused_in_one_line(text: str, tmp_path: Path) -> None:
    path = tmp_path / "curves.json"
    path.write_text(text)
    with pytest.raises(CurveError, match="another layout"):
        published_curves(path)
    with pytest.raises(CurveError, match="cannot be read"):
        published_curves(tmp_path / "none.json")
