"""The published settings of each method, where they differ by protocol, data set or shots.

What a method is trained with in base-to-novel, or everywhere, are its defaults (`Settings`, `train_settings`), which are not
repeated here. Sources: the published configurations and launch scripts of each method; MMRL's λ are also Table 8 of its
paper, MMA's transfer settings are only in its paper. docs/protocols.md lists where nothing was published.
tests/bench/published_settings.csv has the published values, against which every cell is tested.
"""

from __future__ import annotations

from fewclip.bench.presets.rules import FEW_SHOT, HALVES, TRANSFER, Presets, Rule

# Classifiers of features

CACHE = tuple(
    Rule({"alpha": alpha, "beta_scale": beta_scale, "alpha_scale": alpha_scale}, FEW_SHOT, (dataset,))
    for dataset, alpha, beta_scale, alpha_scale in (
        ("imagenet", 1.17, 7.0, 3.0),
        ("caltech101", 3.0, 12.0, 5.0),
        ("oxford_pets", 1.17, 7.0, 3.0),
        ("stanford_cars", 3.0, 20.0, 10.0),
        ("oxford_flowers", 10.0, 50.0, 50.0),
        ("food101", 1.17, 10.0, 10.0),
        ("fgvc_aircraft", 5.0, 30.0, 30.0),
        ("sun397", 1.17, 12.0, 10.0),
        ("dtd", 2.0, 13.0, 13.0),
        ("eurosat", 2.0, 12.0, 10.0),
        ("ucf101", 3.0, 7.0, 3.0),
    )
)
TIP_ADAPTER = Presets((*CACHE, Rule({"ensemble": True}, FEW_SHOT, ("imagenet",))))
TIP_ADAPTER_F = Presets((*TIP_ADAPTER.rules, Rule({"epochs": 100}, FEW_SHOT, ("eurosat",))))

# Context in the prompt

LONGER_WITH_SHOTS = (
    Rule({"epochs": 200}, FEW_SHOT),
    Rule({"epochs": 50}, FEW_SHOT, shots=(1,)),
    Rule({"epochs": 100}, FEW_SHOT, shots=(2, 4)),
)
"""CoOp's, also used by ProGrad, PLOT++ and ProVP; 8 and 16 shots have the first."""

COOP = Presets(
    (
        Rule({"epochs": 200}, HALVES),
        Rule({"context_tokens": 16, "words": ""}, FEW_SHOT),
        *LONGER_WITH_SHOTS,
        Rule({"epochs": 50}, (*HALVES, *FEW_SHOT), ("imagenet",)),
    )
)
PROGRAD = Presets(
    (
        *LONGER_WITH_SHOTS,
        Rule({"epochs": 50}, TRANSFER),
        Rule({"epochs": 50}, HALVES, ("imagenet",)),
        Rule({"strength": 0.8}, FEW_SHOT, ("oxford_flowers", "dtd", "eurosat"), shots=(8, 16)),
    )
)
PEOPLE_DOING = (
    "a photo of a person doing",
    "this is a photo people doing",
    "this is picture of people doing",
    "one picture of a person doing",
)
PLOT = Presets(
    (
        Rule({"stage": "two-stage"}, FEW_SHOT),
        *LONGER_WITH_SHOTS,
        Rule({"epochs": 50}, FEW_SHOT, ("imagenet",)),
        Rule({"context_tokens": 6, "words": PEOPLE_DOING}, FEW_SHOT, ("ucf101",)),
    )
)
TCP = Presets((Rule({"epochs": 25}, (*HALVES, *FEW_SHOT), ("imagenet", "sun397")),))

# Tokens in the towers

PROVP = Presets(
    (
        Rule({"prompts": 50, "weight_decay": 5e-4}, FEW_SHOT),
        *LONGER_WITH_SHOTS,
        Rule({"weight_decay": 1e-3}, FEW_SHOT, shots=(1,)),
        Rule({"lr": 5.0, "weight_decay": 5e-3, "epochs": 100}, (*HALVES, *FEW_SHOT), ("imagenet",)),
    )
)
RPO = Presets((Rule({"prompts": 4}, HALVES, shots=(1, 2, 4, 8)), Rule({"lr": 5e-3}, TRANSFER)))
MAPLE = Presets((Rule({"depth": 3, "lr": 2.6e-3, "epochs": 2}, TRANSFER),))
PROMPTSRC = Presets(
    (
        Rule({"text_depth": 3, "image_depth": 3, "average_mean": 6.0, "average_std": 10.0}, TRANSFER),
        Rule({"epochs": 50, "average_mean": 30.0, "average_std": 30.0}, FEW_SHOT),
        Rule(
            {"average_mean": 45.0, "average_std": 5.0},
            FEW_SHOT,
            ("stanford_cars", "oxford_flowers", "fgvc_aircraft", "dtd", "eurosat"),
        ),
    )
)
METAPROMPT = Presets((Rule({"ensemble": True}, HALVES, ("imagenet",)),))

# Beside the towers' weights

MMA = Presets(
    (
        Rule({"batch_size": 128}, HALVES, ("imagenet",)),
        Rule({"first_layer": -4, "epochs": 1}, TRANSFER),
    )
)

# Representation space

BASE_TO_NOVEL = {"batch_size": 4, "epochs": 10, "lr": 1e-3}
ONE_EPOCH = {"batch_size": 32, "epochs": 1, "lr": 1e-3, "warmup_epochs": 0}
IMAGENET = {"batch_size": 32, "epochs": 5, "lr": 1e-3}

BY_DATASET = (
    ("imagenet", 0.5, 0.2, 0.9, 0.9),
    ("caltech101", 0.5, 3.0, 0.6, 0.6),
    ("oxford_pets", 0.2, 0.01, 0.7, 0.6),
    ("stanford_cars", 7.0, 6.0, 0.7, 0.3),
    ("oxford_flowers", 4.0, 7.0, 0.4, 0.4),
    ("food101", 5.0, 1.0, 0.1, 0.3),
    ("fgvc_aircraft", 6.0, 2.0, 0.9, 0.9),
    ("sun397", 6.0, 3.0, 0.5, 0.7),
    ("dtd", 6.0, 7.0, 0.9, 0.5),
    ("eurosat", 0.01, 0.01, 0.2, 0.3),
    ("ucf101", 3.0, 3.0, 0.9, 0.9),
)
"""Data set; λ of MMRL; λ and β of MMRL++ trained on it; β of MMRL++ tested on it after training on ImageNet."""

MMRL = Presets(
    (
        Rule(BASE_TO_NOVEL, HALVES),
        Rule({"batch_size": 32, "epochs": 50, "lr": 1e-3}, FEW_SHOT),
        Rule(ONE_EPOCH, TRANSFER),
        Rule(IMAGENET, (*HALVES, *FEW_SHOT), ("imagenet",)),
        Rule({"reg_weight": 0.2}, TRANSFER, ("imagenet",)),
        Rule({"rep_dim": 2048}, (*HALVES, *FEW_SHOT), ("eurosat",)),
        *(Rule({"reg_weight": weight}, (*HALVES, *FEW_SHOT), (name,)) for name, weight, *_ in BY_DATASET),
    )
)
MMRLPP = Presets(
    (
        Rule(BASE_TO_NOVEL, HALVES),
        Rule({"batch_size": 32, "epochs": 100, "lr": 2e-3}, FEW_SHOT),
        Rule(ONE_EPOCH, TRANSFER),
        Rule(IMAGENET, (*HALVES, *FEW_SHOT), ("imagenet",)),
        Rule({"reg_weight": 0.1, "beta": 0.9}, TRANSFER, ("imagenet",)),
        *(
            Rule({"reg_weight": weight, "beta": beta}, (*HALVES, *FEW_SHOT), (name,))
            for name, _, weight, beta, _ in BY_DATASET
        ),
    ),
    by_target={name: {"beta": beta} for name, *_, beta in BY_DATASET if name != "imagenet"}
    | {
        "imagenetv2": {"beta": 0.9},
        "imagenet_r": {"beta": 0.9},
        "imagenet_a": {"beta": 0.8},
        "imagenet_sketch": {"beta": 0.7},
    },
)

TABLE: dict[str, Presets] = {
    "tip-adapter": TIP_ADAPTER,
    "tip-adapter-f": TIP_ADAPTER_F,
    "coop": COOP,
    "prograd": PROGRAD,
    "plot": PLOT,
    "tcp": TCP,
    "provp": PROVP,
    "rpo": RPO,
    "maple": MAPLE,
    "promptsrc": PROMPTSRC,
    "metaprompt": METAPROMPT,
    "mma": MMA,
    "mmrl": MMRL,
    "mmrlpp": MMRLPP,
}
"""By method; one that is not listed has its defaults in every protocol."""
