"""The families of models that this package knows, and the seam for a user's own. Import-light: no torch."""

from collections.abc import Mapping

from nemo_cascade.config.plugins import is_plugin, load_plugin
from nemo_cascade.errors import CascadeError, ModelError
from nemo_cascade.models.families.family import Family
from nemo_cascade.models.families.llama import Llama
from nemo_cascade.models.families.mistral import Mistral
from nemo_cascade.models.families.nemotron import Nemotron
from nemo_cascade.models.families.nemotron_h import NemotronH
from nemo_cascade.models.families.qwen2 import Qwen2
from nemo_cascade.models.families.qwen3 import Qwen3
from nemo_cascade.models.families.qwen3_moe import Qwen3Moe

FAMILIES: Mapping[str, Family] = {
    family.model_type: family() for family in (Llama, Mistral, Nemotron, NemotronH, Qwen2, Qwen3, Qwen3Moe)
}
"""By HF's model_type."""


def family_named(name: str) -> Family:
    """Return a family: one of FAMILIES by its name, or a user's own by where it is.

    Raises:
        ModelError: no such name, nothing there that can be imported, or what is there is no family.
    """
    if name in FAMILIES:
        return FAMILIES[name]
    if not is_plugin(name):
        mend = "take a model of these families, or write your own and name it in model.family"
        raise ModelError("unsupported model_type", value=name, limit=", ".join(sorted(FAMILIES)), mend=mend)
    try:
        found = load_plugin(name)
    except CascadeError as error:
        raise ModelError(error.what, value=error.value, limit=error.limit, mend=error.mend) from error
    if not (isinstance(found, type) and issubclass(found, Family)):
        raise ModelError(
            "not a family of models",
            value=name,
            limit="a subclass of models.families.family.Family",
            mend="derive it from Family",
        )
    return found()
