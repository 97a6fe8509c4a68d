"""The node classes: thin shells around ``frames`` and ``bev``. Each file has a ``main`` and runs as ``python -m``."""
