"""Labelled images: `open_source` turns what `--data` says into splits, `pipeline` into batches.

source.py        Source and Split, and the choice by name
folder.py        an image folder;  label_file.py  its labels.csv, for several labels a picture
storage.py       where its files lie: here, or gs://
digits.py        scikit-learn's digits, 1,797 real images inside a package
tfds_source.py   a TensorFlow Datasets set;  vtab.py  the 19 tasks that VTAB makes of such sets
decode.py        encoded pictures to arrays; cache.py keeps them
augment.py       what a picture goes through; operations.py, the table of RandAugment and its kin
views.py         from an encoded picture to a view, in any thread or process; service.py, in others
order.py         which picture stands where: shuffled, repeated, balanced, a worker's part
mix.py           mixup and cutmix of a batch
pipeline.py      batches of pixels, labels and masks; deterministic, resumable at any step
"""

from tfvit.data.source import DataOptions, Source, Split, open_source

__all__ = ["DataOptions", "Source", "Split", "open_source"]
