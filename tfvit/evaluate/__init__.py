"""Accuracy of a model on labelled images, whatever form the model has.

classification.py  predictions of a checkpoint or a .tflite, and what they score
"""

from tfvit.evaluate.classification import Scores, predict, predict_pixels, predict_tflite, score

__all__ = ["Scores", "predict", "predict_pixels", "predict_tflite", "score"]
