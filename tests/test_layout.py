"""The floor plan: a stage imports only stages before it, and methods never import each other."""

import ast
import importlib
import pkgutil
from pathlib import Path

import pytest

import proxynas

PACKAGE = Path(proxynas.__file__).parent

STAGES = (
    {"core"},
    {"specs"},
    {"engine"},
    {"datasets", "nets"},
    {"spaces"},
    {"training"},
    {"proxyset"},
    {"distill"},
    {"search"},
    {"truth"},
    {"predict"},
    {"rank"},
    {"report"},
    {"pipeline", "compare"},
    {"api"},
    {"optuna", "tune"},
    {"testing"},
    {"cli"},
)
"""In order; those in one set don't need each other."""

MODULES = sorted(path for path in PACKAGE.rglob("*.py") if path.parent != PACKAGE)


def imported(path: Path) -> set[tuple[str, ...]]:
    """The modules and names of this package that a file imports, wherever in the file, as paths
    from the package."""
    here = path.relative_to(PACKAGE).parent.parts
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and node.level:
            base = here[: len(here) - node.level + 1] + tuple((node.module or "").split("."))
            found |= {tuple(part for part in (*base, alias.name) if part) for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "proxynas":
            found |= {(*str(node.module).split(".")[1:], alias.name) for alias in node.names}
    return found


def place(stage: str) -> int:
    return next(n for n, names in enumerate(STAGES) if stage in names)


def test_every_folder_is_a_stage() -> None:
    folders = {
        path.name for path in PACKAGE.iterdir() if path.is_dir() and (path / "__init__.py").exists()
    }
    assert folders <= set().union(*STAGES)


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_a_stage_imports_only_stages_before_it(path: Path) -> None:
    stage = path.relative_to(PACKAGE).parts[0]
    reached = {names[0] for names in imported(path)} - {"__version__", "core", stage}
    later = {name for name in reached if place(name) >= place(stage)}
    assert not later, f"{stage} must not import {later}"


def test_methods_do_not_import_each_other() -> None:
    methods = {path.stem for path in (PACKAGE / "distill" / "methods").glob("*.py")} - {"__init__"}
    for path in (PACKAGE / "distill" / "methods").glob("*.py"):
        reached = {
            part
            for names in imported(path)
            if names[:2] == ("distill", "methods")
            for part in names[2:]
        }
        assert not reached & methods, f"{path.name} imports {reached & methods}"


def test_no_function_hides_a_module() -> None:
    names = [m.name for m in pkgutil.walk_packages(proxynas.__path__, "proxynas.")]
    names.remove("proxynas.__main__")
    modules = {name: importlib.import_module(name) for name in names}
    for name, module in modules.items():
        parent, _, last = name.rpartition(".")
        assert getattr(modules.get(parent, proxynas), last) is module, f"{name} is hidden"


LINES, FUNCTION_LINES, PARAMETERS = 400, 60, 6


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_modules_and_functions_are_short(path: Path) -> None:
    """A comment ``# reason: …`` above a function, or on its first line, lets it be longer."""
    lines = path.read_text().splitlines()
    assert len(lines) <= LINES, f"{path.name} has {len(lines)} lines"
    for function in ast.walk(ast.parse(path.read_text())):
        if isinstance(function, ast.FunctionDef) and path.name != "__init__.py":
            first = min([function.lineno, *(d.lineno for d in function.decorator_list)])
            if "# reason: " not in "".join(lines[first - 2 : function.lineno]):
                assert length(function) <= FUNCTION_LINES, f"{function.name} is too long"
                assert parameters(function) <= PARAMETERS, f"{function.name} takes too many"


def length(function: ast.FunctionDef) -> int:
    return (function.end_lineno or 0) - function.lineno + 1


def parameters(function: ast.FunctionDef) -> int:
    names = function.args
    every = [*names.posonlyargs, *names.args, *names.kwonlyargs, names.vararg, names.kwarg]
    return sum(arg is not None and arg.arg not in ("self", "cls") for arg in every)


def test_the_limits_are_noticed() -> None:
    long = ast.parse("def f(a, b, *c, d, **e):\n" + "    pass\n" * 60).body[0]
    assert isinstance(long, ast.FunctionDef)
    assert (length(long), parameters(long)) == (61, 5)
