"""Overlapping Schwarz iterations for the coupled state-adjoint system: subdomains exchange interface values, nothing else.

arXiv 2201.00974 (Gong, Kwok, Tan): on each subdomain the coupled local optimality system is solved with state and adjoint
values of the neighbours on its interface. Where this converges for the elliptic equation alone it converges for the control
problem, no slower in a suitable maximum norm, and faster as alpha falls.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from .elliptic import Floats, PlanError, Sparse, factorise, finite

Indices = NDArray[np.intp]
Kind = Literal["multiplicative", "restricted"]
MOST_SWEEPS = 500


@dataclass(frozen=True)
class Subdomain:
    """Unknowns of one subdomain (sorted), and those of them that it owns: every unknown of the grid has one owner."""

    unknowns: Indices
    owned: Indices
    name: str = ""


def grown(shape: tuple[int, ...], owner: NDArray[np.intp], extension: int, names: Sequence[str] = ()) -> list[Subdomain]:
    """Subdomains from a map of owners, each grown by ``extension`` cells into its neighbours (a rectangle's corners included).

    Args:
        shape: of the grid. owner: same shape, 0 .. K - 1.

    Raises:
        PlanError: an owner without cells.
    """
    made = []
    for k in range(int(owner.max()) + 1):
        mask = owner == k
        if not mask.any():
            raise PlanError(
                f"subdomain {names[k] if k < len(names) else k} has no cells: chips overlap, or the grid is too coarse"
            )
        for axis in range(mask.ndim):
            wide = mask.copy()
            for _ in range(extension):
                more = wide.copy()
                more[_slice(axis, 1, None)] |= wide[_slice(axis, None, -1)]
                more[_slice(axis, None, -1)] |= wide[_slice(axis, 1, None)]
                wide = more
            mask = wide
        flat = np.flatnonzero(mask.reshape(-1))
        made.append(Subdomain(flat, np.flatnonzero((owner == k).reshape(-1)), names[k] if k < len(names) else str(k)))
    assert math.prod(shape) == owner.size
    return made


def tiles(shape: tuple[int, ...], parts: tuple[int, ...], extension: int) -> list[Subdomain]:
    """Equal rectangles, ``parts`` along each axis, grown by ``extension`` cells on each side."""
    owner = np.zeros(shape, np.intp)
    for axis, (n, k) in enumerate(zip(shape, parts, strict=True)):
        along = np.arange(n) * k // n
        owner = owner * k + along.reshape([-1 if a == axis else 1 for a in range(len(shape))])
    return grown(shape, owner, extension)


@dataclass(frozen=True)
class Outcome:
    """How an iteration ended.

    Attributes:
        x: (2N,) state and adjoint.
        sweeps: made; one sweep visits every subdomain once.
        history: residual after each sweep, relative to the first.
        converged: the tolerance was reached within the cap.
    """

    x: Floats
    sweeps: int
    history: tuple[float, ...]
    converged: bool


class Schwarz:
    """Factorises every subdomain once; then sweeps.

    Args:
        matrix: coupled (2N, 2N) matrix of ``elliptic.system``.
        subdomains: they cover all unknowns.
        alpha: scales the adjoint's residual against the state's.
        kind: "multiplicative" (one after the other, newest values), or "restricted" (all at once from the same values, each
            keeps what it owns: what separate computers do).

    Raises:
        PlanError: unknowns that belong to no subdomain, a singular subdomain.
    """

    def __init__(self, matrix: Sparse, subdomains: Sequence[Subdomain], alpha: float, kind: Kind = "multiplicative") -> None:
        n = matrix.shape[0] // 2
        covered = np.zeros(n, bool)
        for subdomain in subdomains:
            covered[subdomain.unknowns] = True
        if not covered.all():
            raise PlanError(
                f"{int((~covered).sum())} of {n} unknowns belong to no subdomain: the iteration would never move them"
            )
        self.matrix, self.alpha, self.kind = matrix.tocsr(), alpha, kind
        self.unknowns = n
        self.subdomains = tuple(subdomains)
        self._parts = [_Part(self.matrix, s, n) for s in subdomains]

    def sweep(
        self, x: Floats, b: Floats, after: Callable[[Floats], None] | None = None, heard: list[Floats] | None = None
    ) -> Floats:
        """One sweep. ``after`` is called with the iterate after each subdomain (multiplicative only).

        Args:
            heard: per subdomain the interface values that it last got; None: the newest (nothing is lost on the way).
        """
        if self.kind == "multiplicative":
            x = x.copy()
            for part in self._parts:
                x[part.rows] = part.solve(b, x[part.halo])
                if after is not None:
                    after(x)
            return x
        made = np.empty_like(x)
        for k, part in enumerate(self._parts):
            values = part.solve(b, x[part.halo] if heard is None else heard[k])
            made[part.owned] = values[part.owned_local]
        return made

    def residual(self, x: Floats, b: Floats) -> float:
        """Largest residual, the adjoint's scaled like the merit function."""
        r = np.abs(b - self.matrix @ x)
        return float(max(r[: self.unknowns].max(), r[self.unknowns :].max() / math.sqrt(self.alpha)))

    def solve(
        self,
        b: Floats,
        start: Floats | None = None,
        *,
        tolerance: float = 1e-8,
        most: int = MOST_SWEEPS,
        loss: float = 0.0,
        seed: int = 0,
    ) -> Outcome:
        """Sweeps until the residual has fallen to ``tolerance`` of the first one.

        Args:
            b: (2N,) right-hand side (f, -g).
            start: warm start; None: zero.
            loss: share of interface messages between restricted subdomains that get lost: the receiver then uses what it had.
                For tests of a link.
            seed: of the losses.
        """
        b = finite("right-hand side", b)
        x = np.zeros(len(b)) if start is None else finite("start", start).copy()
        first = self.residual(x, b)
        if first == 0.0:
            return Outcome(x, 0, (), True)
        rng, history = np.random.default_rng(seed), []
        heard = [x[part.halo].copy() for part in self._parts] if loss else None
        for sweep in range(1, most + 1):
            if heard is not None:
                self._listen(x, heard, loss, rng)
            x = self.sweep(x, b, heard=heard)
            history.append(self.residual(x, b) / first)
            if history[-1] <= tolerance:
                return Outcome(x, sweep, tuple(history), True)
        return Outcome(x, most, tuple(history), False)

    def solve_gmres(self, b: Floats, *, tolerance: float = 1e-10, most: int = MOST_SWEEPS) -> Outcome:
        """GMRES with one sweep as preconditioner: for systems on which sweeps alone stall."""
        from scipy.sparse.linalg import LinearOperator, gmres

        n2 = len(b)
        zero = np.zeros(n2)
        # Adjoint rows are scaled like the merit, so that the stopping rule means the same as in `solve`.
        scale = np.concatenate([np.ones(self.unknowns), np.full(self.unknowns, 1.0 / math.sqrt(self.alpha))])
        history: list[float] = []
        operator = LinearOperator((n2, n2), matvec=lambda v: scale * (self.matrix @ v))
        before = LinearOperator((n2, n2), matvec=lambda r: self.sweep(zero, np.asarray(r).reshape(-1) / scale))
        x, info = gmres(
            operator, scale * b, M=before, rtol=tolerance, atol=0.0, restart=60, maxiter=max(1, most // 60),
            callback=lambda value: history.append(float(value)), callback_type="pr_norm",
        )  # fmt: skip
        return Outcome(x, len(history), tuple(history), info == 0)

    def _listen(self, x: Floats, heard: list[Floats], loss: float, rng: np.random.Generator) -> None:
        """One message per neighbour; a lost one leaves the values as they were."""
        owner = np.empty(self.unknowns, np.intp)
        for k, s in enumerate(self.subdomains):
            owner[s.owned] = k
        for k, part in enumerate(self._parts):
            sender = owner[part.halo % self.unknowns]
            arrived = np.isin(sender, [j for j in np.unique(sender) if rng.random() >= loss])
            heard[k][arrived] = x[part.halo][arrived]


class _Part:
    """One subdomain's rows of the coupled system, its factors, and the unknowns beyond its border (halo)."""

    def __init__(self, matrix: Any, subdomain: Subdomain, n: int) -> None:
        s = subdomain.unknowns
        self.rows = np.concatenate([s, s + n])
        strip = matrix[self.rows]
        inside = np.zeros(2 * n, bool)
        inside[self.rows] = True
        columns = np.unique(strip.indices)
        self.halo = columns[~inside[columns]]
        self._outer = strip[:, self.halo].tocsr()
        self._solve = factorise(strip[:, self.rows])
        self.owned = np.concatenate([subdomain.owned, subdomain.owned + n])
        self.owned_local = np.searchsorted(self.rows, self.owned)

    def solve(self, b: Floats, halo: Floats) -> Floats:
        """Values in the subdomain for these values beyond its border."""
        return np.asarray(self._solve(b[self.rows] - self._outer @ halo))


def factor(schwarz: Schwarz, *, seed: int = 0, most: int = 400, settle: float = 1e-7) -> float:
    """Spectral factor of a sweep, measured: error of a random start per sweep, once that ratio has settled."""
    rng = np.random.default_rng(seed)
    n = schwarz.unknowns
    x, zero = rng.normal(size=2 * n), np.zeros(2 * n)
    root, ratio, product, counted = math.sqrt(schwarz.alpha), 0.0, 0.0, 0
    for sweep in range(most):
        x = x / _largest(x, n, root)
        x = schwarz.sweep(x, zero)
        size = _largest(x, n, root)
        if size < 1e-300:
            return 0.0
        if abs(size - ratio) < settle * size and sweep > 3:
            return size
        ratio = size
        if sweep >= most // 2:  # complex pairs turn: the mean over many sweeps settles where single ratios do not
            product, counted = product + math.log(size), counted + 1
    return math.exp(product / counted)


def _largest(x: Floats, n: int, root: float) -> float:
    return float(np.sqrt(x[:n] ** 2 + (x[n:] / root) ** 2).max())


def _slice(axis: int, start: int | None, stop: int | None) -> tuple[slice, ...]:
    return (*(slice(None),) * axis, slice(start, stop))
