"""How many of the true objects a run found, where the source knows the truth: a first impression, no benchmark."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from bevstack.geometry import Boxes3D

# nuScenes' middle threshold: centres on the ground nearer than this, same class.
NEAR = 2.0


@dataclass
class Matches:
    """Counts over all instants that had truth.

    Attributes:
        instants: with truth.
        objects: true objects.
        found: of those, with a box of the same class whose centre is within ``NEAR`` metres on the ground.
        false: boxes that belong to no true object.
    """

    instants: int = 0
    objects: int = 0
    found: int = 0
    false: int = 0

    def add(self, boxes: Boxes3D, truth: Boxes3D) -> None:
        """One instant, both in the ego frame. Certain boxes choose first; each object is found once."""
        taken = np.zeros(len(truth), bool)
        for n in np.argsort(-boxes.score, kind="stable"):
            distance = np.linalg.norm(truth.center[:, :2] - boxes.center[n, :2], axis=1)
            distance[taken | (truth.label != boxes.label[n])] = np.inf
            nearest = int(np.argmin(distance)) if len(truth) else -1
            if nearest >= 0 and distance[nearest] < NEAR:
                taken[nearest] = True
            else:
                self.false += 1
        self.instants += 1
        self.objects += len(truth)
        self.found += int(taken.sum())

    def line(self) -> str:
        """For the summary."""
        boxes = self.found + self.false
        return (
            f"true objects: {self.found} of {self.objects} found ({_percent(self.found, self.objects)}), "
            f"{self.false} of {boxes} boxes false ({_percent(self.false, boxes)}); same class, within {NEAR:g} m"
        )


def _percent(part: int, whole: int) -> str:
    return f"{100 * part / whole:.0f} %" if whole else "-"
