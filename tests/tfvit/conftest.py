"""What several tests of the models share."""

from __future__ import annotations

import functools

import pytest
from huggingface_folders import write_folder


@pytest.fixture
def write(tmp_path):
    """write(kind, tensors, config={}, processor={}): a Hugging Face folder; a value of None leaves out."""
    return functools.partial(write_folder, tmp_path / "there")
