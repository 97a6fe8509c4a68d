"""The image codec on Kodak: rate-distortion beside JPEG, WebP and AVIF, times per stage, and a serial context model.

python benchmarks/codec.py rd --images KODAK [--models codec-nano,...] [--anchors FILE] [--json FILE] [--plot FILE]
python benchmarks/codec.py anchors --images KODAK --json FILE
python benchmarks/codec.py speed --images KODAK [--models codec-nano,...] [--serial-rows N] [--json FILE]
python benchmarks/codec.py targets --images KODAK [--models codec-nano] [--json FILE]
python benchmarks/codec.py regions --images FRAMES [--models codec-nano] [--json FILE]

"rd": every picture is encoded, written, read back and compared, at several rates. ``--anchors`` takes the classical codecs'
files from an earlier "anchors" run over the same pixels instead of encoding them again (AVIF takes minutes). "speed":
milliseconds per stage at 768 x 512 and 1280 x 720 on one thread, peak memory of a process that encodes and decodes, and the
serial context model of mbt2018 (Minnen et al. 2018; N = M = 192, 5 x 5 masked context, one position after the other, each with
its own network call and its own call to the entropy coder, as CompressAI does), written here from the paper, with random
weights: for its time only.
"targets": how close "at most N bytes" and "at least X dB" come, in how many encodes, and whether rate rises with quality.
"regions": what the inside of a box gains at equal size.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import resource
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bevstack.codec import evaluate as rd
from bevstack.codec.codec import ImageCodec
from bevstack.codec.metrics import psnr
from bevstack.codec.published import published_curves
from bevstack.codec.weights import find_weights

Image = NDArray[np.uint8]


def load_average() -> float:
    return round(os.getloadavg()[0], 1)


def codecs_of(models: str, engine: str, qualities: Sequence[float] | None = None) -> list[rd.Learned]:
    names = [name for name in models.split(",") if name]
    return [
        rd.Learned(ImageCodec(name, engine, 1), Path(name).stem, qualities or rd.LEARNED_QUALITIES)  # type: ignore[arg-type]
        for name in names
    ]


# Rate and distortion


def progress(done: int, total: int, what: str) -> None:
    if done % 50 == 0:
        print(f"{done} of {total}: {what}", file=sys.stderr, flush=True)


def anchors(args: argparse.Namespace) -> dict[str, Any]:
    """Classical codecs alone, for a later "rd" run."""
    from bevstack.cli.codec import classical

    result = rd.evaluate(classical(args.baselines), rd.find_pictures(args.images)[: args.limit], progress=progress)
    return {**rd.as_json(result, []), "digest": result.digest}


def rate_distortion(args: argparse.Namespace) -> dict[str, Any]:
    from rich.console import Console

    from bevstack.cli.codec import classical, print_evaluation

    learned = codecs_of(args.models, args.engine)
    names = {codec.name for codec in learned}
    stored: dict[str, Any] | None = json.loads(args.anchors.read_text()) if args.anchors else None
    baselines = [] if stored else classical(args.baselines)
    result = rd.evaluate([*learned, *baselines], rd.find_pictures(args.images)[: args.limit], progress=progress)
    if stored:
        if stored["digest"] != result.digest:
            raise SystemExit(f"{args.anchors} holds another set of pictures: run 'anchors' over {args.images}")
        result.evaluations.extend(
            rd.Evaluation(c["name"], [rd.Sample(**{k: v for k, v in s.items() if k != "bpp"}) for s in c["samples"]])
            for c in stored["codecs"]
        )
    tests = [e.curve for e in result.evaluations if e.name in names]
    classic = [e.curve for e in result.evaluations if e.name not in names]
    shown = list(published_curves().values()) if result.is_kodak else []
    comparisons = rd.compare(tests, [*classic, *shown])
    print_evaluation(Console(width=200, highlight=False), result, comparisons)
    if args.plot is not None:
        from bevstack.codec.plot import plot_curves

        plot_curves(args.plot, [*tests, *classic], shown, title=f"{args.images.name}, {len(result.pictures)} pictures")
    return {
        **rd.as_json(result, comparisons),
        "weights_sha256": {codec.name: codec.codec.info.sha256 for codec in learned},  # for a card: learn.codec.card
        "anchors_from": str(args.anchors) if args.anchors else "this run",
    }


# Speed


def picture_of(args: argparse.Namespace, width: int, height: int) -> Image:
    """The first pictures of the set side by side, cut to the size."""
    paths = rd.find_pictures(args.images)
    rows = [rd.load_picture(p)[:512, :768] for p in paths if rd.load_picture(p).shape[:2] == (512, 768)][:4]
    wide = np.concatenate([np.concatenate(rows[:2], 1), np.concatenate(rows[2:], 1)])
    return np.ascontiguousarray(wide[:height, :width])


def timed(work: Callable[[], dict[str, float]], repeats: int) -> dict[str, dict[str, float]]:
    """Median and minimum of wall milliseconds per stage, and of the process's CPU milliseconds."""
    work()
    rows = []
    for _ in range(repeats):
        cpu, wall = time.process_time(), time.perf_counter()
        stages = work()
        rows.append({**stages, "wall": (time.perf_counter() - wall) * 1e3, "CPU": (time.process_time() - cpu) * 1e3})
    keys = list(rows[0])
    return {
        "median": {k: round(float(np.median([r[k] for r in rows])), 2) for k in keys},
        "min": {k: round(min(r[k] for r in rows), 2) for k in keys},
    }


def peak_memory(model: str, engine: str, size: tuple[int, int]) -> dict[str, float]:
    """MB that one process holds at most: imports alone, then one encode and one decode."""
    code = (
        "import resource, sys, numpy as np\n"
        "from bevstack.codec.codec import ImageCodec\n"
        "top = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024\n"
        "c = ImageCodec(sys.argv[1], sys.argv[2], 1); loaded = top()\n"
        "h, w = int(sys.argv[3]), int(sys.argv[4])\n"
        "x = (np.add.outer(np.arange(h) * 3, np.arange(w) * 5)[..., None] // [7, 11, 13] % 256).astype(np.uint8)\n"
        "c.decode(c.encode(x, quality=50).data); print(loaded, top())\n"
    )
    command = [sys.executable, "-c", code, str(find_weights(model)), engine, str(size[1]), str(size[0])]
    loaded, full = map(float, subprocess.run(command, check=True, capture_output=True, text=True).stdout.split())
    return {"loaded_mb": round(loaded), "peak_mb": round(full)}


class Serial:
    """mbt2018's context model and transforms, random weights. ``channels``: N = M."""

    def __init__(self, channels: int = 192) -> None:
        import torch
        from torch import nn

        torch.manual_seed(0)
        n = channels
        self.n = n

        def down(i: int, o: int) -> nn.Conv2d:
            return nn.Conv2d(i, o, 5, stride=2, padding=2)

        def up(i: int, o: int) -> nn.ConvTranspose2d:
            return nn.ConvTranspose2d(i, o, 5, stride=2, padding=2, output_padding=1)

        # GDN costs a 1x1 convolution and a division.
        class Norm(nn.Module):
            def __init__(self) -> None:
                super().__init__()
                self.mix = nn.Conv2d(n, n, 1)
                nn.init.constant_(self.mix.weight, 0.1 / n)
                nn.init.ones_(self.mix.bias)  # type: ignore[arg-type]

            def forward(self, x: torch.Tensor) -> torch.Tensor:
                return x * torch.rsqrt(self.mix(x * x))

        leak = nn.LeakyReLU
        self.analysis = nn.Sequential(down(3, n), Norm(), down(n, n), Norm(), down(n, n), Norm(), down(n, n))
        self.synthesis = nn.Sequential(up(n, n), Norm(), up(n, n), Norm(), up(n, n), Norm(), up(n, 3))
        self.hyper = nn.Sequential(nn.Conv2d(n, n, 3, padding=1), leak(), down(n, n), leak(), down(n, n))
        self.prior = nn.Sequential(up(n, n), leak(), up(n, n * 3 // 2), leak(), nn.Conv2d(n * 3 // 2, 2 * n, 3, padding=1))
        self.context = torch.randn(2 * n, n, 5, 5) * 0.01
        self.context[:, :, 2, 2:] = 0
        self.context[:, :, 3:] = 0
        k = 10 * n // 3
        self.parameters = nn.Sequential(
            nn.Conv2d(4 * n, k, 1), leak(), nn.Conv2d(k, 8 * n // 3, 1), leak(), nn.Conv2d(8 * n // 3, 2 * n, 1)
        )

    def run(self, rgb: Image, rows: int) -> dict[str, float]:
        """Milliseconds of the encoder's and the decoder's parts; serial parts are measured on ``rows`` rows and scaled."""
        import torch
        from torch.nn import functional as F

        from bevstack.codec import rans
        from bevstack.codec.tables import CdfTables, scale_levels

        family = CdfTables.gaussian(scale_levels(64, "0.11", "256"))
        clock: dict[str, float] = {}

        def lap(name: str, start: float) -> float:
            now = time.perf_counter()
            clock[name] = clock.get(name, 0.0) + (now - start) * 1e3
            return now

        with torch.inference_mode():
            t = time.perf_counter()
            y = self.analysis(torch.from_numpy(rgb).permute(2, 0, 1)[None].float() / 255)
            t = lap("analysis", t)
            z = torch.round(self.hyper(y))
            t = lap("hyper analysis", t)
            prior = self.prior(z)
            t = lap("hyper synthesis", t)
            h, w = y.shape[-2:]
            coded: list[bytes] = []
            for way in ("encode", "decode"):
                shown = F.pad(torch.zeros_like(y), (2, 2, 2, 2))
                t = time.perf_counter()
                for i in range(rows):
                    for j in range(w):
                        around = F.conv2d(shown[:, :, i : i + 5, j : j + 5], self.context)
                        scale, mean = self.parameters(torch.cat([prior[:, :, i : i + 1, j : j + 1], around], 1)).chunk(2, 1)
                        index = ((scale.abs().clamp(0.11, 256).log() + 2.207) / 0.123).clamp(0, 63).to(torch.uint8)
                        table = index[0, :, 0, 0].numpy()
                        if way == "encode":
                            symbols = torch.round(y[:, :, i : i + 1, j : j + 1] - mean).clamp(-30000, 30000)
                            coded.append(rans.encode(symbols[0, :, 0, 0].to(torch.int32).numpy(), table, family))
                        else:
                            found = rans.decode(coded[i * w + j], table, family)
                            symbols = torch.from_numpy(found.astype(np.float32))[None, :, None, None]
                        shown[:, :, i + 2 : i + 3, j + 2 : j + 3] = symbols + mean
                clock[f"serial {way}"] = (time.perf_counter() - t) * 1e3 * h / rows
            t = time.perf_counter()
            self.synthesis(y)
            lap("synthesis", t)
        clock["encode"] = sum(clock[k] for k in ("analysis", "hyper analysis", "hyper synthesis", "serial encode"))
        clock["decode"] = sum(clock[k] for k in ("hyper synthesis", "serial decode", "synthesis"))
        return clock


def speed(args: argparse.Namespace) -> dict[str, Any]:
    found: dict[str, Any] = {"models": {}}
    for model in args.models.split(","):
        codec = ImageCodec(model, args.engine, 1)
        rows: dict[str, Any] = {}
        for size in ((768, 512), (1280, 720)):
            picture = picture_of(args, *size)
            data = codec.encode(picture, quality=args.quality).data
            before = load_average()
            rows[f"{size[0]}x{size[1]}"] = {
                "bpp": round(8 * len(data) / (size[0] * size[1]), 3),
                "load": before,
                "encode": timed(lambda c=codec, p=picture: c.encode(p, quality=args.quality).timings, args.repeats),  # type: ignore[misc]
                "decode": timed(lambda c=codec, d=data: c.decode(d).timings, args.repeats),  # type: ignore[misc]
            }
        rows["memory"] = peak_memory(model, args.engine, (1280, 720))
        found["models"][Path(model).stem] = rows
        for what, row in rows.items():
            print(Path(model).stem, what, json.dumps(row))
    if args.serial_rows:
        import torch

        torch.set_num_threads(1)
        serial, picture = Serial(), picture_of(args, 768, 512)
        serial.run(picture, 1)
        # In turns with ours, so that the machine's load falls on both.
        codec = ImageCodec(args.models.split(",")[0], args.engine, 1)
        data = codec.encode(picture, quality=args.quality).data
        ours, theirs = [], []
        for _ in range(3):
            theirs.append(serial.run(picture, args.serial_rows))
            for _ in range(5):
                start = time.perf_counter()
                codec.encode(picture, quality=args.quality)
                middle = time.perf_counter()
                codec.decode(data)
                ours.append(((middle - start) * 1e3, (time.perf_counter() - middle) * 1e3))
        theirs_ms = {k: round(float(np.median([row[k] for row in theirs])), 1) for k in theirs[0]}
        encode, decode = (float(np.median([row[k] for row in ours])) for k in (0, 1))
        found["serial"] = {
            "ms": theirs_ms,
            "ours_ms": {"encode": round(encode, 1), "decode": round(decode, 1)},
            "times_faster": {
                "encode": round(theirs_ms["encode"] / encode, 1),
                "decode": round(theirs_ms["decode"] / decode, 1),
            },
            "rows_measured": args.serial_rows,
            "load": load_average(),
        }
        print("serial context model", json.dumps(found["serial"]))
    return {**found, "machine": rd.machine(), "peak_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024}


# Targets and regions


def targets(args: argparse.Namespace) -> dict[str, Any]:
    codec = ImageCodec(args.models.split(",")[0], args.engine, 1)
    sizes, scores, monotone, span = [], [], [], []
    top = codec.config.rate.levels - 1
    for path in rd.find_pictures(args.images)[: args.limit]:
        picture = rd.load_picture(path)
        job = codec.job(picture)
        bits = [job.try_rate(r).bits for r in np.linspace(0, top, args.steps)]
        monotone.append(all(b > a for a, b in itertools.pairwise(bits)))
        span.append((bits[0] / picture[..., 0].size, bits[-1] / picture[..., 0].size))
        for share in (0.15, 0.5, 0.85):
            limit = int(bits[0] / 8 * (bits[-1] / bits[0]) ** share)
            made = codec.encode(picture, max_bytes=limit)
            sizes.append((len(made.data) / limit - 1, made.encodes))
            plain = codec.encode(picture, quality=100 * share)
            target = round(psnr(picture, codec.decode(plain.data).rgb), 1)
            made = codec.encode(picture, psnr=target)
            scores.append((psnr(picture, codec.decode(made.data).rgb) - target, made.encodes))
        print(path.name, "rate", monotone[-1], f"{span[-1][0]:.3f}..{span[-1][1]:.3f} bpp", sizes[-3:], scores[-3:], flush=True)
    size, score = np.array(sizes), np.array(scores)
    summary = {
        "pictures": len(monotone),
        "monotone": sum(monotone),
        "bpp_lowest_median": float(np.median([s[0] for s in span])),
        "bpp_highest_median": float(np.median([s[1] for s in span])),
        "bytes_within_2_percent": float(np.mean((size[:, 0] <= 0) & (size[:, 0] >= -0.02))),
        "bytes_over": int((size[:, 0] > 0).sum()),
        "bytes_worst_percent": [float(size[:, 0].min() * 100), float(size[:, 0].max() * 100)],
        "psnr_within_0.1": float(np.mean((score[:, 0] >= -0.002) & (score[:, 0] <= 0.102))),
        "psnr_worst_db": [float(score[:, 0].min()), float(score[:, 0].max())],
        "encodes_max": [int(size[:, 1].max()), int(score[:, 1].max())],
        "encodes_mean": [float(size[:, 1].mean()), float(score[:, 1].mean())],
    }
    print(json.dumps(summary, indent=1))
    return summary


def regions(args: argparse.Namespace) -> dict[str, Any]:
    codec = ImageCodec(args.models.split(",")[0], args.engine, 1)
    rows: list[dict[str, Any]] = []
    for path in rd.find_pictures(args.images)[: args.limit]:
        picture = rd.load_picture(path)
        h, w = picture.shape[:2]
        inside = np.s_[h // 2 - h // 8 : h // 2 + h // 8, w // 2 - w // 8 : w // 2 + w // 8]
        roi = np.ones((h, w))
        roi[inside] = args.weight
        for bpp in (0.15, 0.3, 0.6):
            limit = int(bpp * h * w / 8)
            try:
                plain, region = codec.encode(picture, max_bytes=limit), codec.encode(picture, max_bytes=limit, roi=roi)
            except ValueError as error:
                print(f"left out: {path.name} at {bpp} bits per pixel: {error}", file=sys.stderr)
                continue
            a, b = codec.decode(plain.data).rgb, codec.decode(region.data).rgb
            rows.append(
                {
                    "picture": path.name,
                    "bpp": bpp,
                    "size_ratio": len(region.data) / len(plain.data),
                    "inside_gain_db": psnr(picture[inside], b[inside]) - psnr(picture[inside], a[inside]),
                    "whole_change_db": psnr(picture, b) - psnr(picture, a),
                }
            )
            print(json.dumps(rows[-1]), flush=True)
    gains = [row["inside_gain_db"] for row in rows]
    summary = {
        "cases": len(rows),
        "size_ratio_max": max(row["size_ratio"] for row in rows),
        "inside_gain_db_median": float(np.median(gains)),
        "inside_gain_db_min": float(min(gains)),
    }
    print(json.dumps(summary))
    return {"rows": rows, **summary}


WORK: dict[str, Callable[[argparse.Namespace], dict[str, Any]]] = {
    "rd": rate_distortion,
    "anchors": anchors,
    "speed": speed,
    "targets": targets,
    "regions": regions,
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("work", choices=WORK)
    parser.add_argument("--images", type=Path, required=True)
    parser.add_argument("--models", default="codec-nano")
    parser.add_argument("--engine", default="onnx", choices=("onnx", "torch"))
    parser.add_argument("--baselines", default="all")
    parser.add_argument("--anchors", type=Path)
    parser.add_argument("--limit", type=int)
    parser.add_argument("--quality", type=float, default=35.0)
    parser.add_argument("--repeats", type=int, default=20)
    parser.add_argument("--steps", type=int, default=40, help="rate points of the monotony check")
    parser.add_argument("--weight", type=float, default=8.0, help="of errors inside the box")
    parser.add_argument("--serial-rows", type=int, default=4, help="latent rows measured of the serial model; 0: not at all")
    parser.add_argument("--json", type=Path)
    parser.add_argument("--plot", type=Path)
    args = parser.parse_args()
    found = WORK[args.work](args)
    if args.json is not None:
        args.json.write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main()
