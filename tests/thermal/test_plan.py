"""Schwarz iterations and power budgets. Reference figures: brief schwarz-optimal-control.md, sections 5 and 6.3."""

from __future__ import annotations

import cmath
import json
import math
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest

from bevstack.thermal.elliptic import (
    Floats,
    PlanError,
    board,
    cost,
    dirichlet,
    factorise,
    merit,
    solve,
    solve_complex,
    tracking,
)
from bevstack.thermal.floorplan import Block, Chip, Floorplan, Rect, parse_floorplan, read_floorplan
from bevstack.thermal.heatmap import draw, write
from bevstack.thermal.plan import at_most, choose, influence, make_plan, text_map, track, track_schwarz
from bevstack.thermal.rungs import LadderInfo, RungInfo
from bevstack.thermal.schwarz import Kind, Schwarz, Subdomain, factor, grown, tiles

EXAMPLE = Path(__file__).parents[2] / "src" / "bevstack" / "thermal" / "example_board.yaml"


# --- the equations ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("dimensions", "alpha", "expected"),
    [
        (1, 1.0, [(7.147e-4, 8.761e-4), (1.786e-4, 2.189e-4), (4.466e-5, 5.473e-5)]),
        (1, 1e-2, [(5.557e-6, 7.979e-5), (1.329e-6, 1.995e-5), (3.285e-7, 4.987e-6)]),
        (1, 1e-4, [(7.074e-5, 8.622e-7), (1.769e-5, 2.156e-7), (4.422e-6, 5.391e-8)]),
        (2, 1.0, [(7.609e-4, 8.422e-4), (1.902e-4, 2.105e-4)]),
        (2, 1e-4, [(1.225e-4, 1.826e-6), (3.062e-5, 4.568e-7)]),
    ],
)
def test_manufactured_solutions_converge_with_order_two(
    dimensions: int, alpha: float, expected: list[tuple[float, float]]
) -> None:
    for n, (state, adjoint) in zip((31, 63, 127), expected):
        x = np.sin(math.pi * np.arange(1, n + 1) / (n + 1))
        s = x if dimensions == 1 else np.outer(x, x).ravel()
        lam, p = dimensions * math.pi**2, math.sqrt(alpha) * s
        A, f, y_d = dirichlet(n, dimensions), lam * s + p / alpha, s - lam * p
        found = solve(A, f, y_d, alpha)
        assert np.abs(found.y - s).max() == pytest.approx(state, rel=2e-3)
        assert np.abs(found.p - p).max() == pytest.approx(adjoint, rel=2e-3)
        other = solve_complex(A, f, y_d, alpha)
        np.testing.assert_allclose(other.y, found.y, atol=1e-10)
        np.testing.assert_allclose(other.p, found.p, atol=1e-10)


def test_the_solution_is_the_minimum() -> None:
    n, alpha = 15, 1e-3
    A, rng = dirichlet(n, 2), np.random.default_rng(0)
    y_d = rng.normal(size=n * n)
    found = solve(A, np.zeros(n * n), y_d, alpha)
    np.testing.assert_allclose(alpha * found.u + found.p, 0.0, atol=1e-12)
    least, back = cost(found, y_d, alpha), factorise(A)
    for _ in range(20):
        u = found.u + 0.1 * rng.normal(size=n * n)
        assert cost(type(found)(back(u), found.p, u), y_d, alpha) > least


# --- Schwarz ------------------------------------------------------------------------------------------------------------


def two(n: int, j1: int, j2: int) -> list[Subdomain]:
    """Nodes 1 .. j2 - 1 and j1 + 1 .. n of a line."""
    middle = (j1 + j2) // 2
    return [
        Subdomain(np.arange(j2 - 1), np.arange(middle), "left"),
        Subdomain(np.arange(j1, n), np.arange(middle, n), "right"),
    ]


def formula(n: int, j1: int, j2: int, alpha: float) -> float:
    """Factor of one sweep on a line, in closed form."""
    h = 1.0 / (n + 1)
    t = cmath.acosh(1 - 1j * h * h / (2 * math.sqrt(alpha)))
    s = cmath.sinh
    return abs(s(t * j1) / s(t * j2) * s(t * (n + 1 - j2)) / s(t * (n + 1 - j1)))


@pytest.mark.parametrize(
    ("j1", "j2", "expected"),
    [
        (123, 133, {1.0: 0.8551, 1e-1: 0.8534, 1e-2: 0.8379, 1e-3: 0.7450, 1e-4: 0.5748, 1e-5: 0.3743, 1e-6: 0.1741}),
        (119, 137, {1.0: 0.7542, 1e-1: 0.7516, 1e-2: 0.7271, 1e-3: 0.5886, 1e-4: 0.3691, 1e-5: 0.1706, 1e-6: 0.0430}),
        (111, 145, {1.0: 0.5856, 1e-1: 0.5817, 1e-2: 0.5461, 1e-3: 0.3675, 1e-4: 0.1522, 1e-5: 0.0354, 1e-6: 0.0026}),
        (95, 161, {1.0: 0.3476, 1e-1: 0.3429, 1e-2: 0.3023, 1e-3: 0.1428, 1e-4: 0.0259, 1e-5: 0.0015}),
    ],
)
def test_factors_on_a_line_fall_with_overlap_and_alpha(j1: int, j2: int, expected: dict[float, float]) -> None:
    A = dirichlet(255, 1)
    poisson = (j1 / j2) * (256 - j2) / (256 - j1)
    before = poisson
    for alpha, value in expected.items():
        measured = factor(Schwarz(tracking(A, alpha), two(255, j1, j2), alpha), most=60)
        assert measured == pytest.approx(formula(255, j1, j2, alpha), rel=0.01)
        assert measured == pytest.approx(value, rel=0.01, abs=6e-5)
        assert measured <= before + 1e-3, "smaller alpha, and any alpha against the plain equation, is no slower"
        before = measured


def a_target() -> Floats:
    g = np.arange(1, 64) / 64
    x, y = np.meshgrid(g, g, indexing="ij")
    return np.asarray((np.exp(-((x - 0.3) ** 2 + (y - 0.6) ** 2) / 0.02) + 0.5).ravel())


def sweeps_to(schwarz: Schwarz, y_d: Floats, alpha: float, error: float = 1e-8) -> int:
    """Sweeps until the merit of the true error is below ``error``."""
    n = len(y_d)
    exact = solve(dirichlet(63, 2), np.zeros(n), y_d, alpha)
    b, x = np.concatenate([np.zeros(n), -y_d]), np.zeros(2 * n)
    for sweep in range(1, 600):
        x = schwarz.sweep(x, b)
        if merit(x[:n] - exact.y, x[n:] - exact.p, alpha).max() < error:
            return sweep
    return 600


QUICK = [((2, 1), 2, 1e-4, 17, 32), ((2, 2), 2, 1e-6, 7, 15), ((4, 4), 4, 1e-6, 5, 9)]
LONG = [
    ((2, 1), 2, 1.0, 30, 58),
    ((2, 1), 2, 1e-2, 32, 64),
    ((4, 1), 2, 1e-2, 50, 99),
    ((8, 1), 2, 1e-4, 55, 109),
    ((2, 2), 2, 1.0, 48, 98),
    ((4, 4), 2, 1e-4, 44, 94),
    ((4, 4), 4, 1.0, 39, 88),
    ((4, 4), 4, 1e-2, 44, 99),
]


@pytest.mark.parametrize(
    ("parts", "extension", "alpha", "multiplicative", "restricted"),
    [*QUICK, *(pytest.param(*case, marks=pytest.mark.slow) for case in LONG)],
)
def test_sweeps_of_several_subdomains(
    parts: tuple[int, int], extension: int, alpha: float, multiplicative: int, restricted: int
) -> None:
    """The brief's table 5.4; where 63 is cut into parts may differ by a cell, hence the tolerance."""
    matrix, y_d = tracking(dirichlet(63, 2), alpha), a_target()
    kinds: list[tuple[Kind, int]] = [("multiplicative", multiplicative), ("restricted", restricted)]
    for kind, expected in kinds:
        found = sweeps_to(Schwarz(matrix, tiles((63, 63), parts, extension), alpha, kind), y_d, alpha)
        assert found == pytest.approx(expected, abs=max(1, 0.06 * expected))


def test_the_merit_never_grows_and_the_state_alone_may() -> None:
    """Nobody should simplify the norm."""
    alpha, n = 1e-2, 63
    schwarz = Schwarz(tracking(dirichlet(n, 1), alpha), two(n, 28, 36), alpha)
    rng, zero, state_grew = np.random.default_rng(1), np.zeros(2 * n), 0
    for _ in range(200):
        x = rng.normal(size=2 * n) * np.repeat([1.0, math.sqrt(alpha)], n)
        x = schwarz.sweep(x, zero)  # afterwards the error solves the equation inside subdomains
        sizes = [merit(x[:n], x[n:], alpha).max()]
        states = [np.abs(x[:n]).max()]

        def note(x: Floats, sizes: list[float] = sizes, states: list[float] = states) -> None:
            sizes.append(merit(x[:n], x[n:], alpha).max())
            states.append(np.abs(x[:n]).max())

        for _ in range(5):
            x = schwarz.sweep(x, zero, note)
        assert all(b <= a * (1 + 1e-9) for a, b in pairwise(sizes))
        state_grew += any(b > a * (1 + 1e-6) for a, b in pairwise(states))
    assert state_grew > 0


def test_no_overlap_is_slow_and_a_gap_is_refused() -> None:
    """Disjoint index sets overlap by one cell: they converge, slowly. An unknown of nobody would never move."""
    n, alpha = 255, 1e-2
    A = dirichlet(n, 1)
    apart = [Subdomain(np.arange(127), np.arange(127)), Subdomain(np.arange(127, n), np.arange(127, n))]
    assert factor(Schwarz(tracking(A, alpha), apart, alpha), most=60) == pytest.approx(0.98248, abs=2e-4)
    gap = [Subdomain(np.arange(127), np.arange(127)), Subdomain(np.arange(128, n), np.arange(128, n))]
    with pytest.raises(PlanError, match="1 of 255 unknowns belong to no subdomain"):
        Schwarz(tracking(A, alpha), gap, alpha)


def test_order_changes_the_path_and_not_the_end() -> None:
    alpha, y_d = 1e-4, a_target()
    parts = tiles((63, 63), (2, 2), 3)
    matrix, b = tracking(dirichlet(63, 2), alpha), np.concatenate([np.zeros(63 * 63), -y_d])
    first = Schwarz(matrix, parts, alpha).solve(b, tolerance=1e-11)
    second = Schwarz(matrix, [parts[k] for k in (2, 0, 3, 1)], alpha).solve(b, tolerance=1e-11)
    assert first.converged
    assert second.converged
    assert first.history != second.history
    np.testing.assert_allclose(first.x, second.x, atol=1e-9)
    warm = Schwarz(matrix, parts, alpha).solve(b, first.x + 1e-6, tolerance=1e-2)
    assert warm.sweeps < first.sweeps
    krylov = Schwarz(matrix, parts, alpha).solve_gmres(b)
    assert krylov.converged
    np.testing.assert_allclose(krylov.x, first.x, atol=1e-8)


@pytest.mark.slow
def test_lost_messages_cost_sweeps_and_nothing_else() -> None:
    alpha, y_d = 1e-4, a_target()
    schwarz = Schwarz(tracking(dirichlet(63, 2), alpha), tiles((63, 63), (4, 4), 4), alpha, "restricted")
    b = np.concatenate([np.zeros(63 * 63), -y_d])
    exact = solve(dirichlet(63, 2), np.zeros(63 * 63), y_d, alpha)
    counts = []
    for loss in (0.0, 0.2, 0.5):
        outcome = schwarz.solve(b, loss=loss, seed=3)
        assert outcome.converged
        np.testing.assert_allclose(outcome.x[: 63 * 63], exact.y, atol=1e-6)
        counts.append(outcome.sweeps)
    assert counts[0] < counts[1] < counts[2] < 3 * counts[0]


# --- boards -------------------------------------------------------------------------------------------------------------


def reference_board() -> Floorplan:
    """The brief's: 0.1 m square, four blocks; two halves as chips."""
    blocks = (
        Block("gpu", "left", Rect((20, 33), (20, 33)), 60.0, 40.0),
        Block("cpu", "right", Rect((20, 30), (38, 48)), 55.0, 25.0),
        Block("dla", "left", Rect((38, 45), (22, 29)), 60.0, 15.0),
        Block("codec", "right", Rect((40, 45), (42, 47)), 60.0, 8.0),
    )
    chips = (Chip("left", Rect((0, 64), (0, 35)), 0.06), Chip("right", Rect((0, 64), (35, 64)), 0.06))
    return Floorplan((64, 64), 0.1 / 64, 0.06, 400.0, 0.0, 0.0, chips, blocks, {})


def test_influence_matrix_of_the_reference_board() -> None:
    plan = reference_board()
    G = influence(plan)
    expected = [
        [1.7985, 0.3129, 0.3836, 0.0982],
        [0.3129, 2.3092, 0.0953, 0.2505],
        [0.3836, 0.0953, 3.0840, 0.1934],
        [0.0982, 0.2505, 0.1934, 3.9161],
    ]
    np.testing.assert_allclose(G, expected, atol=5.1e-5)
    np.testing.assert_allclose(G, G.T, atol=1e-12)
    theta = factorise(plan.operator())(plan.means().toarray()[1])
    assert theta.mean() == pytest.approx(1 / (400 * 0.01)), "what goes in leaves to the air"


@pytest.mark.parametrize("kind", ["multiplicative", "restricted"])
@pytest.mark.parametrize(("alpha", "power"), [(1e-1, [26.034, 19.344, 15.0, 8.0]), (1e-3, [26.701, 19.529, 15.0, 8.0])])
def test_schwarz_with_active_sets_equals_bounded_least_squares(kind: Kind, alpha: float, power: list[float]) -> None:
    plan = reference_board()
    direct = track(influence(plan), plan.targets, plan.limits, alpha)
    np.testing.assert_allclose(direct, power, atol=6e-4)
    found = track_schwarz(plan, plan.targets, plan.limits, alpha, overlap=3, kind=kind)
    np.testing.assert_allclose(found.v, direct, atol=1e-6)
    assert not found.gmres


def test_a_block_may_end_at_zero() -> None:
    plan = reference_board()
    target = np.array([60.0, 5.0, 60.0, 60.0])  # the cpu is to be colder than its neighbours make it
    direct = track(influence(plan), target, plan.limits, 1e-3)
    assert direct[1] == 0.0
    np.testing.assert_allclose(track_schwarz(plan, target, plan.limits, 1e-3).v, direct, atol=1e-6)


def test_factor_on_the_reference_board_is_the_closed_form() -> None:
    """Two halves, controlled everywhere, divided by h_c h^2 (brief 6.3)."""
    h = 0.1 / 64
    A = board(np.full((64, 64), 0.06), np.full((64, 64), 400.0), h) / (400 * h * h)
    k = 0.06 / (400 * h * h)
    owner = np.repeat((np.arange(64) >= 32).astype(np.intp)[:, None], 64, axis=1)
    for m, alpha, expected in ((2, 1.0, 0.4313), (4, 1e-2, 0.0491), (8, 100.0, 0.1006)):
        theta = cmath.acosh(1 + (1 - 1j / math.sqrt(alpha)) / (2 * k))
        rho = abs(cmath.cosh(theta * (31.5 - m / 2)) / cmath.cosh(theta * (32.5 + m / 2))) ** 2
        measured = factor(Schwarz(tracking(A, alpha), grown((64, 64), owner, m // 2), alpha), most=100)
        assert rho == pytest.approx(expected, abs=6e-5)
        assert measured == pytest.approx(rho, rel=0.01)  # other modes are close behind and die out slowly


def test_at_most_means_at_most() -> None:
    plan = reference_board()
    G = influence(plan)
    v = at_most(G, plan.targets, plan.limits, np.ones(4))
    assert (G @ v <= plan.targets + 1e-9).all()
    assert (v >= 0).all()
    assert (v <= plan.limits + 1e-9).all()
    assert np.isclose(G @ v, plan.targets, atol=1e-3).sum() >= 2, "what can be used is used"
    eager = at_most(G, plan.targets, plan.limits, np.array([10.0, 1.0, 1.0, 1.0]))
    assert eager[0] > v[0], "a block that matters more gets more"
    tracked = G @ track(G, plan.targets, plan.limits, 1e-3)
    assert tracked[1] > plan.targets[1] + 1.0, "tracking alone overshoots: that is why"


def test_the_example_board_plans_in_every_mode(tmp_path: Path) -> None:
    plan = read_floorplan(EXAMPLE)
    made = make_plan(plan)
    assert made.difference < 1e-6
    assert all(b.celsius <= b.limit + 1e-6 for b in made.budgets)
    assert any(b.hottest > b.limit for b in made.budgets), "a mean is not a peak"
    cells = make_plan(plan, mode="hottest")
    assert all(b.hottest <= b.limit + 1e-6 for b in cells.budgets)
    assert sum(b.power for b in cells.budgets) < sum(b.power for b in made.budgets)
    gpu = made.budgets[0]
    assert gpu.used <= gpu.power
    assert [c.model for c in gpu.rungs] == ["fastbev", "giraffedet"]
    lines = text_map(made.field, plan, 60)
    assert len({len(line) for line in lines[:-1]}) == 1
    assert any("gpu" in line for line in lines)
    write(tmp_path / "map.png", draw(made, plan, 400))
    assert (tmp_path / "map.png").stat().st_size > 1000
    with pytest.raises(PlanError, match=r"must end in \.png or \.jpg"):
        write(tmp_path / "map.gif", draw(made, plan, 400))
    with pytest.raises(PlanError, match="mode is 'x'"):
        make_plan(plan, mode="x")


def test_rungs_round_down_and_left_over_watts_go_where_they_help() -> None:
    big = LadderInfo("a", (RungInfo("a2", 0.9, 10, 0), RungInfo("a1", 0.6, 4, 0)), priority=2)
    little = LadderInfo("b", (RungInfo("b2", 0.9, 6, 0), RungInfo("b1", 0.6, 2, 0)))

    def names(budget: float) -> list[tuple[str, bool]]:
        return [(c.rung.name, c.fits) for c in choose([big, little], budget)]

    assert names(16) == [("a2", True), ("b2", True)]
    assert names(15.9) == [("a2", True), ("b1", True)]
    assert names(11.9) == [("a1", True), ("b2", True)]
    assert names(6) == [("a1", True), ("b1", True)]
    assert names(5.9) == [("a1", False), ("b1", False)]
    assert choose([], 5) == ()


def test_command_prints_map_and_budgets(tmp_path: Path) -> None:
    from typer.testing import CliRunner

    from bevstack.cli.main import app

    result = CliRunner().invoke(
        app, ["thermal", "plan", str(EXAMPLE), "--json", str(tmp_path / "p.json"), "--picture", str(tmp_path / "m.png")]
    )
    assert result.exit_code == 0, result.output
    assert "power budgets" in result.output
    report = json.loads((tmp_path / "p.json").read_text())
    assert [b["block"] for b in report["budgets"]] == ["gpu", "cpu", "dla", "codec"]
    result = CliRunner().invoke(app, ["thermal", "plan", str(tmp_path / "none.yaml")])
    assert result.exit_code == 2


GOOD = {
    "board": {"width": 0.1, "height": 0.1, "cell": 0.01, "spread": 0.06, "convection": 400, "ambient": 40},
    "chips": {"a": {"x": [0, 0.05], "y": [0, 0.1]}, "b": {"x": [0.05, 0.1], "y": [0, 0.1]}},
    "blocks": {"gpu": {"chip": "a", "x": [0.01, 0.04], "y": [0.01, 0.04], "limit": 95, "max_power": 20}},
}


@pytest.mark.parametrize(
    ("path", "value", "words"),
    [
        ("board", None, "it must hold fields"),
        ("board.cell", 0, "cell is 0: it must be a number above 0"),
        ("board.cell", 1e-6, "choose cell"),
        ("board.spread", "thick", "spread is 'thick'"),
        ("board.colour", "red", "unknown field 'colour'"),
        ("board.ambient", float("nan"), "ambient is nan"),
        ("board.ambient", 93.0, "no power would do"),
        ("chips.a.x", [0.2, 0.3], "is not on the board"),
        ("chips.a.x", 3, "must be \\[from, to\\]"),
        ("chips", {}, "chips is empty"),
        ("blocks.gpu.chip", "c", "chip 'c' is none of a, b"),
        ("blocks.gpu.x", [0.01, 0.09], "reaches beyond its chip a"),
        ("blocks.gpu.max_power", -5, "max_power is -5"),
        ("ladders", [{"model": "m", "block": "npu", "rungs": {}}], "block 'npu' is none of gpu"),
    ],
)
def test_floorplans_that_cannot_be(path: str, value: object, words: str) -> None:
    import copy

    loaded = copy.deepcopy(GOOD)
    parse_floorplan(loaded)
    *folders, last = path.split(".")
    place: dict[str, object] = loaded  # type: ignore[assignment]
    for folder in folders:
        place = place[folder]  # type: ignore[assignment]
    place[last] = value
    with pytest.raises(PlanError, match=words):
        parse_floorplan(loaded)


def test_numbers_that_cannot_be() -> None:
    A = dirichlet(7, 1)
    with pytest.raises(PlanError, match="alpha is 0"):
        solve(A, np.zeros(7), np.ones(7), 0.0)
    with pytest.raises(PlanError, match="target holds values that are not finite"):
        solve(A, np.zeros(7), np.full(7, np.nan), 1.0)
    with pytest.raises(PlanError, match="singular"):
        factorise(A - A)
    with pytest.raises(PlanError, match="convection must be above 0"):
        board(np.ones((4, 4)), np.zeros((4, 4)), 0.01)
