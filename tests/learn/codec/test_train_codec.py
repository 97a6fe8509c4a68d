"""Training of a codec: the optimiser, a short run, and a run that stops and goes on."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("torch")

import torch
from tests.codec.tiny import tiny_config
from typer.testing import CliRunner

from bevstack.cli.main import app
from bevstack.codec.codec import ImageCodec
from bevstack.codec.config import CODECS, QuantiserConfig
from bevstack.codec.model import CodecNet
from bevstack.codec.transform import strided
from bevstack.codec.weights import load_weights, read_info
from bevstack.learn.codec.card import _recipe, publish
from bevstack.learn.codec.crops import CropStream, find_images, read_rgb, recolour
from bevstack.learn.codec.half_blocks import half_blocks
from bevstack.learn.codec.soap import Soap
from bevstack.learn.codec.train import CodecTrainOptions, Trainer, ahead, parameter_groups, train_codec
from bevstack.learn.history import read_parts
from bevstack.learn.run import TrainingError

TINY = tiny_config(latent=32)


def options(folder: Path, images: Path, **changes: object) -> CodecTrainOptions:
    base = CodecTrainOptions(
        output=folder, images=(images,), config=TINY, steps=12, batch=2, crop=64, scales=(1.0,), latent_steps=4, latent_batch=2
    )
    return replace(base, **{"warmup": 2, "hold_out": 0, "log_every": 4, "threads": 1, "colour": 0.0, **changes})  # type: ignore[arg-type]


def distance(make: object, turned: bool, steps: int = 40) -> float:
    """How far a badly scaled quadratic is from its minimum after some steps; ``turned``: in other axes."""
    torch.manual_seed(0)
    left, right = (torch.linalg.qr(torch.randn(8, 8, dtype=torch.float64))[0] for _ in range(2))
    if not turned:
        left = right = torch.eye(8, dtype=torch.float64)
    scale = torch.logspace(0, 1, 8, dtype=torch.float64)
    torch.manual_seed(1)
    target = left @ torch.randn(8, 8, dtype=torch.float64) @ right.T
    weight = torch.nn.Parameter(torch.zeros(8, 8, 1, 1, dtype=torch.float64))
    optimizer = make([weight])  # type: ignore[operator]
    for _ in range(steps):
        error = left.T @ (weight[:, :, 0, 0] - target) @ right
        loss = (scale[:, None] * error.square() * scale[None]).sum()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return float(loss.detach())


def test_soap_does_not_care_for_the_axes_as_adam_does():
    soap, turned = (distance(lambda p: Soap(p, lr=0.05), t) for t in (False, True))
    assert turned == pytest.approx(soap, rel=1e-6)
    adam, turned = (distance(lambda p: torch.optim.Adam(p, lr=0.05), t) for t in (False, True))
    assert turned != pytest.approx(adam, rel=1e-2)


def test_soap_is_adam_for_vectors():
    ends = []
    for make in (
        lambda p: Soap(p, lr=0.01, betas=(0.9, 0.99)),
        lambda p: torch.optim.Adam(p, lr=0.01, betas=(0.9, 0.99), eps=1e-9),
    ):
        vector = torch.nn.Parameter(torch.arange(5.0))
        optimizer = make([vector])
        for _ in range(20):
            optimizer.zero_grad()
            (vector - 2).pow(4).sum().backward()
            optimizer.step()
        ends.append(vector.detach())
    torch.testing.assert_close(*ends, rtol=1e-5, atol=1e-6)


def test_strided_convolution_is_the_layer_over_unshuffled_pixels():
    torch.manual_seed(0)
    conv = torch.nn.Conv2d(3 * 16, 10, 1)
    x = torch.randn(2, 3, 12, 20)
    torch.testing.assert_close(strided(conv, x, 4), conv(torch.nn.functional.pixel_unshuffle(x, 4)), rtol=1e-5, atol=1e-5)


def test_every_parameter_is_trained_once():
    net = CodecNet(TINY)
    groups = parameter_groups(net, 1e-3)
    trained = [id(p) for group in groups for p in group["params"]]
    assert sorted(trained) == sorted(id(p) for p in net.parameters())


def cost(net: CodecNet, pixels: torch.Tensor) -> float:
    """Rate plus weighted error of real rounding, mean over rates."""
    rates = torch.linspace(5.0, 60.0, len(pixels))[:, None, None, None]
    config = net.config.rate
    weight = config.lambda_min * (config.lambda_max / config.lambda_min) ** (rates.flatten() / (config.levels - 1))
    with torch.no_grad():
        out = net.eval()(pixels, rates)
    bpp = (out.bits_y + out.bits_z) / pixels[0, 0].numel()
    return float(((bpp + weight * (out.pixels - pixels).square().mean((1, 2, 3))) / weight.sqrt()).mean())


@pytest.mark.parametrize("optimizer", ["soap", "adam"])
def test_a_short_run_leaves_a_codec_that_codes_better(pictures: Path, tmp_path: Path, optimizer: str):
    job = options(tmp_path / "run", pictures, steps=60, optimizer=optimizer, ema=0.9, latent_steps=0)
    images = [read_rgb(p) for p in find_images([pictures])]
    start = Trainer(job, CropStream(images, job.crop, job.batch, job.seed, job.scales)).net
    start.update()
    crops = CropStream(images, 128, 6, 1, (1.0,))
    pixels = torch.from_numpy(crops(99)).permute(0, 3, 1, 2).float()
    path = train_codec(job, report=lambda _: None)
    assert cost(load_weights(path), pixels) < 0.995 * cost(start, pixels)
    picture = crops(98)[0]
    decoded = (codec := ImageCodec(path)).decode(codec.encode(picture, quality=90).data)
    assert np.abs(decoded.rgb.astype(int) - picture).mean() < 12


@pytest.mark.parametrize("optimizer", ["soap", "adam"])
def test_a_run_goes_on_as_if_it_had_never_stopped(pictures: Path, tmp_path: Path, optimizer: str):
    whole = load_weights(train_codec(options(tmp_path / "whole", pictures, optimizer=optimizer), report=lambda _: None))
    half = options(tmp_path / "half", pictures, optimizer=optimizer)
    crops = CropStream([read_rgb(p) for p in find_images([pictures])], half.crop, half.batch, half.seed, half.scales)
    trainer = Trainer(half, crops)
    for step in range(7):
        trainer.step(crops(step))
    half.output.mkdir()
    trainer.save(half.output / "checkpoint.pt")
    rest = load_weights(train_codec(replace(half, resume=True), report=lambda _: None))
    for (name, a), b in zip(whole.state_dict().items(), rest.state_dict().values()):
        torch.testing.assert_close(a, b, rtol=0, atol=0, msg=name)


def test_resume_alone_goes_on_with_what_the_folder_holds(
    pictures: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, interrupt: Callable[[type[Any], int], None]
) -> None:
    monkeypatch.setitem(CODECS, "codec-tiny", TINY)
    monkeypatch.chdir(tmp_path)

    def train(*line: str) -> str:
        result = CliRunner().invoke(app, ["train", "codec", *line])
        return f"{result.exit_code} {' '.join(result.output.split())}"

    asked = ["--images", str(pictures), "--model", "codec-tiny", "--steps", "8", "--batch", "2", "--crop", "64", "--seed", "3"]
    asked += ["--latent-steps", "3", "--hold-out", "2", "--exclude", "3.png", "--threads", "1", "--flat", "0.5"]
    assert train("whole", *asked).startswith("0 ")
    interrupt(Trainer, 5)
    stopped = train("broken", *asked)
    assert stopped.startswith("130 ")
    assert stopped.endswith("interrupted")
    for line, said in (
        ("--model codec-nano", "begun with model codec-tiny, not codec-nano: continue it with --model codec-tiny"),
        ("--optimizer adam", "begun with optimizer soap, not adam: continue it with --optimizer soap"),
    ):
        assert said in train("broken", "--resume", *line.split())
    assert train("broken", "--resume").startswith("0 ")
    assert read_info(Path("broken/weights.safetensors")).sha256 == read_info(Path("whole/weights.safetensors")).sha256
    (part,) = json.loads(Path("broken/parts.json").read_text())
    assert (part["step"], part["options"]["exclude"], part["options"]["hold_out"]) == (5, ["3.png"], 2)
    assert train("broken", "--resume", "--steps", "9", "--batch", "3").startswith("0 ")
    after = json.loads(Path("broken/parts.json").read_text())[-1]["options"]
    assert (after["steps"], after["batch"], after["latent_batch"]) == (9, 3, 3)
    assert "no folder of photographs: give at least one (--images" in train("new", "--steps", "2")


def test_a_card_holds_the_parts_and_the_scores_of_these_weights(pictures: Path, tmp_path: Path) -> None:
    config = replace(TINY, quantiser=QuantiserConfig("dependent"))  # its fitted tables go into the published file, too
    asked = replace(options(tmp_path / "run", pictures, model="codec-tiny", config=config), hold_out=3)
    train_codec(asked, report=lambda _: None)
    train_codec(replace(asked, steps=14, batch=3, resume=True), report=lambda _: None)
    info = read_info(tmp_path / "run" / "weights.safetensors")
    row = {"codec": "weights", "anchor": "WebP", "metric": "psnr", "percent": -7.94, "range_db": [27.0, 40.3]}
    scores = {"bd_rate": [row, {**row, "percent": None}], "pictures": ["a", "b"], "weights_sha256": {"weights": info.sha256}}
    file = tmp_path / "scores.json"
    file.write_text(json.dumps(scores))
    target = tmp_path / "weights" / "codec-tiny.safetensors"
    target.parent.mkdir()
    text = publish(tmp_path / "run", file, target, data=["drawn shapes"], note="Only shapes.").read_text()
    assert read_info(target).sha256 == info.sha256
    assert read_info(target).card["metrics"] == {"WebP, psnr": -7.94}
    for part in (
        "# codec-tiny",
        info.sha256,
        info.model_id.hex(),
        "(14 steps)",
        f"--images {pictures.parent.name}/{pictures.name}",
        "| 1 to 12 |",
        "| 13 to 14 |",
        "`--steps 14`, `--batch 3`",
        "- drawn shapes",
        "## Scores on 2 pictures",
        "| WebP | PSNR-RGB | -7.9 % (27.0 to 40.3 dB) |",
        "BD-rate on the held-out photographs, step 0 to step 14: jpeg-420 ",
        "Only shapes.",
    ):
        assert part in text, part
    assert text.count("| WebP |") == 1
    assert str(pictures.parent) not in text
    file.write_text(json.dumps({**scores, "weights_sha256": {"weights": "0"}}))
    with pytest.raises(TrainingError, match=r"scores\.json was measured with other weights than .*: score these"):
        publish(tmp_path / "run", file, target)


def test_a_folder_in_use_and_a_missing_budget_are_refused(pictures: Path, tmp_path: Path):
    (tmp_path / "checkpoint.pt").write_bytes(b"")
    with pytest.raises(TrainingError, match="resume"):
        train_codec(options(tmp_path, pictures), report=lambda _: None)
    with pytest.raises(TrainingError, match="budget"):
        train_codec(options(tmp_path / "new", pictures, minutes=1.0), report=lambda _: None)


def _lively(half: bool) -> CodecNet:
    """A tiny codec whose blocks do something; the same weights every time."""
    torch.manual_seed(4)
    net = CodecNet(TINY)
    for name, parameter in net.named_parameters():
        if ".project." in name:
            torch.nn.init.normal_(parameter, std=0.05)
    if half:
        half_blocks(net)
    return net.eval()


def test_half_precision_changes_blocks_alone_and_hardly() -> None:
    """Loss and gradients as in float32; weights and the input of the entropy model stay float32."""
    pixels = 128 + 40 * torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    results = []
    for half in (False, True):
        net = _lively(half)
        out = net(pixels, torch.full((2, 1, 1, 1), 40.0))
        ((out.pixels - pixels).square().mean() + out.bits_y.mean() / 4096).backward()
        gradient = torch.cat([p.grad.flatten() for p in net.parameters() if p.grad is not None])
        assert {out.pixels.dtype, out.latent.dtype, out.bits_y.dtype, gradient.dtype} == {torch.float32}
        results.append((out, gradient))
    (full, g), (half_out, h) = results
    assert not torch.equal(full.pixels, half_out.pixels)
    torch.testing.assert_close(half_out.latent, full.latent, rtol=0.02, atol=0.02 * float(full.latent.detach().abs().max()))
    assert float(torch.nn.functional.cosine_similarity(g, h, dim=0)) > 0.98


def test_a_run_in_half_precision_writes_ordinary_weights(
    pictures: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("bevstack.learn.half.native_bfloat16", lambda: False)
    lines: list[str] = []
    path = train_codec(options(tmp_path / "run", pictures, amp=True), report=lines.append)
    assert any(line.startswith("warning: half precision") for line in lines)
    assert {v.dtype for v in load_weights(path).state_dict().values() if v.is_floating_point()} == {torch.float32}
    assert "--amp" in _recipe(read_parts(tmp_path / "run")[0].options)


def test_other_colours_leave_grey_alone_and_brightness_nearly() -> None:
    random = np.random.default_rng(0)
    grey = np.repeat(random.integers(0, 256, (8, 8, 1), np.uint8), 3, 2)
    assert np.array_equal(recolour(grey, 2.5, 1.0), grey)
    crop = random.integers(90, 160, (16, 16, 3)).astype(np.uint8)  # far from both ends: nothing is clipped
    luma = np.array([0.299, 0.587, 0.114])
    changed = recolour(crop, 1.5, 0.8)
    assert np.abs(changed @ luma - crop @ luma).max() < 1.0
    assert np.array_equal(recolour(crop, 1.0, 0.0), crop)
    assert (changed.max(2) - changed.min(2)).mean() > 1.2 * (crop.max(2).astype(int) - crop.min(2)).mean()


def test_crops_of_other_colours_depend_on_the_step_alone(pictures: Path) -> None:
    images = [read_rgb(p) for p in find_images([pictures])]
    plain, coloured = CropStream(images, 64, 6, 3, (1.0,)), CropStream(images, 64, 6, 3, (1.0,), colour=0.5)
    assert np.array_equal(coloured(5), coloured(5))
    same = [np.array_equal(a, b) for a, b in zip(plain(5), coloured(5))]
    assert any(same)
    assert not all(same)


def test_a_step_uses_no_tensor_of_another_device():
    """On the "meta" device, which every machine has and which refuses to be mixed as a GPU does."""
    meta = torch.device("meta")
    with pytest.raises(RuntimeError):
        torch.ones(2, 3) * torch.empty(2, 3, device=meta)
    trainer = Trainer(CodecTrainOptions(Path("unused"), config=TINY, steps=1, visibility=1.0, regions=1.0), None, meta)
    r, visible = trainer.rates(0, 2, 128), trainer.visible(0, 2, 128)
    assert visible is not None
    assert {t.device for t in (r, visible, trainer.worth, *trainer.net.parameters())} == {meta}
    out = trainer.net.train()(torch.empty(2, 3, 128, 128, device=meta), r, visible)
    (out.pixels.square().mean() + out.bits_y.sum() + out.bits_z.sum()).backward()
    assert {p.grad.device for p in trainer.net.parameters() if p.grad is not None} == {meta}


@pytest.mark.parametrize("workers", [0, 3])
def test_batches_come_in_order_whoever_makes_them(workers: int):
    asked = []

    def batch(step: int) -> np.ndarray:
        asked.append(step)
        return np.full((1, 2, 2, 3), step % 256, np.uint8)

    stream = ahead(batch, 40, workers)
    assert [int(next(stream)[0, 0, 0, 0]) for _ in range(20)] == list(range(40, 60))
    stream.close()
    assert sorted(asked) == list(range(40, 40 + len(asked)))
    assert len(asked) <= 20 + 2 * workers
