"""The shipped weights decode alike everywhere: engines, threads, layouts, precisions; golden streams."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("torch")

import torch

from bevstack.codec.codec import ImageCodec
from bevstack.codec.weights import load_weights, self_test_input

from . import golden_shipped
from .golden_shipped import SHIPPED

GOLDEN = {name: json.loads(golden_shipped.file_of(name).read_text()) for name in SHIPPED}
CASES = tuple(golden_shipped.cases())


@pytest.fixture(scope="module", params=SHIPPED)
def shipped(request: pytest.FixtureRequest) -> ImageCodec:
    return ImageCodec(request.param)


def golden(codec: ImageCodec) -> dict[str, Any]:
    """What is known of a shipped codec's streams."""
    known: dict[str, Any] = GOLDEN[codec.config.name]
    return known


def test_golden_streams_belong_to_the_shipped_weights(shipped: ImageCodec):
    assert shipped.info.sha256 == golden(shipped)["weights"], "new weights: run python tests/codec/golden_shipped.py NAME"


@pytest.mark.parametrize("name", CASES)
def test_golden_streams_decode_to_the_golden_symbols_and_pixels(shipped: ImageCodec, name: str):
    case = golden(shipped)["cases"][name]
    data = bytes.fromhex(case["stream"])
    assert golden_shipped.symbols_sha256(shipped.parse(data)) == case["symbols"]
    decoded = shipped.decode(data)
    assert not decoded.damage
    assert decoded.matched
    np.testing.assert_allclose(golden_shipped.block_means(decoded.rgb), case["means"], atol=0.02)
    if golden_shipped.platform() == golden(shipped)["platform"]:
        assert hashlib.sha256(decoded.rgb.tobytes()).hexdigest() == case["pixels"]


def test_the_encoder_still_writes_the_golden_bytes(shipped: ImageCodec):
    for name, arguments in golden_shipped.cases().items():
        wanted, made = bytes.fromhex(golden(shipped)["cases"][name]["stream"]), shipped.encode(**arguments).data
        if golden_shipped.platform() == golden(shipped)["platform"]:
            assert made == wanted, name
        else:  # a rounding error may turn a symbol
            assert abs(len(made) / len(wanted) - 1) < 0.01, name


def test_onnx_runtime_parses_the_golden_streams_and_shows_the_same(
    shipped: ImageCodec, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    pytest.importorskip("onnxruntime")
    pytest.importorskip("onnx")
    monkeypatch.setenv("BEVSTACK_CACHE", str(tmp_path))
    other = ImageCodec(shipped.path, "onnx", 2)
    for name, case in golden(shipped)["cases"].items():
        data = bytes.fromhex(case["stream"])
        assert golden_shipped.symbols_sha256(other.parse(data)) == case["symbols"], name
        difference = np.abs(other.decode(data).rgb.astype(int) - shipped.decode(data).rgb)
        assert difference.max() <= 1
        assert (difference > 0).mean() < 1e-3


@pytest.mark.parametrize("isa", ["default", "avx2"])
def test_another_process_without_onednn_parses_the_same(shipped: ImageCodec, tmp_path: Path, isa: str):
    name = "texture high"
    (tmp_path / "frame.vtc").write_bytes(bytes.fromhex(golden(shipped)["cases"][name]["stream"]))
    script = (
        "import sys, hashlib, torch; from bevstack.codec.codec import ImageCodec\n"
        "torch.backends.mkldnn.enabled = False\n"
        "p = ImageCodec(sys.argv[1], threads=3).parse(open(sys.argv[2], 'rb').read())\n"
        "print(hashlib.sha256(p.z.tobytes() + p.symbols.tobytes()).hexdigest())\n"
    )
    command = [sys.executable, "-c", script, str(shipped.path), str(tmp_path / "frame.vtc")]
    environment = {**os.environ, "ATEN_CPU_CAPABILITY": isa}
    out = subprocess.run(command, capture_output=True, text=True, check=True, env=environment)
    assert out.stdout.strip() == golden(shipped)["cases"][name]["symbols"]


def test_scale_net_is_exact_in_any_layout_and_precision(shipped: ImageCodec):
    net = load_weights(shipped.path).scales
    z, plane = (torch.from_numpy(a) for a in self_test_input(shipped.config))
    random = torch.from_numpy(np.random.default_rng(0).integers(-127, 128, (4, *z.shape[1:])).astype(np.float32))
    planes = plane.expand(4, -1, -1, -1).flip(-1).contiguous()
    with torch.no_grad():
        for z_in, plane_in in ((z, plane), (random, planes)):
            usual = net(z_in, plane_in)
            last = net(z_in.contiguous(memory_format=torch.channels_last), plane_in)
            double = net.double()(z_in.double(), plane_in.double())
            net.float()
            torch.testing.assert_close(last, usual, rtol=0, atol=0)
            torch.testing.assert_close(double.float(), usual, rtol=0, atol=0)
            one = torch.cat([net(z_in[k : k + 1], plane_in[k : k + 1]) for k in range(len(z_in))])
            torch.testing.assert_close(one, usual, rtol=0, atol=0)
