"""Which template a tokenizer folder has, and how it gets the configured one."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

from blake3 import blake3

from nemo_cascade.config.json_file import read_json_object
from nemo_cascade.data.templates import NAMED
from nemo_cascade.errors import TemplateError

OWN = "own"
_FILE, _SETTINGS = "chat_template.jinja", "tokenizer_config.json"


def chat_template_of(folder: Path) -> str | None:
    """Return the HF chat template of a tokenizer folder; None where it has none."""
    if (folder / _FILE).is_file():
        return _text(folder / _FILE)
    found = tokenizer_settings(folder).get("chat_template")
    if isinstance(found, list):  # several by name
        named = (t for t in found if isinstance(t, dict))
        found = next((t.get("template") for t in named if t.get("name") == "default"), None)
    return found if isinstance(found, str) else None


def tokenizer_settings(folder: Path) -> dict[str, Any]:
    """Return what a folder's tokenizer_config.json says; empty where there is none.

    Raises:
        TemplateError: it is no JSON object.
    """
    file = folder / _SETTINGS
    return read_json_object(file, TemplateError) if file.is_file() else {}


def install(folder: Path, wanted: str, beside: Path) -> Path:
    """Return a model folder whose chat template is the wanted one: this one, or links to it beside the template.

    Args:
        folder: HF folder; it isn't changed.
        wanted: name of a template, `own`, or path of a Jinja file.
        beside: where the folder of links goes, if one is needed.

    Raises:
        TemplateError: there is no such template, or `own` is wanted and the folder has none.
    """
    text = _wanted_text(folder, wanted)
    if chat_template_of(folder) == text:
        return folder
    key = blake3(f"{folder.resolve()}\0{text}".encode()).hexdigest()[:12]
    target = beside / f"{folder.name}-{Path(wanted).stem}-{key}"
    files = {f.name: f for f in folder.iterdir() if f.is_file() and f.name not in (_FILE, "chat_template.json")}
    if target.is_dir() and {f.name for f in target.iterdir()} == {*files, _FILE}:
        return target
    building = beside / f".{target.name}.writing"
    shutil.rmtree(building, ignore_errors=True)
    building.mkdir(parents=True)
    for name, file in files.items():
        if name == _SETTINGS:
            settings = {k: v for k, v in tokenizer_settings(folder).items() if k != "chat_template"}
            (building / name).write_text(json.dumps(settings, indent=1) + "\n", encoding="utf-8")
        else:
            (building / name).symlink_to(file.resolve())
    (building / _FILE).write_text(text, encoding="utf-8")
    shutil.rmtree(target, ignore_errors=True)
    building.rename(target)
    return target


def _wanted_text(folder: Path, wanted: str) -> str:
    if wanted in NAMED:
        return NAMED[wanted].jinja
    if wanted == OWN:
        own = chat_template_of(folder)
        if own is None:
            raise TemplateError("the tokenizer has no chat template of its own", value=str(folder), mend=_known())
        return own
    if not Path(wanted).is_file():
        raise TemplateError("no such chat template", value=f"model.chat_template={wanted}", limit=_known())
    return _text(Path(wanted))


def _text(file: Path) -> str:
    try:
        return file.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise TemplateError(
            "the chat template is not UTF-8", value=f"{file}: {error}", mend="save it as UTF-8"
        ) from error


def _known() -> str:
    return f"model.chat_template={', '.join(NAMED)}, {OWN}, or the path of a .jinja file"
