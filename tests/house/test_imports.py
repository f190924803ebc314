"""What is imported when: nothing heavy before it is needed, and little at all by the library's core."""

from __future__ import annotations

import pytest
from bare import BLOCK, ROOT, run


def test_the_core_needs_five_packages() -> None:
    """Backbone, methods, training loop and loaders can be imported and used without the command line's packages."""
    packages = ["clip", "methods", "data"]
    modules = [
        f"fewclip.{package}.{path.stem}"
        for package in packages
        for path in sorted((ROOT / "src/fewclip" / package).glob("*.py"))
        if path.stem != "__init__"
    ]
    imports = "\n".join(f"import {m}" for m in [*modules, "fewclip.training.loop", "fewclip.classifier"])
    run(BLOCK + imports + "\nfrom fewclip import CLIP\nCLIP.from_pretrained('icon-clip')")


@pytest.mark.parametrize("code", ["import fewclip", "from fewclip.cli import main; main(['--help'])"])
def test_nothing_heavy_at_the_start(code: str) -> None:
    run(code + "\nimport sys\nassert not {'torch', 'numpy', 'PIL', 'tyro', 'rich'} & set(sys.modules)")


def test_loading_a_backbone_does_not_import_the_compiler() -> None:
    """torch's compiler takes a second or more to import; tensors without storage are not to be computed with."""
    run(
        "from fewclip import CLIP\nCLIP.from_pretrained('icon-clip')\nimport sys\nassert 'torch._dynamo' not in sys.modules"
    )
