"""GiraffeDet in several widths: the file, its rungs, a ladder over them, and training."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from bevstack.detect.complexity import complexity
from bevstack.detect.config import DETECTORS, SLIM_WIDTHS, GiraffeDetConfig, ImageBackboneConfig, narrow
from bevstack.detect.detector import Detector
from bevstack.detect.ladder import available, family, load_ladder
from bevstack.detect.slim import fusion_parts, save_slim, slimmable
from bevstack.detect.weights import find_weights, load_weights, read_info
from bevstack.errors import CheckpointError
from bevstack.learn.detect.data import AugmentOptions, DataSpec, TrainingSet
from bevstack.learn.detect.slim import SlimOptions, SlimTrainer
from bevstack.learn.detect.train import Batch, train_giraffedet
from bevstack.learn.processes import Processes
from bevstack.learn.run import TrainingError


@pytest.fixture(scope="module")
def wide(tiny: GiraffeDetConfig) -> GiraffeDetConfig:
    backbone = ImageBackboneConfig("s2d", (8, 16), (16, 16, 24, 32, 32))
    return replace(tiny, name="tinyslim", depth=2, inner=16, backbone=backbone, canvas=(256, 256))


def options(config: GiraffeDetConfig, folder: Path, output: Path, **changes: object) -> SlimOptions:
    base = SlimOptions(
        output,
        (DataSpec(folder / "coco.json"),),
        config=config,
        steps=4,
        batch=2,
        warmup=2,
        threads=1,
        statistics=2,
        log_every=2,
        augment=AugmentOptions(colour=0.3),
    )
    return replace(base, **changes)  # type: ignore[arg-type]


def batch_of(config: GiraffeDetConfig, folder: Path) -> Batch:
    data = TrainingSet(config, [DataSpec(folder / "coco.json")], 0, AugmentOptions(colour=0.0))
    return Batch.of([data.sample(n, config.canvas) for n in range(4)])


def test_rungs_of_the_catalogue() -> None:
    names = tuple(f"giraffedet-slim@{w}" for w in SLIM_WIDTHS)
    assert family("giraffedet-slim@1.0") == family("giraffedet-nano")
    assert family("giraffedet-nano")[:4] == (*names, "giraffedet-nano"), "boxes of the same classes: one ladder"
    macs = [complexity(DETECTORS[n]) for n in names]
    assert macs[0].macs < 0.62 * macs[2].macs
    assert len({m.head for m in macs}) == 1
    assert macs[2].macs == complexity(DETECTORS["giraffedet-nano"]).macs


def test_fusion_reads_the_leading_channels_of_every_map(wide: GiraffeDetConfig) -> None:
    """A narrow network is the wide one whose other channels say nothing, concatenations included."""
    torch.manual_seed(0)
    slim = slimmable(wide, (0.5, 1.0)).eval()
    plain = slim.extract(0.5)
    images = torch.randn(2, 3, 256, 256)
    with torch.no_grad():
        thin, same = slim.at(0.5).features(images), plain.features(images)
        assert all(torch.equal(a, b) for a, b in zip(thin, same))
        silent = slim.extract(1.0)
        for name, module in silent.named_modules():
            if isinstance(module, torch.nn.BatchNorm2d):
                used = plain.get_submodule(name).weight.numel()
                module.weight[used:] = 0.0
                module.bias[used:] = 0.0
        # Inside a node the 1x1 convolution has no norm behind it: its other channels are cut off where they are read.
        for node in silent.neck.cell.giraffeNeck.fnode:
            combine = node.after_combine
            combine.conv.conv.weight[:, 8:] = (
                0.0 if combine.conv.conv.weight.shape[0] == 16 else combine.conv.conv.weight[:, 8:]
            )
        assert all(torch.allclose(a, b, atol=1e-4) for a, b in zip(thin, silent.features(images)))
    parts = fusion_parts(wide, 0.5)
    assert parts["neck.cell.giraffeNeck.fnode.0.after_combine.conv1x1"][0] == (32, 16), "P7 of the backbone"


def test_a_file_of_widths_is_a_ladder(wide: GiraffeDetConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    save_slim(tmp_path / "tinyslim.safetensors", slimmable(wide, SLIM_WIDTHS))
    monkeypatch.setenv("BEVSTACK_WEIGHTS", str(tmp_path))
    assert read_info(find_weights("tinyslim@0.5")).config == narrow(wide, 0.5)
    assert list(available("tinyslim")) == [f"tinyslim@{w}" for w in SLIM_WIDTHS]
    with pytest.raises(CheckpointError, match=r"not 0\.4"):
        available("tinyslim@0.4")
    ladder = load_ladder("tinyslim@0.75", "torch", threads=1)
    image = np.zeros((96, 128, 3), np.uint8)
    rungs = []
    for n in range(9):
        if n == 3:
            ladder.swap.request("tinyslim@0.5")
            assert ladder.swap.settled(60.0)
        if n == 6:
            ladder.swap.request("tinyslim@1.0")
            assert ladder.swap.settled(60.0)
        assert len(ladder([image, image])) == 2
        assert ladder.swap.state().failure == ""
        rungs.append(ladder.rung)
    assert rungs == ["tinyslim@0.75"] * 3 + ["tinyslim@0.5"] * 3 + ["tinyslim@1.0"] * 3
    ladder.close()


def test_a_step_trains_all_widths(wide: GiraffeDetConfig, folder: Path, tmp_path: Path) -> None:
    trainer = SlimTrainer(options(wide, folder, tmp_path, steps=100, learning_rate=4e-3))
    before = {k: v.clone() for k, v in trainer.slim.state_dict().items()}
    batch = batch_of(wide, folder)
    steps = [trainer.step(batch) for _ in range(15)]
    assert np.isfinite([list(s.values()) for s in steps]).all()
    assert steps[-1]["maps smallest"] < 0.8 * steps[0]["maps smallest"]
    after = trainer.slim.state_dict()
    moved = {k for k in before if not torch.equal(before[k], after[k])}
    assert not [k for k in moved if k.startswith("full.") and "running" in k]
    for width in ("0_5", "0_75"):
        assert [k for k in moved if k.startswith(f"own.{width}") and "running_mean" in k]
    assert all(p.requires_grad for p in trainer.net.parameters())


def test_a_whole_run_and_its_continuation(wide: GiraffeDetConfig, folder: Path, tmp_path: Path) -> None:
    lines: list[str] = []
    whole = train_giraffedet(options(wide, folder, tmp_path / "a"), report=lines.append, make=SlimTrainer)
    assert len(lines) == 2
    first = SlimTrainer(options(wide, folder, tmp_path / "b"))
    data = TrainingSet(wide, first.options.data, 0, first.options.augment)
    (tmp_path / "b").mkdir()
    from bevstack.learn.detect.data import BatchIndex
    from bevstack.learn.detect.train import batches

    stream = batches(data, BatchIndex(2, (wide.canvas,), 0, 0, 0, 1), 0, False)
    for _ in range(2):
        first.step(next(stream))
    first.save(tmp_path / "b" / "checkpoint.pt")
    again = train_giraffedet(options(wide, folder, tmp_path / "b", resume=True), report=lines.append, make=SlimTrainer)
    assert read_info(whole).sha256 == read_info(again).sha256
    for width in SLIM_WIDTHS:
        assert Detector(f"{whole}@{width}", "torch", 1).rung == f"tinyslim@{width}"
    started = SlimTrainer(options(wide, folder, tmp_path / "c", init=whole)).slim
    name = "backbone.conv1.bn.weight"
    assert torch.equal(started.at(0.5).state_dict()[name], load_weights(f"{whole}@0.5").state_dict()[name])


def test_unusable_requests(wide: GiraffeDetConfig, folder: Path, tmp_path: Path) -> None:
    with pytest.raises(TrainingError, match="at least two"):
        SlimTrainer(options(wide, folder, tmp_path, widths=(1.0,)))
    with pytest.raises(TrainingError, match="2 processes"):
        SlimTrainer(options(wide, folder, tmp_path), Processes(0, 2))
