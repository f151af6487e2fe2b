"""What transformers and timm make of folders: runs in an environment of its own, prints JSON.

Arguments: a JSON file, a list of jobs. Each has `class` (of transformers, or "timm"), `folder`, `images`
(an .npy, float32 [n, 3, h, w]) and `logits` (an .npy to write: logits, or what a head would read
where there is none). A job with `config` (and `name`, for timm) makes random weights and saves them in
the folder first; with `resize`, positions are resized to the size of the images. Printed: the versions.
"""

import json
import sys

import numpy as np
import torch


def randomise(model):
    """Weights that hide nothing by being zero or one."""
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for name, value in model.named_parameters():
            noise = torch.randn(value.shape, generator=generator)
            if value.ndim in (2, 4):
                value.copy_(noise / np.sqrt(np.prod(value.shape[1:])))
            elif name.endswith(("gamma", "lambda1")) or ("norm" in name and "weight" in name):
                value.copy_(1 + 0.3 * noise)
            else:
                value.copy_(0.3 * noise)
    return model.eval()


def transformers_model(job):
    import transformers

    kind = getattr(transformers, job["class"])
    if "config" in job:
        model = randomise(kind(kind.config_class(**job["config"])))
        model.save_pretrained(job["folder"])
    model, report = kind.from_pretrained(job["folder"], output_loading_info=True)
    assert not report["missing_keys"] and not report["unexpected_keys"], report
    return model.eval()


def features(model, tokens):
    """What the head would read: the class token, and in a DINOv2 the mean of the patches behind it."""
    if not type(model).__name__.startswith("Dinov2"):
        return tokens[:, 0]
    first = 1 + getattr(model.config, "num_register_tokens", 0)
    return torch.cat([tokens[:, 0], tokens[:, first:].mean(dim=1)], dim=1)


def timm_model(job):
    import timm
    from timm.models import save_for_hf

    if "config" in job:
        model = randomise(timm.create_model(job["name"], **job["config"]))
        save_for_hf(model, job["folder"], safe_serialization=True, model_args=job["config"])
    size = {"img_size": np.load(job["images"]).shape[2:]} if "resize" in job else {}
    return timm.create_model(f"local-dir:{job['folder']}", pretrained=True, **size).eval()


def main():
    with open(sys.argv[1]) as file:
        jobs = json.load(file)
    for job in jobs:
        model = timm_model(job) if job["class"] == "timm" else transformers_model(job)
        with torch.no_grad():
            dinov2 = job["class"].startswith("Dinov2")  # resizes unasked
            resize = "resize" in job and job["class"] != "timm" and not dinov2
            options = {"interpolate_pos_encoding": True} if resize else {}
            found = model(torch.from_numpy(np.load(job["images"])), **options)
        if job["class"] != "timm":
            headless = not hasattr(found, "logits")
            found = features(model, found.last_hidden_state) if headless else found.logits
        np.save(job["logits"], found.numpy())
    names = ("torch", "transformers", "timm")
    print(
        json.dumps({name: sys.modules[name].__version__ for name in names if name in sys.modules})
    )


main()
