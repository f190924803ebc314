"""Push and load through huggingface_hub itself, against a stand-in for the hub on loopback, and its cache without a network."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import huggingface_hub
import numpy as np
import pytest
from hub_standin import ROUTES, TOKEN, Hub, Repo, point
from huggingface_hub import ModelCard, constants
from pictures import picture

from fewclip import FewShotClassifier
from fewclip.adapters.adapter import Adapter
from fewclip.adapters.disk import CARD, CONFIG, DRAFT, WEIGHTS, read_config
from fewclip.adapters.hub import MOST_BYTES
from fewclip.bench.stated import read_results
from fewclip.cli import main
from fewclip.clip.model import CLIP
from fewclip.errors import AdapterError, DataError, FewclipError, OutputError

Capture = pytest.CaptureFixture[str]
IMAGE = picture((200, 50, 40), 1)
MINE = "me/pets"


@pytest.fixture(scope="module")
def fitted(backbone_file: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An adapter in a folder, of two classes in a folder of pictures."""
    place = tmp_path_factory.mktemp("share")
    for name, colour in (("red", (200, 50, 40)), ("blue", (40, 60, 200))):
        (place / "pets" / name).mkdir(parents=True)
        for i in range(4):
            picture(colour, i).save(place / "pets" / name / f"{i}.png")
    classifier = FewShotClassifier("mmrlpp", str(backbone_file), shots=2, epochs=1, rep_dim=8)
    classifier.fit(place / "pets").save(place / "adapter")
    return place / "adapter"


def put(hub: Hub, folder: Path, name: str = MINE, *, kind: str = "") -> Repo:
    """A repository with an adapter's files, as if it had been pushed; `kind` is private or gated."""
    hub.repos[name] = Repo(private=kind == "private", gated=kind == "gated")
    hub.repos[name].commit("main", {path.name: path.read_bytes() for path in folder.iterdir()}, "adapter")
    return hub.repos[name]


def metadata(card: str) -> dict[str, Any]:
    said: dict[str, Any] = ModelCard(card).data.to_dict()
    return said


# There and back


def test_push_and_load(hub: Hub, fitted: Path, backbone: CLIP) -> None:
    classifier = FewShotClassifier.load(fitted, backbone=backbone).add_classes(["a zebra"])
    address = classifier.push_to_hub(MINE, commit_message="First", license="mit", private=True)
    repo = hub.repos[MINE]
    assert repo.private
    assert address == f"{hub.endpoint}/{MINE}/commit/{repo.branches['main']}"
    assert {*repo.files("main")} == {".gitattributes", CARD, CONFIG, WEIGHTS}
    assert repo.messages == ["initial commit", "First"]
    card = repo.files("main")[CARD].decode()
    assert metadata(card)["license"] == "mit"
    assert f'FewShotClassifier.load("{MINE}")' in card
    again = FewShotClassifier.load(MINE, backbone=backbone)
    assert again.adapter_.classes == ["blue", "red", "a zebra"]
    np.testing.assert_array_equal(again.predict_proba(IMAGE), classifier.predict_proba(IMAGE))
    assert again.adapter_.train_keys == classifier.adapter_.train_keys != []
    assert again.adapter_.weights_sha256 == classifier.adapter_.weights_sha256
    assert hub.downloaded() == [CONFIG, WEIGHTS]


def test_the_same_pushed_again_is_no_commit(hub: Hub, fitted: Path) -> None:
    arguments = ["push", str(fitted), MINE, "--licence", "mit"]
    assert main(arguments) == 0
    assert main(arguments) == 0
    assert len(hub.repos[MINE].messages) == 2


def test_branches(hub: Hub, fitted: Path, backbone: CLIP, tmp_path: Path) -> None:
    first = FewShotClassifier.load(fitted, backbone=backbone)
    first.push_to_hub(MINE)
    first.add_classes(["cat"]).push_to_hub(MINE, revision="with-cats")
    assert FewShotClassifier.load(MINE, backbone=backbone).adapter_.classes == ["blue", "red"]
    for arguments in ({"revision": "with-cats"}, {"revision": hub.repos[MINE].branches["with-cats"]}):
        assert FewShotClassifier.load(MINE, backbone=backbone, **arguments).adapter_.classes == ["blue", "red", "cat"]
    assert FewShotClassifier.load(f"{MINE}@with-cats", backbone=backbone).adapter_.classes == ["blue", "red", "cat"]
    with pytest.raises(AdapterError, match="me/pets has no revision 'none'"):
        FewShotClassifier.load(MINE, revision="none")
    with pytest.raises(AdapterError, match="give only one of them"):
        FewShotClassifier.load(f"{MINE}@main", revision="with-cats")
    with pytest.raises(AdapterError, match="is a local folder or not a name"):
        FewShotClassifier.load(fitted, revision="main")
    before = dict(hub.repos[MINE].branches)
    assert first.push_to_hub(MINE, create_pr=True, license="mit") == f"{hub.endpoint}/{MINE}/discussions/1"
    assert {*hub.repos[MINE].branches.items()} - {*before.items()} == {
        ("refs/pr/1", hub.repos[MINE].branches["refs/pr/1"])
    }


def test_a_local_folder_goes_first(
    hub: Hub, fitted: Path, backbone: CLIP, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    FewShotClassifier.load(fitted, backbone=backbone).add_classes(["cat"]).push_to_hub(MINE)
    monkeypatch.chdir(tmp_path)
    shutil.copytree(fitted, MINE)
    asked = len(hub.requests)
    assert FewShotClassifier.load(MINE, backbone=backbone).adapter_.classes == ["blue", "red"]
    assert len(hub.requests) == asked


def test_every_command_in_processes_of_its_own(hub: Hub, fitted: Path, backbone_file: Path, tmp_path: Path) -> None:
    """The environment as huggingface_hub documents it: HF_ENDPOINT, HF_TOKEN, HF_HOME, HF_HUB_OFFLINE."""
    IMAGE.save(tmp_path / "red.png")
    environment = os.environ | {
        "HF_ENDPOINT": hub.endpoint,
        "HF_HOME": str(tmp_path / "home"),
        "HF_TOKEN": TOKEN,
        "HF_HUB_DISABLE_XET": "1",
        "HF_HUB_OFFLINE": "0",
        "PYTHONPATH": str(Path(__file__).parents[2] / "src"),
    }

    def run(*arguments: str, **changes: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "fewclip", *arguments]
        return subprocess.run(command, capture_output=True, text=True, env=environment | changes, cwd=tmp_path)

    pushed = run("push", str(fitted), MINE, "--licence", "mit", "-m", "One", "--branch", "v1")
    assert pushed.returncode == 0, pushed.stderr
    assert "Use it: fewclip predict me/pets@v1 IMAGE" in pushed.stdout
    predict = ("predict", f"{MINE}@v1", "red.png", "--backbone", str(backbone_file), "--json")
    online, offline = run(*predict), run(*predict, HF_HUB_OFFLINE="1")
    assert online.returncode == 0, online.stderr
    assert json.loads(online.stdout)["classes"][0]["class"] in ("red", "blue")
    assert (offline.stdout, offline.returncode) == (online.stdout, 0), offline.stderr


def test_the_commands_that_take_an_adapter(
    hub: Hub, fitted: Path, backbone_file: Path, tmp_path: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    put(hub, fitted)
    backbone = ["--backbone", str(backbone_file)]
    IMAGE.save(tmp_path / "red.png")
    assert main(["predict", MINE, str(tmp_path / "red.png"), *backbone]) == 0
    assert main(["eval", MINE, str(fitted.parent / "pets"), "--json", *backbone]) == 0
    said = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert (said["data"], said["images"]) == ("pets", 4), "the training images are left out"
    (tmp_path / "eval.json").write_text(json.dumps(said))
    results = ["--results", str(tmp_path / "eval.json")]
    assert main(["push", str(fitted), "me/with-results", "--licence", "mit", *results]) == 0
    (index,) = metadata(hub.repos["me/with-results"].files("main")[CARD].decode())["model-index"]
    assert index["results"][0]["metrics"][0]["value"] == said["accuracy"]
    used: list[list[str]] = []

    def stop(adapter: Adapter, *_: object, **__: object) -> None:
        used.append(adapter.classes)
        raise FewclipError("enough")

    monkeypatch.setattr("fewclip.adapters.onnx.export", stop)
    assert main(["export", MINE, "-o", str(tmp_path / "m.onnx"), *backbone]) == 2
    pytest.importorskip("fastapi")
    monkeypatch.setattr("fewclip.serve.app.create_app", stop)
    assert main(["serve", MINE, "--port", "0", *backbone]) == 2
    assert used == [["blue", "red"]] * 2


# What is sent


def test_a_dry_run_needs_no_network(fitted: Path, tmp_path: Path, capsys: Capture) -> None:
    """conftest.py sets HF_HUB_OFFLINE."""
    assert huggingface_hub.constants.HF_HUB_OFFLINE
    folder = tmp_path / "a"
    shutil.copytree(fitted, folder)
    before = (folder / CARD).read_bytes()
    assert main(["push", str(folder), MINE, "--dry-run", "--licence", "cc-by-4.0"]) == 0
    shown = capsys.readouterr().out
    assert all(name in shown for name in (CARD, CONFIG, WEIGHTS, DRAFT, "Nothing was sent", "4 training images"))
    assert (folder / CARD).read_bytes() == before
    assert metadata((folder / DRAFT).read_text())["license"] == "cc-by-4.0"
    assert main(["push", str(folder), MINE]) == 2
    assert "could not be pushed" in capsys.readouterr().err


def test_a_card_of_ones_own(hub: Hub, fitted: Path, tmp_path: Path) -> None:
    own = tmp_path / "card.md"
    own.write_text("---\nlicense: mit\n---\n# Mine\n")
    assert main(["push", str(fitted), MINE, "--card", str(own)]) == 0
    assert hub.repos[MINE].files("main")[CARD] == own.read_bytes()
    own.write_text("---\n[\n---\n# Mine\n")
    assert main(["push", str(fitted), MINE, "--card", str(own)]) == 2


def test_no_path_and_on_request_no_file_name_is_published(
    hub: Hub, fitted: Path, backbone_file: Path, tmp_path: Path, capsys: Capture
) -> None:
    assert str(backbone_file) in (fitted / CONFIG).read_text()
    assert main(["push", str(fitted), MINE, "--no-train-names"]) == 0
    sent = b"".join(hub.repos[MINE].files("main").values())
    for private in (str(backbone_file.parent), "red/", str(fitted.parent), str(Path.home()), TOKEN):
        assert private.encode() not in sent, private
    config = json.loads(hub.repos[MINE].files("main")[CONFIG])
    assert (config["backbone"], config["train_keys"]) == (backbone_file.name, [])
    image = tmp_path / "red.png"
    IMAGE.save(image)
    capsys.readouterr()
    assert main(["predict", MINE, str(image)]) == 2
    assert "neither embedded nor on the Hugging Face hub: ask the adapter's author" in capsys.readouterr().err
    assert main(["predict", MINE, str(image), "--backbone", str(backbone_file)]) == 0


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["pets"], "expected user/name"),
        (["me/pe ts"], "is not the name of a repository"),
        (["me/a--b"], "is not the name of a repository"),
        (["me/pets/x"], "is not the name of a repository"),
        (["../pets"], "is not the name of a repository"),
        ([MINE, "--licence", "My own"], "not an identifier of the Hugging Face hub: expected one such as mit"),
        ([MINE, "--licence", "not-a-licence"], '"license" must be one of'),
        ([MINE, "--results", "none.jsonl"], "There are no results"),
        ([MINE, "--card", "none.md"], "The card none.md can't be used"),
        (["you/pets"], "You do not have permission to write to you/pets: log in"),
        ([MINE, "--token", "hf_another"], "You do not have permission to write to me/pets: log in"),
    ],
)
def test_mistakes_of_pushing(arguments: list[str], says: str, hub: Hub, fitted: Path, capsys: Capture) -> None:
    assert main(["push", str(fitted), *arguments]) == 2
    error = capsys.readouterr().err
    assert says in error
    assert "Traceback" not in error
    assert all(len(repo.messages) == 1 for repo in hub.repos.values()), "nothing was sent"


def test_nothing_private_goes_to_a_public_repository(hub: Hub, fitted: Path, backbone: CLIP) -> None:
    hub.repos[MINE] = Repo()
    with pytest.raises(OutputError, match="already exists and is public.*Nothing was pushed"):
        FewShotClassifier.load(fitted, backbone=backbone).push_to_hub(MINE, private=True)
    assert len(hub.repos[MINE].messages) == 1


def test_a_damaged_adapter_is_not_pushed(hub: Hub, fitted: Path, tmp_path: Path, capsys: Capture) -> None:
    shutil.copytree(fitted, tmp_path / "a")
    (tmp_path / "a" / WEIGHTS).write_bytes(b"half")
    assert main(["push", str(tmp_path / "a"), MINE]) == 2
    assert "truncated or was changed" in capsys.readouterr().err
    assert not hub.requests


def test_what_would_not_be_fetched_is_not_pushed(hub: Hub, fitted: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(MOST_BYTES, WEIGHTS, 100)
    assert main(["push", str(fitted), MINE]) == 2
    assert not hub.requests


def test_results_of_another_adapter_are_refused(fitted: Path, backbone: CLIP, tmp_path: Path) -> None:
    (tmp_path / "e.json").write_text(json.dumps({"weights_sha256": "0" * 64}))
    with pytest.raises(DataError, match="a different adapter"):
        read_results(tmp_path / "e.json", read_config(fitted))


# What is fetched


def test_only_what_is_needed_is_downloaded_and_only_once(hub: Hub, fitted: Path, backbone: CLIP) -> None:
    repo = put(hub, fitted)
    repo.commit("main", {"model.py": b"raise SystemExit", "pytorch_model.bin": b"\x80\x04.", "a/b.bin": b"x"}, "more")
    FewShotClassifier.load(MINE, backbone=backbone)
    assert hub.downloaded() == [CONFIG, WEIGHTS]
    FewShotClassifier.load(MINE, backbone=backbone)
    assert hub.downloaded() == [CONFIG, WEIGHTS]


@pytest.mark.parametrize(
    ("change", "says", "downloads"),
    [
        (lambda repo: repo.said_sizes.update({WEIGHTS: 1 << 40}), "far more than an adapter needs", []),
        (lambda repo: repo.said_sizes.update({CONFIG: 1 << 30}), "far more than an adapter needs", []),
        (lambda repo: repo.commits.update({repo.branches["main"]: {"model.bin": b""}}), "is not a fewclip adapter", []),
        (
            lambda repo: repo.commit("main", {CONFIG: b'{"peft_type": "LORA"}'}, ""),
            "can't be read as an adapter of fewclip",
            [CONFIG],
        ),
        (lambda repo: repo.commit("main", {CONFIG: b"\x80\x04\x95"}, ""), "can't be read", [CONFIG]),
        (lambda repo: repo.commit("main", {WEIGHTS: b"changed"}, ""), "truncated or was changed", [CONFIG, WEIGHTS]),
    ],
)
def test_what_is_no_adapter_is_refused_before_it_is_read(
    change: Callable[[Repo], object], says: str, downloads: list[str], hub: Hub, fitted: Path
) -> None:
    change(put(hub, fitted))
    with pytest.raises(AdapterError, match=says):
        FewShotClassifier.load(MINE)
    assert hub.downloaded() == downloads


def test_an_adapter_that_is_changed_meanwhile(
    hub: Hub, fitted: Path, backbone: CLIP, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What was described, and found to be of a bearable size, is not what would be downloaded."""
    repo, describe = put(hub, fitted), Hub.describe

    def change(self: Hub, *asked: Any) -> Any:
        answer = describe(self, *asked)
        repo.commit("main", {"notes.txt": str(len(repo.messages)).encode()}, "meanwhile")
        return answer

    with monkeypatch.context() as patch:
        patch.setattr("hub_standin.ROUTES", [(p, change if a is describe else a) for p, a in ROUTES])
        with pytest.raises(AdapterError, match="me/pets was changed while it was being read: try again"):
            FewShotClassifier.load(MINE, backbone=backbone)
        assert hub.downloaded() == [CONFIG]
    assert FewShotClassifier.load(MINE, backbone=backbone).adapter_.classes == ["blue", "red"]


def test_a_hub_that_hides_sizes_is_checked_behind_the_download(
    hub: Hub, fitted: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    put(hub, fitted).said_sizes[WEIGHTS] = 0
    monkeypatch.setitem(MOST_BYTES, WEIGHTS, 100)
    with pytest.raises(AdapterError, match="far more than an adapter needs"):
        FewShotClassifier.load(MINE)


def test_an_adapter_for_another_backbone(hub: Hub, fitted: Path, other_backbone_file: Path) -> None:
    put(hub, fitted)
    with pytest.raises(AdapterError, match=r"^me/pets was trained on the backbone .* load it with the backbone"):
        FewShotClassifier.load(MINE, backbone=str(other_backbone_file))


@pytest.mark.parametrize(
    ("kind", "token", "says"),
    [
        ("", TOKEN, "There is no repository me/none on the .* There is no local folder me/none either"),
        (
            "",
            "",
            "There is no repository me/none on the .* if it is private, log in with `hf auth login`, or set HF_TOKEN",
        ),
        ("private", "", "There is no repository me/pets .* if it is private, log in"),
        ("private", "hf_wrong", "There is no repository me/pets"),
        ("gated", "", "me/pets is gated: ask for access on https:.* log in"),
    ],
)
def test_no_access(kind: str, token: str, says: str, hub: Hub, fitted: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_TOKEN", token)
    if kind:
        put(hub, fitted, kind=kind)
    with pytest.raises(AdapterError, match=says):
        FewShotClassifier.load(MINE if kind else "me/none")


def test_a_token_in_the_call_opens_a_private_repository(
    hub: Hub, fitted: Path, backbone: CLIP, monkeypatch: pytest.MonkeyPatch
) -> None:
    put(hub, fitted, kind="private")
    monkeypatch.setenv("HF_TOKEN", "")
    assert FewShotClassifier.load(MINE, backbone=backbone, token=TOKEN).adapter_.classes == ["blue", "red"]


@pytest.mark.parametrize("name", ["me/a--b", "me/x.git", "me/.x", "me/x."])
def test_a_bad_name_is_said_to_be_one(name: str, hub: Hub) -> None:
    with pytest.raises(AdapterError, match="is not the name of a repository on the Hugging Face hub"):
        FewShotClassifier.load(name)
    assert not hub.requests


@pytest.mark.parametrize("name", ["pets", "a/b/c", "./me/pets", "../me", "/me/pets", "me\\pets", "me/pets\n", "~/x"])
def test_what_can_only_be_a_path_is_not_looked_for_on_the_hub(name: str, hub: Hub) -> None:
    with pytest.raises(AdapterError, match="There is no adapter folder"):
        FewShotClassifier.load(name)
    assert not hub.requests


def test_without_a_network(
    hub: Hub, fitted: Path, backbone: CLIP, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    put(hub, fitted)
    put(hub, fitted, "me/half")
    online = FewShotClassifier.load(MINE, backbone=backbone).predict_proba(IMAGE)
    huggingface_hub.hf_hub_download("me/half", CONFIG)
    hub.server.shutdown()
    hub.server.server_close()
    for offline in (False, True):
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", offline)
        np.testing.assert_array_equal(FewShotClassifier.load(MINE, backbone=backbone).predict_proba(IMAGE), online)
        for name in ("me/never", "me/half", f"{MINE}@other"):
            with pytest.raises(
                AdapterError, match="neither a local folder nor in the local cache, and can't be downloaded"
            ):
                FewShotClassifier.load(name)


def test_the_cache_layout_by_hand(
    fitted: Path, backbone: CLIP, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A cache as huggingface_hub documents it, copied to a machine that never had a network."""
    point(monkeypatch, "http://127.0.0.1:9", tmp_path / "cache")
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    place, commit = tmp_path / "cache" / "models--me--pets", "a" * 40
    shutil.copytree(fitted, place / "snapshots" / commit)
    (place / "refs").mkdir()
    (place / "refs" / "main").write_text(commit)
    assert FewShotClassifier.load(MINE, backbone=backbone).adapter_.classes == ["blue", "red"]
    assert FewShotClassifier.load(MINE, backbone=backbone, revision=commit).adapter_.classes == ["blue", "red"]


@pytest.mark.parametrize("place", ["tiny.safetensors", "clip/..", "~/clip", "./clip", "a/b/c", "/etc/passwd", ""])
def test_a_fetched_adapter_may_not_choose_a_path_on_this_machine(
    place: str, hub: Hub, fitted: Path, backbone_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "clip").mkdir()
    monkeypatch.chdir(tmp_path)
    shutil.copy(backbone_file, tmp_path / "tiny.safetensors")
    repo = put(hub, fitted)
    for backbone in (place, str(backbone_file)):
        config = json.loads((fitted / CONFIG).read_text()) | {"backbone": backbone}
        repo.commit("main", {CONFIG: json.dumps(config).encode()}, "another backbone")
        with pytest.raises(
            AdapterError, match=r"me/pets was trained on the backbone '.*', which is neither embedded nor"
        ):
            FewShotClassifier.load(MINE)


def test_the_python_of_the_documentation(hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, colour in (("cat", (200, 120, 40)), ("dog", (60, 60, 90))):
        (tmp_path / "photos" / name).mkdir(parents=True)
        for i in range(4):
            picture(colour, i).save(tmp_path / "photos" / name / f"{i}.jpg")
    IMAGE.save(tmp_path / "new.jpg")
    monkeypatch.chdir(tmp_path)
    page = (Path(__file__).parents[2] / "docs/sharing.md").read_text()
    names: dict[str, Any] = {}
    for block in re.findall(r"```python\n(.*?)```", page, flags=re.DOTALL):
        exec(block, names)
    assert hub.repos[MINE].private
    assert names["again"].adapter_.classes == ["cat", "dog"]
