"""Small fake sysfs trees for the tests of the zone reader."""

from __future__ import annotations

from pathlib import Path


def add_zone(
    root: Path,
    number: int,
    kind: str,
    temp: str | None,
    *,
    mode: str | None = "enabled",
    trips: list[tuple[str, str]] | None = None,
) -> Path:
    """One thermal zone; ``temp`` None leaves the file out. Trips are (text of temp, type)."""
    folder = root / "class" / "thermal" / f"thermal_zone{number}"
    folder.mkdir(parents=True)
    (folder / "type").write_text(kind + "\n")
    if mode is not None:
        (folder / "mode").write_text(mode + "\n")
    if temp is not None:
        (folder / "temp").write_text(temp)
    for n, (celsius, trip) in enumerate(trips or []):
        (folder / f"trip_point_{n}_temp").write_text(celsius + "\n")
        (folder / f"trip_point_{n}_type").write_text(trip + "\n")
    return folder
