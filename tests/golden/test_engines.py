"""The exported graph, with cached features, against the published modules; and the engines against each other."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

from bevstack.bev.export import export_graph
from bevstack.bev.graphs import ImageGraph, inference_net
from bevstack.bev.runner import Runner, WholeRunner, onnx_runner, torch_runner
from bevstack.engine.onnx import OnnxEngine

TOLERANCE = 2e-4


def cached_maps(c: Any) -> list[np.ndarray[Any, Any]]:
    """Feature rows (cells, C) of every instant, computed one instant at a time."""
    graph = ImageGraph(inference_net(c.net), raw=False)
    with torch.inference_mode():
        return [graph(torch.from_numpy(part)).numpy() for part in c.images.reshape(-1, 6, *c.images.shape[1:])]


def sigmas(c: Any, outputs: dict[str, Any]) -> float:
    worst = 0.0
    for stage in ("cls", "reg", "dir"):
        mine = outputs[stage].reshape(-1)[c.field(stage, "idx")]
        worst = max(worst, float(np.abs(mine - c.field(stage, "val")).max() / c.field(stage, "stats")[1]))
    return worst


@pytest.fixture(scope="module")
def graph(case: Callable[..., Any]) -> tuple[Any, OnnxEngine, list[Any], Any]:
    """(case, engine on the whole graph with float images, cached maps, tables as rows of the stack)."""
    c = case("m0", "small")
    offsets = np.arange(len(c.config.times), dtype=np.int32)[:, None] * (c.config.cells + 1)
    return c, OnnxEngine(export_graph(c.net, raw=False)), cached_maps(c), c.tables() + offsets


def feed(c: Any, maps: list[Any], tables: Any) -> dict[str, Any]:
    return {"images": c.images[:6], "tables": tables, **{f"history{t}": m for t, m in enumerate(maps) if t}}


def test_exported_graph_with_cached_features_equals_the_published_modules(graph: Any) -> None:
    c, engine, maps, tables = graph
    outputs = engine.run(feed(c, maps, tables))
    assert sigmas(c, outputs) < TOLERANCE
    np.testing.assert_allclose(outputs["features"], maps[0], atol=1e-3 * float(maps[0].std()))


def test_a_wrong_feature_in_the_cache_is_noticed(graph: Any) -> None:
    c, engine, maps, tables = graph
    outputs = engine.run(feed(c, [maps[0], maps[2], maps[1], maps[3]], tables))
    assert sigmas(c, outputs) > 100 * TOLERANCE


def test_engines_agree(case: Callable[..., Any]) -> None:
    """torch and ONNX Runtime, one graph and two, and our own kernels, on uint8 images: head maps within 1e-3."""
    c = case("m0", "small")
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (6, *c.config.image_hw, 3), dtype=np.uint8)
    maps, tables = cached_maps(c), list(c.tables())
    history = [maps[1], None, maps[3]]  # the middle instant is missing: the current one is repeated
    halves = [export_graph(c.net, "image"), export_graph(c.net, "bev")]
    runners: dict[str, Runner] = {
        "torch whole": torch_runner(c.net, 1, split=False),
        "onnx whole": WholeRunner(OnnxEngine(export_graph(c.net), 1), c.config),
        "onnx split": onnx_runner(halves, c.config, 1),
        "cpu": onnx_runner(halves, c.config, 2, engine="cpu"),
    }
    results = {name: runner(images, tables, history) for name, runner in runners.items()}
    reference, features = results.pop("torch whole")
    repeated = runners["torch whole"](images, [tables[0], tables[1], tables[0], tables[3]], history)[0]
    assert float(np.abs(repeated[0] - reference[0]).max()) > 1e-3, "the tables of a repeated instant are used"
    for name, (heads, own) in results.items():
        for mine, wanted in zip(heads, reference):
            assert float(np.abs(mine - wanted).max()) < 1e-3, name
        assert float(np.abs(own - features).max()) < 1e-3 * float(features.std()), name
    for runner in runners.values():
        runner.close()
