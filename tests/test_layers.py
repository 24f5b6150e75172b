"""Imports point one way, the map files stay short, and the package imports nothing heavy by itself."""

from __future__ import annotations

import ast
import graphlib
import subprocess
import sys
from pathlib import Path

import pytest

# Left may be imported by right, never the other way; names in one tuple do not import each other's right neighbours.
ORDER = [
    ("errors",), ("files", "user_code"), ("recipe",), ("duplicates",), ("sources",), ("clean",), ("tasks",), ("prompts",),
    ("contract",), ("tokens",), ("dataset",), ("packing",), ("model",), ("adapters",), ("parallel",), ("train",),
    ("checkpoint",), ("generate", "score"), ("metrics",), ("significance",), ("report",), ("rundir",), ("hub",),
    ("export", "evaluation"), ("supervise",), ("estimate",), ("finetune", "inspection", "convert"),
    ("crossval", "explain", "verify"), ("cli",), ("__main__",),
]  # fmt: skip
RANK = {name: rank for rank, names in enumerate(ORDER) for name in names}


def modules(root: Path) -> list[Path]:
    return [
        path
        for path in sorted((root / "llama_tasks").rglob("*.py"))
        if path.parent.name != "llama_tasks" or path.stem != "__init__"
    ]


def station(root: Path, path: Path) -> str:
    return path.relative_to(root / "llama_tasks").with_suffix("").parts[0]


def imported(path: Path, root: Path) -> set[str]:
    """Stations of ours that a file imports, however deep in it the import stands."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name.split(".")[1] for alias in node.names if alias.name.startswith("llama_tasks.")}
        elif (
            isinstance(node, ast.ImportFrom) and node.level == 0 and (node.module or "").split(".")[0] == "llama_tasks"
        ):
            parts = (node.module or "").split(".")
            found |= {parts[1]} if len(parts) > 1 else {alias.name for alias in node.names if alias.name in RANK}
        elif isinstance(node, ast.ImportFrom) and node.level > 0:
            depth = len(path.relative_to(root / "llama_tasks").parts) - node.level
            if depth == 0:
                found.add((node.module or node.names[0].name).split(".")[0])
    return found


def test_every_module_has_its_place(root: Path) -> None:
    assert {station(root, path) for path in modules(root)} <= set(RANK)


def test_imports_point_one_way(root: Path) -> None:
    wrong = [
        f"{path.relative_to(root)} imports {name}"
        for path in modules(root)
        for name in imported(path, root)
        if name in RANK and name != station(root, path) and RANK[name] >= RANK[station(root, path)]
    ]
    assert wrong == []


def imported_files(path: Path) -> set[str]:
    """Files of its own room that a file imports when it is imported."""
    room = f"llama_tasks.{path.parent.name}"
    found: set[str] = set()
    for node in ast.parse(path.read_text(encoding="utf-8")).body:
        if isinstance(node, ast.ImportFrom):
            module = (f"{room}." if node.level else "") + (node.module or "")
            found |= {f"{module}.{alias.name}" for alias in node.names} | {module}
    return {name.removeprefix(f"{room}.").partition(".")[0] for name in found if name.startswith(f"{room}.")}


def test_files_of_a_room_import_in_one_direction(root: Path) -> None:
    rooms = {path.parent for path in (root / "llama_tasks").glob("*/__init__.py")}
    assert len(rooms) > 20
    for room in rooms:
        files = {path.stem: imported_files(path) for path in room.glob("*.py") if path.stem != "__init__"}
        graphlib.TopologicalSorter(files).prepare()  # raises CycleError


def test_no_file_hides_a_name_of_its_room(root: Path) -> None:
    for place in (root / "llama_tasks").glob("*/__init__.py"):
        room = f"llama_tasks.{place.parent.name}"
        given = [
            alias.asname or alias.name
            for node in ast.parse(place.read_text(encoding="utf-8")).body
            if isinstance(node, ast.ImportFrom) and node.module != room  # a file itself
            for alias in node.names
        ]
        assert not set(given) & {path.stem for path in place.parent.glob("*.py")}, room


def test_model_imports_nothing_of_ours_but_the_errors(root: Path) -> None:
    assert {name for path in (root / "llama_tasks/model").glob("*.py") for name in imported(path, root)} <= {
        "errors",
        "model",
    }


@pytest.mark.parametrize(
    "statement", ["import llama_tasks", "import llama_tasks.cli", "import llama_tasks.recipe, llama_tasks.sources"]
)
def test_light_imports_leave_torch_out(statement: str) -> None:
    check = f"{statement}\nimport sys\nassert not {{'torch', 'transformers', 'datasets', 'peft'}} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", check], check=True)


def test_scoring_and_reporting_leave_torch_out() -> None:
    check = (
        "import llama_tasks.metrics, llama_tasks.significance, llama_tasks.report, llama_tasks.evaluation, sys\n"
        "import llama_tasks.evaluation.score_files\n"
        "assert 'torch' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", check], check=True)


def test_inspecting_leaves_the_model_out() -> None:
    check = (
        "import llama_tasks.inspection, sys\n"
        "assert not {'transformers.modeling_utils', 'peft', 'llama_tasks.adapters'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", check], check=True)


def test_public_names_are_sorted_and_exist() -> None:
    import llama_tasks

    assert llama_tasks.__all__ == sorted(llama_tasks.__all__)
    for name in llama_tasks.__all__:
        assert getattr(llama_tasks, name) is not None
