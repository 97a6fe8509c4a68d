"""Power budgets of a board: watts that each block may turn into heat so that dies stay at their temperatures, in steady state.

The board is an elliptic equation, the blocks' powers v its control (briefs: arXiv 2201.00974 for the decomposition):

- ``track`` minimises |G v - theta|^2 + alpha |v|^2 with 0 <= v <= max: being too cold counts as much as being too hot. Solved
  twice: by K back-substitutions and bounded least squares on the influence matrix G (K blocks by K), and by overlapping
  Schwarz iterations on the coupled state-adjoint system, one subdomain per chip, with a primal-dual active set for the bounds.
  Both must agree.
- ``at_most`` is what a budget means: no block above its temperature, as much useful power as fits below.

Valid beyond the heat sink's time constant; the governor works on shorter times.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .elliptic import Floats, PlanError, check_alpha, factorise, system
from .floorplan import Floorplan
from .rungs import LadderInfo, RungInfo
from .schwarz import Kind, Outcome, Schwarz

_ROUNDS = 50  # of the active set


@dataclass(frozen=True)
class Choice:
    """A model's rung within its block's budget. ``fits``: False if even the smallest needs more."""

    model: str
    rung: RungInfo
    fits: bool


@dataclass(frozen=True)
class Budget:
    """One block's share.

    Attributes:
        block, chip: names.
        power: W that the block may use. most: W that it could use.
        celsius: mean temperature at these powers. hottest: of its cells. limit: what it may reach, margin subtracted.
        rungs: of the models that load this block. used: W that those rungs need together.
    """

    block: str
    chip: str
    power: float
    most: float
    celsius: float
    hottest: float
    limit: float
    rungs: tuple[Choice, ...]
    used: float


@dataclass(frozen=True)
class Plan:
    """Budgets of a board and how they were found.

    Attributes:
        budgets: by block.
        field: (R, C) degC with all budgets used.
        influence: (K, K) G, K/W.
        method: in words.
        sweeps: of Schwarz, all active sets together; 0 if the influence matrix was used alone.
        rounds: active sets tried.
        difference: largest difference between Schwarz and the influence matrix, W; NaN if not compared.
        alpha: (K/W)^2, and alpha_scaled: the same divided by (reference temperature / reference power)^2.
    """

    budgets: tuple[Budget, ...]
    field: Floats
    influence: Floats
    method: str
    sweeps: int
    rounds: int
    difference: float
    alpha: float
    alpha_scaled: float


def influence(board: Floorplan) -> Floats:
    """G (K, K): mean temperature of a block per watt in another, K/W; symmetric."""
    return np.asarray(board.means() @ _fields(board))


def _fields(board: Floorplan) -> Floats:
    """(N, K): temperature of every cell per watt in each block, K/W."""
    back = factorise(board.operator())
    return np.array([back(row) for row in board.means().toarray()]).T


def _below_everywhere(fields: Floats, inside: Sequence[Any], target: Floats, most: Floats, weights: Floats) -> Floats:
    """``at_most`` for the hottest cells of each block, which are found by looking again at what the last powers gave."""
    rows: list[int] = []
    owner: list[int] = []
    v = most
    for _ in range(20):
        theta = fields @ v
        added = False
        for k, cells in enumerate(inside):
            hottest = int(cells[np.argmax(theta[cells])])
            if hottest not in rows:
                rows.append(hottest)
                owner.append(k)
                added = True
        if not added:
            break
        v = at_most(fields[rows], target[owner], most, weights)
    worst = max(float(((fields @ v)[cells] / target[k]).max()) for k, cells in enumerate(inside))
    return v / max(1.0, worst)


def track(G: Floats, target: Floats, most: Floats, alpha: float) -> Floats:
    """(K,) W that minimise |G v - target|^2 + alpha |v|^2, 0 <= v <= most.

    Raises:
        PlanError: alpha is not above 0.
    """
    from scipy.optimize import lsq_linear

    check_alpha(alpha)
    k = len(target)
    stacked = np.vstack([G, math.sqrt(alpha) * np.eye(k)])
    found = lsq_linear(stacked, np.concatenate([target, np.zeros(k)]), (np.zeros(k), most), method="bvls", tol=1e-14)
    return np.asarray(found.x)


def at_most(G: Floats, target: Floats, most: Floats, weights: Floats) -> Floats:
    """(K,) W: no row of ``G`` (R, K) above its ``target`` (R,), and the weighted squares of what blocks lack of ``most`` as
    small as can be.

    A convex quadratic program: minimise sum w ((most - v) / most)^2 subject to G v <= target, 0 <= v <= most.
    """
    from scipy import optimize

    minimize: Any = optimize.minimize  # its stubs do not know constraints as the documentation has them
    scale = np.maximum(most, 1e-9)
    start = np.minimum(most, 0.5 * float(np.min(target / np.maximum(G @ most, 1e-12))) * most)
    found = minimize(
        lambda s: float((weights * (1 - s) ** 2).sum()),
        start / scale,
        jac=lambda s: -2 * weights * (1 - s),
        bounds=[(0.0, 1.0)] * len(most),
        constraints={
            "type": "ineq",
            "fun": lambda s: 1 - (G @ (s * scale)) / target,
            "jac": lambda s: -G * scale / target[:, None],
        },
        method="SLSQP",
        options={"maxiter": 500, "ftol": 1e-12},
    )
    v = np.clip(found.x, 0.0, 1.0) * scale
    # Rounding of the solver must not end above the limit.
    return np.asarray(v * min(1.0, float(np.min(target / np.maximum(G @ v, 1e-12)))))


@dataclass(frozen=True)
class SchwarzPlan:
    """``v`` (K,) W; temperatures over ambient (N,); how the iteration went."""

    v: Floats
    theta: Floats
    sweeps: int
    rounds: int
    gmres: bool
    outcomes: tuple[Outcome, ...]


def track_schwarz(
    board: Floorplan,
    target: Floats,
    most: Floats,
    alpha: float,
    *,
    overlap: int = 4,
    kind: Kind = "multiplicative",
    tolerance: float = 1e-10,
) -> SchwarzPlan:
    """``track`` without a model of the whole board in one place: chips exchange temperatures and adjoints on their borders.

    With v = -B'p / alpha on blocks that are between their bounds, the coupled system is [A, B D B'/alpha; -C'C, A]. Blocks lie
    within one chip, so that this coupling stays inside subdomains. The paper's bound does not cover bounded or blocky
    controls; where sweeps stall, GMRES with a sweep as preconditioner takes over, and says so.

    Raises:
        PlanError: alpha not above 0, no convergence, active sets that never settle.
    """
    from scipy import sparse

    check_alpha(alpha)
    A, C = board.operator(), board.means()
    n, W = A.shape[0], (C.T @ C).tocsr()
    subdomains = board.subdomains(overlap)
    state = np.zeros(len(target), int)  # -1 at zero, 1 at most, 0 between
    x, sweeps, by_gmres, outcomes = np.zeros(2 * n), 0, False, []
    for rounds in range(1, _ROUNDS + 1):
        free = sparse.diags((state == 0).astype(float))
        fixed = np.where(state == 1, most, 0.0)
        schwarz = Schwarz(system(A, (C.T @ free @ C) / alpha, W), subdomains, alpha, kind)
        b = np.concatenate([C.T @ fixed, -(C.T @ target)])
        outcome = schwarz.solve(b, x, tolerance=tolerance, most=300)
        sweeps += outcome.sweeps
        if not outcome.converged:
            outcome, by_gmres = schwarz.solve_gmres(b), True
            sweeps += outcome.sweeps
            if not outcome.converged:
                raise PlanError(f"no convergence after {sweeps} sweeps at alpha {alpha:g}: use a larger alpha or overlap")
        outcomes.append(outcome)
        x = outcome.x
        wanted = -(C @ x[n:]) / alpha
        new = np.where(wanted <= 0, -1, np.where(wanted >= most, 1, 0))
        if np.array_equal(new, state):
            v = np.where(state == 0, wanted, fixed)
            return SchwarzPlan(v, x[:n], sweeps, rounds, by_gmres, tuple(outcomes))
        state = new
    raise PlanError(f"active sets did not settle in {_ROUNDS} rounds at alpha {alpha:g}: use a larger alpha")


def choose(ladders: Sequence[LadderInfo], budget: float) -> tuple[Choice, ...]:
    """The rungs of a block's models with the most utility (sum of priority * log quality) whose powers fit; of equals the
    coolest.

    Left-over watts thereby go where they help most. If nothing fits, the smallest of each, marked as not fitting.
    """
    best: tuple[float, float] | None = None
    chosen: tuple[RungInfo, ...] = ()
    for combination in product(*(ladder.allowed for ladder in ladders)):
        power = sum(rung.power_w for rung in combination)
        if power > budget + 1e-9:
            continue
        utility = sum(ladder.priority * math.log(rung.quality) for ladder, rung in zip(ladders, combination))
        if best is None or (utility, -power) > best:
            best, chosen = (utility, -power), combination
    if best is not None:
        return tuple(Choice(ladder.model, rung, True) for ladder, rung in zip(ladders, chosen))
    return tuple(Choice(ladder.model, ladder.smallest, False) for ladder in ladders)


def make_plan(
    board: Floorplan,
    *,
    alpha: float = 1e-3,
    overlap: int = 4,
    mode: str = "at-most",
    schwarz: bool = True,
    kind: Kind = "multiplicative",
) -> Plan:
    """Budgets of a board.

    Args:
        alpha: price of power in ``track``, (K/W)^2.
        overlap: cells by which subdomains are grown.
        mode: "at-most" (no block's mean above its temperature), "hottest" (no cell of a block above it) or "track" (the
            optimal-control problem as it stands).
        schwarz: solve the control problem by Schwarz as well and compare.

    Raises:
        PlanError: see the parts.
    """
    if mode not in ("at-most", "hottest", "track"):
        raise PlanError(f"mode is {mode!r}: use at-most, hottest or track")
    if not board.blocks:
        raise PlanError("the board has no blocks: nothing can be budgeted")
    target, most = board.targets, board.limits
    G = influence(board)
    tracked = track(G, target, most, alpha)
    sweeps = rounds = 0
    difference, method = math.nan, "influence matrix, bounded least squares"
    if schwarz:
        found = track_schwarz(board, target, most, alpha, overlap=overlap, kind=kind)
        sweeps, rounds = found.sweeps, found.rounds
        difference = float(np.abs(found.v - tracked).max())
        method = f"Schwarz ({kind}, {len(board.chips)} subdomains, overlap {overlap})" + (" with GMRES" if found.gmres else "")
        tracked = found.v
    weights = np.array([max((ladder.priority for ladder in board.ladders.get(b.name, ())), default=1.0) for b in board.blocks])
    fields = _fields(board)
    inside = [np.flatnonzero(block.rect.mask(board.shape).reshape(-1)) for block in board.blocks]
    v = tracked
    if mode == "at-most":
        v = at_most(G, target, most, weights)
    elif mode == "hottest":
        v = _below_everywhere(fields, inside, target, most, weights)
    theta = fields @ v
    budgets = []
    for k, block in enumerate(board.blocks):
        rungs = choose(board.ladders.get(block.name, ()), float(v[k]))
        celsius = board.ambient + float((G @ v)[k])
        hottest = board.ambient + float(theta[inside[k]].max())
        used = sum(choice.rung.power_w for choice in rungs)
        limit = block.limit - board.margin
        budgets.append(Budget(block.name, block.chip, float(v[k]), block.max_power, celsius, hottest, limit, rungs, used))
    reference = float(np.mean(target) / np.mean(most))
    return Plan(
        tuple(budgets), board.ambient + theta.reshape(board.shape), G, method, sweeps, rounds, difference, alpha,
        alpha / reference**2,
    )  # fmt: skip


def text_map(field: NDArray[np.float64], board: Floorplan, width: int = 64) -> list[str]:
    """Lines of characters, cold to hot, block names written into their places; first and last line frame it."""
    ramp = " .:-=+*#%@"
    rows, columns = field.shape
    width = min(width, columns)
    height = max(2, round(rows / columns * width / 2))
    low, high = float(field.min()), float(field.max())
    lines = []
    for r in range(height):
        band = field[r * rows // height : max((r + 1) * rows // height, r * rows // height + 1)]
        values = [
            band[:, c * columns // width : max((c + 1) * columns // width, c * columns // width + 1)].max()
            for c in range(width)
        ]
        lines.append([ramp[min(int((v - low) / max(high - low, 1e-9) * len(ramp)), len(ramp) - 1)] for v in values])
    for block in board.blocks:
        r = min((block.rect.rows[0] + block.rect.rows[1]) * height // (2 * rows), height - 1)
        c = block.rect.columns[0] * width // columns
        for i, letter in enumerate(block.name[: max(1, (block.rect.columns[1] - block.rect.columns[0]) * width // columns)]):
            if c + i < width:
                lines[r][c + i] = letter
    frame = "+" + "-" * width + "+"
    return [frame, *("|" + "".join(line) + "|" for line in lines), frame, f"' ' {low:.1f} degC ... '@' {high:.1f} degC"]
