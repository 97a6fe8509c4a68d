"""The entropy coder beside constriction: throughput in the same run, size beside the ideal.

python benchmarks/rans.py [--symbols 1000000] [--repeats 7] [--json FILE]

Symbols are rounded Gaussians whose scales come from the codec's table. "uniform": every scale equally often. "latent": scales
spread as in a learned latent at about 0.7 bit per symbol. "skipped": the same, with the lowest tables not coded, as the codec
runs. The ideal is -log2 of the Gaussian's own mass of each symbol. constriction gets the same symbols and the standard
deviation of each; its range coder, its ANS coder and its ANS coder with symbols sorted by table (one fixed model at a time) are
timed, the fastest counts. All coders run on one thread, in turns, so that the machine's load falls on all alike; times are CPU
times of that thread.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import time
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bevstack.codec import rans
from bevstack.codec.tables import CdfTables, scale_levels

COUNT, LOWEST, HIGHEST = 64, "0.11", "256"
SKIP = 4


def symbols_of(kind: str, n: int) -> tuple[NDArray[np.int32], NDArray[np.uint8], NDArray[np.float64]]:
    """Symbols, table indices, and the standard deviation of each symbol."""
    rng = np.random.default_rng(0)
    scales = np.array(scale_levels(COUNT, LOWEST, HIGHEST)) / 65536
    if kind == "uniform":
        index = rng.integers(0, COUNT, n)
    else:
        index = np.searchsorted(scales, np.exp(rng.normal(np.log(0.25), 1.0, n))).clip(0, COUNT - 1)
    deviation = scales[index]
    symbols = np.rint(rng.normal(size=n) * deviation).astype(np.int32)
    return symbols, index.astype(np.uint8), deviation


def ideal_bytes(symbols: NDArray[np.int32], deviation: NDArray[np.float64]) -> float:
    from math import erfc

    tail = np.vectorize(lambda x: 0.5 * erfc(x / 2**0.5))
    low = (np.abs(symbols) - 0.5) / deviation
    return float(-np.log2(tail(low) - tail(low + 1 / deviation)).sum() / 8)


Coder = tuple[Callable[[], Any], Callable[[Any], Any], Callable[[Any], int]]  # encode, decode, bytes


def constriction_coders(
    symbols: NDArray[np.int32], index: NDArray[np.uint8], deviation: NDArray[np.float64]
) -> dict[str, Coder]:
    import constriction

    stream = constriction.stream
    edge = int(max(np.abs(symbols).max(), 1500))
    family = stream.model.QuantizedGaussian(-edge, edge)
    zeros = np.zeros(len(symbols))
    order = np.argsort(index, kind="stable")
    groups = np.bincount(index, minlength=COUNT)
    scales = np.array(scale_levels(COUNT, LOWEST, HIGHEST)) / 65536
    models = [stream.model.QuantizedGaussian(-edge, edge, 0.0, float(s)) for s in scales]
    bounds = np.concatenate([[0], np.cumsum(groups)])

    def ans_encode() -> Any:
        coder = stream.stack.AnsCoder()
        coder.encode_reverse(symbols, family, zeros, deviation)
        return coder.get_compressed()

    def ans_decode(data: Any) -> Any:
        return stream.stack.AnsCoder(data).decode(family, zeros, deviation)

    def range_encode() -> Any:
        coder = stream.queue.RangeEncoder()
        coder.encode(symbols, family, zeros, deviation)
        return coder.get_compressed()

    def range_decode(data: Any) -> Any:
        return stream.queue.RangeDecoder(data).decode(family, zeros, deviation)

    def grouped_encode() -> Any:
        coder = stream.stack.AnsCoder()
        ordered = symbols[order]
        for table in range(COUNT - 1, -1, -1):
            if groups[table]:
                coder.encode_reverse(ordered[bounds[table] : bounds[table + 1]], models[table])
        return coder.get_compressed()

    def grouped_decode(data: Any) -> Any:
        coder = stream.stack.AnsCoder(data)
        result = np.empty(len(symbols), np.int32)
        parts = [coder.decode(models[table], int(groups[table])) for table in range(COUNT) if groups[table]]
        result[order] = np.concatenate(parts)
        return result

    def size(data: Any) -> int:
        return int(4 * len(data))

    return {
        "constriction ANS": (ans_encode, ans_decode, size),
        "constriction range": (range_encode, range_decode, size),
        "constriction ANS grouped": (grouped_encode, grouped_decode, size),
    }


def measure(kind: str, n: int, repeats: int) -> dict[str, Any]:
    symbols, index, deviation = symbols_of("uniform" if kind == "uniform" else "latent", n)
    tables = CdfTables.gaussian(scale_levels(COUNT, LOWEST, HIGHEST), skip_below=SKIP if kind == "skipped" else 0)
    if kind == "skipped":
        kept = index >= SKIP
        symbols = np.where(kept, symbols, 0).astype(np.int32)
        full_symbols, full_index = symbols, index
        symbols, index, deviation = symbols[kept], index[kept], deviation[kept]
    else:
        full_symbols, full_index = symbols, index
    coders: dict[str, Coder] = {
        "bevstack": (
            lambda: rans.encode(full_symbols, full_index, tables),
            lambda data: rans.decode(data, full_index, tables),
            len,
        )
    }
    coders |= constriction_coders(symbols, index, deviation)
    ideal = ideal_bytes(symbols, deviation)
    rows: dict[str, Any] = {}
    times: dict[str, list[list[float]]] = {name: [[], []] for name in coders}
    for turn in range(repeats + 1):
        for name, (encode, decode, size) in coders.items():
            start = time.thread_time()
            data = encode()
            middle = time.thread_time()
            back = decode(data)
            end = time.thread_time()
            if turn:  # the first turn warms up
                times[name][0].append(middle - start)
                times[name][1].append(end - middle)
            elif not np.array_equal(back, full_symbols if name == "bevstack" else symbols):
                raise SystemExit(f"{name}: decoded symbols differ")
            else:
                rows[name] = {"bytes": size(data), "over_ideal_percent": 100 * (size(data) / ideal - 1)}
    for name, (encode_s, decode_s) in times.items():
        for what, seconds in (("encode", float(np.median(encode_s))), ("decode", float(np.median(decode_s)))):
            rows[name][f"{what}_ms"] = 1e3 * seconds
            rows[name][f"{what}_msymbols_s"] = n / seconds / 1e6
            rows[name][f"{what}_mb_s"] = rows[name]["bytes"] / seconds / 1e6
    others = [row for name, row in rows.items() if name != "bevstack"]
    return {
        "symbols": n,
        "coded": len(symbols),
        "ideal_bytes": ideal,
        "bits_per_symbol": 8 * ideal / n,
        "coders": rows,
        "encode_ratio": min(o["encode_ms"] for o in others) / rows["bevstack"]["encode_ms"],
        "decode_ratio": min(o["decode_ms"] for o in others) / rows["bevstack"]["decode_ms"],
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--symbols", type=int, default=1_000_000)
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--json", default="")
    options = parser.parse_args()
    result: dict[str, Any] = {"machine": platform.processor() or platform.machine(), "load": os.getloadavg()[0], "cases": {}}
    for kind in ("uniform", "latent", "skipped"):
        case = result["cases"][kind] = measure(kind, options.symbols, options.repeats)
        rate, ideal = case["bits_per_symbol"], case["ideal_bytes"]
        print(f"\n{kind}: {case['symbols']} symbols, {rate:.2f} bit/symbol, ideal {ideal:.0f} bytes")
        columns = [f"{way + ' ms':>10s} {'Msym/s':>8s} {'MB/s':>7s}" for way in ("encode", "decode")]
        print(f"{'coder':26s} {' '.join(columns)} {'bytes':>9s} over")
        for name, row in case["coders"].items():
            print(
                f"{name:26s} {row['encode_ms']:10.1f} {row['encode_msymbols_s']:8.1f} {row['encode_mb_s']:7.1f} "
                f"{row['decode_ms']:10.1f} {row['decode_msymbols_s']:8.1f} {row['decode_mb_s']:7.1f} "
                f"{row['bytes']:9d} {row['over_ideal_percent']:+.3f} %"
            )
        print(f"times the fastest constriction: encode {case['encode_ratio']:.1f}, decode {case['decode_ratio']:.1f}")
    print(f"\nload average {result['load']:.1f}")
    if options.json:
        with open(options.json, "w") as file:
            json.dump(result, file, indent=1)


if __name__ == "__main__":
    main()
