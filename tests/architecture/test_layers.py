"""Who may import whom (docs: architecture). Lazy imports inside functions count too."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parents[2]
PACKAGE = ROOT / "src" / "maskworld"
LAYERS = [
    {"types", "interfaces"},
    {"flow", "masking", "guidance", "nn"},
    {"tokenizers", "conditioning", "backbones", "objectives", "samplers"}
    | {"data", "worlds", "metrics"},
    {"systems"},
    {"policies", "training", "weights"},
    {"preparation", "evaluation", "serving"},
    {"recipes"},
    {"cli", "report"},
]
LEVEL = {name: level for level, names in enumerate(LAYERS) for name in names}
STRANGERS = {"tokenizers", "conditioning", "backbones", "objectives", "samplers"}
"""Parts of one layer that do not import each other, nor data, worlds and metrics."""
SLOW_OR_OPTIONAL = {"diffusers", "transformers", "highway_env", "gradio", "rerun", "wandb"}


def imported(path: Path, top_level_only: bool = False) -> Iterator[str]:
    """Full dotted names of what a file imports; `from a import b` gives `a.b`."""
    tree = ast.parse(path.read_text())
    for node in tree.body if top_level_only else ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def fault(importer: str, other: str, importer_file: str, other_file: str) -> str | None:
    """Why a file of part `importer` may not import from part `other`; None if it may."""
    if other not in LEVEL:
        return "is no known part: give it a layer"
    if LEVEL[other] > LEVEL[importer]:
        return "is a higher layer"
    if importer == other:
        is_another = importer == "systems" and other_file != importer_file
        return "is another system" if is_another else None
    if LEVEL[other] == LEVEL[importer] and importer in STRANGERS:
        return "is a neighbour"
    if importer == "systems" and other in ("data", "worlds"):
        return "is not for systems"
    if importer == "training" and other == "systems":
        return "names a system"
    return None


def test_no_layer_imports_a_higher_one_and_systems_do_not_import_each_other() -> None:
    faults = []
    for path in sorted(PACKAGE.rglob("*.py")):
        parts = path.relative_to(PACKAGE).with_suffix("").parts
        if parts[0] not in LEVEL:  # __init__ and __main__: the front door sees everything
            assert len(parts) == 1, f"{path} is in no known layer"
            continue
        for name in imported(path):
            words = [*name.split("."), "", ""]
            if words[0] == "maskworld" and words[1] and words[1] != "__version__":
                own = parts[1] if len(parts) > 1 else ""
                why = fault(parts[0], words[1], own, words[2])
                if why:
                    faults.append(f"{'/'.join(parts)} imports {name}, which {why}")
    assert not faults, "\n".join(faults)


def test_the_rules_reject_what_they_should() -> None:
    assert fault("systems", "systems", "reworld", "worlddreamer")
    assert fault("systems", "data", "reworld", "storage")
    assert fault("systems", "training", "reworld", "loop")
    assert fault("training", "systems", "loop", "worlddreamer")
    assert fault("nn", "backbones", "attention", "stpt")
    assert fault("samplers", "backbones", "parallel", "stpt")
    assert fault("backbones", "nowhere", "stpt", "")
    assert fault("systems", "backbones", "worlddreamer", "stpt") is None
    assert fault("training", "data", "loop", "storage") is None


def test_nothing_imports_torchvision_and_the_package_no_pickle() -> None:
    folders = [ROOT / name for name in ("src", "tests", "benchmarks", "examples")]
    for path in [p for folder in folders for p in sorted(folder.rglob("*.py"))]:
        names = {name.split(".")[0] for name in imported(path)}
        assert not names & {"torchvision", "decord"}, path
        assert "pickle" not in names or PACKAGE not in path.parents, path


def test_slow_and_optional_packages_are_imported_inside_functions() -> None:
    for path in sorted(PACKAGE.rglob("*.py")):
        names = {name.split(".")[0] for name in imported(path, top_level_only=True)}
        assert not names & SLOW_OR_OPTIONAL, path
