"""Coding tables of a dependent quantiser, fitted to what a trained codec makes of photographs."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bevstack.codec import latents
from bevstack.codec.codec import ImageCodec
from bevstack.codec.config import QuantiserConfig
from bevstack.codec.model import CodecNet
from bevstack.codec.tables import CdfTables
from bevstack.codec.weights import load_weights, read_info, save_weights, tables_of

Image = NDArray[np.uint8]

ROUNDS = 2  # the search depends on the tables, and they on what it finds
IMAGES = 16
SHARES = (0.06, 0.25, 0.44, 0.63, 0.81, 0.97)  # rate points looked at, as shares of the range
TRUST = 60  # symbols that the tables to begin with are worth, at every scale


def fit_tables(codec: ImageCodec, images: Sequence[Image]) -> CdfTables:
    """The family of the codec's config with its quantisers' rows mixed with the symbols that ``images`` give, both signs alike.

    Precondition: the codec's quantiser is dependent. ``images`` are (H, W, 3) RGB.

    Every table keeps its range, and a frequency of at least 1 for each symbol and for the escape.
    """
    config, machine = codec.config, codec.machine
    assert machine is not None
    start = tables_of(config)
    places = np.concatenate([[0], np.cumsum(start.sizes.astype(np.int64) + 1)])  # of each table's counts, escape last
    counts = np.zeros(places[-1], np.int64)
    for image in images:
        job = codec.job(image)
        for share in SHARES:
            coded = job.try_rate(share * (config.rate.levels - 1))
            layers = codec.layers
            flat, rows, _ = latents.in_wire_order(
                coded.symbols, coded.tables, job.grid, codec.tables, None, layers, layers, machine
            )
            slots = flat.astype(np.int64) - start.offsets[rows]
            slots = np.where((slots < 0) | (slots >= start.sizes[rows]), start.sizes[rows], slots)
            counts += np.bincount(places[rows] + slots, minlength=len(counts))
    masses = []
    for row, count in enumerate(np.split(counts, places[1:-1])):
        prior = np.diff(start.row(row).astype(np.int64))
        symmetric = np.append(count[:-1] + count[-2::-1], 2 * count[-1])
        masses.append([int(m) for m in symmetric * 65536 + 2 * TRUST * prior])
    return CdfTables.from_masses(masses, start.offsets.tolist(), start.skip_below)


def write_fitted(path: Path, net: CodecNet, card: Mapping[str, Any], images: Sequence[Image]) -> None:
    """Saves a network with fitted tables, where its quantiser is dependent, and with what rate control should expect.

    Args:
        net: after ``update``.
        images: photographs of its training; a few are used.
    """
    from bevstack.codec.control import calibrate

    save_weights(path, net, card)
    if not images:
        return

    def some(count: int) -> list[Image]:
        return [images[i] for i in np.linspace(0, len(images) - 1, min(count, len(images))).astype(int)]

    tables = None
    if net.config.quantiser.kind == "dependent":
        for _ in range(ROUNDS):
            codec = ImageCodec(path)
            tables = fit_tables(codec, some(IMAGES))
            codec.close()
            save_weights(path, net, card, tables=tables)
    codec = ImageCodec(path)
    usual = calibrate(codec, some(10))
    codec.close()
    save_weights(path, net, {**card, **usual}, tables=tables)


def with_quantiser(source: Path, target: Path, quantiser: QuantiserConfig, images: Sequence[Image]) -> None:
    """A weights file with another quantiser: same networks, new tables. Streams of the old file need the old file.

    Raises:
        CheckpointError: ``source`` is no codec's weights, or ``target`` cannot be written.
    """
    old = load_weights(source)
    net = CodecNet(dataclasses.replace(old.config, quantiser=quantiser))
    net.load_state_dict(old.state_dict())
    card = {k: v for k, v in read_info(source).card.items() if not k.startswith("usual_")}
    write_fitted(target, net.eval(), card, images)
