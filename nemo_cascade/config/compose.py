"""From the command line to a typed configuration: Hydra's groups and override grammar, then the strict schema."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

import hydra
from hydra.core.global_hydra import GlobalHydra
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override, OverrideType
from hydra.errors import HydraException
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from nemo_cascade.config import keys, strict
from nemo_cascade.config.origins import complete, flatten, trace_origins
from nemo_cascade.config.schema import RunConfig
from nemo_cascade.errors import CascadeError, ConfigError

CONFIG_NAME = "config"
SHIPPED_CONF = Path(__file__).resolve().parents[2] / "conf"


@dataclass(frozen=True)
class ConfigDirs:
    """Where config files are looked up: the user's folder first, then the shipped one."""

    folders: tuple[Path, ...]

    @classmethod
    def of(cls, config_dir: Path | None) -> ConfigDirs:
        """Build the search order; `config_dir` adds to the shipped files and wins over them.

        Raises:
            ConfigError: a folder is missing.
        """
        if config_dir is not None and not config_dir.expanduser().is_dir():
            raise ConfigError([CascadeError("config folder not found", value=config_dir, mend="check --config-dir")])
        own = [config_dir.expanduser().resolve()] if config_dir is not None else []
        folders = tuple(dict.fromkeys([*own, *([SHIPPED_CONF] if SHIPPED_CONF.is_dir() else [])]))
        if not any((folder / f"{CONFIG_NAME}.yaml").is_file() for folder in folders):
            problem = CascadeError(f"no {CONFIG_NAME}.yaml", value=SHIPPED_CONF, mend="pass --config-dir FOLDER")
            raise ConfigError([problem])
        return cls(folders)

    def groups(self) -> dict[str, list[str]]:
        """Return every config group with its choices."""
        found: dict[str, set[str]] = {}
        for folder in self.folders:
            for file in folder.rglob("*.yaml"):
                group = file.parent.relative_to(folder).as_posix()
                if group != ".":
                    found.setdefault(group, set()).add(file.stem)
        return {group: sorted(choices) for group, choices in sorted(found.items())}

    @contextmanager
    def opened(self) -> Iterator[list[str]]:
        """Initialise Hydra on these folders; yields the overrides that every composition needs."""
        GlobalHydra.instance().clear()
        with hydra.initialize_config_dir(config_dir=str(self.folders[0]), version_base="1.3"):
            quoted = ["'file://" + str(f).replace("'", "\\'") + "'" for f in self.folders[1:]]
            yield [f"hydra.searchpath=[{','.join(quoted)}]"] if quoted else []


@dataclass(frozen=True)
class _Value:
    """A value override as typed, as parsed, and as Hydra gets it."""

    typed: str
    parsed: Override
    line: str


def compose(overrides: Sequence[str], config_dir: Path | None = None) -> tuple[RunConfig, dict[str, Any]]:
    """Compose, convert and check a run's configuration.

    Args:
        overrides: Hydra's grammar: `cascade=nano`, `stages.math_rl.optimizer.lr=1e-4`, `+key=value`, `++key=value`,
            `~key`. A key of the schema needs no `+`, whether or not a file mentions it.
        config_dir: folder with config files beside (and before) the shipped ones.

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
            base = _hydra(fixed + groups)
        except CascadeError as error:
            # A misspelt cascade=... leaves none chosen: say it once.
            told = any(f"{error.mend}".removeprefix("add ").split("=")[0] + "=" in f"{p.mend}" for p in problems)
            raise ConfigError([*problems, *([] if told else [error]), *_adapt(values, None)[1]]) from None
        adapted, more = _adapt(values, base)
        problems += more
        composed, applied, more = _apply(fixed + groups, base, adapted)
        problems += more
        loader = GlobalHydra.instance().config_loader()
        merged = loader.compute_defaults_list(CONFIG_NAME, fixed + groups, RunMode.RUN).defaults
    data, more = _resolve(composed)
    if more:
        raise ConfigError([*problems, *more])
    origins = trace_origins(merged, dirs.folders, [(v.parsed, v.typed) for v in applied])
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
            hint = f"did you mean {near}?" if near else None
            problems.append(CascadeError("unknown config group", value=name, limit=", ".join(groups), mend=hint))
        elif name not in groups:
            if "." not in name and name not in top_level and (near := keys.nearest(name, top_level)):
                mend = f"did you mean {line.replace(name, near, 1)}?"
                problems.append(CascadeError("unknown key", value=line, mend=mend))
            else:
                values.append(override)
        else:
            wanted = [] if override.is_delete() else override.value()
            wrong = [w for w in (wanted if isinstance(wanted, list) else [wanted]) if w not in (None, *groups[name])]
            for choice in wrong:
                near = keys.nearest(str(choice), groups[name])
                how = f"did you mean {name}={near}?" if near else f"to set one value write {name}.KEY=..."
                limit = ", ".join(groups[name])
                problems.append(CascadeError(f"no such choice of {name}", value=choice, limit=limit, mend=how))
            if not wrong:
                chosen.append(line)
    return chosen, values, problems


def _adapt(values: Sequence[Override], base: DictConfig | None) -> tuple[list[_Value], list[CascadeError]]:
    """Check keys against the schema, and let `key=value` set schema keys that no file mentions."""
    data = OmegaConf.to_container(base) if base is not None else None
    assert data is None or isinstance(data, dict)
    known = {str(k): v for k, v in data.items()} if data is not None else None
    adapted: list[_Value] = []
    problems: list[CascadeError] = []
    for override in values:
        typed = override.input_line or ""
        plain = override.type == OverrideType.CHANGE
        try:
            keys.find(override.key_or_group, known, may_add=not (plain or override.is_delete()))
        except CascadeError as error:
            problems.append(error)
        else:
            adapted.append(_Value(typed, override, f"++{typed}" if plain else typed))
    return adapted, problems


def _hydra(lines: Sequence[str]) -> DictConfig:
    try:
        return hydra.compose(CONFIG_NAME, overrides=list(lines))
    except (HydraException, OmegaConfBaseException) as error:
        cause = f" ({error.__cause__})" if error.__cause__ and str(error.__cause__) not in str(error) else ""
        raise _translate(f"{error}{cause}") from None


def _translate(message: str) -> CascadeError:
    text = " ".join(message.split())
    required = re.match(r"You must specify '([^']+)'.*?Available options: (.*)", text)
    if required:
        group, options = required[1], required[2].split()
        return CascadeError(f"no {group} chosen", limit=", ".join(options), mend=f"add {group}={options[0]}")
    return CascadeError(text)


def _apply(
    lines: Sequence[str], base: DictConfig, values: Sequence[_Value]
) -> tuple[DictConfig, list[_Value], list[CascadeError]]:
    """Apply value overrides; Hydra stops at the first it refuses, so then each is tried in turn."""
    try:
        return _hydra([*lines, *(v.line for v in values)]), list(values), []
    except CascadeError:
        pass
    composed, applied, problems = base, list[_Value](), list[CascadeError]()
    for value in values:
        try:
            composed = _hydra([*lines, *(v.line for v in applied), value.line])
            applied.append(value)
        except CascadeError as error:
            problems.append(error)
    return composed, applied, problems


def _resolve(composed: DictConfig) -> tuple[dict[str, Any], list[CascadeError]]:
    """Fill interpolations, those of schema defaults too; drop every key that a file left as `???`."""
    OmegaConf.set_struct(composed, False)
    for info in fields(RunConfig):
        default = keys.SchemaField(info.name, RunConfig, info.name, None).default
        if isinstance(default, str) and "${" in default and info.name not in composed:
            composed[info.name] = default
    for key in OmegaConf.missing_keys(composed):  # left out here, the strict check tells all about it
        above, _, name = key.rpartition(".")
        del (OmegaConf.select(composed, above) if above else composed)[name]
    try:
        data = OmegaConf.to_container(composed, resolve=True)
    except OmegaConfBaseException as error:
        return {}, [_translate(str(error))]
    assert isinstance(data, dict)
    return {str(k): v for k, v in data.items()}, []
