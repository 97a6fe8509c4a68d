"""Tables of a run: live in a terminal, plain lines elsewhere, and the summary."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from contextlib import AbstractContextManager, contextmanager
from typing import TYPE_CHECKING

from rich.columns import Columns
from rich.console import Console, Group
from rich.table import Table
from rich.text import Text

if TYPE_CHECKING:
    from collections.abc import Iterator

    from .statistics import Summary

PLAIN_EVERY = 5.0


def ms(value: float) -> str:
    return f"{value:.0f}" if value >= 100 else f"{value:.1f}"


def boxes_text(summary: Summary) -> str:
    """Boxes in 3D, and in 2D where there are any."""
    return f"{summary.boxes} 3D + {summary.boxes2d} 2D" if summary.boxes2d else str(summary.boxes)


def headline(summary: Summary) -> str:
    """One line: how far, how fast, what was lost."""
    latency = summary.stages.get("latency")
    if summary.streams and not summary.instants_in:
        return streams_line(summary)
    waiting = "no result yet" + (
        "" if summary.instants_in else ": opening the model (its first use compiles, about a minute; INT8 takes several)"
    )
    parts = [
        f"in {summary.instants_in}",
        f"out {summary.instants_out}",
        f"dropped {summary.instants_dropped}",
        f"{summary.rate:.1f} instants/s",
        f"latency {ms(latency.p50)} ms" if latency else waiting,
        f"boxes {boxes_text(summary)}",
    ]
    return "  ".join(parts)


def stage_table(summary: Summary) -> Table:
    """Stages with median, 95th percentile and maximum."""
    table = Table(title=None, header_style="dim", box=None, pad_edge=False, padding=(0, 2, 0, 0))
    table.add_column("stage")
    for name in ("p50 ms", "p95 ms", "max ms"):
        table.add_column(name, justify="right")
    # The model's own sum and the whole way come last, apart from the stages that they are made of.
    names = [name for name in summary.stages if name not in ("total", "latency")]
    rows = [(name, name, None) for name in names] + [("total", "model", None), ("latency", "end to end", "bold")]
    for name, label, style in rows:
        if name in summary.stages:
            spread = summary.stages[name]
            table.add_row(label, ms(spread.p50), ms(spread.p95), ms(spread.max), style=style)
    return table


def camera_table(summary: Summary) -> Table:
    """Cameras with frames and drops."""
    table = Table(header_style="dim", box=None, pad_edge=False, padding=(0, 2, 0, 0))
    table.add_column("camera")
    table.add_column("frames", justify="right")
    table.add_column("dropped", justify="right")
    for name, counts in summary.cameras.items():
        table.add_row(name, str(counts["frames"]), str(counts["drops"]), style="yellow" if counts["drops"] else None)
    return table


def live_view(summary: Summary, seconds: float, note: str = "") -> Group:
    """What a terminal shows while running."""
    both = Columns([stage_table(summary), camera_table(summary)], padding=(0, 4))  # one above the other where narrow
    title = Text.assemble(
        ("bevstack ", "bold"), summary.source, "  ", (f"{summary.model} on {summary.engine}", "cyan"), f"  {seconds:.0f} s"
    )
    lines: list[Text | Columns] = [title, Text(headline(summary)), Text(""), both]
    if summary.reason:
        lines.insert(2, Text(summary.reason, style="yellow"))
    if note:
        lines.append(Text(note, style="dim"))
    return Group(*lines)


def streams_line(summary: Summary) -> str:
    """Learned streams of all cameras together; the rate is that of the source's own time."""
    streams = summary.streams.values()
    frames, size = (int(sum(s[key] for s in streams)) for key in ("frames", "bytes"))
    pixels = sum(8 * s["bytes"] / s["bits_per_pixel"] for s in streams if s["bits_per_pixel"])
    speed = sum(s["bits_per_second"] for s in streams)
    each = f"{8 * size / max(1, pixels):.3f} bits per pixel" + (f", {speed / 1e3:.0f} kbit/s" if speed else "")
    return f"learned streams: {frames} frames of {len(summary.streams)} cameras, {each}"


def _instants_line(summary: Summary, sent: str) -> str:
    return (
        f"instants: {sent}{summary.instants_in} in, {summary.instants_out} out, {summary.instants_dropped} dropped"
        f" ({100 * summary.frame_drop_ratio:.1f} % of frames) in {summary.seconds:.1f} s: {summary.rate:.2f} per second,"
        f" {boxes_text(summary)} boxes"
    )


def print_summary(console: Console, summary: Summary) -> None:
    """The end of a run."""
    sent = "" if summary.sent is None else f"{summary.sent} sent, "
    console.print()
    console.print(f"[bold]{summary.model}[/bold] on {summary.engine}, source {summary.source}", highlight=False)
    if summary.instants_in or not summary.streams:
        console.print(_instants_line(summary, sent), highlight=False, soft_wrap=True)
    if summary.truth is not None:
        console.print(summary.truth.line(), highlight=False, soft_wrap=True)
    if summary.streams:
        console.print(streams_line(summary), highlight=False, soft_wrap=True)
    if summary.stages:
        console.print()
        console.print(stage_table(summary))
    if any(counts["drops"] for counts in summary.cameras.values()):
        console.print()
        console.print(camera_table(summary))
    if summary.reason:
        console.print(f"last problem: {summary.reason}", style="yellow", highlight=False, soft_wrap=True)
    if summary.files:
        console.print()
    for kind, path in summary.files.items():
        console.print(f"{kind}: {path}", highlight=False, soft_wrap=True)


def progress(console: Console, current: Callable[[], Summary], note: Callable[[], str]) -> AbstractContextManager[None]:
    """While in the context: a live table (``note`` below it) in a terminal, else one line every ``PLAIN_EVERY`` seconds."""
    return _live(console, current, note) if console.is_terminal else _plain(console, current)


@contextmanager
def _live(console: Console, current: Callable[[], Summary], note: Callable[[], str]) -> Iterator[None]:
    from rich.live import Live

    began = time.monotonic()
    with Live(
        console=console,
        get_renderable=lambda: live_view(current(), time.monotonic() - began, note()),
        refresh_per_second=4,
        transient=True,
        redirect_stdout=False,
    ):
        yield


@contextmanager
def _plain(console: Console, current: Callable[[], Summary]) -> Iterator[None]:
    ended = threading.Event()
    began = time.monotonic()

    def talk() -> None:
        while not ended.wait(PLAIN_EVERY):
            console.print(f"{time.monotonic() - began:6.1f} s  {headline(current())}", highlight=False, soft_wrap=True)

    thread = threading.Thread(target=talk, name="progress", daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join(2.0)
