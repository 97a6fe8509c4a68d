"""GiraffeDet per rung and engine: images per second, latency, CPU time, peak memory; foreign detectors in the same run.

Usage: python benchmarks/detect.py [--rungs giraffedet-nano,giraffedet-lite-d2] [--large giraffedet-d7] [--engines onnx,torch]
                                   [--foreign FOLDER] [--backbone FILE] [--images 20] [--rounds 2] [--threads N] [--json FILE]

Input: front-camera images of a simulated drive, 1280x720, one after the other. Weights are the rung's own where they are found,
else random ones (time does not depend on them, but the number of boxes does). Every combination runs in a process of its own,
one after the other, ``--rounds`` times, so that all of them meet the same load; peak memory is that process's. "network": the
engine alone. "whole": resize, network, decoding, NMS. "CPU": processor time of all threads for a whole image, in the better
round; other programs on the machine change it little. ``--large``: rungs that take seconds, with three images and one round.

``--foreign``: folder with ``yolox_nano_coco80.onnx`` and ``FastestDet.onnx``, which are run in ONNX Runtime at their own input
size and, with their graphs' sizes rewritten, at 640x384, the size of our smallest rung. FastestDet has no decoding here: its
"whole" ends behind the network. ``--backbone``: a structure of `bevstack search backbone`; the first rung is also run with it.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import platform
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from bevstack.detect import DETECTORS, Detector
from bevstack.detect.search.operators import device_name
from bevstack.errors import BevstackError

Image = NDArray[np.uint8]
Step = Callable[[Image], tuple[float, int]]  # image -> (milliseconds of the network, boxes)
FOREIGN = ("yolox_nano_coco80", "FastestDet")
_WARM = 3


def draw_pictures(file: Path, count: int = 10, seed: int = 1) -> None:
    """Images (count, 720, 1280, 3) of the front camera as a .npy file: drawing takes memory that is not the detectors'."""
    from bevstack.frames.sim import SimulatedDrive

    with SimulatedDrive(seed, duration=20.0, image_width=1280) as drive:
        front = {"front": next(iter(drive.cameras.values()))}
        images = [next(iter(drive.render_instant(float(t), front).values())) for t in np.linspace(0.5, 19.5, count)]
    np.save(file, np.stack(images))


def reshaped(model: Path, size: tuple[int, int]) -> tuple[bytes, tuple[int, int]]:
    """The graph for inputs of ``size`` (width, height); None of its operators depends on the size but by constants of reshapes.

    Returns:
        The graph and the size that it was exported for.
    """
    import onnx
    from onnx import numpy_helper

    graph = onnx.load(model)
    dims = graph.graph.input[0].type.tensor_type.shape.dim
    was = (dims[3].dim_value, dims[2].dim_value)
    if size == was:
        return graph.SerializeToString(), was
    dims[2].dim_value, dims[3].dim_value = size[1], size[0]
    del graph.graph.value_info[:]
    for output in graph.graph.output:
        output.type.tensor_type.ClearField("shape")
    targets = {n.input[1] for n in graph.graph.node if n.op_type == "Reshape"}
    for tensor in graph.graph.initializer:
        if tensor.name not in targets:
            continue
        shape = numpy_helper.to_array(tensor).copy()
        if len(shape) == 5:  # a channel shuffle: (groups, -1, channels, H, W) ...
            shape[3], shape[4] = shape[3] * size[1] // was[1], shape[4] * size[0] // was[0]
        elif shape[-1] > 0:  # ... and its first half: (channels, groups, H * W)
            shape[-1] = shape[-1] * size[0] * size[1] // (was[0] * was[1])
        tensor.CopyFrom(numpy_helper.from_array(shape, tensor.name))
    return graph.SerializeToString(), was


def own_size(model: Path) -> tuple[int, int]:
    """(width, height) of a graph's input."""
    from bevstack.engine.onnx import OnnxEngine

    shape = next(iter(OnnxEngine(model, 1).inputs.values()))[0]
    return int(shape[3]), int(shape[2])


def prepare(job: dict[str, Any], graph: Path) -> dict[str, Any]:
    """Exports a rung of ours for ONNX Runtime and counts it, in a process of its own: torch's memory is not the engine's."""
    from bevstack.detect.complexity import complexity
    from bevstack.detect.config import with_backbone
    from bevstack.detect.export import export_onnx
    from bevstack.detect.network import GiraffeDetNet
    from bevstack.detect.weights import find_weights, load_weights
    from bevstack.nn.seed import seed_everything
    from bevstack.nn.superblocks import load_backbone

    config, weights = DETECTORS[job["model"]], "random"
    if job["backbone"]:
        config = with_backbone(config, load_backbone(Path(job["backbone"])))
    seed_everything(0)
    net = GiraffeDetNet(config).eval()
    with contextlib.suppress(BevstackError):
        if not job["backbone"]:
            net, weights = load_weights(find_weights(job["model"])), "trained"
    if job["engine"] == "onnx":
        export_onnx(net, graph)
    counted = complexity(config)
    size = f"{config.canvas[1]}x{config.canvas[0]}"
    return {"weights": weights, "parameters": counted.parameters, "gmac": counted.macs / 1e9, "size": size}


def open_ours(job: dict[str, Any], threads: int) -> tuple[Step, dict[str, Any]]:
    if job["engine"] == "onnx":
        detector = Detector(job["graph"], "onnx", threads)
    elif job["about"]["weights"] == "trained":
        detector = Detector(job["model"], job["engine"], threads)
    else:
        detector = Detector(DETECTORS[job["model"]], job["engine"], threads)

    def step(image: Image) -> tuple[float, int]:
        boxes = detector([image])[0]
        return detector.timings["network"], len(boxes)

    return step, job["about"]


def open_foreign(model: Path, size: str, threads: int) -> tuple[Step, dict[str, Any]]:
    from bevstack.engine.onnx import OnnxEngine
    from bevstack.learn.detect.teacher import YoloxTeacher

    width, height = own_size(model) if not size else tuple(int(v) for v in size.split("x"))
    content, _ = reshaped(model, (width, height))
    about = {"weights": "trained", "size": f"{width}x{height}"}
    with tempfile.TemporaryDirectory(prefix="bevstack-") as folder:
        file = Path(folder) / "graph.onnx"
        file.write_bytes(content)
        if "yolox" in model.name:
            teacher = YoloxTeacher(file, threads=threads, threshold=0.05)
            spent = _timed(teacher)

            def step(image: Image) -> tuple[float, int]:
                boxes = teacher(image)
                return spent[-1], len(boxes)

            return step, about
        engine = OnnxEngine(file, threads)
    name = next(iter(engine.inputs))

    def bare(image: Image) -> tuple[float, int]:
        tensor = np.ascontiguousarray(cv2.resize(image, (width, height))[..., ::-1].transpose(2, 0, 1)[None], np.float32) / 255
        start = time.perf_counter()
        engine.run({name: tensor})
        return (time.perf_counter() - start) * 1e3, 0

    return bare, about


def _timed(teacher: Any) -> list[float]:
    """Milliseconds of the teacher's engine, one entry per image, filled as it runs."""
    spent: list[float] = []
    run = teacher._engine.run  # the benchmark looks inside

    def timed(inputs: Any) -> Any:
        start = time.perf_counter()
        out = run(inputs)
        spent.append((time.perf_counter() - start) * 1e3)
        return out

    teacher._engine.run = timed
    return spent


def worker(job: dict[str, Any], count: int, threads: int) -> dict[str, Any]:
    """One combination; the process exists for it alone."""
    start = time.perf_counter()
    if job["foreign"]:
        step, about = open_foreign(Path(job["foreign"]), job["size"], threads)
    else:
        step, about = open_ours(job, threads)
    opened = time.perf_counter() - start
    images = np.load(job["pictures"])
    network, whole, boxes, used = [], [], [], 0.0
    for n in range(_WARM + count if count > _WARM else 1 + count):
        image = images[n % len(images)]
        cpu, began = time.process_time(), time.perf_counter()
        spent, found = step(image)
        ended, cpu = time.perf_counter(), time.process_time() - cpu
        if n < (_WARM if count > _WARM else 1):
            continue
        network.append(spent)
        whole.append((ended - began) * 1e3)
        boxes.append(found)
        used += cpu
    return {
        **about,
        "model": job["label"],
        "engine": job["engine"],
        "threads": threads,
        "open_s": opened,
        "network_ms": network,
        "whole_ms": whole,
        "cpu_ms": 1e3 * used / len(whole),
        "boxes": float(np.mean(boxes)),
        "peak_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
        "load": os.getloadavg()[0],
    }


def merged(parts: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Rounds of one combination: all latencies together."""
    network = [v for p in parts for v in p["network_ms"]]
    whole = [v for p in parts for v in p["whole_ms"]]
    return {
        **parts[0],
        "network_ms": _summary(network),
        "whole_ms": _summary(whole),
        "images_per_s": 1e3 / float(np.mean(whole)),
        "cpu_ms": min(p["cpu_ms"] for p in parts),
        "peak_mb": max(p["peak_mb"] for p in parts),
        "load": max(p["load"] for p in parts),
        "images": len(whole),
    }


def _summary(values: Sequence[float]) -> dict[str, float]:
    return {"p50": float(np.percentile(values, 50)), "p95": float(np.percentile(values, 95)), "best": float(np.min(values))}


def jobs_of(options: argparse.Namespace) -> list[dict[str, Any]]:
    """What is to be run, in order."""

    def job(
        model: str, engine: str, size: str = "", foreign: str = "", backbone: str = "", large: bool = False
    ) -> dict[str, Any]:
        label = f"{model}, searched backbone" if backbone else model
        return {"model": model, "label": label, "engine": engine, "size": size} | {
            "foreign": foreign,
            "backbone": backbone,
            "large": large,
        }

    rungs, engines = [r for r in options.rungs.split(",") if r], options.engines.split(",")
    jobs = [job(rung, engine) for rung in rungs for engine in engines]
    if options.backbone:
        jobs.insert(1, job(rungs[0], "onnx", backbone=str(options.backbone)))
    if options.foreign:
        models = [(name, size) for name in FOREIGN for size in ("", "640x384")]
        jobs += [job(name, "onnx", size, foreign=str(options.foreign / f"{name}.onnx")) for name, size in models]
    return jobs + [job(rung, engines[0], large=True) for rung in options.large.split(",") if rung]


def child(job: dict[str, Any], count: int, threads: int) -> dict[str, Any] | None:
    """A job in a process of its own; None if it failed."""
    command = [sys.executable, __file__, "--worker", json.dumps(job), "--images", str(count), "--threads", str(threads)]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=False)
    if done.returncode != 0:
        print(f"{job['label']} / {job['engine']}: failed with exit code {done.returncode}", file=sys.stderr)
        return None
    return dict(json.loads(done.stdout.splitlines()[-1]))


def show(results: Sequence[dict[str, Any]]) -> None:
    head = f"{'model':38} {'engine':6} {'size':>9} {'par. M':>7} {'GMAC':>7} {'network p50':>11} {'whole p50':>10} {'p95':>8}"
    print(f"{head} {'images/s':>8} {'CPU ms':>8} {'peak MB':>8}")
    for r in results:
        size = f"{r['parameters'] / 1e6:7.2f} {r['gmac']:7.2f}" if "gmac" in r else f"{'':15}"
        print(
            f"{r['model']:38} {r['engine']:6} {r['size']:>9} {size} {r['network_ms']['p50']:11.1f} "
            f"{r['whole_ms']['p50']:10.1f} {r['whole_ms']['p95']:8.1f} {r['images_per_s']:8.2f} "
            f"{r['cpu_ms']:8.1f} {r['peak_mb']:8.0f}"
        )


def run_all(options: argparse.Namespace) -> tuple[list[dict[str, Any]], int]:
    """Merged results, and how many processes failed."""
    jobs = jobs_of(options)
    parts: dict[int, list[dict[str, Any]]] = {n: [] for n in range(len(jobs))}
    failed = 0
    with tempfile.TemporaryDirectory(prefix="bevstack-") as folder:
        child({"label": "pictures", "engine": "-", "draw": f"{folder}/pictures.npy"}, 0, 1)
        for n, job in enumerate(jobs):
            job["pictures"] = f"{folder}/pictures.npy"
            if not job["foreign"]:
                job["graph"] = f"{folder}/{n}.onnx"
                job["about"] = child({**job, "prepare": True}, 0, options.threads)
                failed += int(job["about"] is None)
        for turn in range(options.rounds):
            for n, job in enumerate(jobs):
                if (job["large"] and turn) or job.get("about", {}) is None:
                    continue
                result = child(job, 3 if job["large"] else options.images, options.threads)
                if result is None:
                    failed += 1
                else:
                    parts[n].append(result)
    return [merged(p) for p in parts.values() if p], failed


def main() -> int:
    """Prints a table, writes JSON on demand."""
    light = [name for name in DETECTORS if name == "giraffedet-nano" or "lite" in name]
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--rungs", default=",".join(light))
    parser.add_argument("--large", default="", help="rungs that are run on three images only")
    parser.add_argument("--engines", default="onnx,torch")
    parser.add_argument("--foreign", type=Path, help="folder with foreign ONNX detectors")
    parser.add_argument("--backbone", type=Path, help="searched structure for the first rung")
    parser.add_argument("--images", type=int, default=20, help="per round")
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--json", type=Path)
    parser.add_argument("--worker", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.worker:
        job = json.loads(options.worker)
        result: dict[str, Any] = {}
        if "draw" in job:
            draw_pictures(Path(job["draw"]))
        elif "prepare" in job:
            result = prepare(job, Path(job["graph"]))
        else:
            result = worker(job, options.images, options.threads)
        print(json.dumps(result))
        return 0
    results, failed = run_all(options)
    show(results)
    load = max((r["load"] for r in results), default=0.0)
    print(f"{options.threads} threads, {options.rounds} rounds; load average up to {load:.1f}")
    if options.json:
        machine = {
            "cpu": device_name(),
            "cores": os.cpu_count(),
            "python": platform.python_version(),
        }
        options.json.write_text(json.dumps({"benchmark": "detect", "machine": machine, "results": results}, indent=1) + "\n")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
