"""Half precision that a CPU has to emulate is called slow, in one line, by the trainers."""

from __future__ import annotations

import pytest
import torch

from bevstack.learn import half


@pytest.mark.parametrize(
    ("native", "wanted", "device", "warns"),
    [(False, True, "cpu", True), (True, True, "cpu", False), (False, False, "cpu", False), (False, True, "cuda", False)],
)
def test_warns_where_half_precision_is_emulated(
    monkeypatch: pytest.MonkeyPatch, native: bool, wanted: bool, device: str, warns: bool
) -> None:
    monkeypatch.setattr(half, "native_bfloat16", lambda: native)
    lines: list[str] = []
    half.warn_if_emulated(wanted, torch.device(device), lines.append)
    assert len(lines) == int(warns)
    assert all("--amp" in line for line in lines)


def test_torch_tells_whether_bfloat16_is_native() -> None:
    assert half.native_bfloat16() in (True, False)
