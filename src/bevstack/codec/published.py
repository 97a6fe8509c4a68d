"""Published Kodak rate-distortion curves to compare with: figures that others measured, each with its source."""

from __future__ import annotations

import json
from collections.abc import Mapping
from importlib.resources import files
from pathlib import Path
from typing import Any

from .bd_rate import Curve, CurveError, Point
from .metrics import to_db


def published_curves(path: Path | None = None, *, optimised_for: str | None = "mse") -> dict[str, Curve]:
    """Curves by name.

    Args:
        path: another file with the layout of ``published.json`` ("curves" with [bpp, PSNR, MS-SSIM] rows) or of a list of
            "codecs" whose points are objects with "bpp", "psnr_rgb", "ms_ssim" or "ms_ssim_db"; None: the bundled one.
        optimised_for: "mse" or "ms-ssim": curves of models trained for one must not be mixed with the other; None: all.

    Raises:
        CurveError: the file cannot be read.
    """
    try:
        text = path.read_text() if path is not None else files(__package__).joinpath("published.json").read_text()
        tree = json.loads(text)
        entries: list[Mapping[str, Any]] = tree["curves"] if "curves" in tree else tree["codecs"]
        return {
            curve.name: curve
            for entry in entries
            if optimised_for is None or entry["optimised_for"] == optimised_for
            for curve in [_curve(entry, "curves" in tree)]
        }
    except OSError as error:
        raise CurveError(f"published curves {path} cannot be read: {error.strerror or error}") from None
    except (ValueError, KeyError, TypeError) as error:
        raise CurveError(f"published curves {path} have another layout ({type(error).__name__}: {error})") from None


def _curve(entry: Mapping[str, Any], rows: bool) -> Curve:
    if rows:
        points = tuple(
            Point(bpp, psnr, None if similarity is None else to_db(similarity)) for bpp, psnr, similarity in entry["points"]
        )
        return Curve(str(entry["name"]), points, str(entry["source"]))
    made = []
    for point in entry["points"]:
        db = point.get("ms_ssim_db")
        made.append(
            Point(point["bpp"], point.get("psnr_rgb"), to_db(point["ms_ssim"]) if db is None and "ms_ssim" in point else db)
        )
    return Curve(str(entry["id"]), tuple(made), str(entry["source"]))
