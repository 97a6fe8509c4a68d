"""Coding tables: exact digits, the same on every machine, valid, and close to the distributions that they stand for."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bevstack.codec import exact
from bevstack.codec.tables import TOTAL, CdfTables, quantise, scale_levels
from bevstack.errors import CheckpointError

ONE = 1 << 16

LEVELS_SUM = 144844942
GAUSSIAN_DIGEST = "c2b2f48fcb05fc3f83c3aa95eddc31b3dd5c1216fbcd2293cfe19bbec80ad5aa"
LAPLACE_DIGEST = "2d462086a12679bb3f64ac28ba79f8e0c0b41611d14ac594a5422c464b578f5e"
MIXTURE_DIGEST = "df4bc13e79d86d79435adb1987c8e49d190ea0b4bbd985c6d55b2a18d0d682ba"


def test_gaussian_tail_has_the_published_digits() -> None:
    """Upper tail of the standard normal distribution at 1, 2, 3, 4, 5, to the last of 64 bits."""
    published = {
        1: 0.15865525393145705141,
        2: 0.02275013194817920720,
        3: 0.00134989803163009453,
        4: 0.00003167124183311992,
        5: 0.00000028665157187919,
    }
    for at, value in published.items():
        assert exact.gaussian_upper_tail(2 * at, ONE) == pytest.approx(value * 2**64, rel=1e-12)


@given(halves=st.integers(0, 4000), level=st.integers(2000, 300 * ONE))
@settings(max_examples=60, deadline=None)
def test_tails_agree_with_the_maths_library(halves: int, level: int) -> None:
    t = halves / 2 / (level / ONE)
    unit = 2.0**-64
    assert exact.gaussian_upper_tail(halves, level) * unit == pytest.approx(
        0.5 * math.erfc(t / math.sqrt(2)), rel=1e-9, abs=2 * unit
    )
    assert exact.laplace_upper_tail(halves, level) * unit == pytest.approx(0.5 * math.exp(-t), rel=1e-9, abs=2 * unit)


def test_tables_are_the_same_everywhere() -> None:
    """Golden hashes: any other value means that streams of existing models could no longer be read."""
    levels = scale_levels(64, "0.11", "256")
    assert levels[0] == round(0.11 * ONE)
    assert levels[-1] == 256 * ONE
    assert sum(levels) == LEVELS_SUM
    assert CdfTables.gaussian(levels).digest.hex() == GAUSSIAN_DIGEST
    assert CdfTables.laplace(levels, skip_below=2).digest.hex() == LAPLACE_DIGEST
    mixture = CdfTables.mixture([[(3, "gaussian", ONE), (1, "laplace", 4 * ONE)], [(1, "gaussian", 2 * ONE)]])
    assert mixture.digest.hex() == MIXTURE_DIGEST
    assert list(mixture.row(1)) == list(CdfTables.gaussian([2 * ONE]).row(0))


def test_a_table_row() -> None:
    """The unit Gaussian, beside what floating point gives."""
    tables = CdfTables.gaussian([ONE])
    frequencies = np.diff(tables.row(0).astype(int))
    edge = -int(tables.offsets[0])
    mass = [0.5 * (math.erf((k + 0.5) / math.sqrt(2)) - math.erf((k - 0.5) / math.sqrt(2))) for k in range(-edge, edge + 1)]
    assert list(frequencies[:-1]) == list(frequencies[:-1][::-1])
    assert np.abs(frequencies[:-1] - np.array(mass) * TOTAL).max() < 4
    assert frequencies.sum() == TOTAL


@given(st.lists(st.integers(0, 1 << 40), min_size=2, max_size=300).filter(any))
@settings(max_examples=60, deadline=None)
def test_quantised_masses_fill_the_table(masses: list[int]) -> None:
    frequencies = quantise(masses)
    assert sum(frequencies) == TOTAL
    assert min(frequencies) >= 1
    assert len(frequencies) == len(masses)


@pytest.mark.parametrize("level", [0.11, 0.3, 1.0, 3.3, 17.0, 60.0, 256.0])
def test_table_costs_little_more_than_the_distribution(level: float) -> None:
    """Divergence of the table (escapes at their real cost) from the Gaussian: below 0.2 % of the entropy + 0.0003 bit."""
    tables = CdfTables.gaussian([round(level * ONE)])
    reach = int(10 * level) + 8
    values = np.arange(-reach, reach + 1, dtype=np.int32)
    upper = [0.5 * math.erfc((abs(int(k)) - 0.5) / level / math.sqrt(2)) for k in values]
    lower = [0.5 * math.erfc((abs(int(k)) + 0.5) / level / math.sqrt(2)) for k in values]
    mass = np.array(upper) - np.array(lower)
    entropy = -sum(p * math.log2(p) for p in mass if p > 0)
    bits = [tables.bits(np.array([k], np.int32), np.zeros(1, np.uint8)) for k in values]
    cost = sum(p * b for p, b in zip(mass, bits, strict=True))
    assert cost - entropy < 0.002 * entropy + 0.0003


def test_learned_density_and_model_file() -> None:
    rng = np.random.default_rng(0)
    pmf = [rng.dirichlet(np.full(n, 0.3)) * 0.999 for n in (3, 40, 7)]
    tables = CdfTables.from_pmf(pmf, offsets=[-1, -20, 100], skip_below=1)
    again = CdfTables.from_arrays(tables.to_arrays("z."), "z.")
    assert again == tables
    assert again.skip_below == 1
    assert tables.with_skip(0) != tables
    assert len({tables, again}) == 1


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda a: a.pop("sizes"), "no 'sizes'"),
        (lambda a: a["cumulative"].__setitem__(1, 0), "rise strictly"),
        (lambda a: a["cumulative"].__setitem__(0, 7), "rise strictly"),
        (lambda a: a["cumulative"].__setitem__(2, -7), "rise strictly"),
        (lambda a: a["cumulative"].__setitem__(-1, 65535), "rise strictly"),
        (lambda a: a["sizes"].__setitem__(0, 0), "outside 1"),
        (lambda a: a["sizes"].__setitem__(0, a["sizes"][0] + 1), "cumulative entries"),
        (lambda a: a["offsets"].__setitem__(0, 40000), "leaves the symbols"),
        (lambda a: a["skip_below"].__setitem__(0, 9), "skip_below 9"),
        (lambda a: a.update(skip_below=np.zeros(2, np.int32)), "2 values"),
        (lambda a: a.update(offsets=np.zeros(5, np.int32)), "5 offsets"),
    ],
)
def test_broken_tables_are_refused(change, message: str) -> None:
    arrays = CdfTables.gaussian([ONE, 2 * ONE]).to_arrays()
    change(arrays)
    with pytest.raises(CheckpointError, match=message):
        CdfTables.from_arrays(arrays)


@pytest.mark.parametrize("pmf", [[], [0.0, 0.0], [0.5, -0.1], [float("nan"), 1.0]])
def test_broken_density_is_refused(pmf: list[float]) -> None:
    with pytest.raises(CheckpointError, match="learned density"):
        CdfTables.from_pmf([np.array(pmf)], [0])


def test_levels_refuse_nonsense() -> None:
    with pytest.raises(ValueError, match="two or more"):
        scale_levels(1)
    with pytest.raises(ValueError, match="rising"):
        scale_levels(4, "2", "1")
