"""The pages: their files, and the one that documents the interface. Nothing in them is fetched from elsewhere."""

from __future__ import annotations

import json
from html import escape
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
FILES = {
    "/": ("page.html", "text/html"),
    "/page.css": ("page.css", "text/css"),
    "/page.js": ("page.js", "text/javascript"),
}
"""Name and media type by path."""


def docs(document: dict[str, Any]) -> str:
    """The OpenAPI document as a page."""
    operations = "".join(
        _operation(path, method, operation)
        for path, methods in document["paths"].items()
        for method, operation in methods.items()
    )
    schemas = "".join(
        f"<details><summary><code>{escape(name)}</code></summary><pre>{_json(schema)}</pre></details>"
        for name, schema in document.get("components", {}).get("schemas", {}).items()
    )
    return f"""<!doctype html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width">
<title>fewclip: interface</title><link rel="stylesheet" href="page.css"></head>
<body class="docs"><header><p class="kicker"><a href="./">fewclip</a></p><h1>Interface</h1>
<p class="deck">{escape(document["info"].get("description", ""))} For programs:
<a href="openapi.json">openapi.json</a>.</p></header>
<main>{operations}<section><h2>Requests and answers</h2>{schemas}</section></main></body></html>"""


def _operation(path: str, method: str, operation: dict[str, Any]) -> str:
    bodies = "".join(
        f"<details><summary>Body as <code>{escape(kind)}</code></summary><pre>{_json(content['schema'])}</pre></details>"
        for kind, content in operation.get("requestBody", {}).get("content", {}).items()
    )
    answers = "".join(
        f"<li><b>{escape(status)}</b> {escape(answer.get('description', ''))} {_reference(answer)}</li>"
        for status, answer in operation.get("responses", {}).items()
    )
    return (
        f"<section><h2><code>{method.upper()} {escape(path)}</code></h2><p>{escape(operation.get('description', ''))}</p>"
        f"{bodies}<ul>{answers}</ul></section>"
    )


def _reference(answer: dict[str, Any]) -> str:
    for content in answer.get("content", {}).values():
        name = content.get("schema", {}).get("$ref", "").rpartition("/")[2]
        if name:
            return f"<code>{escape(name)}</code>"
    return ""


def _json(value: Any) -> str:
    return escape(json.dumps(value, indent=2, ensure_ascii=False))
