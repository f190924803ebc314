"""How each method's published names and settings map to ours. A new method adds one `Case` to `CASES`.

Settings are read from a file's metadata, so that runs with other sizes go through the same test.
"""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import torch
import torch.nn.functional as F
from golden import Case, Check, Golden, GoldenStep, Place
from texts import TokenTexts
from torch import Tensor

from fewclip.clip.prompts import Prompts
from fewclip.clip.templates import SELECTED_TEMPLATES
from fewclip.clip.tokens import Place as TowerPlace
from fewclip.data.batches import Batch
from fewclip.methods import frozen
from fewclip.methods.base import Method
from fewclip.methods.clip_adapter import CLIPAdapter, CLIPAdapterSettings
from fewclip.methods.clip_lora import CLIPLoRA, CLIPLoRASettings, Updates
from fewclip.methods.cocoop import CoCoOp, CoCoOpSettings
from fewclip.methods.context import sentence
from fewclip.methods.coop import CoOp, CoOpSettings
from fewclip.methods.kgcoop import KgCoOp, KgCoOpSettings
from fewclip.methods.linear_probe import LinearProbe, LinearProbeSettings, coefficients
from fewclip.methods.maple import MaPLe, MaPLeSettings
from fewclip.methods.metaprompt import MetaPrompt, MetaPromptSettings
from fewclip.methods.mma import MMA, MMASettings
from fewclip.methods.mmrl import MMRL, MMRLSettings
from fewclip.methods.mmrlpp import MMRLpp, MMRLppSettings
from fewclip.methods.plot import PLOT, PLOTSettings
from fewclip.methods.proda import ProDA, ProDASettings
from fewclip.methods.prograd import ProGrad, ProGradSettings
from fewclip.methods.promptsrc import PromptSRC, PromptSRCSettings
from fewclip.methods.provp import ProVP, ProVPSettings
from fewclip.methods.rpo import RPO, RPOSettings
from fewclip.methods.tcp import TCP, TCPSettings
from fewclip.methods.tip_adapter import TipAdapter, TipAdapterF, TipAdapterSettings
from fewclip.methods.zero_shot import ZeroShot, ZeroShotSettings


class MMRLCase(Case):
    def build(self) -> Method:
        return MMRL(self.clip, MMRLSettings(**self.common()))

    def common(self) -> dict[str, Any]:
        meta = self.meta
        assert meta["layers"] == list(range(meta["layers"][0], self.clip.config.vision_layers + 1))
        return {
            "rep_tokens": meta["K"],
            "rep_dim": meta["rep_dim"],
            "first_layer": meta["layers"][0],
            "alpha": meta["alpha"],
            "reg_weight": meta["reg_weight"],
        }

    def place(self, reference: str) -> Place:
        owner, _, rest = reference.partition(".")
        if owner == "image_encoder":
            return "rep_proj", None
        if rest == "compound_rep_tokens":
            return "tokens.space", None
        aligner, row, kind = rest.split(".")
        return f"tokens.{ALIGNERS[aligner.rsplit('_', 1)[1]]}.{kind}", int(row)

    def outputs(self, out: dict[str, Tensor]) -> dict[str, Tensor]:
        alpha = self.meta["alpha"]
        return out | {"logits_fusion": alpha * out["logits"] + (1 - alpha) * out["logits_rep"]}

    def evaluate(self) -> dict[str, Tensor]:
        return {"logits_class": self.score(self.texts, seen=False), "logits_fused": self.score(self.texts)}


ALIGNERS = {"r2vproj": "to_image", "r2tproj": "to_text"}


class MMRLppCase(MMRLCase):
    def build(self) -> Method:
        meta = self.meta
        own = {"beta": meta["beta"], "residual_rank": meta["residual_rank"], "proj_rank": meta["proj_rank"]}
        return MMRLpp(self.clip, MMRLppSettings(**self.common(), **own))

    def place(self, reference: str) -> Place:
        owner, _, rest = reference.partition(".")
        if owner == "image_encoder":
            return {"A": "proj_down", "B": "proj_up"}[rest], None
        if rest == "compound_rep_tokens":
            return "tokens.space", None
        parts = rest.split(".")
        aligner = f"tokens.{ALIGNERS[parts[0].rsplit('_', 1)[1]]}"
        if parts[1] == "weight":
            return f"{aligner}.weight", None
        return f"{aligner}.{ {'A': 'up', 'B': 'down', 'bias': 'bias'}[parts[3]] }", int(parts[2])


class CoOpCase(Case):
    def build(self) -> Method:
        return CoOp(self.clip, CoOpSettings(**self.common()), len(self.texts))

    def common(self) -> dict[str, Any]:
        meta = self.meta
        return {
            "context_tokens": meta["n_ctx"],
            "words": meta.get("ctx_init", ""),
            "position": meta.get("position", "end"),
            "class_specific": meta.get("csc", False),
        }

    def place(self, reference: str) -> Place:
        return {"prompt_learner.ctx": "context"}[reference], None


class HandcraftedCase(CoOpCase):
    """CoOp with hand-written sentences beside it."""

    def sentences(self, prefix: str) -> dict[str, Tensor]:
        name = f"{prefix}handcrafted.tokens"
        return {"template {}": self.tensors[name]} if name in self.tensors else {}

    def zero_shot(self) -> dict[str, Tensor]:
        image = frozen.image_features(self.clip, self.images)
        text = frozen.text_features(self.clip, self.texts.prompts(self.texts.template))
        return {"image_features": image, "text_features": text, "logits": self.method.scale * image @ text.T}


class KgCoOpCase(HandcraftedCase):
    def build(self) -> Method:
        return KgCoOp(self.clip, KgCoOpSettings(**self.common(), kg_weight=self.meta["kg_weight"]))

    def outputs(self, out: dict[str, Tensor]) -> dict[str, Tensor]:
        self.kg = out["loss_kg"].detach()
        return out

    def trace(self, step: GoldenStep) -> dict[str, Tensor]:
        return {"losses_kg": self.kg}


class ProGradCase(HandcraftedCase):
    def build(self) -> Method:
        own = {"strength": self.meta["lambda"], "temperature": self.meta["T"]}
        return ProGrad(self.clip, ProGradSettings(**(self.common() | own)))

    def trace(self, step: GoldenStep) -> dict[str, Tensor]:
        (_, (task,)), (kl, (guide,)) = step.calls[0]
        assert task is not None
        assert guide is not None
        return {"losses_kl": kl, "cosine": F.cosine_similarity(task.flatten(), guide.flatten(), dim=0)}

    def after_first(self, step: GoldenStep, check: Check) -> None:
        for (_, gradients), group in zip(step.calls[0], ("grad_xe.", "grad_kl."), strict=True):
            theirs = self.golden.group(group)
            check(group, self.named(theirs, {"context": gradients[0]}), theirs)


class CoCoOpCase(Case):
    def build(self) -> Method:
        hidden = len(self.tensors["init.prompt_learner.meta_net.linear1.bias"])
        reduction = self.clip.config.embed_dim // hidden
        return CoCoOp(self.clip, CoCoOpSettings(context_tokens=self.meta["n_ctx"], reduction=reduction))

    def place(self, reference: str) -> Place:
        name = reference.removeprefix("prompt_learner.")
        return name.replace("linear1", "0").replace("linear2", "2").replace("ctx", "context"), None


class ProDACase(Case):
    inputs = ("out.prompt_batch", "train.prompt_batches")

    def build(self) -> Method:
        meta = self.meta
        settings = ProDASettings(
            pool=meta["n_prompt"],
            prompt_batch=meta["prompt_batch"],
            context_tokens=meta["n_ctx"],
            orthogonal_weight=meta["alpha"],
        )
        method = ProDA(self.clip, settings)
        assert method.positions == [("front", "middle", "end")[i] for i in self.tensors["prompt_positions"].tolist()]
        return method

    def place(self, reference: str) -> Place:
        return {"prompt_learner.ctx": "context"}[reference], None

    def take(self, step: GoldenStep) -> Tensor:
        assert isinstance(self.method, ProDA)
        self.method.batch = self.tensors["train.prompt_batches"][step.number].tolist()
        return Method.step(self.method, step)

    @torch.no_grad()
    def evaluate(self) -> dict[str, Tensor]:
        return super().evaluate() | {"text_features": self.method.encode_classes(self.texts)}


class PLOTCase(Case):
    def read_texts(self, prefix: str = "") -> TokenTexts:
        """As many sentences as there are contexts."""
        tokens, count = self.tensors[f"{prefix}tokens"], self.meta["n_ctx"]
        return TokenTexts(tokens[0], {sentence(count, f"words{i}"): rows for i, rows in enumerate(tokens)})

    def build(self) -> Method:
        meta = self.meta
        settings = PLOTSettings(
            context_tokens=meta["n_ctx"],
            words=tuple(f"words{i}" for i in range(meta["N"])),
            views=meta["M"],
            image_prompts=meta["n_ctx_vision"],
            stage={1: "vision", 2: "joint"}[meta["stage"]],  # type: ignore[arg-type]
            temperature=meta["eps"],
            rounds=meta["max_iter"],
            threshold=meta["threshold"],
        )
        return PLOT(self.clip, settings)

    def place(self, reference: str) -> Place:
        return {"prompt_learner.ctx": "context", "prompt_learner.ctx_vision": "image"}[reference], None

    def load(self, init: dict[str, Tensor]) -> None:
        self.start = self.parameters()["context"].clone()
        super().load(init)

    def zero_shot(self) -> dict[str, Tensor]:
        return {"ctx_from_templates": self.start}


class TCPCase(HandcraftedCase):
    def build(self) -> Method:
        meta = self.meta
        hidden = len(self.tensors["init.prompt_learner.meta_net.linear1.bias"])
        settings = TCPSettings(
            context_tokens=meta["n_ctx"],
            class_layer=meta["class_prompt_block"] + 1,
            kg_weight=meta["kg_weight"],
            reduction=self.clip.config.embed_dim // hidden,
        )
        return TCP(self.clip, settings)

    place = CoCoOpCase.place

    def outputs(self, out: dict[str, Tensor]) -> dict[str, Tensor]:
        assert isinstance(self.method, TCP)
        return out | {"class_prompts": self.method.class_tokens(self.zero_shot()["text_features"])}


class ProVPCase(Case):
    def build(self) -> Method:
        meta = self.meta
        settings = ProVPSettings(prompts=meta["n_prompts"], keep=meta["alpha"], ref_weight=meta["ref_weight"])
        return ProVP(self.clip, settings)

    def place(self, reference: str) -> Place:
        return {"prompt_learner.prompt_embeddings": "tokens"}[reference], None

    def zero_shot(self) -> dict[str, Tensor]:
        found = super().zero_shot()
        return found | {"logits": self.method.scale * found["image_features"] @ found["text_features"].T}


class RPOCase(Case):
    def build(self) -> Method:
        return RPO(self.clip, RPOSettings(prompts=self.meta["K"]))

    def place(self, reference: str) -> Place:
        return {"prompt_learner.text_prompt": "text", "prompt_learner.img_prompt": "image"}[reference], None

    def outputs(self, out: dict[str, Tensor]) -> dict[str, Tensor]:
        """The reference's masks, which we have none of, from what they say: keys behind a query or behind EOT, and all of
        the prompts, are forbidden."""
        tokens, k = self.tensors["tokens"], self.meta["K"]
        position = torch.arange(tokens.shape[1])
        behind = position[None, :] > position[:, None]
        text = behind | (position > tokens.argmax(1)[:, None])[:, None]
        length = 1 + (self.clip.config.image_size // self.clip.config.patch_size) ** 2 + k
        image = (torch.arange(length) >= length - k).expand(length, -1)
        return out | {"text_mask": text.byte(), "visual_mask": image.byte()}


class MaPLeCase(Case):
    def build(self) -> Method:
        return MaPLe(self.clip, MaPLeSettings(prompt_tokens=self.meta["n_ctx"], depth=self.meta["depth"]))

    def place(self, reference: str) -> Place:
        parts = reference.removeprefix("prompt_learner.").split(".")
        kind = {"weight": "to_image", "bias": "bias"}
        if parts[0] == "ctx":
            return "text", 0
        if parts[0] == "proj":
            return kind[parts[1]], 0
        row = int(parts[1]) + 1
        return ("text" if parts[0] == "compound_prompts_text" else kind[parts[2]]), row

    def outputs(self, out: dict[str, Tensor]) -> dict[str, Tensor]:
        assert isinstance(self.method, MaPLe)
        return out | {f"visual_ctx.{i}": tokens for i, tokens in enumerate(self.method.image_tokens())}


class TemplatesCase(Case):
    """With an ensemble of sentences, (C, T, context)."""

    def sentences(self, prefix: str) -> dict[str, Tensor]:
        return {f"{i} {{}}": tokens for i, tokens in enumerate(self.tensors[f"{prefix}templates.tokens"].unbind(1))}

    def ensemble(self) -> list[Prompts]:
        return list(map(self.texts.prompts, self.sentences("")))


class PromptSRCCase(TemplatesCase):
    def build(self) -> Method:
        return self.promptsrc()

    def promptsrc(self, **settings: Any) -> PromptSRC:
        method = PromptSRC(self.clip, PromptSRCSettings(**(self.common() | settings)))
        method.templates = tuple(self.sentences(""))
        return method

    def common(self) -> dict[str, Any]:
        meta = self.meta
        return {
            "text_prompts": meta["n_ctx_text"],
            "image_prompts": meta["n_ctx_vision"],
            "text_depth": meta["depth_text"],
            "image_depth": meta["depth_vision"],
            "text_weight": meta["text_loss_weight"],
            "image_weight": meta["image_loss_weight"],
            "average_mean": meta["gpa_mean"],
            "average_std": meta["gpa_std"],
        }

    def place(self, reference: str) -> Place:
        parts = reference.split(".")
        if parts[-1] == "ctx":
            return "text", 0
        if parts[-1] == "VPT":
            return "image", 0
        return {"text_encoder": "text", "image_encoder": "image"}[parts[0]], int(parts[3])

    @torch.no_grad()
    def zero_shot(self) -> dict[str, Tensor]:
        clip = self.clip
        mean = torch.stack([clip.encode_text(prompts) for prompts in self.ensemble()]).mean(0)
        image = frozen.image_features(clip, self.images)
        text = frozen.ensemble(clip, self.ensemble(), each_unit=False)
        logits = self.method.scale * image @ text.T
        return {"text_features_mean": mean, "image_features": image, "text_features": text, "logits": logits}

    def extra(self, check: Check) -> None:
        """IVLP, and the weights of the average."""
        theirs = self.golden.group("ivlp.grad.")
        without = {"text_weight": 0.0, "image_weight": 0.0, "logit_weight": 0.0, "average": False}
        ours, self.method = self.method, self.promptsrc(**without)
        self.method.prepare(self.read_texts())
        self.load(self.golden.group("init."))
        loss = self.method.loss(self.images, self.labels)["loss"]
        loss.backward()
        check("ivlp.out", {"loss": loss}, self.golden.group("ivlp.out."))
        check("ivlp.grad", self.named(theirs, {n: p.grad for n, p in self.method.named_parameters()}), theirs)
        self.method = ours
        assert isinstance(ours, PromptSRC)
        check("gpa", {"weights": ours.epoch_weights(self.meta["epochs"])}, {"weights": self.tensors["gpa.weights"]})

    def after_step(self, number: int) -> None:
        epoch, left = divmod(number + 1, self.meta["steps_per_epoch"])
        if not left and epoch < self.meta["epochs"]:
            self.method.end_epoch(epoch, self.meta["epochs"])

    def evaluate(self) -> dict[str, Tensor]:
        last = self.score(self.texts)
        self.method.end_epoch(self.meta["epochs"], self.meta["epochs"])
        averaged = self.golden.group("gpa.final.")
        for name, tensor in self.named(averaged, self.parameters()).items():
            torch.testing.assert_close(tensor, averaged[name], rtol=1e-4, atol=1e-4)
        return super().evaluate() | {"logits_last_epoch": last}


class MetaPromptCase(TemplatesCase):
    restore = "once"

    def sentences(self, prefix: str) -> dict[str, Tensor]:
        tokens = self.tensors[f"{prefix}templates.tokens"].unbind(1)
        return dict(zip((*SELECTED_TEMPLATES, "template {}"), tokens, strict=True))

    def build(self) -> Method:
        meta = self.meta
        settings = MetaPromptSettings(
            text_prompts=meta["n_ctx_text"],
            image_prompts=meta["n_ctx_vision"],
            depth=meta["depth"],
            ensemble=True,
            meta_step=meta["meta_step"],
            restore=self.restore,  # type: ignore[arg-type]
        )
        method = MetaPrompt(self.clip, settings)
        orders = self.tensors["input.class_order"].tolist()
        method.class_order = lambda step: orders[step.number]  # type: ignore[method-assign]
        return method

    def place(self, reference: str) -> Place:
        return {"prompt_learner.ctx": "text", "vision_prompt_learner.ctx": "image"}[reference], None

    def zero_shot(self) -> dict[str, Tensor]:
        text = frozen.ensemble(self.clip, self.ensemble())
        return {"image_features": frozen.image_features(self.clip, self.images), "text_features": text}

    def after_first(self, step: GoldenStep, check: Check) -> None:
        """Inside the first step: update, trial, query, trial, query."""
        theirs = self.golden.group("step1.")
        if not theirs or len(step.calls) != 5:  # a group of classes was skipped
            return
        text = [name for name, p in self.method.named_parameters()].index("text")
        losses, gradients = zip(*[call[0] for call in step.calls], strict=True)
        ours = {f"loss_update{i}": losses[call] for i, call in enumerate((0, 1, 3))}
        ours |= {f"query_loss{i}": losses[call] for i, call in enumerate((2, 4))}
        ours |= {f"query_grad{i}": gradients[call][text] for i, call in enumerate((2, 4))}
        for i, state in enumerate(step.states):
            ours |= {f"ctx_text_after_update{i}": state["text"], f"ctx_vision_after_update{i}": state["image"]}
        end = self.parameters()
        check("step1", ours | {"ctx_text_end": end["text"], "ctx_vision_end": end["image"]}, theirs)

    def extra(self, check: Check) -> None:
        for name, restore in (("restored", "always"), ("zeroed_grads", "once-moving")):
            group = self.golden.group(f"variant.{name}.")
            if not group:
                continue
            other = type(self).__new__(type(self))
            other.restore = restore
            kept = {
                k: v for k, v in self.tensors.items() if not k.startswith(("step1.", "variant.", "train.", "final."))
            }
            other.__init__(Golden(self.golden.path, self.meta, kept | group))  # type: ignore[misc]
            other.train(check)
            final = other.golden.group("final.")
            check(f"{name}.final", other.named(final, other.parameters()), final)


class MMACase(Case):
    def build(self) -> Method:
        meta = self.meta
        settings = MMASettings(
            first_layer=meta["adapter_start"],
            last_layer=meta["adapter_end"],
            bottleneck=meta["adapter_dim"],
            scale=meta["adapter_scale"],
        )
        return MMA(self.clip, settings)

    def place(self, reference: str) -> Place:
        tower, layer, *rest = reference.removeprefix("adapter_learner.").split(".")
        row, bias = int(layer) - self.meta["adapter_start"], "_bias" if rest[-1] == "bias" else ""
        if tower == "shared_adapter":
            return f"shared{bias}", row
        return f"{ {'text_adapter': 'text', 'visual_adapter': 'image'}[tower] }.{rest[0]}{bias}", row


class CLIPAdapterCase(Case):
    def build(self) -> Method:
        settings = CLIPAdapterSettings(ratio=self.meta["ratio"], reduction=self.meta["reduction"])
        return CLIPAdapter(self.clip, settings)

    def place(self, reference: str) -> Place:
        return reference.replace("adapter.fc.", "adapter."), None

    def outputs(self, out: dict[str, Tensor]) -> dict[str, Tensor]:
        assert isinstance(self.method, CLIPAdapter)
        raw = self.clip.encode_image(self.images)
        return out | {"image_features_raw": raw, "adapter": self.method.adapter(raw)}


class CLIPLoRACase(Case):
    def build(self) -> Method:
        return CLIPLoRA(self.clip, self.settings(dropout=0.0))

    def settings(self, dropout: float) -> CLIPLoRASettings:
        meta = self.meta
        return CLIPLoRASettings(
            rank=meta["r"],
            alpha=meta["alpha"],
            projections="".join(meta["params"]),
            layers=tuple(block + 1 for block in meta["blocks"]),
            towers={"both": "both", "vision": "image", "text": "text"}[meta["encoder"]],  # type: ignore[arg-type]
            dropout=dropout,
        )

    def place(self, reference: str) -> Place:
        tower, _, rest = reference.rpartition("transformer.resblocks.")
        block, _, module, factor = rest.split(".")
        names = {"q_proj": "q", "k_proj": "k", "v_proj": "v", "proj": "o", "out_proj": "o"}
        row = self.meta["blocks"].index(int(block)), self.meta["params"].index(names[module])
        kind = {"w_lora_A": "down", "w_lora_B": "up"}[factor]
        return f"{'image' if tower else 'text'}.{kind}", row

    def outputs(self, out: dict[str, Tensor]) -> dict[str, Tensor]:
        return out | self.dropped

    def extra(self, check: Check) -> None:
        """One pass with dropout, by the masks in the file."""
        ours, method = self.method, CLIPLoRA(self.clip, self.settings(dropout=self.meta["dropout_rate"]))
        self.method, masks, keep = method, self.golden.group("dropout_mask."), 1 - self.meta["dropout_rate"]
        names = {"query": "q_proj", "key": "k_proj", "value": "v_proj", "output": "proj"}

        def drop(updates: Updates, layer: int, place: TowerPlace, x: Tensor) -> Tensor:
            tower = "visual." if updates is method.image else ""
            mask = masks.get(f"{tower}transformer.resblocks.{layer - 1}.attn.{names[place]}")
            if mask is None or x.shape[-2] == 0:
                return x
            samples = len(self.labels) if tower else len(self.prompts)
            mask = mask.unflatten(0, (-1, samples)) if mask.ndim == 2 else mask  # (tokens, samples, width)
            mask = mask.transpose(0, 1)
            if not tower:
                eot = self.prompts.eot[:, None, None]
                mask = mask.take_along_dim(eot, 1) if x.shape[-2] == 1 else mask[:, : x.shape[-2]]
            return x * mask[:, : x.shape[-2]] / keep

        method.drop = drop  # type: ignore[method-assign]
        method.prepare(self.texts)
        self.load(self.golden.group("init."))
        out = method.loss(self.images, self.labels)
        out["loss"].backward()
        self.dropped = {"logits_dropout": out["logits"], "loss_dropout": out["loss"]}
        theirs = self.golden.group("out.grad_dropout.")
        gradients = self.named(theirs, {n: p.grad for n, p in method.named_parameters()})
        self.dropped |= {f"grad_dropout.{name}": gradient for name, gradient in gradients.items()}
        self.method = ours

    def evaluate(self) -> dict[str, Tensor]:
        found = super().evaluate()
        cosines = {name.replace("logits", "cosine"): logits / 100 for name, logits in found.items()}
        return found | cosines


class ZeroShotCase(Case):
    def build(self) -> Method:
        return ZeroShot(self.clip, ZeroShotSettings())

    def sentences(self, prefix: str) -> dict[str, Tensor]:
        return dict(zip((*SELECTED_TEMPLATES, "eighth {}"), self.tensors["template_tokens"], strict=True))

    def place(self, reference: str) -> Place:
        raise KeyError(reference)

    def verify(self, check: Check) -> None:
        logits, features = {"logits": self.score(self.texts)}, self.method.encode_classes(self.texts)
        self.method = ZeroShot(self.clip, ZeroShotSettings(ensemble=True))
        self.texts.template = "eighth {}"
        logits["logits_ensemble"] = self.score(self.texts)
        right = [(found.argmax(1) == self.labels).float().mean() * 100 for found in logits.values()]
        ours = {
            "image_features": frozen.image_features(self.clip, self.images),
            "text_features": features,
            "text_features_ensemble": self.method.encode_classes(self.texts),
            "accuracy": torch.stack(right),
        }
        check("out", ours | logits, self.golden.group("out."))
        check("eval", logits, self.golden.group("eval."))


class TipAdapterCase(Case):
    kind: type[TipAdapter] = TipAdapter

    def sentences(self, prefix: str) -> dict[str, Tensor]:
        return {f"{i} {{}}": tokens for i, tokens in enumerate(self.tensors["template_tokens"])}

    def text(self) -> Tensor:
        return frozen.ensemble(self.clip, map(self.texts.prompts, self.sentences("")))

    def build(self) -> Method:
        cfg = self.meta["cfg"]
        settings = TipAdapterSettings(
            alpha=cfg["init_alpha"],
            beta=cfg["init_beta"],
            passes=cfg["augment_epoch"],
            beta_scale=cfg["search_scale"][0],
            alpha_scale=cfg["search_scale"][1],
            beta_steps=cfg["search_step"][0],
            alpha_steps=cfg["search_step"][1],
            ensemble=True,
        )
        method = self.kind(self.clip, settings, len(self.texts))
        method.templates = tuple(self.sentences(""))
        return method

    def place(self, reference: str) -> Place:
        return {"adapter.weight": "keys"}[reference], None

    def load(self, init: dict[str, Tensor]) -> None:
        """What the reference builds its cache from."""
        self.ours.memorise(self.examples("cache."))

    @property
    def ours(self) -> TipAdapter:
        assert isinstance(self.method, TipAdapter)
        return self.method

    def examples(self, prefix: str) -> Any:
        images, labels = self.tensors[f"{prefix}images"], self.tensors[f"{prefix}labels"]
        classes = len(self.prompts)
        return SimpleNamespace(
            labels=labels, classes=classes, plain=lambda: images.split(7), augmented=lambda i: images[i].split(8)
        )

    def check_cache(self, check: Check) -> None:
        values = F.one_hot(self.ours.labels, len(self.prompts)).float()
        check(
            "cache",
            {"keys": self.ours.keys.detach().T, "values": values},
            {"keys": self.tensors["cache.keys"], "values": self.tensors["cache.values"].float()},
        )
        text = self.text()
        check("zero_shot", {"text_features": text}, self.golden.group("zero_shot."))

    def verify(self, check: Check) -> None:
        self.check_cache(check)
        method, s = self.ours, self.ours.settings
        f, val = (frozen.image_features(self.clip, self.tensors[f"{p}images"]) for p in ("", "val."))
        check("val", {"features": val}, {"features": self.tensors["val.features"]})
        text = self.text()
        ours = {
            "image_features": f,
            "affinity": f @ method.keys.T,
            "cache_logits": method.votes(f, torch.arange(len(text)), s.beta),
            "logits": self.score(self.texts),
            "logits_zero_shot": 100 * f @ text.T,
            "logits_zero_shot_val": 100 * val @ text.T,
            "logits_val": self.score(self.texts, self.tensors["val.images"]),
        }
        check("out", ours, self.golden.group("out."))
        method.memorise(self.examples("cache."), self.examples("val."))
        pair = self.tensors["search.beta_alpha"]
        check("search", {"beta_alpha": method.found.to(pair)}, {"beta_alpha": pair})
        found = self.score(self.texts)
        check("eval", {"logits": found}, self.golden.group("eval."))
        truth = {"val": self.tensors["val.labels"], "test": self.labels}
        guesses = [("val", ours["logits_zero_shot_val"]), ("val", ours["logits_val"])]
        guesses += [("test", ours["logits_zero_shot"]), ("test", found)]
        shares = torch.stack([(logits.argmax(1) == truth[name]).float().mean() * 100 for name, logits in guesses])
        check("test", {"accuracy": shares}, self.golden.group("test."))


class TipAdapterFCase(TipAdapterCase):
    kind = TipAdapterF

    def batch(self, number: int) -> Batch:
        size, per_epoch = self.meta["f_batch"], -(-self.tensors["f.images"].shape[1] // self.meta["f_batch"])
        epoch, part = divmod(number, per_epoch)
        rows = slice(part * size, (part + 1) * size)
        images, labels = self.tensors["f.images"][epoch, rows], self.tensors["f.labels"][epoch, rows]
        return Batch(images, labels, len(labels))

    def after_step(self, number: int) -> None:
        """The reference tests behind each epoch, and keeps the best."""
        per_epoch = self.meta["steps"] // len(self.tensors["f.images"])
        if (number + 1) % per_epoch == 0:
            self.per_epoch.append(self.score(self.texts))
            self.method.train()
            self.keys.append(self.ours.keys.detach().clone())

    def without_inputs(self, prefix: str) -> dict[str, Tensor]:
        found = super().without_inputs(prefix)
        return {k: v for k, v in found.items() if not k.endswith("_per_epoch")}

    def outputs(self, out: dict[str, Tensor]) -> dict[str, Tensor]:
        return out | {"image_features": frozen.image_features(self.clip, self.images)}

    def verify(self, check: Check) -> None:
        self.check_cache(check)
        start = self.golden.group("init.")
        check("init", self.named(start, self.parameters()), start)
        self.per_epoch, self.keys = list[Tensor](), list[Tensor]()
        self.train(check)
        final = self.golden.group("final.")
        check("final", self.named(final, self.parameters()), final)
        shares = torch.stack([(logits.argmax(1) == self.labels).float().mean() * 100 for logits in self.per_epoch])
        ours = {"logits_test_per_epoch": torch.stack(self.per_epoch), "test_accuracy_per_epoch": shares}
        theirs = {"logits_test_per_epoch": self.tensors["out.logits_test_per_epoch"]}
        check("epochs", ours, theirs | {"test_accuracy_per_epoch": self.tensors["train.test_accuracy_per_epoch"]})
        last = self.score(self.texts)
        method, val = self.ours, frozen.image_features(self.clip, self.tensors["val.images"])
        check("val", {"features": val}, {"features": self.tensors["val.features"]})
        method.keys.data = self.keys[int(shares.argmax())]
        pair = torch.tensor(method.search(val, self.tensors["val.labels"]), dtype=torch.float64)
        method.found.copy_(pair)
        check("search", {"beta_alpha": pair.to(self.tensors["search.beta_alpha"])}, self.golden.group("search."))
        check("eval", {"logits": last, "logits_best": self.score(self.texts)}, self.golden.group("eval."))


class LinearProbeCase(Case):
    """Features in place of a CLIP, and scikit-learn's results."""

    def __init__(self, golden: Golden) -> None:
        self.golden, self.meta, self.tensors = golden, golden.meta, golden.tensors
        clip: Any = SimpleNamespace(config=SimpleNamespace(embed_dim=golden.tensors["train.features"].shape[1]))
        self.probe = LinearProbe(clip, LinearProbeSettings(rounds=golden.meta["num_step"]))
        self.probe.grid = tuple(golden.meta["search"])
        self.exact = LinearProbe(clip, LinearProbeSettings(tolerance=1e-12, max_iter=100_000))

    def build(self) -> Method:
        return self.probe

    def place(self, reference: str) -> Place:
        raise KeyError(reference)

    def split(self, name: str, rows: Tensor | None = None) -> tuple[Tensor, Tensor]:
        features, labels = self.tensors[f"{name}.features"].double(), self.tensors[f"{name}.labels"]
        return (features, labels) if rows is None else (features[rows], labels[rows])

    def verify(self, check: Check) -> None:
        test = self.split("test")[0]
        runs = sorted({k.rsplit(".train_index", 1)[0] for k in self.tensors if k.endswith(".train_index")})
        for run in runs:
            theirs = self.golden.group(f"{run}.")
            train, val = self.split("train", theirs["train_index"]), self.split("val", theirs["val_index"])
            fits: list[tuple[float, Any, float]] = []
            model = self.probe.search(*train, *val, lambda c, m, share, fits=fits: fits.append((c, m, share)))  # type: ignore[misc]
            weight, bias = coefficients(model)
            ours = {
                "out.C": torch.tensor([c for c, _, _ in fits]),
                "out.val_accuracy": torch.tensor([share for _, _, share in fits]),
                "final.C": torch.tensor(model.C),
                "final.coef": weight.float(),
                "final.intercept": bias.float(),
                "test.predictions": (test @ weight.T + bias).argmax(1),
            }
            check(run, ours, {k: theirs[k] for k in ours})
        exact = "k4.seed1" if "k4.seed1" in runs else runs[0]
        for c in sorted({k.split(".coef")[0] for k in self.golden.group("exact.C") if k.endswith(".coef")}):
            theirs = self.golden.group(f"exact.C{c}.")
            weight, bias = coefficients(
                self.exact.regression(*self.split("train", self.tensors[f"{exact}.train_index"]), float(c))
            )
            logits = test @ weight.T + bias
            ours = {"coef": weight.float(), "test_logits": centred(logits).float(), "intercept": centred(bias).float()}
            wanted = {name: theirs[name] if name == "coef" else centred(theirs[name]) for name in ours}
            check(f"exact.C{c}", ours, wanted)


def centred(x: Tensor) -> Tensor:
    """Without what is common to all classes, which softmax doesn't see."""
    return x - x.mean(-1, keepdim=True)


CASES: dict[str, type[Case]] = {
    "zero-shot": ZeroShotCase,
    "linear-probe": LinearProbeCase,
    "clip-adapter": CLIPAdapterCase,
    "tip-adapter": TipAdapterCase,
    "tip-adapter-f": TipAdapterFCase,
    "coop": CoOpCase,
    "cocoop": CoCoOpCase,
    "kgcoop": KgCoOpCase,
    "prograd": ProGradCase,
    "proda": ProDACase,
    "plot": PLOTCase,
    "tcp": TCPCase,
    "provp": ProVPCase,
    "rpo": RPOCase,
    "maple": MaPLeCase,
    "promptsrc": PromptSRCCase,
    "metaprompt": MetaPromptCase,
    "mma": MMACase,
    "clip-lora": CLIPLoRACase,
    "mmrl": MMRLCase,
    "mmrlpp": MMRLppCase,
}
