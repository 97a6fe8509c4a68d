"""The golden folder's recipes (its README, sections 1 to 3): weights, inputs and geometry are regenerated, not stored."""

from __future__ import annotations

import json
import zlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from bevstack.bev.config import CONFIGS, FastBEVConfig, VoxelGrid
from bevstack.bev.network import FastBEVNet
from bevstack.bev.preprocess import image_transform, normalise
from bevstack.bev.tables import build_table
from bevstack.frames.decode import decode

Array = NDArray[Any]


@pytest.fixture(scope="session")
def golden(request: pytest.FixtureRequest) -> Path:
    """Folder of the golden files: --golden-dir, else the shared one."""
    given = request.config.getoption("--golden-dir")
    path = Path(given) if given else request.getfixturevalue("shared") / "golden" / "fastbev"
    if not (path / "weights.json").is_file():
        message = f"no golden files in {path}: weights.json is missing"
        if given:
            raise pytest.UsageError(message)
        pytest.skip(message)
    return path


def synthetic(name: str, shape: tuple[int, ...], prefix: str, head_scale: float) -> Array:
    """One tensor of README section 1."""
    if name.endswith("num_batches_tracked"):
        return np.zeros(shape, np.int64)
    seed = zlib.crc32((prefix + name).encode()) & 0xFFFFFFFF
    n = np.random.RandomState(seed).standard_normal(shape)
    if name.endswith(("running_mean", ".bias")):
        out = 0.1 * n
    elif name.endswith("running_var"):
        out = 1 + 0.2 * np.abs(n)
    elif len(shape) == 1:
        out = 1 + 0.1 * n
    else:
        out = n * np.sqrt(2.0 / np.prod(shape[1:]))
        if name.startswith("bbox_head."):
            out = out * head_scale
    return np.asarray(out, np.float32)


@dataclass
class Model:
    """``state``: the synthetic state dict; ``recorded``: [shape, sum, sum of absolute values] by name."""

    config: FastBEVConfig
    arrays: Mapping[str, Array]
    recorded: dict[str, list[Any]]
    counters: int
    prefix: str

    @cached_property
    def state(self) -> dict[str, torch.Tensor]:
        with torch.device("meta"):
            shapes = {k: tuple(v.shape) for k, v in FastBEVNet(self.config).state_dict().items()}
        scale = float(self.arrays["head_scale"])
        return {k: torch.from_numpy(np.asarray(synthetic(k, s, self.prefix, scale))) for k, s in shapes.items()}

    def net(self, config: FastBEVConfig) -> FastBEVNet:
        net = FastBEVNet(config)
        net.load_state_dict(self.state, strict=True)
        return net.eval().requires_grad_(False)


@pytest.fixture(scope="session")
def model(golden: Path) -> Callable[[str], Model]:
    """``model("m0")``, generated once per session."""
    listing = json.loads((golden / "weights.json").read_text())
    made: dict[str, Model] = {}

    def get(name: str) -> Model:
        if name not in made:
            arrays = np.load(golden / f"{name}_network.npz")
            made[name] = Model(
                CONFIGS[f"fastbev-{name}"],
                arrays,
                listing[name],
                listing[f"{name}_num_batches_tracked"],
                listing["name_prefix"],
            )
        return made[name]

    return get


@dataclass
class Case:
    """One case of a network file. ``images``: (24 or 6, 3, H, W); six stand for all four times."""

    prefix: str
    config: FastBEVConfig
    net: FastBEVNet
    images: Array
    arrays: Mapping[str, Array]

    def field(self, stage: str, name: str) -> Array:
        return self.arrays[f"{self.prefix}.{stage}.{name}"]

    @cached_property
    def projections(self) -> Array:
        """(T, N, 3, 4) from the given ``lidar2img``."""
        given = self.arrays[f"{self.prefix}.lidar2img"].astype(np.float64)
        stride = np.array([self.config.lift_stride, self.config.lift_stride, 1.0])[:, None]
        return given.reshape(len(self.config.times), -1, 4, 4)[:, :, :3] / stride

    def tables(self, config: FastBEVConfig | None = None, projections: Array | None = None) -> Array:
        """(T, V) tables; entries that float64 rounds differently from the published float32 run are patched (README 4)."""
        c = config or self.config
        ps = self.projections if projections is None else projections
        out = np.stack([build_table(p, c.grid, c.feature_hw, c.overlap) for p in ps])
        if config is None and projections is None:
            for t in range(len(c.times)):
                for voxel, published, _ in self.field(f"vol{t}", "f64_flips"):
                    out[t, voxel] = c.cells if published < 0 else published
        return out


def small_config(base: FastBEVConfig, arrays: Mapping[str, Array]) -> FastBEVConfig:
    """Sizes from the recorded shapes; the range stays the same."""
    height, width = (int(v) for v in arrays["small.input.shape"][-2:])
    x, y = (int(v) for v in arrays["small.bev_fuse.shape"][-2:])
    z = base.grid.n[2]
    grid = VoxelGrid((x, y, z), (100.0 / x, 100.0 / y, base.grid.size[2]), base.grid.center)
    return replace(base, image_hw=(height, width), grid=grid)


def real_crops(config: FastBEVConfig, shared: Path) -> Array:
    """(6, H, W, 3) uint8 crops of the nuScenes sample's images, in rig order."""
    folder = shared / "data" / "nuscenes" / "scene0061_sample"
    cameras = json.loads((folder / "sample.json").read_text())["cameras"]
    transform = image_transform(1600, 900, config)
    crops = []
    for name in ("CAM_FRONT", "CAM_FRONT_RIGHT", "CAM_FRONT_LEFT", "CAM_BACK", "CAM_BACK_LEFT", "CAM_BACK_RIGHT"):
        image = decode((folder / cameras[name]["file"]).read_bytes(), transform.resized, "bicubic")
        crops.append(image[transform.top : transform.top + config.image_hw[0]])
    return np.stack(crops)


@pytest.fixture(scope="session")
def case(model: Callable[[str], Model], shared: Path) -> Callable[[str, str], Case]:
    """``case("m0", "small")``."""
    made: dict[tuple[str, str], Case] = {}

    def get(name: str, kind: str) -> Case:
        if (name, kind) not in made:
            m = model(name)
            if kind == "small":
                config = small_config(m.config, m.arrays)
                draw = np.random.RandomState(int(m.arrays["small.image_seed"]))
                x = draw.uniform(0, 255, (24, 3, *config.image_hw))
                mean, std = (np.asarray(v).reshape(1, 3, 1, 1) for v in (config.mean, config.std))
                images = ((x - mean) / std).astype(np.float32)
            else:
                config = m.config
                images = normalise(real_crops(config, shared), config)
            made[name, kind] = Case(kind, config, m.net(config), images, m.arrays)
        return made[name, kind]

    return get


def head_maps(arrays: Mapping[str, Array], case: str, offset: float, scale: float, spread: float) -> tuple[Array, Array, Array]:
    """cls, reg, dir of README sections 6 and 7: one generator, then the overrides, where the case has any."""
    r = np.random.RandomState(int(arrays[f"{case}.seed"]))
    cls = (offset + scale * r.standard_normal((80, 100, 100))).astype(np.float32)
    reg = (spread * r.standard_normal((72, 100, 100))).astype(np.float32)
    direction = r.standard_normal((16, 100, 100)).astype(np.float32)
    if f"{case}.override_anchor" in arrays:
        for row, anchor in enumerate(arrays[f"{case}.override_anchor"]):
            cell, kind = divmod(int(anchor), 8)
            y, x = divmod(cell, 100)
            for maps, name in ((cls, "cls"), (reg, "reg"), (direction, "dir")):
                width = maps.shape[0] // 8
                maps[kind * width : (kind + 1) * width, y, x] = arrays[f"{case}.override_{name}"][row]
    for maps, name in ((cls, "cls"), (reg, "reg"), (direction, "dir")):
        total = float(arrays[f"{case}.head_{name}_sum"])
        assert maps.sum(dtype=np.float64) == pytest.approx(total, abs=1e-3), "the recipe gave other head maps"
    return cls, reg, direction


@pytest.fixture(scope="session")
def decode_maps_of(golden: Path) -> Callable[[str], tuple[Array, Array, Array]]:
    """Head maps of a case of m0_decode.npz."""
    arrays = np.load(golden / "m0_decode.npz")
    return lambda name: head_maps(arrays, name, -7.0, 0.5, 0.05)


@pytest.fixture(scope="session")
def loss_maps_of(golden: Path) -> Callable[[str], tuple[Array, Array, Array]]:
    """Head maps of a case of losses_m0.npz."""
    arrays = np.load(golden / "losses_m0.npz")
    return lambda name: head_maps(arrays, name, -3.0, 1.0, 0.2)


@pytest.fixture(scope="session")
def real_crops_of() -> Callable[[FastBEVConfig, Path], Array]:
    """``real_crops``, for tests."""
    return real_crops
