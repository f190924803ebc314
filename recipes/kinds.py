"""Kinds of thing: classes made from Unicode's emoji subcategories, and the words that belong to them.

Two uses.  The embedded data sets ``icons`` and ``kinds-mono`` have kinds as classes.  In pre-training an icon whose
*name* is a word of a kind (``fox``) is drawn to a proxy of that kind (``mammal``), on the image side only: the text tower
is not told the kind's name.  This is lexical knowledge, from the names in the npm package ``emoji-datasource``, Unicode's
own, and a list of everyday words.  No drawing of an emoji set is used for it.

Subcategories are merged where Unicode splits finer than a drawing shows, and dropped where they are a rest ("place-
other", "other-object"), have fewer than 16 emoji, or show people whose difference is who they are (family, person).
"""

# ruff: noqa: SIM905 (lists of words read better as words)
from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

# class name → Unicode subcategories
KINDS: dict[str, tuple[str, ...]] = {
    "mammal": ("animal-mammal",),
    "bird": ("animal-bird",),
    "sea animal": ("animal-marine",),
    "insect": ("animal-bug",),
    "plant": ("plant-flower", "plant-other"),
    "fruit": ("food-fruit",),
    "vegetable": ("food-vegetable",),
    "meal": ("food-prepared",),
    "Asian dish": ("food-asian",),
    "drink": ("drink",),
    "vehicle": ("transport-ground", "transport-air", "transport-water"),
    "building": ("place-building", "place-religious"),
    "weather": ("sky & weather",),
    "celebration": ("event",),
    "sports equipment": ("sport",),
    "game": ("game",),
    "clothing": ("clothing",),
    "music": ("musical-instrument", "music"),
    "office supply": ("office", "writing"),
    "tool": ("tool",),
    "household object": ("household",),
    "book or paper": ("book-paper",),
    "electronic device": ("computer", "phone"),
    "arrow": ("arrow",),
    "media button": ("av-symbol",),
    "public sign": ("transport-sign", "warning"),
    "letter sign": ("alphanum",),
    "geometric shape": ("geometric",),
    "heart": ("heart",),
    "flag": ("flag", "country-flag", "subdivision-flag"),
    "happy face": ("face-smiling", "face-affection", "face-tongue"),
    "unhappy face": ("face-concerned", "face-negative"),
    "doubtful face": ("face-neutral-skeptical",),
    "tired or sick face": ("face-sleepy", "face-unwell"),
    "hand sign": (
        *("hand-fingers-open", "hand-fingers-partial", "hand-single-finger", "hand-fingers-closed", "hands"),
        "hand-prop",
    ),
    "body part": ("body-parts",),
    "worker": ("person-role",),
    "athlete": ("person-sport",),
    "fantasy being": ("person-fantasy", "face-costume"),
}
KIND_OF = {sub: kind for kind, subs in KINDS.items() for sub in subs}

# Kinds that are proxies in pre-training and no class (too few emoji), under Unicode's subcategory.
FURTHER = {
    "animal-reptile": "reptile",
    "animal-amphibian": "reptile",
    "food-sweet": "dessert",
    "dishware": "tableware",
    "place-geographic": "landscape",
    "time": "clock",
    "award-medal": "award",
    "arts & crafts": "craft",
    "light & video": "camera or lamp",
    "money": "money",
    "mail": "mail",
    "lock": "lock",
    "sound": "sound",
    "science": "science",
    "medical": "medicine",
    "religion": "religious symbol",
    "zodiac": "zodiac sign",
    "math": "mathematical sign",
    "punctuation": "punctuation mark",
}

# Names whose usual meaning in a set of interface icons is not the emoji's, or no word at all.
NOT_WORDS = set(
    "ram seal mouse cricket bat ox fly date a b o m x up new free id ok on end back top soon cl ng vs accept secret "
    "abc face feet wing feather sound koko sa yum o2 chart event symbols office school bank station".split()
)
# Kinds whose words say little as the last of several ("play circle", "address book", "user lock").
EXACT = {"geometric shape", "public sign", "punctuation mark", "lock", "tool", "tired or sick face", "sound", "mail"}
EXACT |= {"media button", "letter sign", "celebration", "mathematical sign", "craft", "money", "weather"}
# Everyday words of a kind that no emoji is named after.
FURTHER_WORDS = {
    "mammal": "cow bull rabbit mouse animal pet puppy kitten elephant squirrel hare mole paw",
    "bird": "crow pigeon hen ostrich pelican seagull sparrow stork toucan hummingbird woodpecker",
    "sea animal": "starfish seahorse ray clam prawn tuna salmon orca",
    "insect": "dragonfly caterpillar moth wasp ladybird tick termite grasshopper locust",
    "plant": "tree flower leaf grass bush sprout forest pine palm fern bamboo plant clover wheat",
    "fruit": "orange plum apricot fig pomegranate papaya raspberry dragonfruit durian cherry fruit grape citrus",
    "vegetable": "mushroom pumpkin lettuce cabbage radish turnip celery asparagus cauliflower pepper vegetable chili",
    "meal": "burger steak sausage soup toast breakfast food meal hotdog omelet kebab cheese bread noodle salad ham",
    "Asian dish": "noodles rice bento sushi dumpling",
    "drink": "beer wine coffee tea juice cocktail water bottle cup mug glass milk soda espresso whiskey champagne",
    "vehicle": "car van truck bus train tram bicycle bike motorcycle airplane plane helicopter rocket ship boat "
    "sailboat submarine tractor taxi ambulance scooter subway ferry canoe metro caravan forklift excavator",
    "building": "house home hotel hospital factory castle church mosque temple skyscraper barn warehouse tower "
    "lighthouse windmill shop store museum apartment synagogue pagoda cottage",
    "weather": "sun rain snow storm wind moon cloud thunder hail fog sleet drizzle snowflake tornado sunrise sunset",
    "celebration": "party balloon gift present fireworks confetti",
    "sports equipment": "football soccer basketball baseball tennis golf hockey volleyball bowling rugby ski dumbbell "
    "racket badminton skates barbell",
    "game": "dice puzzle gamepad chess controller cards domino joystick",
    "clothing": "shirt pants skirt dress shoe hat sock jacket coat suit tie glove boot cap trousers shorts jeans bra "
    "underwear sweater hoodie belt glasses sunglasses helmet sandal scarf",
    "music": "guitar piano violin drum trumpet flute saxophone harp accordion cello xylophone tambourine music",
    "office supply": "pen pencil ruler stapler folder paperclip calendar clipboard scissors eraser marker crayon",
    "tool": "hammer wrench saw drill screwdriver pliers axe shovel pickaxe chisel rake crowbar nail screw toolbox",
    "household object": "sofa couch chair bed lamp table bathtub toilet shower door window mirror broom bucket sink "
    "wardrobe dresser armchair fridge oven vacuum curtain stool shelf bench faucet",
    "book or paper": "book books notebook newspaper page document scroll magazine paper",
    "electronic device": "computer laptop phone smartphone keyboard monitor printer mouse tablet smartwatch camera",
    "media button": "play pause stop rewind shuffle repeat eject",
    "geometric shape": "circle square triangle diamond hexagon pentagon octagon rhombus rectangle oval ellipse",
    "happy face": "smile smiley happy grin laugh wink smiling laughing",
    "unhappy face": "sad angry cry frown crying worried unhappy angry",
    "doubtful face": "neutral meh expressionless skeptical",
    "tired or sick face": "sleepy sick dizzy tired nauseated vomiting",
    "hand sign": "thumbs fist handshake clap finger hand hands wave palm thumb pointer",
    "body part": "ear eye nose mouth tooth foot leg arm brain lungs lips tongue kidney stomach knee liver bone elbow",
    "worker": "doctor nurse police farmer cook teacher firefighter chef engineer astronaut pilot detective worker",
    "athlete": "runner swimmer surfer skier climber cyclist swimming skiing surfing skating climbing wrestling "
    "kayaking snowboarding rowing cycling diving gymnastics boxing fencing yoga",
    "fantasy being": "wizard vampire zombie fairy elf mermaid ghost alien robot monster witch demon angel genie",
    "flag": "flag pennant banner",
    "heart": "hearts",
    "arrow": "arrows",
}
# Labels that sets give their icons themselves (their ``categories``), put into plain words.
LABELS = {
    "food": "food,foods,food & drink,food / drink,food beverage,food and drink",
    "animal": "animal,animals",
    "weather": "weather",
    "clothing": "clothing,clothes",
    "building": "building,buildings",
    "medicine": "medical,medicine,medical / hospital,health & medical",
    "music": "music,instrument",
    "sport": "sport,sports,game & sports",
    "tool": "tools,hardware / tools",
    "vehicle": "transportation + road,transportation + water,transportation + flying,transportation + other,vehicles",
    "face": "emoji,faces,emotions,emojis",
    "hand sign": "hands,gestures",
    "game": "gaming / rpg,game,gaming,games",
    "money": "money,banking,currency",
    "science": "science",
    "zodiac sign": "constellation",
    "religion": "religion",
    "plant": "nature",
    "household object": "household",
    "geometric shape": "shape,shapes",
    "arrow": "arrow,arrows",
}
LABEL = {label: word for word, labels in LABELS.items() for label in labels.split(",")}


def squeeze(name: str) -> str:
    return re.sub(r"[^a-z0-9]", "", name.lower())


def thing(unified: str) -> str:
    """What an emoji shows, less skin tone, gender, hair and direction: its drawings share one side of a split."""
    codes = [c for c in unified.lower().split("-") if c not in {"fe0f", "200d", "2640", "2642", "27a1"}]
    codes = [c for c in codes if not re.fullmatch(r"1f3f[b-f]|1f9b[0-3]", c)]
    codes = ["1f9d1" if c in {"1f468", "1f469"} else c for c in codes] or [unified.lower()]
    if re.fullmatch(r"1f5[56][0-9a-f]", codes[0]) and 0x1F550 <= int(codes[0], 16) <= 0x1F567:
        return "1f550"  # clock faces
    return "-".join(codes)


class Emoji:
    """Names and kinds of the emoji. ``drawings`` are sets of the icon package that list their characters."""

    def __init__(self, package: Path, drawings: list[dict[str, Any]]) -> None:
        rows = json.loads((package / "emoji.json").read_text())
        self.kind: dict[str, str] = {}
        self.code: dict[str, str] = {}  # squeezed name → unified
        self.word: dict[str, str] = {}  # caption → kind, for pre-training
        for row in rows:
            kind = KIND_OF.get(row["subcategory"])
            if kind:
                self.kind.setdefault(thing(row["unified"]), kind)
            for name in [row["name"] or "", *row["short_names"]]:
                self.code.setdefault(squeeze(name), row["unified"])
            further = kind or FURTHER.get(row["subcategory"])
            if further and kind not in {"letter sign", "flag"}:
                for name in row["short_names"]:
                    phrase = re.sub(r"[\d_-]+", " ", name).strip()
                    if phrase and phrase not in NOT_WORDS:
                        self.word.setdefault(phrase, further)
        for kind, words in FURTHER_WORDS.items():
            for word in words.split():
                self.word[word] = kind
        for data in drawings:
            for code, name in data.get("chars", {}).items():
                self.code[squeeze(name)] = code

    def find(self, name: str) -> tuple[str, str] | None:
        """(thing, kind) of a drawing's name in an emoji set; none for skin tones and for what belongs to no kind."""
        if "skin-tone" in name or "middle-finger" in name or squeeze(name) not in self.code:
            return None
        shown = thing(self.code[squeeze(name)])
        return (shown, self.kind[shown]) if shown in self.kind else None

    def kind_of_words(self, caption: str) -> str:
        """The kind that an interface icon's name is a word of; "" if of none."""
        words = caption.split()
        kind = self.word.get(caption)
        if kind is None and self.word.get(words[-1]) not in EXACT:
            kind = self.word.get(words[-1])
        if kind is None and words[0] in {"arrow", "heart", "flag", "face", "hand", "food", "animal"}:
            kind = self.word.get(" ".join(words[1:])) or self.word.get(words[0])
        return kind or ""


def labels(categories: tuple[str, ...]) -> list[str]:
    """What its set files an icon under, in plain words."""
    return sorted({LABEL[c] for c in categories if c in LABEL})
