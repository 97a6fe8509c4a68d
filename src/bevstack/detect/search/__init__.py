"""MAE-DET (arXiv 2111.13336): finds an image backbone for a budget without training one. Imports without torch.

``score`` and ``cost`` are closed forms of the structure, ``operators`` measures a table of operators on this machine,
``evolution`` searches.
"""

from .cost import Cost, cost
from .evolution import Budget, Found, SearchError, SearchSettings, search
from .score import DETECTION_WEIGHTS, score, stage_entropies

__all__ = [
    "DETECTION_WEIGHTS",
    "Budget",
    "Cost",
    "Found",
    "SearchError",
    "SearchSettings",
    "cost",
    "score",
    "search",
    "stage_entropies",
]
