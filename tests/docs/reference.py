"""The parts of the reference that are made from the code. ``python -m tests.docs.reference`` writes them."""

from __future__ import annotations

import ast
import inspect
import re
import textwrap
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any, get_args

import typer
from sqlalchemy import Column, MetaData, Table
from sqlalchemy.dialects import postgresql, sqlite

import kafkasaga
import kafkasaga.errors
import kafkasaga.kafka.config
import kafkasaga.testing
from kafkasaga.cli.app import app
from kafkasaga.saga import definition, lint, lint_functions
from kafkasaga.saga.diagram import step_diagram
from kafkasaga.settings import PREFIX, Settings
from kafkasaga.stores import Tables
from tests.docs.pages import PAGES
from tests.mutations.catalogue import NAMES, catalogue

_SECTION = re.compile(r"(<!-- generated: (?P<name>[\w-]+) -->\n).*?(<!-- end -->)", re.DOTALL)
COMMAND = "python -m tests.docs.reference"


def settings() -> str:
    notes = _attribute_notes(Settings)
    lines = ["| variable | type | default | what it is |", "|---|---|---|---|"]
    for name, field in Settings.model_fields.items():
        default = field.get_default(call_default_factory=True)
        shown = "" if not default or str(default) == "" else f"`{default}`"
        lines.append(f"| `{PREFIX}{name.upper()}` | {_type_name(name)} | {shown} | {notes[name]} |")
    return "\n".join(lines)


def librdkafka() -> str:
    lines = ["| setting | allowed | because | instead |", "|---|---|---|---|"]
    for name, guard in kafkasaga.kafka.config._GUARDS.items():
        allowed = ", ".join(f"`{value}`" for value in guard.allowed) or "nothing"
        lines.append(f"| `{name}` | {allowed} | {guard.guarantee} | {guard.remedy} |")
    return "\n".join(lines)


def librdkafka_defaults() -> str:
    config = kafkasaga.kafka.config
    lines = ["| setting | client | value | yours wins |", "|---|---|---|---|"]
    for client, given, yours in (
        ("consumer", config.CONSUMER_DEFAULTS, "yes"),
        ("consumer", config.CONSUMER_FIXED, "no"),
        ("producer", config.PRODUCER_DEFAULTS, "yes"),
        ("producer", config.PRODUCER_FIXED, "no"),
    ):
        for name, value in given.items():
            wins = "yes, within limits" if yours == "yes" and name in config._GUARDS else yours
            lines.append(f"| `{name}` | {client} | `{_plain(value)}` | {wins} |")
    return "\n".join(lines)


def tables() -> str:
    parts: list[str] = []
    described = _method_notes("kafkasaga.stores.columns", "TableBuilder")
    for table in Tables(MetaData()).all:
        note = described[f"_{table.name}"]
        parts += [f"### `{table.name}`\n", f"{note}\n", "| column | PostgreSQL | SQLite | |", "|---|---|---|---|"]
        parts += [_column(column) for column in table.columns]
        parts.append("")
    return "\n".join(parts).rstrip()


def cli() -> str:
    return "\n\n".join(_commands(typer.main.get_command(app), "kafkasaga")).rstrip()


def lint_rules() -> str:
    lines = ["| rule | what it says |", "|---|---|"]
    for code, text in sorted(rules().items()):
        lines.append(f"| {code} | {' / '.join(dict.fromkeys(text))} |")
    return "\n".join(lines)


def errors() -> str:
    module = kafkasaga.errors
    tree = re.search(r"::\n\n(.*?)\n\nA docstring", module.__doc__ or "", re.DOTALL)
    assert tree is not None
    lines = ["```text", textwrap.dedent(tree[1]), "```", "", "| error | means |", "|---|---|"]
    for name, cls in vars(module).items():
        if inspect.isclass(cls) and issubclass(cls, kafkasaga.KafkasagaError):
            lines.append(f"| `{name}` | {_first_paragraph(cls)} |")
    return "\n".join(lines)


def public_names() -> str:
    return _names_of(kafkasaga)


def testing_names() -> str:
    return _names_of(kafkasaga.testing)


def step_states() -> str:
    return f"```mermaid\n{step_diagram().strip()}\n```"


def protecting_lines() -> str:
    lines = ["| what is taken out | where | for | seen by |", "|---|---|---|---|"]
    for mutation in sorted(catalogue(), key=lambda mutation: NAMES.index(mutation.of[0])):
        files = dict.fromkeys(edit.file for edit in mutation.edits)
        where = ", ".join(f"[`{file.removeprefix('src/kafkasaga/')}`](../../{file})" for file in files)
        test = f"[`{mutation.test_name}`](../../{mutation.test_file})"
        lines.append(f"| {_one_line(mutation.line)} | {where} | {', '.join(mutation.of)} | {test} |")
    return "\n".join(lines)


GENERATED: dict[str, Callable[[], str]] = {
    "settings": settings,
    "librdkafka": librdkafka,
    "librdkafka-defaults": librdkafka_defaults,
    "tables": tables,
    "cli": cli,
    "lint-rules": lint_rules,
    "errors": errors,
    "public-names": public_names,
    "testing-names": testing_names,
    "step-states": step_states,
    "protecting-lines": protecting_lines,
}


def sections(page: Path) -> list[str]:
    """The names of a page's generated sections."""
    return [found["name"] for found in _SECTION.finditer(page.read_text("utf-8"))]


def generated(page: Path) -> str:
    """The page as it must be."""

    def fill(found: re.Match[str]) -> str:
        return f"{found[1]}\n{GENERATED[found['name']]()}\n\n{found[3]}"

    return _SECTION.sub(fill, page.read_text("utf-8"))


def rules() -> dict[str, list[str]]:
    """The texts of each lint rule, with ``…`` for what depends on the definition."""
    found: dict[str, list[str]] = {}
    trees = [ast.parse(inspect.getsource(module)) for module in (definition, lint, lint_functions)]
    for node in (node for tree in trees for node in ast.walk(tree)):
        if isinstance(node, ast.JoinedStr):
            text = "".join(part.value if isinstance(part, ast.Constant) else "…" for part in node.values)  # type: ignore[misc]
        elif isinstance(node, ast.Constant) and isinstance(node.value, str):
            text = node.value
        else:
            continue
        if code := re.search(r" ?\[(KS\d{3})\]$", text):
            found.setdefault(code[1], []).append(text[: code.start()].replace("……", "…"))
    whole = {
        code: [text for text in texts if not any(text != o and text in o for o in texts)]
        for code, texts in found.items()
    }
    return {code: [text for text in texts if text] for code, texts in whole.items()}


def _type_name(name: str) -> str:
    source = inspect.get_annotations(Settings)[name]
    return {
        "SecretStr": "text",
        "str": "text",
        "int": "whole number",
        "float": "seconds",
        "float | None": "days",
        "dict[str, Any]": "JSON object",
    }.get(source, "text" if "str" in source else ", ".join(f"`{value}`" for value in _literals(name)))


def _literals(name: str) -> tuple[Any, ...]:
    return get_args(Settings.model_fields[name].annotation)


def _attribute_notes(cls: type) -> dict[str, str]:
    """The docstrings below a class's attributes."""
    body = ast.parse(textwrap.dedent(inspect.getsource(cls))).body[0]
    assert isinstance(body, ast.ClassDef)
    notes: dict[str, str] = {}
    for attribute, note in zip(body.body, body.body[1:], strict=False):
        if not isinstance(attribute, ast.AnnAssign) or not isinstance(attribute.target, ast.Name):
            continue
        if isinstance(note, ast.Expr) and isinstance(note.value, ast.Constant):
            notes[attribute.target.id] = _one_line(str(note.value.value))
    return notes


def _method_notes(module: str, cls: str) -> dict[str, str]:
    found = getattr(__import__(module, fromlist=[cls]), cls)
    methods = {name: value for name, value in vars(found).items() if inspect.isfunction(value)}
    return {name: _one_line(inspect.getdoc(value) or "") for name, value in methods.items()}


def _column(column: Column[Any]) -> str:
    kinds = [column.type.compile(dialect) for dialect in (postgresql.dialect(), sqlite.dialect())]  # type: ignore[no-untyped-call]
    notes = ["primary key"] if column.primary_key else []
    notes += ["may be null"] if column.nullable else []
    notes += [f"index `{index.name}`" for index in _indexes(column.table, column)]
    return f"| `{column.name}` | {kinds[0]} | {kinds[1]} | {', '.join(notes)} |"


def _indexes(table: Any, column: Column[Any]) -> Iterator[Any]:
    assert isinstance(table, Table)
    return (index for index in sorted(table.indexes, key=lambda i: str(i.name)) if next(iter(index.columns)) is column)


def _commands(command: Any, path: str) -> Iterator[str]:
    if inner := getattr(command, "commands", None):
        for name, sub in inner.items():
            yield from _commands(sub, f"{path} {name}")
        return
    arguments = [p for p in command.params if p.param_type_name == "argument"]
    options = [p for p in command.params if p.param_type_name == "option"]
    usage = " ".join([path, *(_metavar(a) for a in arguments), *(["[OPTIONS]"] if options else [])])
    lines = [f"### `{path}`\n", f"```text\n{usage}\n```\n", _one_line(command.help or ""), ""]
    if parameters := [*arguments, *options]:
        lines += ["| | default | |", "|---|---|---|"]
        lines += [_parameter(parameter) for parameter in parameters]
    yield "\n".join(lines)


def _metavar(argument: Any) -> str:
    name = (argument.metavar or argument.name.upper()).strip("[]")
    return name if argument.required else f"[{name}]"


def _parameter(parameter: Any) -> str:
    named = parameter.param_type_name == "option"
    name = ", ".join(parameter.opts) if named else _metavar(parameter).strip("[]")
    default = parameter.default
    shown = "" if default in (None, "", False) or callable(default) or not named else f"`{default}`"
    return f"| `{name}` | {shown} | {_one_line(parameter.help or '')} |"


def _names_of(module: ModuleType) -> str:
    lines = ["| name | what it is |", "|---|---|"]
    lines += [f"| `{name}` | {_first_paragraph(getattr(module, name))} |" for name in module.__all__]
    return "\n".join(lines)


def _first_paragraph(thing: object) -> str:
    text = (inspect.getdoc(thing) or "").partition("\n\n")[0]
    return _one_line(text)


def _one_line(text: str) -> str:
    return " ".join(text.split()).replace("``", "`").replace("|", "\\|")


def _plain(value: object) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)


def main() -> None:
    """Write every generated section."""
    for page in PAGES:
        if sections(page):
            page.write_text(generated(page), "utf-8")


if __name__ == "__main__":
    main()
