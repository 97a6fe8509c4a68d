"""The parameter file and its JSON schema, from the nodes' tables: ``python -m bevstack.ros.parameter_files launch/params``."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from .nodes import bev_node, camera_node, decoder_node, detect_node, encoder_node, governor_node, player, recorder
from .nodes.parameters import Spec

TABLES: Mapping[str, Sequence[Spec]] = {
    "bev_node": bev_node.PARAMETERS,
    "detect_node": detect_node.PARAMETERS,
    "encoder_node": encoder_node.PARAMETERS,
    "decoder_node": decoder_node.PARAMETERS,
    "governor_node": governor_node.PARAMETERS,
    "camera_node": camera_node.PARAMETERS,
    "player": player.PARAMETERS,
    "recorder": recorder.PARAMETERS,
}
# Given by the launch file, or meaningless in a file: left out of the YAML, not of the schema.
_LEFT_OUT = {
    "camera_node": {"source"},
    "player": {"path"},
    "recorder": {"path"},
    "bev_node": {"build_only"},
    "detect_node": {"build_only"},
    "governor_node": {"calibrate", "sysfs_root"},
}


def parameters_yaml() -> str:
    """Every parameter with its default, commented; for any namespace."""
    lines = [
        "# Parameters of the nodes, with their defaults. Schema: bev.schema.json. Copy, change, launch with params_file:=...",
        "",
    ]
    for name, specs in TABLES.items():
        lines += [f"/**/{name}:", "  ros__parameters:"]
        for spec in specs:
            if spec.name in _LEFT_OUT.get(name, ()):
                continue
            if spec.default == []:
                lines += [f"    # {spec.description}", f'    {spec.name}: [""]']
                continue
            value = yaml.safe_dump(spec.default, default_flow_style=True, width=1000).strip().removesuffix("...").strip()
            lines += [f"    # {spec.description}", f"    {spec.name}: {value}"]
        lines.append("")
    return "\n".join(lines)


def parameters_schema() -> str:
    """JSON schema of such a file."""
    nodes: dict[str, Any] = {
        f"/**/{name}": {
            "type": "object",
            "properties": {
                "ros__parameters": {
                    "type": "object",
                    "properties": {spec.name: spec.schema() for spec in specs} | {"use_sim_time": {"type": "boolean"}},
                    "additionalProperties": False,
                }
            },
            "required": ["ros__parameters"],
            "additionalProperties": False,
        }
        for name, specs in TABLES.items()
    }
    return (
        json.dumps(
            {
                "$schema": "https://json-schema.org/draft/2020-12/schema",
                "title": "parameters of bevstack's nodes",
                "type": "object",
                "properties": nodes,
            },
            indent=2,
        )
        + "\n"
    )


def main(folder: Path) -> None:
    """Write both files."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "bev.yaml").write_text(parameters_yaml())
    (folder / "bev.schema.json").write_text(parameters_schema())


if __name__ == "__main__":
    main(Path(sys.argv[1]))
