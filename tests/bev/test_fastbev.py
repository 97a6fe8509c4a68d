"""Frame sets in, boxes out: engines, missing cameras, history, foreign rigs, faults."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

from bevstack.bev import CAMERA_ORDER, FastBEV
from bevstack.bev.config import CONFIGS, EncoderConfig, FastBEVConfig, VoxelGrid
from bevstack.bev.export import config_of_graph, export_graph, export_onnx
from bevstack.bev.network import FastBEVNet
from bevstack.bev.tables import rig_table
from bevstack.bev.weights import save_weights
from bevstack.engine.onnx import OnnxEngine
from bevstack.errors import BevstackError, CalibrationError, EngineError, SourceError
from bevstack.frames import Frame, FrameSet
from bevstack.frames.sim.rig import nuscenes_rig
from bevstack.geometry import Boxes3D, Camera, pose
from bevstack.nn.seed import seed_everything

SMALL = replace(
    CONFIGS["fastbev-micro"],
    name="fastbev-small",
    image_hw=(64, 176),
    grid=VoxelGrid((50, 50, 4), (2.0, 2.0, 1.5)),
    encoder=EncoderConfig("pyramid", fuse=16, channels=16, deep=16, outputs=16),
)
RIG = nuscenes_rig(800)


def lively(config: FastBEVConfig = SMALL) -> FastBEVNet:
    """Random weights whose head answers to the image: some boxes, not the limit."""
    seed_everything(1)
    net = FastBEVNet(config).eval()
    images = torch.randn(6, 3, *config.image_hw)
    table = torch.from_numpy(rig_table([RIG[n] for n in CAMERA_ORDER], config))
    with torch.no_grad():
        features = net.image_features(images)
        tables = table[None, None].expand(1, len(config.times), -1)
        head = net.bbox_head.conv_cls
        head.weight.normal_()
        head.bias.zero_()  # type: ignore[union-attr]
        logits = net.head_maps(net.lift([features] * len(config.times), tables))[0]
        head.weight.mul_(1.0 / logits.std())
        # The best 200 of all scores lie above the threshold of 0.05 (logit -2.94).
        head.bias.fill_(-2.94 - float(torch.topk(logits.flatten() / logits.std(), 200)[0][-1]))  # type: ignore[union-attr]
    return net


def instant(
    seconds: float, seed: int = 0, rig: dict[str, Camera] = RIG, x: float = 0.0, size: tuple[int, int] = (176, 99)
) -> FrameSet:
    rng = np.random.default_rng(seed)
    stamp, here = round(seconds * 1e9), pose(None, [x, 0, 0])
    frames = {}
    for name, camera in rig.items():
        coarse = rng.integers(0, 256, (9, 16, 3), dtype=np.uint8)
        frames[name] = Frame(camera, stamp, image=cv2.resize(coarse, size), T_world_ego=here)
    return FrameSet(stamp, frames, here)


def same(first: Boxes3D, second: Boxes3D, atol: float = 1e-3) -> bool:
    """Equal sets of boxes; order may differ where scores tie."""
    if len(first) != len(second):
        return False
    keys = [np.round(np.column_stack([b.label, b.center, b.score]), 2) for b in (first, second)]
    order = [np.lexsort(k.T[::-1]) for k in keys]
    return bool(np.allclose(first.center[order[0]], second.center[order[1]], atol=atol))


@pytest.fixture(scope="module")
def net() -> FastBEVNet:
    return lively()


@pytest.fixture
def model(net: FastBEVNet) -> FastBEV:
    return FastBEV(net, "torch", threads=1)


def test_boxes_and_timings(model: FastBEV) -> None:
    boxes = model(instant(0.0))
    assert 0 < len(boxes) < 500
    assert list(model.timings) == ["preprocess", "tables", "image", "lift", "bev", "decode", "total"]
    assert sum(list(model.timings.values())[:-1]) == pytest.approx(model.timings["total"], rel=0.2, abs=2.0)
    assert np.isfinite(boxes.center).all()
    assert np.abs(boxes.center[:, :2]).max() < 80
    assert (model.rung, model.decode_size(RIG["cam_front"])) == ("fastbev-small", (176, 99))


def test_the_same_input_gives_the_same_boxes(net: FastBEVNet) -> None:
    first, second = FastBEV(net, "torch", threads=1), FastBEV(net, "torch", threads=1)
    for i in range(8):
        a, b = first(instant(i / 10, i, x=i)), second(instant(i / 10, i, x=i))
        np.testing.assert_array_equal(a.center, b.center)
        np.testing.assert_array_equal(a.score, b.score)


def test_engines_and_graphs_give_the_same_boxes(net: FastBEVNet) -> None:
    models = [FastBEV(net, engine, split=split, threads=1) for engine in ("torch", "onnx") for split in (True, False)]  # type: ignore[arg-type]
    for i in range(7):  # from the sixth on, history is there
        results = [m(instant(i / 10, i, x=0.8 * i)) for m in models]
        assert all(same(results[0], r) for r in results[1:]), i
    assert list(models[3].timings) == ["preprocess", "tables", "network", "decode", "total"]
    for m in models:
        m.close()


def test_history_counts_and_reset_forgets_it(model: FastBEV, net: FastBEVNet) -> None:
    for i in range(6):
        last = model(instant(i / 10, i, x=i))
    fresh = FastBEV(net, "torch", threads=1)
    alone = fresh(instant(0.5, 5, x=5.0))
    assert not same(last, alone)
    model.reset()
    assert same(model(instant(0.5, 5, x=5.0)), alone, 1e-6)
    model(instant(0.4, 4))  # time runs backwards: reset by itself
    assert model.cache.resets == 2


def test_ego_motion_enters_the_history(net: FastBEVNet) -> None:
    still, moving = FastBEV(net, "torch", threads=1), FastBEV(net, "torch", threads=1)
    for i in range(6):
        a, b = still(instant(i / 10, i)), moving(instant(i / 10, i, x=2.0 * i))
    assert not same(a, b)


def test_cached_features_equal_recomputing_them(net: FastBEVNet) -> None:
    """One step of the cached path against the network on all twelve images at once."""
    from bevstack.bev.decode import decode_maps
    from bevstack.bev.preprocess import fit, image_transform, normalise

    model = FastBEV(net, "torch", threads=1)
    instants = [instant(i / 10, i, x=0.7 * i) for i in range(6)]
    for frame_set in instants:
        boxes = model(frame_set)
    images = np.zeros((12, *SMALL.image_hw, 3), np.uint8)
    for slot, name in enumerate([*CAMERA_ORDER, *CAMERA_ORDER]):
        frame = instants[5 if slot < 6 else 0].frames[name]
        assert frame.image is not None
        fit(frame.image, image_transform(frame.camera.width, frame.camera.height, SMALL), "area", images[slot])
    now, then = instants[5].T_world_ego, instants[0].T_world_ego
    cameras = [RIG[n] for n in CAMERA_ORDER]
    tables = np.stack(
        [rig_table(cameras, SMALL), rig_table(cameras, SMALL, T_world_ego_now=now, T_world_ego_images=[then] * 6)]
    )
    with torch.inference_mode():
        maps = net(torch.from_numpy(normalise(images, SMALL))[None], torch.from_numpy(tables)[None])
    found = decode_maps(*(m.numpy() for m in maps), SMALL)
    assert len(found.rows) == len(boxes)
    np.testing.assert_allclose(np.sort(found.scores), np.sort(boxes.score), atol=1e-5)


def test_missing_cameras_leave_their_direction_blind(net: FastBEVNet) -> None:
    model = FastBEV(net, "torch", threads=1)
    full = instant(0.0)
    few = replace(full, frames={k: v for k, v in full.frames.items() if k != "cam_front"})
    all_boxes = model(full)
    model.reset()
    fewer = model(few)
    assert not same(all_boxes, fewer)
    model.reset()
    assert same(model(full), all_boxes, 1e-6)  # the blank slot leaves no trace
    with pytest.raises(BevstackError, match="without any camera"):
        model(replace(full, frames={}))


def test_a_stale_image_of_a_missing_camera_is_not_seen(net: FastBEVNet) -> None:
    first, second = FastBEV(net, "torch", threads=1), FastBEV(net, "torch", threads=1)
    full, other = instant(0.0, 1), instant(0.0, 2)
    few = {k: v for k, v in instant(0.1, 3).frames.items() if k != "cam_front"}
    first(full)
    second(other)
    first.reset()
    second.reset()
    a, b = (m(replace(instant(0.1, 3), frames=few)) for m in (first, second))
    np.testing.assert_array_equal(a.center, b.center)


def test_other_names_other_counts_and_other_sizes(net: FastBEVNet) -> None:
    wide = replace(RIG["cam_front"], name="roof").resized(1280, 720)
    tall = replace(RIG["cam_back"], name="tail", height=600)
    model = FastBEV(net, "torch", threads=1)
    frames = {
        "roof": Frame(wide, 0, image=np.full((720, 1280, 3), 90, np.uint8)),
        "tail": Frame(tall, 0, image=np.full((600, 800, 3), 30, np.uint8)),
    }
    model(FrameSet(0, frames))
    assert model._slots == {"roof": 0, "tail": 1}
    ordered = FastBEV(net, "torch", threads=1, cameras=["tail", "roof"])
    ordered(FrameSet(0, frames))
    assert ordered._slots == {"roof": 1, "tail": 0}


def test_a_standard_camera_keeps_its_slot_among_strangers(net: FastBEVNet) -> None:
    model = FastBEV(net, "torch", threads=1)
    names = ["extra", *CAMERA_ORDER[:5]]
    image = np.zeros((99, 176, 3), np.uint8)
    frames = {n: Frame(replace(RIG["cam_front"], name=n), 0, image=image) for n in names}
    model(FrameSet(0, frames))
    assert model._slots["extra"] == 5
    assert [model._slots[n] for n in CAMERA_ORDER[:5]] == [0, 1, 2, 3, 4]


def test_too_many_or_unknown_cameras(net: FastBEVNet) -> None:
    model = FastBEV(net, "torch", threads=1)
    rig = {**RIG, "seventh": replace(RIG["cam_front"], name="seventh")}
    with pytest.raises(CalibrationError, match="7 cameras"):
        model(instant(0.0, rig=rig))
    with pytest.raises(CalibrationError, match="'cam_front' is not among"):
        FastBEV(net, "torch", threads=1, cameras=["cam_back"])(instant(0.0))


def test_an_image_of_another_shape_is_refused(model: FastBEV) -> None:
    with pytest.raises(CalibrationError, match="176x176"):
        model(instant(0.0, size=(176, 176)))


def test_compressed_frames_are_decoded_here(model: FastBEV) -> None:
    rng = np.random.default_rng(0)
    image = cv2.resize(rng.integers(0, 256, (9, 16, 3), dtype=np.uint8), (800, 450))
    good = cv2.imencode(".jpg", image, [cv2.IMWRITE_JPEG_QUALITY, 95])[1].tobytes()
    frames = {n: Frame(c, 0, encoded=good) for n, c in RIG.items()}
    assert len(model(FrameSet(0, frames)).center) >= 0
    frames["cam_back"] = Frame(RIG["cam_back"], 0, encoded=good[: len(good) // 2])
    with pytest.raises(SourceError):
        model(FrameSet(10**8, frames))
    frames["cam_back"] = Frame(RIG["cam_back"], 0, encoded=good)
    model(FrameSet(2 * 10**8, frames))  # and goes on afterwards


def test_exposure_moves_the_current_table(net: FastBEVNet) -> None:
    late = instant(0.0)
    shifted = {k: replace(f, T_world_ego=pose(None, [1.5, 0, 0])) for k, f in late.frames.items()}
    plain = FastBEV(net, "torch", threads=1)(replace(late, frames=shifted))
    moved = FastBEV(net, "torch", threads=1, exposure=True)(replace(late, frames=shifted))
    assert not same(plain, moved)
    assert same(plain, FastBEV(net, "torch", threads=1)(late), 1e-6)


def test_weights_file_engines_and_graph_cache(tmp_path: Path, net: FastBEVNet, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BEVSTACK_CACHE", str(tmp_path / "cache"))
    path = tmp_path / "small.safetensors"
    info = save_weights(path, net, dtype="float32")
    first = FastBEV(path, "onnx", threads=1)
    graphs = sorted((tmp_path / "cache" / "graphs").iterdir())
    assert [g.name.count(info.sha256[:16]) for g in graphs] == [1, 1]
    made = [g.stat().st_mtime_ns for g in graphs]
    second = FastBEV(path, "onnx", threads=1)
    assert [g.stat().st_mtime_ns for g in graphs] == made
    boxes = first(instant(0.0))
    assert same(boxes, second(instant(0.0)), 1e-6)
    assert same(boxes, FastBEV(path, "torch", threads=1)(instant(0.0)))
    assert first.weights_sha256 == info.sha256


def test_a_cache_that_cannot_be_written_costs_only_time(
    tmp_path: Path, net: FastBEVNet, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("not a folder")
    monkeypatch.setenv("BEVSTACK_CACHE", str(tmp_path / "file"))
    path = tmp_path / "small.safetensors"
    save_weights(path, net)
    assert len(FastBEV(path, "onnx", threads=1)(instant(0.0))) > 0


def test_an_exported_graph_runs_alone(tmp_path: Path, net: FastBEVNet) -> None:
    path = export_onnx(net, tmp_path / "small.onnx", weights_sha256="abc")
    alone = FastBEV(path, threads=1)
    assert (alone.config, alone.weights_sha256) == (SMALL, "abc")
    assert same(alone(instant(0.0)), FastBEV(net, "torch", threads=1)(instant(0.0)))
    with pytest.raises(EngineError, match="engine onnx"):
        FastBEV(path, "torch")
    part = export_onnx(net, tmp_path / "part.onnx", part="image")
    with pytest.raises(EngineError, match="part of a graph"):
        FastBEV(part)
    (tmp_path / "noise.onnx").write_bytes(b"\x08\x07nonsense")
    with pytest.raises(EngineError, match=r"noise\.onnx"):
        FastBEV(tmp_path / "noise.onnx")


def test_exported_graph_has_the_documented_inputs(net: FastBEVNet) -> None:
    engine = OnnxEngine(export_graph(net), 1)
    cells, channels = SMALL.cells, SMALL.neck_channels
    assert {k: v[0] for k, v in engine.inputs.items()} == {
        "images": (6, 64, 176, 3),
        "tables": (2, SMALL.grid.voxels),
        "history1": (cells, channels),
    }
    assert engine.outputs == ["cls", "reg", "dir", "features"]
    assert config_of_graph(engine.metadata, "graph") == SMALL
    with pytest.raises(EngineError, match="no graph of ours"):
        config_of_graph({}, "graph")


def test_unknown_engine(net: FastBEVNet) -> None:
    with pytest.raises(EngineError, match="'openvino'"):
        FastBEV(net, "openvino")  # type: ignore[arg-type]
