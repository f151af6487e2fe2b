"""What is found inside a model: figures as PNG files, one page of them, and the numbers behind."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

import numpy as np
import tensorflow as tf
from matplotlib.figure import Figure

from edge_demo import images, preprocess
from edge_demo.classifier import Classifier
from edge_demo.errors import UserError
from edge_demo.tflite import metadata
from edge_demo.tflite.metadata import ATTENTION
from tfvit.architecture import Architecture, ResNetArchitecture
from tfvit.files import staged_files
from tfvit.inspect import figures, weights
from tfvit.inspect.attention import Look, look, must_attend
from tfvit.model import Model
from tfvit.page import svg, template
from tfvit.preprocess import normalise

TEMPLATE = Path(__file__).with_name("report.html.jinja")
PAGE, FIGURES = "inspect.html", "inspect"
OWN = "rollout"  # what the checkpoint's map is called beside those of files
DPI = 120
DRAWN = 8  # pictures, of however many are measured


def lacks(arch: Architecture | ResNetArchitecture) -> list[str]:
    """What of the paper's figures a model has not, a line each."""
    if isinstance(arch, ResNetArchitecture):
        return [
            "A BiT ResNet has neither patches, positions nor attention: these are filters of its root."
        ]
    found = []
    if arch.stem is not None:
        found.append(
            "Its patches are of a ResNet's features: the filters are those of that ResNet's root."
        )
    if arch.position == "none":
        found.append("It has no position embeddings.")
    if arch.position == "relative":
        found.append("Its positions are relative, none of a place: there is nothing to compare.")
    return found


def asked(arch: Architecture, query: tuple[int, int] | None) -> str:
    """Whose attention the maps of the heads are, in a sentence."""
    if query is not None:
        return f"Attention of the patch in row {query[0] + 1}, column {query[1] + 1}."
    readers = {
        "gap": "Attention of all patches, mean: of them the head reads the mean.",
        "map": "Attention of the patches, weighted as the pooling weights them.",
    }
    token = "both class tokens, mean" if arch.class_tokens > 1 else "the class token"
    return readers.get(arch.pooling, f"Attention of {token}.")


def gather(
    model: Model,
    pictures: Sequence[Path],
    files: Sequence[Path] = (),
    query: tuple[int, int] | None = None,
    step: Callable[[], None] = lambda: None,
) -> tuple[dict, dict[str, Figure]]:
    """The numbers, JSON types, and the figures by name.

    pictures: image files; all count in the mean attention distance, the first DRAWN are drawn.
    files: .tflite whose rollout is compared, with attention and of the same size.
    query: (row, column) of the patch whose attention the heads' maps are; None is what the head reads.
    step: called after each picture.
    Raises UserError for what cannot be read or compared.
    """
    arch = model.architecture
    if files or query is not None:
        must_attend(arch)
    components, variance = weights.filters(model)
    found = {
        "model": arch.to_json(),
        "lacks": lacks(arch),
        "filters": {"variance": variance.tolist()},
        "images": [],
    }
    drawn = {"filters": figures.filters(components)}
    embeddings = weights.positions(model)
    if embeddings is not None:
        similarity = functools.partial(weights.position_similarity, embeddings)
        drawn["positions"] = figures.positions(similarity, arch)
    if isinstance(arch, ResNetArchitecture) or not pictures:
        return found, drawn
    tellers = dict(zip(_names(files), (_teller(path, arch) for path in files)))
    shown = []
    for path, pixels, *others in [_pixels(p, model, tellers.values()) for p in pictures]:
        seen = look(model, normalise(tf.constant(pixels[np.newaxis]), model.preprocess), query)
        maps = {OWN: seen.rollout[0]}
        for (name, teller), theirs in zip(tellers.items(), others):
            teller.logits(theirs)
            maps[name] = teller.extras[ATTENTION]
        if len(shown) < DRAWN:
            shown.append((pixels, maps, seen.heads[0]))
        found["images"].append(_numbers(path, seen, maps))
        step()
    far = np.mean([entry["distance"] for entry in found["images"]], axis=0)
    found |= {"distance": far.tolist(), "asked": asked(arch, query)}
    drawn["distance"] = figures.distance(far, arch)
    captions = [
        ["", *(f"r = {one['correlation']:.3f}" for one in entry["files"].values())]
        for entry in found["images"]
    ]
    drawn["rollout"] = figures.rollouts([(pixels, maps) for pixels, maps, _ in shown], captions)
    for i, (pixels, _, heads) in enumerate(shown):
        drawn[f"heads-{i + 1}"] = figures.heads(pixels, heads, query, arch)
    return found, drawn


def write(found: dict, drawn: dict[str, Figure], folder: Path, title: str) -> None:
    """Writes all figures with what they mean as one page, PAGE, and each as FIGURES/NAME.png.

    What else is in FIGURES goes: it is of an earlier call.

    found, drawn: of `gather`. title: what was looked into. Raises UserError if the disk refuses.
    """
    pictures = {name: svg(figure, f"{title}: {name}") for name, figure in drawn.items()}
    html = template(TEMPLATE, {}).render(
        report=found,
        title=title,
        pictures=pictures,
        files=list(found["images"][0]["files"]) if found["images"] else [],
        shares=np.cumsum(found["filters"]["variance"]).tolist(),
    )
    with staged_files(folder) as staging:
        (staging / FIGURES).mkdir()
        for name, figure in drawn.items():
            figure.savefig(staging / FIGURES / f"{name}.png", dpi=DPI)
        (staging / PAGE).write_text(html, "utf-8")


def correlation(one: np.ndarray, other: np.ndarray) -> float:
    """Pearson's, of two maps [down, across]; 0 where one of them is the same everywhere."""
    a, b = (x.ravel().astype(np.float64) - x.mean(dtype=np.float64) for x in (one, other))
    lengths = np.linalg.norm(a) * np.linalg.norm(b)
    return float(a @ b / lengths) if lengths else 0.0


def _names(files: Sequence[Path]) -> list[str]:
    """What to call files: their stems where that tells them, and the checkpoint, apart."""
    stems = [path.stem for path in files]
    return stems if len({OWN, *stems}) > len(stems) else list(map(str, files))


def _teller(path: Path, arch: Architecture) -> Classifier:
    """A .tflite that tells where it looks, in patches as a model has them; UserError if it does not."""
    if ATTENTION not in metadata.read(path).outputs:
        raise UserError(
            f"{path}: does not tell where it looks; export it with `tfvit convert --with-attention`"
        )
    teller = Classifier(path)
    size = teller.preprocess.height, teller.preprocess.width
    if size != arch.image_size:
        raise UserError(
            f"{path}: is for {'x'.join(map(str, size))} pixels; give that as --image-size"
        )
    teller.warm_up()
    grid = teller.extras[ATTENTION].shape
    if grid != arch.grid:
        raise UserError(f"{path}: has {grid[0]}x{grid[1]} patches, another model than {arch.name}")
    return teller


def _pixels(path: Path, model: Model, tellers: Iterable[Classifier]) -> tuple:
    """A picture's path, and its pixels as the model and each of the files sees them."""
    picture = images.read_rgb(path)
    return path, *(preprocess.to_pixels(picture, one.preprocess) for one in (model, *tellers))


def _numbers(path: Path, seen: Look, maps: dict[str, np.ndarray]) -> dict:
    own, *others = maps.items()
    files = {
        name: {"correlation": correlation(values, own[1]), "rollout": values.tolist()}
        for name, values in others
    }
    distance, rollout = seen.distance[0].tolist(), seen.rollout[0].tolist()
    return {"path": str(path), "distance": distance, "rollout": rollout, "files": files}
