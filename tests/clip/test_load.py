"""Every published layout loads to the same model, which agrees with transformers' CLIP; everything else is refused."""

from __future__ import annotations

import io
import os
import pickle
import re
import warnings
import zipfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import layouts as lay
import pytest
import torch
from hub_standin import ROUTES, Hub, Repo
from safetensors.torch import load_file, save_file
from torch import Tensor

from fewclip.clip import load as loading
from fewclip.clip.load import fingerprint, load
from fewclip.clip.model import CLIP
from fewclip.clip.preprocess import MEAN, STD
from fewclip.errors import BackboneError

pytestmark = [pytest.mark.filterwarnings("ignore:.torch.jit:DeprecationWarning")]  # how OpenAI's files were made


def same_weights(a: CLIP, b: CLIP) -> bool:
    mine, other = a.state_dict(), b.state_dict()
    return mine.keys() == other.keys() and all(torch.equal(mine[name], other[name]) for name in mine)


def plain_state(clip: CLIP, folder: Path) -> Path:
    torch.save(lay.state(clip), folder / "state.pt")
    return folder / "state.pt"


def training_checkpoint(clip: CLIP, folder: Path) -> Path:
    wrapped = {f"module.{name}": value for name, value in lay.state(clip).items()}
    torch.save({"epoch": 3, "name": "run", "state_dict": wrapped}, folder / "epoch_3.pt")
    return folder / "epoch_3.pt"


def safetensors_file(clip: CLIP, folder: Path) -> Path:
    save_file(lay.state(clip), folder / "clip.safetensors", {"quick_gelu": str(clip.config.quick_gelu)})
    return folder / "clip.safetensors"


def half_hf_file(clip: CLIP, folder: Path) -> Path:
    halves = {name: value.half() for name, value in lay.hf_names(clip).items()}
    save_file(halves, folder / "hf.safetensors", {"quick_gelu": str(clip.config.quick_gelu)})
    return folder / "hf.safetensors"


Writer = Callable[[CLIP, Path], Path]
WRITERS: dict[str, Writer] = {
    "OpenAI scripted": lambda clip, folder: lay.openai_archive(clip, folder / "openai.pt"),
    "OpenAI traced": lambda clip, folder: lay.openai_archive(clip, folder / "openai.pt", traced=True),
    "state dict": plain_state,
    "training checkpoint": training_checkpoint,
    "safetensors": safetensors_file,
    "safetensors in Hugging Face's names": half_hf_file,
    "Hugging Face": lambda clip, folder: lay.hf_folder(clip, folder / "hf"),
    "Hugging Face bin": lambda clip, folder: lay.hf_folder(clip, folder / "hf", "bin"),
    "Hugging Face sharded": lambda clip, folder: lay.hf_folder(clip, folder / "hf", "sharded"),
    "Hugging Face sharded bin": lambda clip, folder: lay.hf_folder(clip, folder / "hf", "sharded bin"),
    "open_clip": lambda clip, folder: lay.open_clip_folder(clip, folder / "oc"),
    "open_clip bin": lambda clip, folder: lay.open_clip_folder(clip, folder / "oc", safetensors=False),
    "open_clip text.": lambda clip, folder: lay.open_clip_folder(clip, folder / "oc", text_prefix=True),
    "one file of a folder": lambda clip, folder: (
        lay.open_clip_folder(clip, folder / "oc", text_prefix=True) / "open_clip_model.safetensors"
    ),
}


@pytest.mark.filterwarnings("ignore:These weights don't say")
@pytest.mark.parametrize("layout", WRITERS)
def test_every_layout_gives_the_same_model(layout: str, tmp_path: Path) -> None:
    original = lay.random_clip("b32")
    path = WRITERS[layout](original, tmp_path)
    clip = load(str(path))
    assert same_weights(clip, original)
    assert clip.config == original.config
    assert clip.name == str(path)
    assert clip.tokenizer is not None
    assert clip.preprocess is not None
    assert clip.preprocess.image_size == 64
    assert not clip.training
    assert not any(p.requires_grad for p in clip.parameters())
    assert {p.dtype for p in clip.parameters()} == {torch.float32}
    assert fingerprint(clip) == fingerprint(original)


def prompts(lengths: list[int], shared: int, seed: int) -> Tensor:
    """Rows that begin alike for `shared` tokens, of these lengths without start and end, padded with zeros."""
    generator = torch.Generator().manual_seed(seed)
    start = torch.randint(1, 49000, (shared,), generator=generator)
    rows = torch.zeros(len(lengths), 77, dtype=torch.long)
    for row, length in zip(rows, lengths, strict=True):
        own = torch.randint(1, 49000, (length - shared,), generator=generator)
        row[: length + 2] = torch.cat([torch.tensor([49406]), start, own, torch.tensor([49407])])
    return rows


def close(ours: Tensor, theirs: Tensor) -> None:
    assert ours.shape == theirs.shape
    assert float((ours - theirs).norm() / theirs.norm()) < 1e-5
    assert torch.allclose(ours, theirs, rtol=1e-4, atol=1e-5 * float(theirs.abs().max()))


@pytest.mark.parametrize("quick_gelu", [True, False])
@pytest.mark.parametrize("size", lay.SIZES)
def test_features_agree_with_transformers(size: str, quick_gelu: bool, tmp_path: Path) -> None:
    original = lay.random_clip(size, quick_gelu=quick_gelu)
    reference = lay.hf_model(original)
    clip = load(str(lay.open_clip_folder(original, tmp_path / "oc")))
    assert clip.config == original.config
    with torch.no_grad():
        images = torch.randn(3, 3, clip.config.image_size, clip.config.image_size)
        close(clip.encode_image(images), reference.get_image_features(images).pooler_output)
        for tokens in (
            prompts([4, 5, 9, 6], shared=4, seed=1),
            prompts([1, 75, 30], shared=0, seed=2),
            prompts([75, 75], shared=70, seed=3),
            prompts([3], shared=0, seed=4),
            prompts([0, 0], shared=0, seed=5),
        ):
            close(clip.encode_text(tokens), reference.get_text_features(tokens).pooler_output)


def test_the_wrong_activation_would_show(tmp_path: Path) -> None:
    original = lay.random_clip("b32", quick_gelu=False)
    folder = str(lay.open_clip_folder(original, tmp_path / "oc"))
    images = torch.randn(2, 3, 64, 64)
    right, wrong = load(folder), load(folder, quick_gelu=True)
    assert torch.equal(right.encode_image(images), original.encode_image(images))
    assert not torch.allclose(wrong.encode_image(images), original.encode_image(images), rtol=1e-3)
    assert wrong.config == replace(original.config, quick_gelu=True)
    assert fingerprint(wrong) != fingerprint(right)


@pytest.mark.parametrize("quick_gelu", [True, False])
@pytest.mark.parametrize("layout", ["Hugging Face", "open_clip", "safetensors"])
def test_quick_gelu_follows_the_checkpoint(layout: str, quick_gelu: bool, tmp_path: Path) -> None:
    clip = lay.random_clip("b32", quick_gelu=quick_gelu)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert load(str(WRITERS[layout](clip, tmp_path))).config.quick_gelu is quick_gelu


def test_quick_gelu_of_openais_files_is_known(tmp_path: Path) -> None:
    clip = lay.random_clip("b32", quick_gelu=False)  # what the random weights "are" does not matter
    torch.save(lay.state(clip) | lay.openai_entries(clip), tmp_path / "state.pt")
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        assert load(str(tmp_path / "state.pt")).config.quick_gelu
        assert load(str(lay.openai_archive(clip, tmp_path / "archive.pt"))).config.quick_gelu


def test_quick_gelu_is_assumed_with_a_warning_where_nothing_says_it(tmp_path: Path) -> None:
    path = str(plain_state(lay.random_clip("b32"), tmp_path))
    with pytest.warns(UserWarning, match="QuickGELU is assumed.*pass quick_gelu=False"):
        assert load(path).config.quick_gelu
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert not load(path, quick_gelu=False).config.quick_gelu
        assert CLIP.from_pretrained(path, quick_gelu=True).config.quick_gelu


def test_facts_that_tensors_cannot_tell_come_from_the_config(tmp_path: Path) -> None:
    clip = lay.random_clip("h14")
    assert load(str(lay.open_clip_folder(clip, tmp_path / "oc"))).config == clip.config
    assert load(str(lay.hf_folder(clip, tmp_path / "hf"))).config == clip.config
    with pytest.raises(BackboneError, match="160 wide.*number of heads can't be told.*give the folder"):
        load(str(safetensors_file(clip, tmp_path)))
    wide = lay.random_clip("h14", vision_width=1280, vision_heads=16, vision_mlp=8)
    assert load(str(safetensors_file(wide, tmp_path))).config.vision_heads == 16  # as in ViT-H/14


def test_hugging_face_configs_of_old(tmp_path: Path) -> None:
    clip = lay.random_clip("b32", quick_gelu=False)
    folder = lay.hf_folder(clip, tmp_path)
    config = lay.read_json(folder / "config.json")
    config["text_config"]["eos_token_id"] = 2
    config["text_config_dict"] = {**config["text_config"]}
    config["vision_config_dict"] = {**config["vision_config"]}
    config["text_config"]["hidden_act"] = config["vision_config"]["hidden_act"] = "quick_gelu"
    lay.write_json(folder / "config.json", config)
    loaded = load(str(folder))
    assert not loaded.config.quick_gelu
    tokens = prompts([4, 7], shared=2, seed=0)
    assert torch.equal(loaded.encode_text(tokens), clip.encode_text(tokens))


def test_preprocessing_comes_with_the_checkpoint(tmp_path: Path) -> None:
    clip = lay.random_clip("b32")
    for_open_clip = load(str(lay.open_clip_folder(clip, tmp_path / "oc"))).preprocess
    assert for_open_clip is not None
    assert (for_open_clip.mean, for_open_clip.std) == ((0.5, 0.4, 0.3), (0.2, 0.3, 0.4))
    folder = lay.hf_folder(clip, tmp_path / "hf")
    plain = load(str(folder)).preprocess
    assert plain is not None
    assert (plain.mean, plain.std) == (MEAN, STD)
    settings = {"image_mean": [0.1, 0.2, 0.3], "image_std": [1, 1, 1], "size": {"shortest_edge": 64}, "resample": 3}
    lay.write_json(folder / "preprocessor_config.json", settings)
    other = load(str(folder)).preprocess
    assert other is not None
    assert (other.mean, other.std, other.image_size) == ((0.1, 0.2, 0.3), (1, 1, 1), 64)


def test_own_layout_needs_and_uses_its_tokenizer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    clip = lay.random_clip("b32", vocab_size=300)
    folder = lay.own_folder(clip, tmp_path / "own")
    with pytest.raises(BackboneError, match=r"vocabulary of 300 tokens.*no tokenizer\.json"):
        load(str(folder))
    from fewclip.clip.tokenizer import Tokenizer

    Tokenizer.clip()._encoder.save(str(folder / "tokenizer.json"))
    with pytest.raises(BackboneError, match="49408 tokens and the text tower 300"):
        load(str(folder))
    clip = lay.random_clip("b32")
    lay.own_folder(clip, folder)
    assert load(str(folder)).config == clip.config
    monkeypatch.setitem(loading.EMBEDDED, "icon-clip", folder)
    embedded = CLIP.from_pretrained("icon-clip")
    assert same_weights(embedded, clip)
    assert embedded.name == "icon-clip"


# ---- the hub


REPO = "laion/CLIP-ViT-B-16-laion2B-s34B-b88K"


@pytest.fixture
def hub_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    from huggingface_hub import constants

    home = tmp_path / "hf_home"
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(home / "hub"))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    return home


@pytest.mark.parametrize("layout", ["Hugging Face", "Hugging Face sharded", "open_clip", "open_clip bin"])
def test_hub_names_offline(layout: str, hub_home: Path, tmp_path: Path) -> None:
    clip = lay.random_clip("b32")
    lay.hub_cache(hub_home, REPO, WRITERS[layout](clip, tmp_path))
    loaded = load(REPO)
    assert same_weights(loaded, clip)
    assert loaded.name == REPO


@pytest.mark.parametrize("alias", ["ViT-B/16", "ViT-B-16"])
def test_openais_names_are_aliases(alias: str, hub_home: Path, tmp_path: Path) -> None:
    clip = lay.random_clip("b16")
    lay.hub_cache(hub_home, "openai/clip-vit-base-patch16", lay.hf_folder(clip, tmp_path / "hf"))
    assert same_weights(load(alias), clip)


def test_a_hub_that_cannot_be_reached(hub_home: Path) -> None:
    with pytest.raises(BackboneError, match=r"nor in the local cache.*icon-clip.*path of a local file") as caught:
        load("openai/clip-vit-base-patch16")
    assert "\n" not in str(caught.value)


def publish(hub: Hub, folder: Path, name: str = "some/repo", **kind: Any) -> Repo:
    """A repository with the files of a folder, and others that are not for us."""
    files = {path.name: path.read_bytes() for path in folder.iterdir()}
    hub.repos[name] = Repo(**kind)
    hub.repos[name].commit("main", {"README.md": b"", "pytorch_model.bin": b"", "logo.png": b""} | files, "weights")
    return hub.repos[name]


def test_only_what_is_read_is_downloaded(hub: Hub, tmp_path: Path) -> None:
    clip = lay.random_clip("b32")
    folder = lay.open_clip_folder(clip, tmp_path / "oc")
    for other in ("config.json", "vocab.json", "open_clip_pytorch_model.bin"):
        (folder / other).write_bytes(b"{}")
    publish(hub, folder)
    assert same_weights(load("some/repo"), clip)
    assert sorted(hub.downloaded()) == ["open_clip_config.json", "open_clip_model.safetensors", "vocab.json"]
    hub.requests.clear()
    load("some/repo")
    assert hub.downloaded() == []


def test_a_backbone_that_was_fetched_is_found_without_a_network(
    hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from huggingface_hub import constants

    clip = lay.random_clip("b32")
    publish(hub, lay.open_clip_folder(clip, tmp_path / "oc"))
    load("some/repo")
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    assert same_weights(load("some/repo"), clip)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("some/thing", "There is no repository some/thing.* There is no local folder some/thing either"),
        ("some/gated", r"some/gated is gated: ask for access on https://huggingface\.co/some/gated"),
        ("some/empty", "some/empty on the Hugging Face hub has none of open_clip_model"),
    ],
)
def test_what_the_hub_refuses(
    name: str, message: str, hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_TOKEN", "hf_of_another")
    publish(hub, lay.open_clip_folder(lay.random_clip("b32"), tmp_path / "oc"), "some/gated", gated=True)
    hub.repos["some/empty"] = Repo()
    with pytest.raises(BackboneError, match=message + ".*icon-clip.*path of a local file"):
        load(name)


def test_a_repository_that_changes_while_it_is_read(hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Config and weights of two commits don't belong together: neither is used."""
    repo = publish(hub, lay.open_clip_folder(lay.random_clip("b32"), tmp_path / "oc"))
    describe = Hub.describe

    def describe_then_change(self: Hub, *asked: Any) -> Any:
        answer = describe(self, *asked)
        repo.commit("main", {"open_clip_config.json": b"{}"}, "another")
        return answer

    monkeypatch.setattr(Hub, "describe", describe_then_change)
    monkeypatch.setattr("hub_standin.ROUTES", [(p, describe_then_change if a is describe else a) for p, a in ROUTES])
    with pytest.raises(BackboneError, match="some/repo was changed while it was being read: try again"):
        load("some/repo")
    assert hub.downloaded() == ["open_clip_config.json"]


def test_a_repository_that_changes_between_two_files(hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every file is of the commit that was described, whatever is pushed in the middle."""
    clip = lay.random_clip("b32")
    folder = lay.open_clip_folder(clip, tmp_path / "oc")
    repo = publish(hub, folder)
    resolve = Hub.resolve

    def resolve_then_change(self: Hub, owner: bool, body: bytes, name: str, revision: str, path: str) -> Any:
        answer = resolve(self, owner, body, name, revision, path)
        repo.commit("main", {"open_clip_model.safetensors": b"of another commit"}, "another")
        return answer

    monkeypatch.setattr("hub_standin.ROUTES", [(p, resolve_then_change if a is resolve else a) for p, a in ROUTES])
    assert same_weights(load("some/repo"), clip)


# ---- refusals


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("models/missing.pt", r"There is no file or folder models/missing\.pt \(looked from .*icon-clip"),
        ("./clip", "There is no file or folder ./clip"),
        ("~/nothing/here", "There is no file or folder ~/nothing/here"),
        ("/nothing/here", "There is no file or folder /nothing/here"),
        ("a/b/c", "There is no file or folder a/b/c"),
        ("C:\\clip.pt", "There is no file or folder"),
        ("icon-clap", "'icon-clap' is neither an embedded model, nor an existing path, nor a hub name"),
        ("", "'' is neither an embedded model"),
        ("two words", "'two words' is neither"),
    ],
)
def test_a_name_that_is_nothing(name: str, message: str) -> None:
    with pytest.raises(BackboneError, match=message):
        load(name)


def drop(*names: str) -> Callable[[dict[str, Tensor]], None]:
    def change(tensors: dict[str, Tensor]) -> None:
        for name in names:
            del tensors[name]

    return change


def put(name: str, *shape: int, dtype: torch.dtype = torch.float32) -> Callable[[dict[str, Tensor]], None]:
    return lambda tensors: tensors.update({name: torch.zeros(shape, dtype=dtype)})


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (put("visual.layer1.0.conv1.weight", 4, 4), "ResNet image tower"),
        (put("logit_bias"), "SigLIP"),
        (put("visual.trunk.stem.0.weight", 4), "timm image tower"),
        (put("visual.blocks.0.attn.q_proj.weight", 4), "EVA-CLIP"),
        (put("text_decoder.resblocks.0.weight", 4), "CoCa"),
        (put("image_encoder.model.stem.weight", 4), "MobileCLIP"),
        (put("text.transformer.embeddings.word_embeddings.weight", 4), "another text tower"),
        (put("transformer.resblocks.0.lora_A", 4), "transformer.resblocks.0.lora_A is unknown"),
        (put("transformer.resblocks.0.ls_1.gamma", 64), "the weights hold more than a CLIP"),
        (put("ln_final.weight", 65), r"ln_final\.weight has the shape \(65,\), but the other weights ask for \(64,\)"),
        (put("visual.conv1.weight", 64, 3), r"visual\.conv1\.weight has the shape \(64, 3\)"),
        (
            put("visual.positional_embedding", 7, 64),
            "7 positions and patches of 32 pixels, which makes no square image",
        ),
        (put("ln_final.weight", 64, dtype=torch.int8), r"ln_final\.weight is torch\.int8, a quantised format"),
        (drop("ln_final.weight", "ln_final.bias"), r"ln_final\.weight, ln_final\.bias are missing"),
        (drop("logit_scale"), r"logit_scale is missing"),
        (drop("visual.conv1.weight"), r"visual\.conv1\.weight is missing \(found: .*needs a CLIP"),
        (drop("transformer.resblocks.1.ln_1.weight"), r"transformer\.resblocks\.1\.ln_1\.weight is missing"),
        (lambda t: t["ln_final.weight"].fill_(float("nan")), "not finite: the file is damaged"),
        (lambda t: t.clear(), r"visual\.conv1\.weight is missing \(found: nothing"),
    ],
)
def test_other_architectures_and_incomplete_weights(
    change: Callable[[dict[str, Tensor]], object], message: str, tmp_path: Path
) -> None:
    tensors = lay.state(lay.random_clip("b32"))
    change(tensors)
    save_file(tensors, tmp_path / "other.safetensors", {"quick_gelu": "true"})
    with pytest.raises(BackboneError, match=message) as caught:
        load(str(tmp_path / "other.safetensors"))
    assert "other.safetensors" in str(caught.value)


def test_many_missing_weights_are_counted(tmp_path: Path) -> None:
    tensors = lay.state(lay.random_clip("b32"))
    kept = {name: value for name, value in tensors.items() if not name.startswith("visual.transformer.resblocks.1.ln_")}
    save_file(kept, tmp_path / "a.safetensors", {"quick_gelu": "true"})
    with pytest.raises(BackboneError, match=r"ln_1\.weight, .*ln_1\.bias, .*ln_2\.weight and 1 more are missing"):
        load(str(tmp_path / "a.safetensors"))


def test_hugging_face_weights_without_a_part(tmp_path: Path) -> None:
    tensors = lay.hf_names(lay.random_clip("b32"))
    del tensors["text_model.encoder.layers.0.self_attn.k_proj.weight"]
    save_file(tensors, tmp_path / "a.safetensors")
    with pytest.raises(BackboneError, match=r"text_model\.encoder\.layers\.0\.self_attn\.k_proj\.weight is missing"):
        load(str(tmp_path / "a.safetensors"))


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        ({"model_type": "siglip"}, "model_type 'siglip'"),
        ({"model_type": "chinese_clip"}, "model_type 'chinese_clip'"),
        ({"vision_config.hidden_act": "gelu"}, "text tower the activation 'quick_gelu' and the image tower 'gelu'"),
        ({"vision_config.hidden_act": "relu", "text_config.hidden_act": "relu"}, "knows 'quick_gelu' and 'gelu'"),
        ({"text_config.layer_norm_eps": 1e-6}, "layer_norm_eps = 1e-06"),
        ({"vision_config.image_size": [64, 96]}, "64 × 96 pixels"),
        ({"vision_config.image_size": 128}, "makes no square image of 128 pixels"),
    ],
)
def test_hugging_face_configs_of_other_models(edit: dict[str, Any], message: str, tmp_path: Path) -> None:
    folder = lay.hf_folder(lay.random_clip("b32"), tmp_path)
    change_json(folder / "config.json", edit)
    with pytest.raises(BackboneError, match=message):
        load(str(folder))


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        ({"model_cfg.vision_cfg.timm_model_name": "convnext_base"}, "timm_model_name = 'convnext_base'"),
        ({"model_cfg.text_cfg.hf_model_name": "xlm-roberta-base"}, "hf_model_name = 'xlm-roberta-base'"),
        ({"model_cfg.vision_cfg.pool_type": "avg"}, "pool_type = 'avg'"),
        ({"model_cfg.text_cfg.no_causal_mask": True}, "no_causal_mask = True"),
        ({"model_cfg.multimodal_cfg": {"width": 8}}, "more than an image and a text tower: multimodal_cfg"),
        ({"model_cfg.vision_cfg.layers": [3, 4, 6, 3]}, "ResNet image tower"),
        ({"model_cfg.text_cfg.hf_tokenizer_name": "bert-base"}, r"the tokenizer bert-base, and no tokenizer\.json"),
    ],
)
def test_open_clip_configs_of_other_models(edit: dict[str, Any], message: str, tmp_path: Path) -> None:
    folder = lay.open_clip_folder(lay.random_clip("b32"), tmp_path)
    change_json(folder / "open_clip_config.json", edit)
    with pytest.raises(BackboneError, match=message):
        load(str(folder))


def change_json(path: Path, edit: dict[str, Any]) -> None:
    config = lay.read_json(path)
    for name, value in edit.items():
        *way, last = name.split(".")
        inner = config
        for step in way:
            inner = inner[step]
        inner[last] = value
    lay.write_json(path, config)


def test_folders_without_weights(tmp_path: Path) -> None:
    with pytest.raises(BackboneError, match=r"holds no weights that fewclip knows \(found: nothing\)"):
        load(str(tmp_path))
    (tmp_path / "config.json").write_text("{}")
    (tmp_path / "tf_model.h5").write_text("")
    with pytest.raises(BackboneError, match=r"found: config\.json, tf_model\.h5\): expected config\.json with"):
        load(str(tmp_path))
    save_file(lay.state(lay.random_clip("b32")), tmp_path / "model.safetensors")
    with pytest.raises(BackboneError, match=r"no model_type"):
        (tmp_path / "config.json").write_text('{"architecture": "vit_base"}')
        load(str(tmp_path))
    (tmp_path / "config.json").write_text("{")
    with pytest.raises(BackboneError, match=r"config\.json is no readable JSON"):
        load(str(tmp_path))
    (tmp_path / "config.json").write_text('{"vision_width": 64}')
    with pytest.raises(BackboneError, match=r"config\.json lacks a size"):
        load(str(tmp_path))


def test_a_shard_that_is_missing_or_elsewhere(tmp_path: Path) -> None:
    folder = lay.hf_folder(lay.random_clip("b32"), tmp_path, "sharded bin")
    (folder / "pytorch_model-00002-of-00002.bin").unlink()
    with pytest.raises(BackboneError, match=r"lacks pytorch_model-00002-of-00002\.bin.*incomplete"):
        load(str(folder))
    lay.write_json(folder / "pytorch_model.bin.index.json", {"weight_map": {"a": "../../etc/passwd"}})
    with pytest.raises(BackboneError, match="points outside the folder"):
        load(str(folder))
    lay.write_json(folder / "pytorch_model.bin.index.json", {})
    with pytest.raises(BackboneError, match="no `weight_map`"):
        load(str(folder))


@pytest.mark.parametrize("layout", ["OpenAI scripted", "state dict", "safetensors"])
@pytest.mark.parametrize("share", [0.0, 0.001, 0.3, 0.999])
def test_truncated_files(layout: str, share: float, tmp_path: Path) -> None:
    path = WRITERS[layout](lay.random_clip("b32"), tmp_path)
    content = path.read_bytes()
    path.write_bytes(content[: int(share * len(content))])
    with pytest.raises(BackboneError, match=rf"{re.escape(path.name)} is damaged or incomplete \(.*again\.$"):
        load(str(path))


def test_a_flipped_bit_in_openais_archive(tmp_path: Path) -> None:
    path = lay.openai_archive(lay.random_clip("b32"), tmp_path / "a.pt")
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    with pytest.raises(BackboneError, match="is damaged or incomplete"):
        load(str(path))


def test_files_that_are_something_else(tmp_path: Path) -> None:
    path = tmp_path / "clip.pt"
    path.write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0\n")
    with pytest.raises(BackboneError, match=r"Git LFS pointer.*git lfs pull"):
        load(str(path))
    path.write_text("<html>404</html>")
    with pytest.raises(BackboneError, match="damaged or incomplete"):
        load(str(path))
    torch.save([1, 2], path)
    with pytest.raises(BackboneError, match="holds a list without tensors"):
        load(str(path))
    torch.jit.save(torch.jit.script(torch.nn.ReLU()), str(path))
    with pytest.raises(BackboneError, match="TorchScript archive without tensors"):
        load(str(path))


# ---- pickles that would act


class Act:
    """A pickle of this would make a file."""

    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> tuple[Any, ...]:
        return os.system, (f"touch {self.marker}",)


def test_a_state_dict_that_would_run_code(tmp_path: Path) -> None:
    marker = tmp_path / "marker"
    for new, says in (
        (True, r"a pickle that asks to run (posix|os)\.system, which fewclip never does"),
        (False, r"evil\.pt is a bare pickle, .* does not read: load it with a current torch and save it again"),
    ):
        torch.save(
            lay.state(lay.random_clip("b32")) | {"x": Act(marker)},
            tmp_path / "evil.pt",
            _use_new_zipfile_serialization=new,
        )
        with pytest.raises(BackboneError, match=says):
            load(str(tmp_path / "evil.pt"))
    assert not marker.exists()


def replace_entry(path: Path, ending: str, content: bytes) -> None:
    with zipfile.ZipFile(path) as archive:
        entries = {name: archive.read(name) for name in archive.namelist()}
    with zipfile.ZipFile(path, "w") as archive:
        for name, old in entries.items():
            archive.writestr(name, content if name.endswith(ending) else old)


@pytest.mark.parametrize(
    ("module", "name"),
    [
        ("os", "system"),
        ("builtins", "eval"),
        ("torch", "load"),
        ("torch", "ops"),
        ("torch._utils", "_rebuild_tensor_v2.__globals__"),
        ("functools", "partial"),
    ],
)
def test_an_openai_archive_that_would_run_code(module: str, name: str, tmp_path: Path) -> None:
    marker = tmp_path / "marker"
    path = lay.openai_archive(lay.random_clip("b32"), tmp_path / "evil.pt")
    code = f"c{module}\n{name}\n(X".encode()
    argument = f"touch {marker}".encode()
    replace_entry(path, "/data.pkl", b"\x80\x02" + code + len(argument).to_bytes(4, "little") + argument + b"tR.")
    with pytest.raises(
        BackboneError, match=rf"asks to run {re.escape(module)}\.{re.escape(name)}, which fewclip never"
    ):
        load(str(path))
    assert not marker.exists()


@pytest.mark.parametrize(
    ("storage", "offset", "size", "stride"),
    [("0", 0, (10**9,), (0,)), ("0", 0, (10**6,), (1,)), ("0", 10**9, (1,), (1,)), ("no", 0, (1,), (1,))],
)
def test_an_archive_with_a_tensor_beyond_its_bytes(
    storage: str, offset: int, size: tuple[int, ...], stride: tuple[int, ...], tmp_path: Path
) -> None:
    class Pickler(pickle.Pickler):
        def persistent_id(self, obj: object) -> Any:
            return ("storage", torch.HalfStorage, storage, "cpu", 64) if obj is Pickler else None

    class Tensors:
        def __reduce__(self) -> tuple[Any, ...]:
            return torch._utils._rebuild_tensor_v2, (Pickler, offset, size, stride, False, {})

    path = lay.openai_archive(lay.random_clip("b32"), tmp_path / "evil.pt")
    stream = io.BytesIO()
    Pickler(stream, protocol=2).dump(Tensors())
    replace_entry(path, "/data.pkl", stream.getvalue())
    replace_entry(path, "/data/0", bytes(128))
    with pytest.raises(BackboneError, match="damaged or incomplete"):
        load(str(path))


# ---- the fingerprint


def test_the_fingerprint_is_of_everything_that_decides_the_features(tmp_path: Path) -> None:
    clip = lay.random_clip("b16")
    path = safetensors_file(clip, tmp_path)
    first = fingerprint(load(str(path)))
    assert re.fullmatch("[0-9a-f]{64}", first)
    assert first == fingerprint(load(str(path))) == fingerprint(clip)
    other_heads = CLIP(replace(clip.config, vision_heads=1))
    other_heads.load_state_dict(clip.state_dict())
    assert fingerprint(other_heads) != first
    changed = lay.random_clip("b16")
    changed.ln_final.bias.data[3] += 1e-3
    assert fingerprint(changed) != first


def test_the_fingerprint_is_computed_once(monkeypatch: pytest.MonkeyPatch) -> None:
    clip = lay.random_clip("b32")
    first = fingerprint(clip)
    monkeypatch.setattr(CLIP, "state_dict", lambda self: pytest.fail("computed again"))
    assert fingerprint(clip) == first


def test_what_is_loaded_does_not_hang_on_the_file(tmp_path: Path) -> None:
    path = safetensors_file(lay.random_clip("b32"), tmp_path)
    clip = load(str(path))
    before = {name: value.clone() for name, value in clip.state_dict().items()}
    zeros = {name: torch.zeros_like(value) for name, value in load_file(path).items()}
    save_file(zeros, path)
    assert all(torch.equal(value, before[name]) for name, value in clip.state_dict().items())
