"""The commands around robots' recordings, from words to datasets."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import tyro
from test_data_sources_libero import write_demos, write_masks
from test_data_sources_rlbench import rlbench, write_task

from maskworld.cli.data_robot import (
    ImportLibero,
    ImportRlbench,
    MasksLibero,
    Segment,
    run_import,
    run_masks,
    run_segment,
)
from maskworld.data.lerobot_reader import LeRobotSource

__all__ = ["rlbench"]  # a fixture


def options(kind: type, *words: object) -> Any:
    return tyro.cli(kind, args=[str(w) for w in words], config=(tyro.conf.FlagCreatePairsOff,))


def test_demonstrations_of_libero_become_a_dataset(tmp_path: Path) -> None:
    write_masks(write_demos(tmp_path / "suite"))
    run_import(options(ImportLibero, tmp_path / "suite", "--out", tmp_path / "set",
                       "--drop-noops", "--codec", "png", "--cameras", "agentview"))  # fmt: skip
    stored = LeRobotSource(tmp_path / "set")
    assert (len(stored), stored.views) == (2, ["agentview"])
    assert stored.label_names == ["background", "robot", "object"]
    assert stored.episode(1).num_frames == 10  # two no-ops less
    assert stored.episode(1).state.shape == (10, 8)  # type: ignore[union-attr]
    with pytest.raises(ValueError, match="exists already"):
        run_import(options(ImportLibero, tmp_path / "suite", "--out", tmp_path / "set"))


def test_demonstrations_of_rlbench_become_a_dataset(
    tmp_path: Path, rlbench: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    write_task(tmp_path / "demos", rlbench)
    run_import(options(ImportRlbench, tmp_path / "demos", "--out", tmp_path / "set",
                       "--state", "joints+pose", "--description", "first"))  # fmt: skip
    stored = LeRobotSource(tmp_path / "set")
    assert stored.episode(0).caption == "close the lid"
    assert stored.episode(0).state.shape == (5, 15)  # type: ignore[union-attr]
    assert "no masks; see docs/robot_data.md" in capsys.readouterr().out


def test_a_segmenter_needs_points_or_classes(tmp_path: Path) -> None:
    write_demos(tmp_path / "suite", num_demos=1)
    set_path = tmp_path / "set"
    run_import(options(ImportLibero, tmp_path / "suite", "--out", set_path))
    for words, message in (
        ([], "Expected one of --points FILE"),
        (["--classes", "robot"], "Expected --classes as CLASS=LABEL,LABEL, found 'robot'"),
        (["--points", tmp_path / "none.json"], "Expected points in"),
    ):
        with pytest.raises(ValueError, match=message):
            run_segment(options(Segment, set_path, "--model", "none", *words))
    (tmp_path / "empty.json").write_text(json.dumps({"*": {"*": {"robot": []}}}))
    with pytest.raises(ValueError, match="Expected points in"):
        run_segment(options(Segment, set_path, "--model", "none", "--points",
                            tmp_path / "empty.json"))  # fmt: skip


def test_masks_of_libero_are_drawn_for_files_without(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from maskworld.data.sources.libero import masks_beside
    from maskworld.preparation import libero_masks

    asked: list[tuple[str, Any]] = []

    def render(demos: Path, assets: Any, *, objects: Any, **_: Any) -> Path:
        asked.append((demos.name, objects))
        return masks_beside(demos)

    monkeypatch.setattr(libero_masks, "render_libero_masks", render)
    done = write_demos(tmp_path / "suite", name="done")
    write_masks(done)
    write_demos(tmp_path / "suite", name="new")
    run_masks(options(MasksLibero, tmp_path / "suite", "--assets", tmp_path))
    assert asked == [("new_demo.hdf5", None)]
    assert "done_demo_masks.hdf5: there already" in capsys.readouterr().out
    run_masks(options(MasksLibero, done, "--assets", tmp_path, "--overwrite", "--objects", "bowl"))
    assert asked[1:] == [("done_demo.hdf5", ("bowl",))]
    with pytest.raises(ValueError, match="Expected LIBERO's demonstrations"):
        run_masks(options(MasksLibero, tmp_path, "--assets", tmp_path))
