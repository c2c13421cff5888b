"""From the command line to a typed configuration: Hydra's groups and override grammar, then the strict schema."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

import hydra
import yaml
from hydra.core.default_element import ResultDefault
from hydra.core.global_hydra import GlobalHydra
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from hydra.errors import HydraException
from omegaconf import DictConfig, ListConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from nemo_cascade.config.plugins import is_plugin
from nemo_cascade.config.reading import keys, libyaml, strict
from nemo_cascade.config.reading.origins import complete, flatten, trace_origins
from nemo_cascade.config.reading.own_files import file_faults
from nemo_cascade.config.reading.shipped import SHIPPED_CONF
from nemo_cascade.config.schema import RunConfig
from nemo_cascade.errors import CascadeError, ConfigError

libyaml.install()

CONFIG_NAME = "config"
EXPERIMENTS = "experiment"
"""A folder of it that is no config group: several runs each, read by `nemo-cascade experiment`."""
BASE = "base"
"""A file that others of its folder build on, and no choice."""


@dataclass(frozen=True)
class ConfigDirs:
    """Where config files are looked up; the first folder holds config.yaml, the first match wins."""

    folders: tuple[Path, ...]

    @classmethod
    def of(cls, config_dir: Path | None) -> ConfigDirs:
        """Build the search order.

        Args:
            config_dir: adds its files to the shipped ones; one that has its own config.yaml goes before them.

        Raises:
            ConfigError: a folder is missing, or an added file has the name of a shipped one.
        """
        if config_dir is None:
            folders: tuple[Path, ...] = (SHIPPED_CONF,)
        else:
            own = config_dir.expanduser().resolve()
            if not own.is_dir():
                problem = CascadeError("config folder not found", value=config_dir, mend="check --config-dir")
                raise ConfigError([problem])
            replaces = (own / f"{CONFIG_NAME}.yaml").is_file()
            # Hydra wants the primary config in its first folder.
            folders = tuple(dict.fromkeys((own, SHIPPED_CONF) if replaces else (SHIPPED_CONF, own)))
            hidden = (
                [] if replaces else [f for f in own.rglob("*.yaml") if (SHIPPED_CONF / f.relative_to(own)).exists()]
            )
            if hidden:
                mend = f"give them other names, or take over all of {CONFIG_NAME}.yaml"
                what = "these files have names of shipped ones and would not be read"
                raise ConfigError([CascadeError(what, value=", ".join(map(str, hidden)), mend=mend)])
        if not (folders[0] / f"{CONFIG_NAME}.yaml").is_file():
            problem = CascadeError(f"no {CONFIG_NAME}.yaml", value=folders[0], mend="pass --config-dir FOLDER")
            raise ConfigError([problem])
        return cls(tuple(folder for folder in folders if folder.is_dir()))

    def groups(self) -> dict[str, list[str]]:
        """Return every config group with its choices, `name` or `folder/name`."""
        found: dict[str, set[str]] = {}
        for folder in self.folders:
            for file in folder.rglob("*.yaml"):
                group, *names = file.relative_to(folder).with_suffix("").parts
                if names and group != EXPERIMENTS and names[-1] != BASE:
                    found.setdefault(group, set()).add("/".join(names))
        return {group: sorted(choices) for group, choices in sorted(found.items())}

    def chosen(self, choices: Sequence[str]) -> list[Path]:
        """Return the files that choices `group=name` stand for."""
        named = [Path(*f"{choice.partition('=')[0]}/{choice.partition('=')[2]}.yaml".split("/")) for choice in choices]
        found = [next((f / name for f in self.folders if (f / name).is_file()), None) for name in named]
        return [file for file in found if file is not None]

    @contextmanager
    def opened(self) -> Iterator[list[str]]:
        """Initialise Hydra on these folders; yields the overrides that every composition needs."""
        GlobalHydra.instance().clear()
        with hydra.initialize_config_dir(config_dir=str(self.folders[0]), version_base="1.3"):
            quoted = ["'file://" + str(f).replace("'", "\\'") + "'" for f in self.folders[1:]]
            yield [f"hydra.searchpath=[{','.join(quoted)}]"] if quoted else []


def compose(overrides: Sequence[str], config_dir: Path | None = None) -> tuple[RunConfig, dict[str, Any]]:
    """Compose, convert and check a run's configuration.

    Args:
        overrides: Hydra's grammar: `cascade=nano`, `stages.math_rl.optimizer.lr=1e-4`, `+key=value`, `++key=value`,
            `~key`. A key of the schema needs no `+`, whether or not a file mentions it.
        config_dir: folder with further config files.

    Returns:
        The configuration and its provenance: `overrides`, `config_dirs`, `origins` (dotted key -> file:line, override
        or schema default).

    Raises:
        ConfigError: lists every violation, those of the command line and those of the composed values.
    """
    dirs = ConfigDirs.of(config_dir)
    parsed, problems = _parse(overrides)
    with dirs.opened() as fixed:
        groups, values, more = _sort(parsed, dirs.groups())
        problems += more
        try:
            base, merged = _hydra(fixed + groups)
        except CascadeError as error:
            if faults := list(file_faults(dirs.chosen(groups), dirs.groups())):
                raise ConfigError([*problems, *faults, *_unknown(values)]) from None
            # A misspelt cascade=... leaves none chosen: say it once.
            told = any(f"{error.mend}".removeprefix("add ").split("=")[0] + "=" in f"{p.mend}" for p in problems)
            raise ConfigError([*problems, *([] if told else [error]), *_unknown(values)]) from None
    applied, more = _apply(base, values)
    problems += more
    data, more = _resolve(base)
    if more:
        raise ConfigError([*problems, *more])
    origins = trace_origins(merged, dirs.folders, applied)
    config, more = strict.check(data, origins)
    problems += more
    if problems or config is None:
        raise ConfigError(list({str(p): p for p in problems}.values()))
    provenance = {
        "overrides": list(overrides),
        "config_dirs": [str(folder) for folder in dirs.folders],
        "origins": complete(origins, flatten(asdict(config))),  # type: ignore[call-overload]
    }
    return config, provenance


def _parse(overrides: Sequence[str]) -> tuple[list[Override], list[CascadeError]]:
    parser = OverridesParser.create()
    parsed: list[Override] = []
    problems: list[CascadeError] = []
    for text in overrides:
        try:
            parsed.append(parser.parse_override(text))
        except HydraException:
            mend = "write key=value, +key=value, ++key=value or ~key, without spaces; quote values that need them"
            problems.append(CascadeError("this is no override", value=text, mend=mend))
    return parsed, problems


def _sort(
    parsed: Sequence[Override], groups: Mapping[str, list[str]]
) -> tuple[list[str], list[Override], list[CascadeError]]:
    """Part group choices (returned as lines for Hydra) from values, refusing groups and choices that don't exist."""
    chosen: list[str] = []
    values: list[Override] = []
    problems: list[CascadeError] = []
    top_level = [*groups, *keys.block_fields(RunConfig)]
    for override in parsed:
        name, line = override.key_or_group, override.input_line or ""
        if override.is_sweep_override():
            mend = "write a list as key=[a,b], quote a text that has a comma"
            problems.append(CascadeError("several values for one key", value=line, mend=mend))
        elif name not in groups and (override.package is not None or "/" in name):
            near = keys.nearest(name, list(groups))
            hint = f"did you mean {line.replace(name, near, 1)}?" if near else f"write {name.replace('/', '.')}=..."
            problems.append(CascadeError("unknown config group", value=name, limit=", ".join(groups), mend=hint))
        elif name not in groups:
            if "." not in name and name not in top_level and (near := keys.nearest(name, top_level, cutoff=0.7)):
                mend = f"did you mean {line.replace(name, near, 1)}?"
                problems.append(CascadeError("unknown key", value=line, mend=mend))
            else:
                values.append(override)
        else:
            wanted = [] if override.is_delete() else override.value()
            wrong = [w for w in (wanted if isinstance(wanted, list) else [wanted]) if w not in groups[name]]
            for choice in wrong:
                near = keys.nearest(str(choice), groups[name])
                how = f"did you mean {name}={near}?" if near else f"to set one value write {name}.KEY=..."
                limit = ", ".join(groups[name])
                problems.append(CascadeError(f"no such choice of {name}", value=choice, limit=limit, mend=how))
            if not wrong:
                chosen.append(line)
    return chosen, values, problems


def _unknown(values: Sequence[Override]) -> list[CascadeError]:
    """Check keys where nothing could be composed: a stage may then have any name and kind."""
    problems: list[CascadeError] = []
    own_verifier = any(is_plugin(str(override.value())) for override in values)
    for override in values:
        if own_verifier and ".reward." in override.key_or_group:
            continue  # which settings there are, only the verifier tells
        try:
            keys.find(override.key_or_group)
        except CascadeError as error:
            problems.append(error)
    return problems


def _hydra(lines: Sequence[str]) -> tuple[DictConfig, list[ResultDefault]]:
    """Return what Hydra composes, and the files that it merges, in order."""
    merged: list[ResultDefault] = []
    loader: Any = GlobalHydra.instance().config_loader()
    from_files = loader._compose_config_from_defaults_list

    def noted(defaults: list[ResultDefault], repo: Any) -> DictConfig:
        merged[:] = defaults
        composed: DictConfig = from_files(defaults=defaults, repo=repo)
        return composed

    # `compute_defaults_list` would read every file once more.
    loader._compose_config_from_defaults_list = noted
    try:
        return hydra.compose(CONFIG_NAME, overrides=list(lines)), merged
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark
        place = f"{mark.name}, line {mark.line + 1}" if mark else "a config file"
        raise CascadeError("a config file is no YAML", value=place, mend=error.problem) from None
    except (UnicodeDecodeError, yaml.YAMLError, ValueError) as error:
        # Neither says which file it is about: those that were chosen are looked at behind this.
        raise CascadeError(
            "a config file can't be read", value=" ".join(str(error).split()), mend="save it as YAML in UTF-8"
        ) from None
    except (HydraException, OmegaConfBaseException) as error:
        cause = f" ({error.__cause__})" if error.__cause__ and str(error.__cause__) not in str(error) else ""
        raise _translate(f"{error}{cause}") from None


def _translate(message: str) -> CascadeError:
    text = " ".join(message.split())
    required = re.match(r"You must specify '([^']+)'.*?Available options: (.*)", text)
    if required:
        group, options = required[1], required[2].split()
        first = next((option for option in options if option == "nano"), options[0])  # the one that is always there
        return CascadeError(f"no {group} chosen", limit=", ".join(options), mend=f"add {group}={first}")
    if (found := re.search(r"full_key: (\S+)", text)) is not None:
        what, key = text[: found.start()].strip(), found[1]
        cause = re.sub(r"^\w+ raised while resolving interpolation: ", "", what)
        limit = "${KEY} of a key with a value, ${oc.env:NAME} of a variable that is set"
        mend = f"{key}=VALUE, one of its own"
        return CascadeError(f"{key}: its ${{...}} can't be filled in", value=cause, limit=limit, mend=mend)
    mend = "nemo-cascade explain GROUP lists what a group has"
    return CascadeError(text.partition(" Config search path:")[0], mend=mend)


def _apply(composed: DictConfig, values: Sequence[Override]) -> tuple[list[Override], list[CascadeError]]:
    """Apply value overrides in place, by Hydra's rules, with the schema (not the files) telling which keys exist.

    Hydra itself stops at the first that it refuses, and takes `key=value` only for keys that a file mentions.
    """
    applied: list[Override] = []
    problems: list[CascadeError] = []
    OmegaConf.set_struct(composed, False)
    for override in values:
        named_anew = override.is_add() or override.is_force_add()
        try:
            _seed_default(composed, override)
            keys.find(override.key_or_group, _plain(composed), may_add=named_anew)
            _apply_one(composed, override)
        except CascadeError as error:
            problems.append(error)
        except OmegaConfBaseException as error:
            problems.append(_not_applied(composed, override, error))
        else:
            applied.append(override)
    return applied, problems


def _not_applied(composed: DictConfig, override: Override, error: Exception) -> CascadeError:
    parts = override.key_or_group.split(".")
    for depth, part in enumerate(parts[1:], 1):
        above = ".".join(parts[:depth])
        entries = OmegaConf.select(composed, above, throw_on_missing=False)
        if isinstance(entries, ListConfig) and part.isdigit() and int(part) >= len(entries):
            last = ".".join([above, str(len(entries) - 1), *parts[depth + 1 :]])
            value = str(override.input_line).partition("=")[2]
            mend = f"{last}={value}, or give the whole list" if len(entries) else f"give the whole list: {above}=[...]"
            limit = f"0 to {len(entries) - 1}" if len(entries) else "none, the list is empty"
            return CascadeError("the list has no such entry", value=override.input_line, limit=limit, mend=mend)
    what = f"the override can't be applied: {str(error).splitlines()[0]}"
    mend = f"leave it out, or see `nemo-cascade explain {override.key_or_group}`"
    return CascadeError(what, value=override.input_line, mend=mend)


def _seed_default(composed: DictConfig, override: Override) -> None:
    """Before one entry of a mapping is set, fill in the schema's other entries; they would be lost otherwise."""
    if not keys.takes(override.key_or_group, _plain(composed), may_add=True):
        return
    for field in keys.find(override.key_or_group, _plain(composed)):
        inside = field.key != override.key_or_group and isinstance(field.default, dict)
        if inside and field.default and OmegaConf.select(composed, field.key, throw_on_missing=False) is None:
            OmegaConf.update(composed, field.key, field.default, force_add=True)


def _plain(composed: DictConfig) -> dict[str, Any]:
    data = OmegaConf.to_container(composed)
    assert isinstance(data, dict)
    return {str(key): value for key, value in data.items()}


def _apply_one(composed: DictConfig, override: Override) -> None:
    key, value = override.key_or_group, override.value()
    present = OmegaConf.select(composed, key, throw_on_missing=False)
    if not override.is_delete():
        if override.is_add() and present is not None and not isinstance(value, dict | list):
            raise CascadeError("+ adds, but the key has a value", value=f"{key}={present}", mend=f"{key}={value}")
        if value == {} and isinstance(present, DictConfig) and len(present):
            mend = " ".join(f"~{key}.{name!s}" for name in present)
            raise CascadeError("mappings are merged, so an empty one removes nothing", value=f"{key}={{}}", mend=mend)
        OmegaConf.update(composed, key, value, merge=True, force_add=True)
        return
    if present is None:
        raise CascadeError("nothing to delete: no file sets the key", value=key, mend=f"{key}=VALUE sets it")
    if value is not None and value != present:
        what = "not deleted, because the value is another"
        raise CascadeError(what, value=f"{key}={present}", limit=value, mend=f"~{key}")
    above, _, name = key.rpartition(".")
    del (OmegaConf.select(composed, above) if above else composed)[name]


def _resolve(composed: DictConfig) -> tuple[dict[str, Any], list[CascadeError]]:
    """Fill interpolations, those of schema defaults too; drop every key that a file left as `???`."""
    for info in fields(RunConfig):
        default = keys.SchemaField(info.name, RunConfig, info.name, None).default
        if isinstance(default, str) and "${" in default and info.name not in composed:
            composed[info.name] = default
    for key, value in flatten(OmegaConf.to_container(composed)).items():
        if value == "???":  # left out here, the strict check tells all about it
            above, _, name = key.rpartition(".")
            del (OmegaConf.select(composed, above) if above else composed)[name]
    try:
        data = OmegaConf.to_container(composed, resolve=True)
    except OmegaConfBaseException as error:
        return {}, [_translate(str(error))]
    assert isinstance(data, dict)
    return {str(k): v for k, v in data.items()}, []
