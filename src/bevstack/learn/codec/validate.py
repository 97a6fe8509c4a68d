"""Rate and distortion on held-out photographs while a run goes on: real rounding, bits from the model's own tables' widths."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray

from bevstack.codec.baselines import BASELINES
from bevstack.codec.bd_rate import Curve, CurveError, Point, bd_rate
from bevstack.codec.config import HYPER_STRIDE, STRIDE
from bevstack.codec.model import CodecNet

Image = NDArray[np.uint8]
CELL = STRIDE * HYPER_STRIDE


def _psnr(a: NDArray[np.float64], b: Image) -> float:
    mse = float(np.mean((np.clip(np.rint(a), 0, 255) - b) ** 2))
    return 10 * np.log10(65025.0 / max(mse, 1e-3))


class Validation:
    """Means over centre crops of at most ``size`` (rows, columns); BD-rate against JPEG and WebP of the same crops.

    Args:
        points: rate points as shares of the range.
    """

    def __init__(
        self,
        images: Sequence[Image],
        size: tuple[int, int] = (512, 768),
        points: Sequence[float] = (0.06, 0.25, 0.44, 0.63, 0.81, 0.97),
    ) -> None:
        self.images: list[Image] = []
        for image in images:
            h, w = (min(a, b) // CELL * CELL for a, b in zip(image.shape, size))
            if h and w:
                y, x = (image.shape[0] - h) // 2, (image.shape[1] - w) // 2
                self.images.append(np.ascontiguousarray(image[y : y + h, x : x + w]))
        self.points = points
        self.anchors = {name: self._classical(name) for name in ("jpeg-420", "webp")} if self.images else {}

    def _classical(self, name: str) -> Curve:
        codec, points = BASELINES[name], []
        for quality in codec.qualities:
            rates, scores = [], []
            for image in self.images:
                data = codec.encode(image, quality)[0]
                rates.append(8 * len(data) / image[..., 0].size)
                scores.append(_psnr(codec.decode(data)[0].astype(np.float64), image))
            points.append(Point(float(np.mean(rates)), float(np.mean(scores))))
        return Curve(name, tuple(points))

    @torch.no_grad()
    def __call__(self, net: CodecNet) -> dict[str, float]:
        """bpp and PSNR at every point, the hyper latent's share of the bits, BD-rates in percent (nan: no overlap)."""
        net.eval()
        result: dict[str, float] = {}
        curve = []
        for number, share in enumerate(self.points):
            r = torch.full((1, 1, 1, 1), share * (net.config.rate.levels - 1))
            rates, scores, side = [], [], []
            for image in self.images:
                out = net(torch.from_numpy(image).permute(2, 0, 1)[None].float(), r)
                bits = float((out.bits_y + out.bits_z)[0])
                rates.append(bits / image[..., 0].size)
                side.append(float(out.bits_z[0]) / bits)
                scores.append(_psnr(out.pixels[0].permute(1, 2, 0).double().numpy(), image))
            point = Point(float(np.mean(rates)), float(np.mean(scores)))
            curve.append(point)
            result |= {f"bpp{number}": point.bpp, f"psnr{number}": point.psnr or 0.0}
            if number == len(self.points) // 2:
                result["z_share"] = float(np.mean(side))
        for name, anchor in self.anchors.items():
            try:
                result[f"bd_{name}"] = bd_rate(anchor, Curve("codec", tuple(curve)), "psnr").percent
            except CurveError:
                result[f"bd_{name}"] = float("nan")
        return result
