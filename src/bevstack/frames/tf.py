"""A tree of frames from /tf and /tf_static, looked up from plain numbers (this floor knows no ROS message)."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from itertools import pairwise

import numpy as np

from bevstack.errors import CalibrationError
from bevstack.geometry import Matrix, invert


def frame_name(name: str) -> str:
    """tf2 frame names carry no leading slash; old tools write one."""
    return name.lstrip("/")


class TfTree:
    """The latest transform between any two connected frames."""

    def __init__(self) -> None:
        self._edges: dict[str, dict[str, Matrix]] = {}
        self._parents: dict[str, str] = {}

    def set(self, parent: str, child: str, T_parent_child: Matrix) -> None:
        """Add or replace the edge; a child has one parent, the newest."""
        parent, child = frame_name(parent), frame_name(child)
        old = self._parents.get(child)
        if old is not None and old != parent:
            del self._edges[old][child], self._edges[child][old]
        self._parents[child] = parent
        self._edges.setdefault(parent, {})[child] = T_parent_child
        self._edges.setdefault(child, {})[parent] = invert(T_parent_child)

    @property
    def frames(self) -> list[str]:
        """All frame names, sorted."""
        return sorted(self._edges)

    def root(self, frame: str) -> str:
        """The topmost ancestor of a frame."""
        name, seen = frame_name(frame), set[str]()
        while name in self._parents and name not in seen:
            seen.add(name)
            name = self._parents[name]
        return name

    def path(self, target: str, source: str) -> list[str] | None:
        """Frames from ``target`` to ``source``, both included; None if they are not connected."""
        target, source = frame_name(target), frame_name(source)
        if target == source:
            return [target]
        came: dict[str, str] = {target: target}
        queue = deque([target])
        while queue:
            here = queue.popleft()
            for there in self._edges.get(here, ()):
                if there in came:
                    continue
                came[there] = here
                if there == source:
                    chain = [there]
                    while chain[-1] != target:
                        chain.append(came[chain[-1]])
                    return chain[::-1]
                queue.append(there)
        return None

    def along(self, chain: Iterable[str]) -> Matrix:
        """(4, 4) transform from the chain's last frame into its first."""
        names = list(chain)
        transform = np.eye(4)
        for a, b in pairwise(names):
            transform = transform @ self._edges[a][b]
        return transform

    def lookup(self, target: str, source: str) -> Matrix:
        """(4, 4) T_target_source.

        Raises:
            CalibrationError: one line that names the frame that is missing, or the two that are not connected.
        """
        chain = self.path(target, source)
        if chain is not None:
            return self.along(chain)
        known = ", ".join(self.frames[:12]) + (", ..." if len(self._edges) > 12 else "") or "none at all"
        for name in (source, target):
            if frame_name(name) not in self._edges:
                raise CalibrationError(
                    f"frame {frame_name(name)!r} is missing in tf (known: {known}): "
                    "publish or record /tf_static, or give a rig file"
                )
        raise CalibrationError(
            f"frames {frame_name(source)!r} and {frame_name(target)!r} are not connected in tf (known: {known})"
        )
