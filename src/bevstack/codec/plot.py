"""Rate-distortion curves as a picture."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from bevstack.errors import BevstackError

from .bd_rate import Curve, Metric

_TITLES: dict[Metric, str] = {"psnr": "PSNR-RGB, dB", "ms_ssim_db": "MS-SSIM, dB"}
MAX_BPP = 2.2


class PlotError(BevstackError):
    """A picture of the curves cannot be drawn or written."""


def plot_curves(path: Path, measured: Sequence[Curve], published: Sequence[Curve] = (), *, title: str = "") -> None:
    """Write both metrics side by side, measured curves solid and published ones dashed, up to ``MAX_BPP`` bits per pixel.

    Args:
        path: .png, .svg or .pdf.
        measured, published: curves; one without a metric is left out of its half.
        title: above the picture.

    Raises:
        PlotError: matplotlib is missing, or the file cannot be written.
    """
    try:
        import matplotlib
    except ImportError:
        raise PlotError('plots need matplotlib: pip install "bevstack[eval]"') from None
    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(1, 2, figsize=(13, 6), layout="constrained")
    try:
        for axis, (metric, label) in zip(axes, _TITLES.items()):
            _draw(axis, measured, metric, published=False)
            _draw(axis, published, metric, published=True)
            axis.set(xlabel="bits per pixel", ylabel=label, xlim=(0, MAX_BPP))
            axis.grid(alpha=0.3)
            if axis.lines:
                axis.legend(fontsize=8, loc="lower right")
        figure.suptitle(title)
        path.parent.mkdir(parents=True, exist_ok=True)
        figure.savefig(path, dpi=110)
    except (OSError, ValueError) as error:  # ValueError: an ending that matplotlib does not write
        raise PlotError(f"plot {path} cannot be written: {error}") from None
    finally:
        pyplot.close(figure)


def _draw(axis: Any, curves: Sequence[Curve], metric: Metric, *, published: bool) -> None:
    for curve in curves:
        pairs = sorted((p.bpp, v) for p in curve.points if (v := getattr(p, metric)) is not None and p.bpp <= 1.3 * MAX_BPP)
        if pairs:
            rate, quality = zip(*pairs)
            style: dict[str, Any] = (
                {"linestyle": "--", "linewidth": 1.0, "alpha": 0.8} if published else {"marker": "o", "markersize": 4}
            )
            axis.plot(rate, quality, label=curve.name, **style)
