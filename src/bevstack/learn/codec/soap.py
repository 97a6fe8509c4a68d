"""SOAP (Vyas et al. 2024): Adam in the slowly turning eigenbasis of each weight matrix's gradient covariance.

Here a step costs a tenth more than Adam's and gains more than that. 1x1 convolutions are matrices; everything else (depthwise
filters, vectors, tables) gets plain Adam.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor


class Soap(torch.optim.Optimizer):
    """Optimiser with the interface of ``torch.optim.Adam``.

    Args:
        params: parameters or groups.
        betas: decay of the mean and of the squared gradients (and of the covariances).
        eps: added to the root of the squared gradients.
        refresh: steps between two updates of the bases.
        largest: matrix sides beyond this keep their own basis.
    """

    def __init__(
        self,
        params: Iterable[Any],
        lr: float = 1e-3,
        betas: tuple[float, float] = (0.95, 0.95),
        eps: float = 1e-9,
        refresh: int = 10,
        largest: int = 192,
    ) -> None:
        super().__init__(params, {"lr": lr, "betas": betas, "eps": eps, "refresh": refresh, "largest": largest})

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:  # type: ignore[override]
        """One update; parameters without a gradient stay."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            for parameter in group["params"]:
                if parameter.grad is not None:
                    self._update(parameter, group)
        return loss

    def _update(self, parameter: Tensor, group: dict[str, Any]) -> None:
        gradient, state = _as_matrix(parameter.grad), self.state[parameter]  # type: ignore[arg-type]
        first, second = group["betas"]
        if not state:
            state["step"] = 0
            state["mean"] = torch.zeros_like(gradient)
            state["square"] = torch.zeros_like(gradient)
            for side, size in enumerate(gradient.shape if gradient.ndim == 2 else ()):
                if 1 < size <= group["largest"]:
                    covariance = _covariance(gradient, side)
                    state[f"covariance{side}"] = covariance
                    state[f"basis{side}"] = torch.linalg.eigh(covariance)[1].flip(1).contiguous()
        state["step"] += 1
        turned = _turn(gradient, state)
        state["mean"].lerp_(gradient, 1 - first)
        state["square"].lerp_(turned.square(), 1 - second)
        scale = (1 - second ** state["step"]) ** 0.5 / (1 - first ** state["step"])
        change = _turn(state["mean"], state) / (state["square"].sqrt() + group["eps"]) * scale
        change = _turn(change, state, back=True).reshape(parameter.shape)
        parameter.sub_(change, alpha=group["lr"])
        for side in (0, 1):
            if f"basis{side}" in state:
                state[f"covariance{side}"].lerp_(_covariance(gradient, side), 1 - second)
                if state["step"] % group["refresh"] == 0:
                    _refresh(state, side)


def _as_matrix(value: Tensor) -> Tensor:
    """(out, in) of a 1x1 convolution; other shapes as they are."""
    return value[:, :, 0, 0] if value.ndim == 4 and value.shape[2:] == (1, 1) and value.shape[1] > 1 else value


def _covariance(gradient: Tensor, side: int) -> Tensor:
    return gradient @ gradient.T if side == 0 else gradient.T @ gradient


def _turn(value: Tensor, state: dict[str, Any], back: bool = False) -> Tensor:
    """Into the eigenbases of both sides, or out of them."""
    if "basis0" in state:
        basis = state["basis0"]
        value = (basis if back else basis.T) @ value
    if "basis1" in state:
        basis = state["basis1"]
        value = value @ (basis.T if back else basis)
    return value


def _refresh(state: dict[str, Any], side: int) -> None:
    """One step of orthogonal iteration, with the squared gradients kept beside their directions."""
    covariance, basis = state[f"covariance{side}"], state[f"basis{side}"]
    moved = covariance @ basis
    order = torch.argsort((basis * moved).sum(0), descending=True)
    state["square"] = state["square"].index_select(side, order)
    state[f"basis{side}"] = torch.linalg.qr(moved[:, order])[0].contiguous()
