import pytest
from tokenizers import AddedToken, Tokenizer

from nemo_cascade.data.chat.encode import load_tokenizer
from nemo_cascade.data.chat.templates import NAMED
from nemo_cascade.data.chat.templates.install import install
from nemo_cascade.nano.tokenizer import train_nano_tokenizer


@pytest.fixture(scope="session")
def tokenizers(tmp_path_factory):
    """Return the nano tokenizer by the name of its template."""
    bare = tmp_path_factory.mktemp("tokenizer") / "bare"
    train_nano_tokenizer((), bare)
    with_all = Tokenizer.from_file(str(bare / "tokenizer.json"))
    control = sorted({token for template in NAMED.values() for token in template.control})
    with_all.add_special_tokens([AddedToken(token, normalized=False, special=True) for token in control])
    with_all.save(str(bare / "tokenizer.json"))
    found = {}

    def of(template):
        if template not in found:
            folder = tmp_path_factory.mktemp("templates")
            if template != "cascade1":
                install(bare, template, folder)
                folder = next(p.parent for p in folder.rglob("tokenizer.json"))
            found[template] = load_tokenizer(bare if template == "cascade1" else folder)
        return found[template]

    return of
