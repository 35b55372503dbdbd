"""What the README and docs/ show works: the parser takes every command line, settings exist, TOML
and Python examples run, links lead somewhere."""

import ast
import importlib
import os
import re
import shlex
import subprocess
import sys
import tomllib
from contextlib import nullcontext, redirect_stdout
from dataclasses import dataclass, fields
from io import StringIO
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
import typer

from proxynas import datasets, distill, spaces, testing
from proxynas.cli import app
from proxynas.cli.options import flags_of
from proxynas.core import settings
from proxynas.core.resources import folder
from proxynas.specs import (
    CompareSpec,
    DataSpec,
    DistillSpec,
    EngineSpec,
    EvaluationSpec,
    SearchSpec,
    TruthSpec,
)

from . import local_ray

ROOT = folder("experiments").parent
if not (ROOT / "README.md").exists():
    pytest.skip("the pages are in the repository only", allow_module_level=True)

GUIDES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
PAGES = [*GUIDES, *(ROOT / p for p in ("CONTRIBUTING.md", "experiments/README.md"))]
PAGES.append(ROOT / "distilled_sets" / "README.md")

LIMIT = 8_192
"""Bytes of the README: it is read in one go."""

SPECS: dict[str, tuple[type, ...]] = {
    "search": (SearchSpec, EngineSpec),
    "distill": (DistillSpec,),
    "evaluate": (DataSpec, EvaluationSpec),
    "compare": (CompareSpec, EngineSpec),
    "truth": (TruthSpec, EngineSpec),
}
"""The specs whose fields are flags of a command."""


def named(path: Path) -> str:
    return str(path.relative_to(ROOT))


@dataclass(frozen=True)
class Block:
    """A fenced block of code: its language, and its text."""

    page: str
    line: int
    language: str
    text: str

    @property
    def file(self) -> str:
        """The file that its first line says it is, or nothing."""
        match = re.match(r"# ([\w.-]+\.(?:py|toml))\n", self.text)
        return match[1] if match else ""


def blocks(path: Path) -> list[Block]:
    text = path.read_text(encoding="utf-8")
    return [
        Block(named(path), text.count("\n", 0, match.start()) + 1, match[1], match[2])
        for match in re.finditer(r"^```(\w+)\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)
    ]


def commands(path: Path) -> list[str]:
    """Lines that begin with ``proxynas``, in blocks or between backticks; continued ones joined."""
    text = re.sub(r" *\\\n\s*", " ", path.read_text(encoding="utf-8"))
    prose = re.sub(r"^ {4}.*$|^```.*?^```$", "", text, flags=re.MULTILINE | re.DOTALL)
    lines = re.findall(r"^(?: {4}|)(proxynas .*)$", text, re.MULTILINE)
    lines += [span for span in re.findall(r"`(proxynas [^`]+)`", prose) if "COMMAND" not in span]
    return [line for line in lines if not line.startswith(("proxynas 0.", "proxynas accelerates"))]


def words(line: str) -> list[str]:
    """The arguments of a command line, without comments and remarks in brackets behind it."""
    return shlex.split(re.sub(r"\s+\(.*\)$", "", line), comments=True)[1:]


ALL = [pytest.param(line, id=f"{named(p)}: {line[:60]}") for p in PAGES for line in commands(p)]


def test_the_readme_is_short() -> None:
    assert len((ROOT / "README.md").read_bytes()) < LIMIT


def test_there_are_commands_on_every_page_that_has_them() -> None:
    pages = {path.name for path in GUIDES if commands(path)}
    without = {"papers.md"}
    assert pages == {path.name for path in GUIDES} - without


def test_the_targets_of_make_exist() -> None:
    targets = re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(), re.MULTILINE)
    for path in PAGES:
        for target in re.findall(
            r"^ {4}make (\w+)", path.read_text(encoding="utf-8"), re.MULTILINE
        ):
            assert target in targets


@pytest.mark.parametrize("line", ALL)
def test_commands_are_taken(line: str) -> None:
    """The parser takes the flags, the specs their values, and methods and spaces exist."""
    command: Any = typer.main.get_command(app)
    name, arguments = "proxynas", [re.sub(r"^RUN$", "runs/mine", word) for word in words(line)]
    whole = len(arguments) > 1 and "…" not in line
    context: Any = None
    path: list[str] = []
    while True:
        if not whole and path:  # `proxynas search`, with or without what is left out
            arguments = []
            break
        context = command.make_context(name, list(arguments), parent=context)
        rest = [*context._protected_args, *context.args] if hasattr(command, "commands") else []
        if not rest:
            break
        name, command, arguments = command.resolve_command(context, rest)
        path.append(name)
    if whole and path[-1:] and path[0] in SPECS and path[-1] != "import":
        check_values(path[0], context.params)


def check_values(command: str, parameters: dict[str, Any]) -> None:
    """What a command does with its flags before it works."""
    made: list[Any] = []
    for spec in SPECS[command]:
        given = {"rows": [{"name": "a row"}]} if spec is CompareSpec else {}
        for flag in flags_of(spec):
            value = parameters[flag.field]
            value = flag.read(list(value) if isinstance(value, tuple) else value)
            given |= {} if value is None else {flag.field: value}
        made.append(settings.make(spec, given))
    first = made[0]
    if isinstance(first, SearchSpec | DistillSpec):
        method = distill.find(first.method)
        settings.make(method.settings, first.settings)
    if isinstance(first, SearchSpec):
        first.candidate_recipe()
    if isinstance(first, SearchSpec | TruthSpec) and not first.space.endswith(".toml"):
        spaces.load(first.space, first.space_options)


@pytest.mark.parametrize("path", PAGES, ids=named)
def test_links_lead_somewhere(path: Path) -> None:
    text = re.sub(
        r"^```.*?^```$|`[^`\n]*`", "", path.read_text(encoding="utf-8"), flags=re.M | re.S
    )
    links = re.findall(r"\]\(([^)\s]+)\)|^\[\w+\]: (\S+)$|src=\"([^\"]+)\"", text, re.MULTILINE)
    for link in ("".join(parts) for parts in links):
        if re.match(r"https?:", link):
            continue
        place, _, anchor = link.partition("#")
        target = (path.parent / place).resolve() if place else path
        assert target.exists(), f"{named(path)} links to {link}"
        if anchor:
            assert anchor in anchors(target), f"{named(path)} links to {link}"


def anchors(path: Path) -> set[str]:
    """The anchors that GitHub gives a page's headings."""
    headings = re.findall(r"^#+ (.+)$", path.read_text(encoding="utf-8"), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def one_liners(path: Path) -> list[Block]:
    """What pages hand to ``python -c``, in indented blocks."""
    text = path.read_text(encoding="utf-8")
    return [
        Block(
            named(path),
            text.count("\n", 0, match.start()) + 1,
            "python -c",
            re.sub(r"^ {4}", "", match[2], flags=re.MULTILINE).strip(),
        )
        for match in re.finditer(r"python -c (['\"])(.*?)\1", text, re.DOTALL)
    ]


SHELL = [block for path in PAGES for block in one_liners(path)]
PYTHON = [block for path in PAGES for block in blocks(path) if block.language == "python"]


@pytest.mark.parametrize("block", [*PYTHON, *SHELL], ids=lambda b: f"{b.page}:{b.line}")
def test_python_compiles_and_what_it_imports_exists(block: Block) -> None:
    for node in ast.walk(ast.parse(block.text)):
        if isinstance(node, ast.ImportFrom) and node.level == 0:
            module = importlib.import_module(str(node.module))
            for alias in node.names:
                if not hasattr(module, alias.name):
                    importlib.import_module(f"{node.module}.{alias.name}")


RUN = [b for b in PYTHON if not b.file and b.page != "CONTRIBUTING.md"]


@pytest.mark.parametrize("page", dict.fromkeys(block.page for block in RUN))
@pytest.mark.xdist_group("ray")  # one Ray at a time
def test_python_runs(page: str, tmp_path: Path) -> None:
    """With the real libraries, in a process of its own: a second Ray does not start in one where
    Ray Tune has run."""
    if any("optuna" in block.text for block in RUN if block.page == page):
        pytest.importorskip("optuna")
    if any("ray" in block.text for block in RUN if block.page == page):
        pytest.importorskip("ray.tune", reason="pip install 'proxynas[ray]'")
    code = f"from tests.test_readme import run_page; run_page({page!r})"
    # Ray Tune writes to the home directory
    environment = {**os.environ, "HOME": str(tmp_path), "PYTHONPATH": str(ROOT)}
    ran = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, env=environment, capture_output=True, text=True
    )
    assert ran.returncode == 0, ran.stderr


def run_page(page: str) -> None:
    """One block after the other, as one would type them; each prints."""
    page_blocks = [block for block in RUN if block.page == page]
    names: dict[str, Any] = {"__name__": "example"}
    torch.set_num_threads(1)
    with local_ray.started() if any("ray" in b.text for b in page_blocks) else nullcontext():
        for block in page_blocks:
            with redirect_stdout(StringIO()) as printed:
                exec(compile(block.text, f"{block.page}:{block.line}", "exec"), names)
            assert printed.getvalue(), block


def test_the_space_of_the_example_makes_networks(tmp_path: Path, digits: datasets.Dataset) -> None:
    pages = blocks(ROOT / "docs" / "own-networks.md")
    for block in pages:
        (tmp_path / block.file).write_text(block.text)
    for name, size in (("space.toml", 9), ("mobile.toml", 3)):
        space = spaces.load(str(tmp_path / name))
        assert space.size == size
    space = spaces.load(str(tmp_path / "space.toml"))
    net = space.build("D2-W16", digits.shape, digits.num_classes)
    assert net(digits.val.x[:3]).shape == (3, 10)


TOML = [block for path in PAGES for block in blocks(path) if block.language == "toml"]


@pytest.mark.parametrize("block", TOML, ids=lambda b: f"{b.page}:{b.line}")
def test_toml_is_what_a_command_takes(block: Block) -> None:
    values = tomllib.loads(block.text)
    if "rows" in values:
        spec = settings.make(CompareSpec, values)
        for row in spec.rows:
            method = row.method or spec.method
            own = {**spec.settings.get(method, {}), **row.settings}
            settings.make(distill.find(method).settings, own)
    elif "factory" in values:
        settings.make(spaces.SpaceFile, values)
    else:
        run = settings.make(SearchSpec, values)
        run.candidate_recipe()
        settings.make(distill.find(run.method).settings, run.settings)


def example_method(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """CONTRIBUTING's method, loaded as if it were a file of distill/methods/."""
    block = next(b for b in PYTHON if b.page == "CONTRIBUTING.md" and b.file == "mine.py")
    path = tmp_path / "mine.py"
    path.write_text(block.text)
    name = "proxynas.distill.methods.mine"
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, name, module)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("check", testing.CONTRACT, ids=lambda check: check.__name__)
def test_the_method_of_the_example_keeps_the_contract(
    check: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    check(testing.Case(example_method(tmp_path, monkeypatch).METHOD, {"lr": 0.5}))


def test_every_flag_of_a_search_is_a_key_of_its_file() -> None:
    """What "an option touches one line" rests on: flags are the fields and nothing else."""
    for command, specs in SPECS.items():
        parser: Any = typer.main.get_command(app)
        own = {p.name for p in parser.commands[command].params}
        wanted = {flag.field for spec in specs for flag in flags_of(spec)}
        assert wanted <= own
        known = {field.name for spec in specs for field in fields(spec)}
        assert own - known <= {"budget", "out", "config", "workers", "proxy", "help"}
