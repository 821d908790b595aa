"""Claims about maskworld.data.storage."""

from __future__ import annotations

import errno
import json
import os
from pathlib import Path

import pytest

from maskworld.data.storage import atomic_path, write_json, write_text


def fail_halfway(final: Path, error: BaseException, is_folder: bool) -> None:
    with atomic_path(final, what="the checkpoint") as temporary:
        if is_folder:
            temporary.mkdir()
        (temporary / "new" if is_folder else temporary).write_text("half")
        raise error


def test_a_file_appears_only_when_the_block_has_ended(tmp_path: Path) -> None:
    final = tmp_path / "deep" / "video.mp4"
    with atomic_path(final) as temporary:
        assert temporary.parent == final.parent
        assert temporary.suffix == ".mp4"
        temporary.write_bytes(b"whole")
        assert not final.exists()
    assert final.read_bytes() == b"whole"
    assert [p.name for p in final.parent.iterdir()] == ["video.mp4"]


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt, SystemExit])
@pytest.mark.parametrize("is_folder", [False, True])
def test_an_exception_keeps_the_old_target_and_leaves_no_partial_one(
    tmp_path: Path, error: type[BaseException], is_folder: bool
) -> None:
    final = tmp_path / "target"
    if is_folder:
        final.mkdir()
        (final / "old").write_text("old")
    else:
        final.write_text("old")
    with pytest.raises(error):
        fail_halfway(final, error(), is_folder)
    assert [p.name for p in tmp_path.iterdir()] == ["target"]
    assert (final / "old" if is_folder else final).read_text() == "old"


def test_a_folder_replaces_a_folder(tmp_path: Path) -> None:
    final = tmp_path / "set"
    for name in ("first", "second"):
        with atomic_path(final) as temporary:
            temporary.mkdir()
            (temporary / name).write_text(name)
    assert [p.name for p in final.iterdir()] == ["second"]
    assert [p.name for p in tmp_path.iterdir()] == ["set"]


def test_a_folder_that_cannot_be_moved_in_leaves_the_old_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    final = tmp_path / "set"
    (final / "old").mkdir(parents=True)
    rename = os.rename

    def refuse_the_new_one(source: Path, target: Path) -> None:
        if ".tmp-" in Path(source).name:
            raise PermissionError(source)
        rename(source, target)

    monkeypatch.setattr("os.rename", refuse_the_new_one)

    def write() -> None:
        with atomic_path(final) as temporary:
            temporary.mkdir()

    with pytest.raises(PermissionError):
        write()
    assert [p.name for p in tmp_path.iterdir()] == ["set"]
    assert [p.name for p in final.iterdir()] == ["old"]


@pytest.mark.parametrize(
    "error",
    [
        OSError(errno.ENOSPC, "No space left on device"),
        RuntimeError("I/O: No space left on device"),
    ],
)
def test_a_full_disk_says_what_was_written_and_how_much_is_free(
    tmp_path: Path, error: Exception
) -> None:
    with pytest.raises(OSError, match=r"the checkpoint to .*model.*MiB free") as caught:
        fail_halfway(tmp_path / "model", error, is_folder=False)
    assert caught.value.errno == errno.ENOSPC
    assert list(tmp_path.iterdir()) == []


def test_writing_nothing_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="found nothing"), atomic_path(tmp_path / "a"):
        pass


def test_json_refuses_nan_and_keeps_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "metrics.json"
    write_json(path, {"psnr": 20.5})
    with pytest.raises(ValueError, match="JSON"):
        write_json(path, {"psnr": float("nan")})
    assert json.loads(path.read_text()) == {"psnr": 20.5}
    write_text(path, "text")
    assert path.read_text() == "text"
