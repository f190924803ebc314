"""Prompt templates by name: those of the benchmark data sets (docs/data.md), and one for drawings."""

from __future__ import annotations

from fewclip.errors import PromptError

TEMPLATES = {
    "photo": "a photo of a {}.",
    "pet": "a photo of a {}, a type of pet.",
    "flower": "a photo of a {}, a type of flower.",
    "aircraft": "a photo of a {}, a type of aircraft.",
    "food": "a photo of {}, a type of food.",
    "texture": "{} texture.",
    "satellite": "a centered satellite photo of {}.",
    "action": "a photo of a person doing {}.",
    "icon": "an icon of a {}.",
}


def find_template(template: str) -> str:
    """A preset by its name, or the template itself, which must hold `{}` once where the class name goes.

    Raises:
        PromptError: neither.
    """
    if template in TEMPLATES:
        return TEMPLATES[template]
    if template.count("{}") != 1:
        raise PromptError(
            f"The template {template!r} should hold {{}} once, where the class name goes, such as 'a photo of a {{}}.', "
            f"or be one of the presets {', '.join(TEMPLATES)}."
        )
    return template


SELECTED_TEMPLATES = (
    "itap of a {}.",
    "a bad photo of the {}.",
    "a origami {}.",
    "a photo of the large {}.",
    "a {} in a video game.",
    "art of the {}.",
    "a photo of the small {}.",
)
"""The seven ImageNet sentences that CLIP's authors found to do most of the work of eighty."""


def imagenet_templates() -> tuple[str, ...]:
    """The 60 of CLIP's ImageNet sentences that PromptSRC averages. Only which they are matters, not their order."""
    pictures = (
        "bad photo, bright photo, blurry photo, close-up photo, cropped photo, doodle, low resolution photo, painting, "
        "pixelated photo, rendering, rendition, sculpture, sketch"
    )
    photos = (
        "a, the, my, one, many, a hard to see, the hard to see, a clean, the clean, a dirty, the dirty, the cool, a large, "
        "a nice, a weird"
    )
    things = "a embroidered, the embroidered, a origami, the origami, a plastic, the plastic, the toy, a cartoon"
    others = (
        "a dark photo of the, a good photo of the, a black and white photo of the, a jpeg corrupted photo of a, "
        "a drawing of a, a tattoo of a, graffiti of a, art of a, itap of the"
    )
    return (
        *(f"a {picture} of {article} {{}}." for picture in pictures.split(", ") for article in ("a", "the")),
        *(f"a photo of {which} {{}}." for which in photos.split(", ")),
        *(f"{start} {{}}." for start in f"{things}, {others}".split(", ")),
        *(f"{article} {{}} in a video game." for article in ("a", "the")),
    )
