"""Prompt templates by name: those of the benchmark data sets (shared/datasets.md §1), and one for drawings."""

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
