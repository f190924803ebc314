"""Random weights of small CLIPs, written in each layout that CLIPs are published in, with the real names."""

from __future__ import annotations

import json
import re
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from small import small_clip
from torch import Tensor, nn

from fewclip.clip.config import Config
from fewclip.clip.model import CLIP

VOCABULARY = 49408

# Sizes as published, narrowed: patch 32, 16 and 14; other depths, widths and MLPs in the two towers; heads of 80.
SIZES: dict[str, dict[str, Any]] = {
    "b32": {"patch_size": 32, "image_size": 64, "vision_layers": 2, "text_layers": 3, "quick_gelu": True},
    "b16": {"patch_size": 16, "image_size": 48, "vision_width": 128, "vision_heads": 2, "vision_layers": 3},
    "l14": {
        "patch_size": 14,
        "image_size": 42,
        "text_width": 128,
        "text_heads": 2,
        "embed_dim": 24,
        "quick_gelu": True,
    },
    "h14": {"patch_size": 14, "image_size": 28, "vision_width": 160, "vision_heads": 2, "vision_mlp": 700},
}


def random_clip(size: str, **changes: Any) -> CLIP:
    """A small CLIP with CLIP's vocabulary, rounded to 16 bits so that every layout holds the same numbers."""
    base = {"vocab_size": VOCABULARY, "context_length": 77, "vision_width": 64, "vision_heads": 1, "text_width": 64}
    plain = {"text_heads": 1, "vision_layers": 2, "text_layers": 2, "quick_gelu": False}
    clip = small_clip(**(base | plain | SIZES[size] | changes))
    with torch.no_grad():
        for p in clip.parameters():
            p.copy_((p * 0.5 if p.ndim > 1 else p).half().float())
    return clip


def state(clip: CLIP) -> dict[str, Tensor]:
    return {name: value.clone() for name, value in clip.state_dict().items()}


class _Tree(nn.Module):
    """Any nesting of parameters, to be saved as TorchScript."""

    def __init__(self, tensors: dict[str, Tensor]) -> None:
        super().__init__()
        groups: dict[str, dict[str, Tensor]] = {}
        for name, value in tensors.items():
            first, _, rest = name.partition(".")
            if rest:
                groups.setdefault(first, {})[rest] = value
            elif value.is_floating_point():
                self.register_parameter(first, nn.Parameter(value, requires_grad=False))
            else:
                self.register_buffer(first, value)
        for first, inner in groups.items():
            self.add_module(first, _Tree(inner))

    def forward(self, x: Tensor) -> Tensor:
        return x + 1


def openai_entries(clip: CLIP) -> dict[str, Tensor]:
    c = clip.config
    named = {"input_resolution": c.image_size, "context_length": c.context_length, "vocab_size": c.vocab_size}
    return {name: torch.tensor(value) for name, value in named.items()}


def openai_archive(clip: CLIP, path: Path, traced: bool = False) -> Path:
    """OpenAI's `.pt`: a TorchScript archive in 16 bits with three entries that are no weights."""
    tree = _Tree({name: value.half() for name, value in state(clip).items()} | openai_entries(clip)).eval()
    module = torch.jit.trace(tree, torch.zeros(1)) if traced else torch.jit.script(tree)
    torch.jit.save(module, str(path))
    return path


def custom_text(clip: CLIP) -> dict[str, Tensor]:
    """The names of open_clip's CustomTextCLIP."""
    top = ("visual.", "logit_scale")
    return {name if name.startswith(top) else f"text.{name}": value for name, value in state(clip).items()}


def open_clip_folder(clip: CLIP, folder: Path, *, safetensors: bool = True, text_prefix: bool = False) -> Path:
    c = clip.config
    folder.mkdir(parents=True, exist_ok=True)
    tensors = custom_text(clip) if text_prefix else state(clip)
    if safetensors:
        save_file(tensors, folder / "open_clip_model.safetensors")
    else:
        torch.save(tensors, folder / "open_clip_pytorch_model.bin")
    model: dict[str, Any] = {
        "embed_dim": c.embed_dim,
        "vision_cfg": {
            "image_size": c.image_size,
            "layers": c.vision_layers,
            "width": c.vision_width,
            "head_width": c.vision_width // c.vision_heads,
            "patch_size": c.patch_size,
        },
        "text_cfg": {
            "context_length": c.context_length,
            "vocab_size": c.vocab_size,
            "width": c.text_width,
            "heads": c.text_heads,
            "layers": c.text_layers,
        },
    }
    if c.quick_gelu:
        model["quick_gelu"] = True
    preprocess = {
        "mean": [0.5, 0.4, 0.3],
        "std": [0.2, 0.3, 0.4],
        "interpolation": "bicubic",
        "resize_mode": "shortest",
    }
    write_json(folder / "open_clip_config.json", {"model_cfg": model, "preprocess_cfg": preprocess})
    return folder


def hf_config(config: Config) -> Any:
    from transformers import CLIPConfig

    act = "quick_gelu" if config.quick_gelu else "gelu"
    return CLIPConfig(
        text_config={
            "hidden_size": config.text_width,
            "intermediate_size": 4 * config.text_width,
            "num_hidden_layers": config.text_layers,
            "num_attention_heads": config.text_heads,
            "max_position_embeddings": config.context_length,
            "vocab_size": config.vocab_size,
            "eos_token_id": config.vocab_size - 1,
            "hidden_act": act,
        },
        vision_config={
            "hidden_size": config.vision_width,
            "intermediate_size": config.vision_mlp or 4 * config.vision_width,
            "num_hidden_layers": config.vision_layers,
            "num_attention_heads": config.vision_heads,
            "image_size": config.image_size,
            "patch_size": config.patch_size,
            "hidden_act": act,
        },
        projection_dim=config.embed_dim,
    )


def hf_names(clip: CLIP) -> dict[str, Tensor]:
    """The same weights under Hugging Face's names; written apart from the package's own table, to check it."""
    out: dict[str, Tensor] = {}
    for name, value in state(clip).items():
        tower, rest = ("vision_model", name[7:]) if name.startswith("visual.") else ("text_model", name)
        if layer := re.fullmatch(r"transformer\.resblocks\.(\d+)\.(.+)", rest):
            start = f"{tower}.encoder.layers.{layer[1]}."
            part = layer[2]
            if part.startswith("attn.in_proj_"):
                for letter, third in zip("qkv", value.chunk(3), strict=True):
                    out[f"{start}self_attn.{letter}_proj.{part[13:]}"] = third.clone()
                continue
            kind, _, leaf = part.rpartition(".")
            inner = {
                "attn.out_proj": "self_attn.out_proj",
                "ln_1": "layer_norm1",
                "ln_2": "layer_norm2",
                "mlp.c_fc": "mlp.fc1",
                "mlp.c_proj": "mlp.fc2",
            }
            out[f"{start}{inner[kind]}.{leaf}"] = value
        elif name == "logit_scale":
            out[name] = value
        elif name == "visual.proj":
            out["visual_projection.weight"] = value.T.contiguous()
        elif name == "text_projection":
            out["text_projection.weight"] = value.T.contiguous()
        elif rest == "positional_embedding":
            out[f"{tower}.embeddings.position_embedding.weight"] = value
        elif rest.startswith("ln_"):
            kind, _, leaf = rest.partition(".")
            norm = {"ln_pre": "pre_layrnorm", "ln_post": "post_layernorm", "ln_final": "final_layer_norm"}
            out[f"{tower}.{norm[kind]}.{leaf}"] = value
        else:
            place = {
                "class_embedding": "class_embedding",
                "conv1.weight": "patch_embedding.weight",
                "token_embedding.weight": "token_embedding.weight",
            }
            out[f"{tower}.embeddings.{place[rest]}"] = value
    return out


def hf_model(clip: CLIP) -> Any:
    """transformers' CLIPModel with the same weights, an implementation of others to agree with."""
    from transformers import CLIPModel

    model = CLIPModel(hf_config(clip.config))
    missing, unexpected = model.load_state_dict(hf_names(clip), strict=False)
    assert not unexpected
    assert all("position_ids" in name for name in missing)
    return model.eval()


def hf_folder(clip: CLIP, folder: Path, kind: str = "safetensors") -> Path:
    """A folder as Hugging Face's: `safetensors`, `bin`, `sharded` or `sharded bin`."""
    if kind in ("safetensors", "sharded"):  # as transformers itself writes it
        hf_model(clip).save_pretrained(folder, max_shard_size="2MB" if kind == "sharded" else "1GB")
        return folder
    folder.mkdir(parents=True, exist_ok=True)
    hf_config(clip.config).save_pretrained(folder)
    tensors = hf_names(clip)
    # Old files also hold the positions as a buffer.
    tensors["text_model.embeddings.position_ids"] = torch.arange(clip.config.context_length)[None]
    if kind == "bin":
        torch.save(tensors, folder / "pytorch_model.bin")
        return folder
    names = sorted(tensors)
    halves = {"pytorch_model-00001-of-00002.bin": names[::2], "pytorch_model-00002-of-00002.bin": names[1::2]}
    for file, part in halves.items():
        torch.save({name: tensors[name] for name in part}, folder / file)
    places = {name: file for file, part in halves.items() for name in part}
    write_json(folder / "pytorch_model.bin.index.json", {"metadata": {}, "weight_map": places})
    return folder


def own_folder(clip: CLIP, folder: Path) -> Path:
    """The layout of the embedded models: config, 16-bit weights; the tokenizer is left to the caller."""
    folder.mkdir(parents=True, exist_ok=True)
    write_json(folder / "config.json", asdict(clip.config))
    save_file({name: value.half() for name, value in state(clip).items()}, folder / "model.safetensors")
    return folder


def hub_cache(home: Path, repo: str, folder: Path) -> None:
    """A folder's files as huggingface_hub caches a repository under HF_HOME."""
    commit = "0" * 40
    root = home / "hub" / f"models--{repo.replace('/', '--')}"
    (root / "snapshots").mkdir(parents=True)
    (root / "refs").mkdir()
    (root / "refs" / "main").write_text(commit)
    (root / "snapshots" / commit).symlink_to(folder.resolve(), target_is_directory=True)


def read_json(path: Path) -> dict[str, Any]:
    content: dict[str, Any] = json.loads(path.read_text())
    return content


def write_json(path: Path, content: dict[str, Any]) -> None:
    path.write_text(json.dumps(content))
