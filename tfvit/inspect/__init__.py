"""Look inside a model, as arrays: attention.py, where it looks; weights.py, what its weights tell.

figures.py draws them, report.py puts the pictures on a page.
"""

from tfvit.inspect.attention import Look, attentions, heat_maps, look, mean_distance, rollout
from tfvit.inspect.weights import filters, position_similarity, positions

__all__ = [
    "Look",
    "attentions",
    "filters",
    "heat_maps",
    "look",
    "mean_distance",
    "position_similarity",
    "positions",
    "rollout",
]
