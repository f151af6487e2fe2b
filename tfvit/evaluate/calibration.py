"""Whether a model's scores are probabilities: of those of 0.8, are 80 % right?"""

from __future__ import annotations

import numpy as np

BINS = 15  # of equal width, as in Guo et al., arXiv 1706.04599


def reliability(confidence: np.ndarray, right: np.ndarray) -> list[dict]:
    """What the predictions in each of BINS bins of confidence are worth, the bins in order.

    confidence: of each prediction [n], 0-1; right: whether it is, bool [n]. A bin is from above `low`
    up to `high`, and has the number of its images, and their mean confidence and accuracy or None.
    """
    bins = np.digitize(confidence, np.arange(1, BINS) / BINS, right=True)
    found = []
    for number in range(BINS):
        inside = bins == number
        count = int(inside.sum())
        found.append(
            {
                "low": number / BINS,
                "high": (number + 1) / BINS,
                "images": count,
                "confidence": float(confidence[inside].mean()) if count else None,
                "accuracy": float(right[inside].mean()) if count else None,
            }
        )
    return found


def expected_error(bins: list[dict]) -> float:
    """Expected calibration error, 0-1: from confidence to accuracy in a bin, mean over all images."""
    filled = [entry for entry in bins if entry["images"]]
    gaps = [abs(entry["confidence"] - entry["accuracy"]) for entry in filled]
    return float(np.average(gaps, weights=[entry["images"] for entry in filled]))
