"""Elliptic optimal control on a grid: the operators, the optimality system and its direct solution.

Minimise 1/2 |y - y_d|^2 + alpha/2 |u|^2 subject to A y = u + f (arXiv 2201.00974, unconstrained, distributed control). With the
adjoint p, the optimality conditions are A y = u + f, A p = y - y_d, alpha u + p = 0; the control is eliminated:

    [ A   M ] [y]   [ f ]
    [ -W  A ] [p] = [ -g ]        M = I / alpha, W = I, g = y_d

Other M and W say that only some places or blocks are controlled, or looked at (``plan``). scipy.sparse throughout.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bevstack.errors import BevstackError

Floats = NDArray[np.float64]
Sparse = Any  # scipy.sparse matrices have no stubs


class PlanError(BevstackError):
    """A board, a target or a number that no plan can be made for."""


@dataclass(frozen=True)
class Solution:
    """State, adjoint and control on the grid's unknowns, each (N,)."""

    y: Floats
    p: Floats
    u: Floats


def dirichlet(n: int, dimensions: int) -> Sparse:
    """-Laplacian, three or five points, on the unit interval or square, zero on the boundary: ``n`` interior points a side."""
    from scipy import sparse

    bands: list[Any] = [-np.ones(n - 1), 2 * np.ones(n), -np.ones(n - 1)]
    line: Sparse = sparse.diags(bands, [-1, 0, 1]) * float((n + 1) ** 2)
    if dimensions == 1:
        return line.tocsr()
    one = sparse.identity(n)
    return (sparse.kron(line, one) + sparse.kron(one, line)).tocsr()


def board(spread: Floats, convection: Floats, cell: float) -> Sparse:
    """-div(k t grad theta) + h_c theta on cells with insulated edges, in W/K: row sums are what leaves to the air.

    Args:
        spread: (R, C) k t, conductivity times thickness, W/K; between unlike cells the harmonic mean counts.
        convection: (R, C) h_c of both faces together, W/(m^2 K).
        cell: side of a cell, m.

    Raises:
        PlanError: a value that is not above 0, or not finite.
    """
    from scipy import sparse

    spread, convection = np.asarray(spread, np.float64), np.asarray(convection, np.float64)
    for name, values in (("spread", spread), ("convection", convection), ("cell", np.asarray(cell))):
        if not (np.isfinite(values).all() and (values > 0).all()):
            raise PlanError(f"board: {name} must be above 0 and finite everywhere, it is {float(np.min(values)):g} somewhere")
    rows, columns = spread.shape
    index = np.arange(rows * columns).reshape(rows, columns)
    diagonal = (convection * cell * cell).ravel()
    first, second, value = [], [], []
    for a, b in ((index[1:], index[:-1]), (index[:, 1:], index[:, :-1])):
        i, j = a.ravel(), b.ravel()
        ka, kb = spread.ravel()[i], spread.ravel()[j]
        k = 2.0 * ka * kb / (ka + kb)
        np.add.at(diagonal, i, k)
        np.add.at(diagonal, j, k)
        first += [i, j]
        second += [j, i]
        value += [-k, -k]
    i, j, v = np.concatenate(first), np.concatenate(second), np.concatenate(value)
    return (sparse.coo_matrix((v, (i, j)), shape=(diagonal.size,) * 2) + sparse.diags(diagonal)).tocsr()


def system(A: Sparse, M: Sparse, W: Sparse) -> Sparse:
    """The coupled (2N, 2N) matrix."""
    from scipy import sparse

    return sparse.bmat([[A, M], [-W, A]], format="csr")


def tracking(A: Sparse, alpha: float) -> Sparse:
    """The coupled matrix of the paper's problem: controlled and looked at everywhere.

    Raises:
        PlanError: alpha is not above 0.
    """
    from scipy import sparse

    check_alpha(alpha)
    one = sparse.identity(A.shape[0])
    return system(A, one / alpha, one)


def solve(A: Sparse, f: Floats, y_d: Floats, alpha: float) -> Solution:
    """Direct solution of the real 2N x 2N system.

    Raises:
        PlanError: alpha not above 0, values that are not finite, a singular operator.
    """
    x = factorise(tracking(A, alpha))(np.concatenate([finite("f", f), -finite("target", y_d)]))
    n = A.shape[0]
    return Solution(x[:n], x[n:], -x[n:] / alpha)


def solve_complex(A: Sparse, f: Floats, y_d: Floats, alpha: float) -> Solution:
    """The same through one complex N x N system, w = y + i p / sqrt(alpha): an independent check of signs and scaling."""
    from scipy import sparse

    check_alpha(alpha)
    root = math.sqrt(alpha)
    w = factorise((A - (1j / root) * sparse.identity(A.shape[0])).tocsc())(finite("f", f) - 1j * finite("target", y_d) / root)
    p = w.imag * root
    return Solution(w.real.copy(), p, -p / alpha)


def factorise(matrix: Sparse) -> Any:
    """Sparse LU: a function that solves for one right-hand side.

    Raises:
        PlanError: the matrix is singular or holds values that are not finite.
    """
    from scipy.sparse.linalg import splu

    if not np.isfinite(matrix.data).all():
        raise PlanError("the operator holds values that are not finite: check the board's numbers")
    try:
        return splu(matrix.tocsc()).solve
    except RuntimeError as error:
        raise PlanError(
            f"an operator of {matrix.shape[0]} unknowns is singular ({error}): a part of it loses no heat"
        ) from error


def merit(y: Floats, p: Floats, alpha: float) -> Floats:
    """sqrt(y^2 + p^2 / alpha): what Schwarz iterations never increase in the maximum norm (|y| alone they may)."""
    return np.sqrt(y**2 + p**2 / alpha)


def cost(solution: Solution, y_d: Floats, alpha: float) -> float:
    """1/2 |y - y_d|^2 + alpha/2 |u|^2, sums over unknowns."""
    return 0.5 * float(((solution.y - y_d) ** 2).sum() + alpha * (solution.u**2).sum())


def check_alpha(alpha: float) -> None:
    """Raises PlanError unless ``alpha`` is above 0 and finite."""
    if not (math.isfinite(alpha) and alpha > 0):
        raise PlanError(f"alpha is {alpha:g}: the price of power must be above 0")


def finite(name: str, values: Floats) -> Floats:
    """``values`` as floats. Raises PlanError if one is not finite."""
    made = np.asarray(values, np.float64)
    if not np.isfinite(made).all():
        raise PlanError(f"{name} holds values that are not finite")
    return made
