"""Which template a tokenizer folder has, and how it gets the configured one."""

import datetime
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from blake3 import blake3

from nemo_cascade.config.reading.json_file import read_json_object
from nemo_cascade.data.chat.templates import NAMED, Template
from nemo_cascade.errors import TemplateError
from nemo_cascade.storage.publish import publishing

OWN = "own"
_FILE, _SETTINGS, _DATE = "chat_template.jinja", "tokenizer_config.json", "chat_template_date"


def chat_template_of(folder: Path) -> str | None:
    """Return the HF chat template of a tokenizer folder; None where it has none."""
    if (folder / _FILE).is_file():
        return _read_text(folder / _FILE)
    found = tokenizer_settings(folder).get("chat_template")
    if isinstance(found, list):  # several by name
        named = (t for t in found if isinstance(t, dict))
        found = next((t.get("template") for t in named if t.get("name") == "default"), None)
    if not isinstance(found, str):
        return None
    if any("\ud800" <= c <= "\udfff" for c in found):
        raise TemplateError(
            "holds half a character (a lone surrogate)",
            value=str(folder / _SETTINGS),
            mend="write the file again in UTF-8",
        )
    return found


def tokenizer_settings(folder: Path) -> dict[str, Any]:
    """Return what a folder's tokenizer_config.json says; empty where there is none.

    Raises:
        TemplateError: it is no JSON object.
    """
    file = folder / _SETTINGS
    return read_json_object(file, TemplateError) if file.is_file() else {}


def pinned_date(settings: Mapping[str, Any]) -> str | None:
    """Return what a folder's settings tell its template of today's date; None where they pin none.

    Raises:
        TemplateError: it is no date.
    """
    found = settings.get(_DATE)
    try:
        return None if found is None else datetime.date.fromisoformat(found).isoformat()
    except (TypeError, ValueError) as error:
        raise TemplateError(
            "no date", value=f"{_DATE}={found!r}", limit="a date as in 2026-11-29", mend="write a day of the calendar"
        ) from error


def install(folder: Path, wanted: str, beside: Path, date: str | None = None) -> Path:
    """Return a model folder whose chat template is the wanted one: this one, or links to it beside the template.

    Args:
        folder: HF folder; it isn't changed.
        wanted: name of a template, `own`, or path of a Jinja file.
        beside: where the folder of links goes, if one is needed.
        date: what the template is told of today's date, as in 2026-11-29; None: what the folder says.

    Raises:
        TemplateError: there is no such template, it is no UTF-8 text, `own` is wanted and the folder has none, no date.
    """
    text = _wanted_text(folder, wanted)
    settings = {k: v for k, v in tokenizer_settings(folder).items() if k != "chat_template"}
    if date is not None:
        settings[_DATE] = date
    if chat_template_of(folder) == text and pinned_date(settings) == pinned_date(tokenizer_settings(folder)):
        return folder
    key = blake3(f"{folder.resolve()}\0{text}{date or ''}".encode()).hexdigest()[:12]
    target = beside / f"{folder.name}-{Path(wanted).stem}-{key}"
    replaced = (_FILE, _SETTINGS, "chat_template.json")
    files = {f.name: f for f in folder.iterdir() if f.is_file() and f.name not in replaced}
    written = {_FILE, _SETTINGS} if settings else {_FILE}
    if target.is_dir() and {f.name for f in target.iterdir()} == {*files, *written}:
        return target
    with publishing(target) as building:
        for name, file in files.items():
            (building / name).symlink_to(file.resolve())
        if settings:
            (building / _SETTINGS).write_text(json.dumps(settings, indent=1) + "\n", encoding="utf-8")
        (building / _FILE).write_text(text, encoding="utf-8")
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
        raise TemplateError(
            "no such chat template",
            value=f"model.chat_template={wanted}",
            limit=_known(),
            mend="model.chat_template=own takes the folder's",
        )
    text = _read_text(Path(wanted))
    # Editors end a file with a newline, and may end lines as on Windows.
    return next((t.jinja for t in NAMED.values() if is_text_of(t, text)), text)


def is_text_of(template: Template, text: str) -> bool:
    """Whether a text is a template's, but for how its lines end and for newlines at its end that rendering drops."""
    bare = template.jinja.rstrip("\n")
    return text.replace("\r\n", "\n") in (bare, bare + "\n", bare + "\n\n")


def _read_text(file: Path) -> str:
    try:
        text = file.read_bytes().decode("utf-8")
    except UnicodeDecodeError as error:
        raise TemplateError(f"not in UTF-8: {error}", value=str(file), mend="save it in UTF-8") from error
    if text.startswith("\ufeff"):
        raise TemplateError(
            "begins with a byte order mark, which would be written", value=str(file), mend="save it without"
        )
    return text


def _known() -> str:
    return f"model.chat_template={', '.join(NAMED)}, {OWN}, or the path of a .jinja file"
