"""`bevstack weights sizes`: the family's table, against the brief's figures."""

from __future__ import annotations

import pytest
from typer.testing import CliRunner

from bevstack.bev import config
from bevstack.cli.models import weights_app

# Brief fast-bev, section 2.1: parameters (M), image GMAC of six images, BEV GMAC of four instants.
# tests/bev/test_config.py counts all of them.
PUBLISHED = {"fastbev-m0": (15.45, 52.9, 82.3), "fastbev-m2": (29.06, 92.7, 117.4)}


def test_the_printed_table_has_the_published_figures(monkeypatch: pytest.MonkeyPatch) -> None:
    few = ("fastbev-micro", "fastbev-nano", *PUBLISHED)
    monkeypatch.setattr(config, "CONFIGS", {name: config.CONFIGS[name] for name in few})
    result = CliRunner().invoke(weights_app, ["sizes"])
    assert result.exit_code == 0
    rows = {}
    for line in result.output.splitlines():
        cells = [cell.strip() for cell in line.replace("│", "|").split("|") if cell.strip()]
        if cells and cells[0].startswith("fastbev-"):
            rows[cells[0]] = [float(cell) for cell in cells[3:]]
    for name, (parameters, image, bev) in PUBLISHED.items():
        assert rows[name][0] == pytest.approx(parameters, abs=0.005)
        assert rows[name][1:3] == [image, bev]
        assert rows[name][3] == pytest.approx(image + bev, abs=0.11)
    assert rows["fastbev-micro"][3] < rows["fastbev-nano"][3] < rows["fastbev-m0"][3]
