"""Draws the icons: a picture in patches, each as bright as the model looked at it."""

from pathlib import Path

from PIL import Image, ImageDraw

HERE = Path(__file__).parent
GROUND = "#0f766e"
SHARES = (0.22, 0.4, 0.22, 0.4, 1.0, 0.6, 0.22, 0.6, 0.4)  # of white, row by row
PATCH, GAP, ROUND = 0.18, 0.04, 0.045  # of the icon's side
SAFE = 0.8  # of the side: what every mask leaves of a maskable icon


def patches(scale: float = 1.0) -> list[tuple[float, float, float]]:
    """(left, top, share) of each patch, in the icon's side."""
    step = (PATCH + GAP) * scale
    first = 0.5 - 1.5 * PATCH * scale - GAP * scale
    return [(first + i % 3 * step, first + i // 3 * step, share) for i, share in enumerate(SHARES)]


def svg() -> str:
    """The icon in 100x100 units."""
    squares = "".join(
        f'<rect x="{100 * x:g}" y="{100 * y:g}" width="{100 * PATCH:g}" height="{100 * PATCH:g}"'
        f' rx="{100 * ROUND:g}" fill-opacity="{share:g}"/>'
        for x, y, share in patches()
    )
    return (
        '<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 100 100">'
        f'<rect width="100" height="100" rx="22" fill="{GROUND}"/><g fill="#fff">{squares}</g></svg>\n'
    )


def png(side: int, corner: float, scale: float = 1.0) -> Image.Image:
    """The icon in pixels, drawn four times as large for smooth edges."""
    large = 4 * side
    icon = Image.new("RGBA", (large, large))
    ImageDraw.Draw(icon).rounded_rectangle((0, 0, large - 1, large - 1), corner * large, GROUND)
    for x, y, share in patches(scale):
        white = Image.new("RGBA", icon.size, (255, 255, 255, 0))
        box = [large * v for v in (x, y, x + PATCH * scale, y + PATCH * scale)]
        colour = (255, 255, 255, round(255 * share))
        ImageDraw.Draw(white).rounded_rectangle(box, ROUND * scale * large, colour)
        icon.alpha_composite(white)
    small = icon.resize((side, side), Image.Resampling.LANCZOS)
    return small.quantize(64, method=Image.Quantize.FASTOCTREE)


if __name__ == "__main__":
    (HERE / "icon.svg").write_text(svg())
    png(192, 0.22).save(HERE / "192.png", optimize=True)
    png(512, 0.22).save(HERE / "512.png", optimize=True)
    png(512, 0.0, SAFE).save(HERE / "maskable.png", optimize=True)
