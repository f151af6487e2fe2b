"""Accuracy of a model on labelled images, whatever form the model has.

classification.py  predictions of a checkpoint or a .tflite, and what they score
calibration.py     whether their scores are probabilities
multi_label.py     what they score where a picture may have any number of labels
real.py            ImageNet's validation set by its reassessed labels
features.py        what the head of a checkpoint or a .tflite reads, of all images of a split
fewshot.py         ridge regression on features of a few images per class
corruptions.py     ImageNet-C's 15 corruptions of pixels; textures.py, what weather is made of
robustness.py      accuracy of several models on corrupted pictures
probe.py           a linear classifier on features of all of them
vtab.py            fine-tuning for the 19 tasks of VTAB-1k
"""

from tfvit.evaluate.classification import Scores, predict, predict_pixels, predict_tflite, score
from tfvit.evaluate.multi_label import MultiLabelScores

__all__ = ["MultiLabelScores", "Scores", "predict", "predict_pixels", "predict_tflite", "score"]
