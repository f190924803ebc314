"""The layouts in which CLIP's weights are published, converted to one: OpenAI's names, and a `Config` of sizes.

OpenAI's and open_clip's state dicts share their names (open_clip's newer ones put `text.` before the text tower);
Hugging Face's are renamed here. Sizes are read off the tensors. A config, where there is one, adds what tensors can't
tell: the number of heads, the activation, and options that change what the towers compute. Options that fewclip's
towers don't have are refused rather than ignored: the features would be silently wrong.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from fewclip.clip.config import Config
from fewclip.clip.weights import OPENAI_ENTRIES
from fewclip.errors import BackboneError

WANTED = "fewclip needs a CLIP with a vision transformer, as OpenAI, open_clip and Hugging Face publish them"

# open_clip's wide image towers have 16 heads; all other towers have heads of 64. A bare state dict can't tell.
_WIDE_HEADS = {1280: 80, 1408: 88, 1664: 104, 1792: 112}

# Other architectures: a pattern at the beginning of a key, and what it is a sign of.
_OTHERS = (
    (r"visual\.(layer1|attnpool)\.", "a CLIP with a ResNet image tower (its keys hold `visual.layer1`)"),
    (r"logit_bias$|vision_model\.head\.", "a SigLIP (it has a `logit_bias` or an attention-pooling head)"),
    (r"visual\.trunk\.", "a CLIP with a timm image tower such as ConvNeXt, EVA or SigLIP (`visual.trunk.…`)"),
    (r"visual\.(blocks|patch_embed|rope)\b", "an EVA-CLIP (`visual.blocks.…`)"),
    (r"text_decoder\.", "a CoCa (`text_decoder.…`)"),
    (r"image_encoder\.", "a MobileCLIP (`image_encoder.…`)"),
    (
        r"(text\.)?transformer\.(embeddings|encoder|block)\.|bert\.",
        "a CLIP with another text tower, such as BERT or T5",
    ),
    (r"lora_|base_model\.", "an adapter, not a backbone"),
    (r"(conv1|bn1|layer1|patch_embed|blocks|cls_token)\b", "an image model without a text tower"),
)

_HF_NAMES = (
    ("vision_model.embeddings.class_embedding", "visual.class_embedding"),
    ("vision_model.embeddings.patch_embedding.", "visual.conv1."),
    ("vision_model.embeddings.position_embedding.weight", "visual.positional_embedding"),
    ("vision_model.pre_layrnorm.", "visual.ln_pre."),  # sic
    ("vision_model.post_layernorm.", "visual.ln_post."),
    ("vision_model.encoder.layers.", "visual.transformer.resblocks."),
    ("visual_projection.", "visual.proj."),
    ("text_model.embeddings.token_embedding.", "token_embedding."),
    ("text_model.embeddings.position_embedding.weight", "positional_embedding"),
    ("text_model.final_layer_norm.", "ln_final."),
    ("text_model.encoder.layers.", "transformer.resblocks."),
    (".self_attn.out_proj.", ".attn.out_proj."),
    (".layer_norm1.", ".ln_1."),
    (".layer_norm2.", ".ln_2."),
    (".mlp.fc1.", ".mlp.c_fc."),
    (".mlp.fc2.", ".mlp.c_proj."),
)


def to_openai(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """The same weights under OpenAI's names, as float32; entries that are not weights are left out.

    Raises:
        BackboneError: the names or number formats are those of another architecture.
    """
    # Checkpoints of training in parallel put `module.` before every name.
    tensors = {name.removeprefix("module."): value for name, value in tensors.items()}
    tensors = {name: value for name, value in tensors.items() if not _is_no_weight(name)}
    # A sentence that names the architecture helps more than the list of missing keys that would follow.
    for pattern, what in _OTHERS:
        if any(re.match(pattern, name) for name in tensors):
            raise BackboneError(f"these weights are {what}; {WANTED}.")
    if any(name.startswith(("vision_model.", "text_model.")) for name in tensors):
        tensors = _from_hugging_face(tensors)
    tensors = {name.removeprefix("text."): value for name, value in tensors.items()}
    for projection in ("text_projection", "visual.proj"):  # stored as a linear layer's weight
        if f"{projection}.weight" in tensors:
            tensors[projection] = tensors.pop(f"{projection}.weight").T
    if "logit_scale" in tensors and tensors["logit_scale"].numel() == 1:
        tensors["logit_scale"] = tensors["logit_scale"].reshape(())
    for name, value in tensors.items():
        if not value.is_floating_point():
            raise BackboneError(f"{name} is {value.dtype}, a quantised format; {WANTED}, in 16 or 32 bit numbers.")
    # Copies, so that the model doesn't depend on a mapped file, and is aligned in memory whatever the layout: otherwise the
    # same weights from two files give features that differ in the last bit.
    return {
        name: value.to(torch.float32, copy=True, memory_format=torch.contiguous_format)
        for name, value in tensors.items()
    }


def _is_no_weight(name: str) -> bool:
    return name in OPENAI_ENTRIES or name.endswith(("position_ids", "attn_mask"))


def _from_hugging_face(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    # Query, key and value are three linear layers here and one in OpenAI's; everything else is a change of names.
    renamed: dict[str, Tensor] = {}
    for name, value in tensors.items():
        projection = re.fullmatch(r"(.*\.)self_attn\.([qkv])_proj\.(weight|bias)", name)
        if projection is not None:
            if projection[2] != "q":
                continue  # joined to its query
            parts = [f"{projection[1]}self_attn.{part}_proj.{projection[3]}" for part in "qkv"]
            if lacking := [part for part in parts if part not in tensors]:
                raise BackboneError(f"{lacking[0]} is missing; {WANTED}.")
            name = f"{projection[1]}attn.in_proj_{projection[3]}"
            value = torch.cat([tensors[part] for part in parts])
        for theirs, ours in _HF_NAMES:
            name = name.replace(theirs, ours)
        renamed[name] = value
    return renamed


@dataclass(frozen=True)
class Facts:
    """What a config adds to the tensors. None: it doesn't state it."""

    quick_gelu: bool | None = None
    vision_heads: int | None = None
    text_heads: int | None = None
    image_size: int | None = None


def sizes(state: dict[str, Tensor], facts: Facts) -> Config:
    """The sizes of a CLIP, off its state dict in OpenAI's names, with `facts` that it can't tell.

    Raises:
        BackboneError: a tensor that a CLIP must have is missing, or has a shape that a CLIP's can't have.
    """
    # The position embeddings give the grid, and with the patch size the image size; a config may only confirm it.
    patch = _shape(state, "visual.conv1.weight", 4)
    if 0 in patch:
        raise BackboneError(f"visual.conv1.weight has the shape {tuple(patch)}; {WANTED}.")
    positions, vision_width = _shape(state, "visual.positional_embedding", 2)
    vocab_size, text_width = _shape(state, "token_embedding.weight", 2)
    grid = math.isqrt(max(positions - 1, 0))
    image_size = facts.image_size or grid * patch[3]
    if grid**2 + 1 != positions or image_size // patch[3] != grid:
        raise BackboneError(
            f"the image tower has {positions} positions and patches of {patch[3]} pixels, "
            f"which doesn't make a square image of {image_size} pixels; {WANTED}."
        )
    vision_mlp = _shape(state, "visual.transformer.resblocks.0.mlp.c_fc.weight", 2)[0]
    return Config(
        embed_dim=_shape(state, "text_projection", 2)[1],
        image_size=image_size,
        patch_size=patch[3],
        vision_width=vision_width,
        vision_layers=_layers(state, "visual.transformer."),
        vision_heads=facts.vision_heads or _heads("image", vision_width, _WIDE_HEADS.get(vision_width, 64)),
        context_length=_shape(state, "positional_embedding", 2)[0],
        vocab_size=vocab_size,
        text_width=text_width,
        text_layers=_layers(state, "transformer."),
        text_heads=facts.text_heads or _heads("text", text_width, 64),
        vision_mlp=None if vision_mlp == 4 * vision_width else vision_mlp,
        quick_gelu=bool(facts.quick_gelu),
    )


def _shape(state: dict[str, Tensor], name: str, dimensions: int) -> torch.Size:
    if name not in state:
        raise BackboneError(f"{name} is missing (found: {', '.join(sorted(state)[:3]) or 'nothing'}, …); {WANTED}.")
    if state[name].ndim != dimensions:
        raise BackboneError(f"{name} has the shape {tuple(state[name].shape)}; {WANTED}.")
    return state[name].shape


def _layers(state: dict[str, Tensor], prefix: str) -> int:
    pattern = re.compile(re.escape(prefix) + r"resblocks\.(\d+)\.")
    return 1 + max((int(found[1]) for name in state if (found := pattern.match(name))), default=-1)


def _heads(tower: str, width: int, head_width: int) -> int:
    if width % head_width:
        raise BackboneError(
            f"the {tower} tower is {width} wide, not a multiple of {head_width}, so its number of heads is unknown: "
            "keep the checkpoint's config.json or open_clip_config.json next to the weights and give the folder."
        )
    return width // head_width


def hugging_face(config: dict[str, Any]) -> Facts:
    """Facts of a Hugging Face `config.json`; what is missing there has transformers' default."""
    kind = config.get("model_type")
    if kind != "clip":
        raise BackboneError(f"config.json has model_type {kind!r}; {WANTED} (with model_type 'clip').")
    # Configs of 2021-23 hold the values twice; transformers lets `…_config_dict` win.
    text = config.get("text_config_dict") or config.get("text_config") or {}
    vision = config.get("vision_config_dict") or config.get("vision_config") or {}
    acts = {part.get("hidden_act", "quick_gelu") for part in (text, vision)}
    if len(acts) > 1 or not acts <= {"quick_gelu", "gelu"}:
        raise BackboneError(
            f"config.json gives the text tower the activation {text.get('hidden_act', 'quick_gelu')!r} and the image "
            f"tower {vision.get('hidden_act', 'quick_gelu')!r}; fewclip supports 'quick_gelu' and 'gelu', the same for both."
        )
    for part in (text, vision):
        _demand(part, {"layer_norm_eps": (1e-5,), "num_channels": (3,)}, "config.json")
    return Facts(
        quick_gelu=acts == {"quick_gelu"},
        vision_heads=vision.get("num_attention_heads", 12),
        text_heads=text.get("num_attention_heads", 8),
        image_size=_side(vision.get("image_size")),
    )


# open_clip's options that change what a tower computes, with the values that mean CLIP as fewclip has it.
_BOTH_OPTIONS: dict[str, tuple[Any, ...]] = {
    "block_type": ("default",),
    **dict.fromkeys(("ls_init_value", "norm_kwargs", "act_kwargs", "qk_norm", "final_ln_after_pool"), ()),
}
_VISION_OPTIONS = _BOTH_OPTIONS | {
    "pool_type": ("tok",),
    "pos_embed_type": ("learnable",),
    **dict.fromkeys(("timm_model_name", "global_average_pool", "attentional_pool", "no_ln_pre", "input_patchnorm"), ()),
}
_TEXT_OPTIONS = _BOTH_OPTIONS | {
    "pool_type": ("argmax", "eos"),
    "proj_type": ("linear",),
    **dict.fromkeys(("hf_model_name", "no_causal_mask", "embed_cls", "proj_bias", "tokenizer_kwargs"), ()),
}


def open_clip(config: dict[str, Any]) -> Facts:
    """Facts of an `open_clip_config.json`. It states `quick_gelu` where it is used, as with OpenAI's weights."""
    model = config["model_cfg"]
    vision, text = model.get("vision_cfg", {}), model.get("text_cfg", {})
    for part in ("multimodal_cfg", "audio_cfg"):
        if model.get(part):
            raise BackboneError(
                f"open_clip_config.json describes more than an image and a text tower: {part}; {WANTED}."
            )
    if not isinstance(vision.get("layers", 12), int):
        raise BackboneError(f"open_clip_config.json describes a CLIP with a ResNet image tower; {WANTED}.")
    _demand(vision, _VISION_OPTIONS, "open_clip_config.json")
    _demand(text, _TEXT_OPTIONS, "open_clip_config.json")
    return Facts(
        quick_gelu=bool(model.get("quick_gelu", False)),
        vision_heads=vision.get("width", 768) // vision.get("head_width", 64),
        text_heads=text.get("heads", 8),
        image_size=_side(vision.get("image_size")),
    )


def _demand(options: dict[str, Any], wanted: dict[str, tuple[Any, ...]], file: str) -> None:
    """Refuse an option whose value changes what is computed. Absent, None, False or empty is always right."""
    for name, values in wanted.items():
        given = options.get(name)
        if given and given not in values:
            raise BackboneError(f"{file} asks for {name} = {given!r}, which fewclip's towers don't have; {WANTED}.")


def _side(size: Any) -> int | None:
    """The side of a square image, from a number or a pair."""
    if isinstance(size, (list, tuple)):
        if len(set(size)) != 1:
            raise BackboneError(f"the config gives images of {size[0]} × {size[-1]} pixels; fewclip takes square ones.")
        return int(size[0])
    return None if size is None else int(size)


FACTS: dict[str, Callable[[dict[str, Any]], Facts]] = {"model_cfg": open_clip, "model_type": hugging_face}
