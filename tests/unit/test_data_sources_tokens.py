"""Token arrays as a Source: the grid, the range of codes, and what is refused."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from maskworld.data.sources.tokens import TokenSource
from maskworld.data.windows import ClipIndex

REAL = Path(__file__).parents[3] / "shared/data/driving_tokens/commavq_minute.npy"
needs_real = pytest.mark.skipif(
    not REAL.is_file(), reason="the real data of ../shared/data is not on this machine"
)


def codes(num_frames: int = 5, *layout: int) -> np.ndarray:
    shape = (num_frames, *(layout or (2, 3)))
    return np.arange(np.prod(shape)).reshape(shape)


def test_rows_of_tokens_are_frames_row_by_row(tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", codes(5, 6))
    source = TokenSource(tmp_path / "a.npy", grid=(2, 3), fps=10.0)
    read = source.episode(0).read_tokens([3, 0])
    assert (read.shape, read.dtype) == ((1, 2, 2, 3), np.int64)
    np.testing.assert_array_equal(read[0, 0], [[18, 19, 20], [21, 22, 23]])
    assert (source.vocab_size, source.grid, source.episode(0).num_frames) == (30, (2, 3), 5)


def test_a_folder_tells_its_layout_in_meta_json(tmp_path: Path) -> None:
    for name in "ba":
        np.save(tmp_path / f"{name}.npy", codes(4, 6).astype(np.int16))
    np.save(tmp_path / "a.actions.npy", np.ones((4, 2)))
    (tmp_path / "a.txt").write_text("night")
    meta = {"format": "maskworld-tokens", "version": 1, "grid": [3, 2], "vocab_size": 99, "fps": 5}
    (tmp_path / "meta.json").write_text(json.dumps(meta))
    source = TokenSource(tmp_path)
    assert (len(source), source.grid, source.vocab_size, source.fps) == (2, (3, 2), 99, 5.0)
    first, second = source.episode(0), source.episode(1)
    assert (first.caption, second.caption) == ("night", "")
    np.testing.assert_array_equal(first.actions, np.ones((4, 2)))
    assert second.actions is None


def test_arrays_of_an_npz_are_episodes(tmp_path: Path) -> None:
    np.savez(tmp_path / "a.npz", x=codes(3), y=codes(4))
    source = TokenSource(tmp_path / "a.npz", fps=10.0)
    assert [source.episode(i).num_frames for i in range(2)] == [3, 4]
    np.testing.assert_array_equal(source.episode(1).read_tokens([3])[0, 0], codes(4)[3])


def test_windows_are_made_from_token_episodes(tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", codes(5))
    assert len(ClipIndex(TokenSource(tmp_path / "a.npy", fps=10.0), num_frames=3)) == 3


@pytest.mark.parametrize(
    ("array", "options", "message"),
    [
        (codes(5, 6), {"fps": 10.0}, "pass grid"),
        (codes(5, 6), {"fps": 10.0, "grid": (4, 2)}, "does not fit"),
        (codes(5), {}, "pass fps"),
        (codes(5) / 2, {"fps": 10.0}, "expected integers"),
        (codes(5)[0, 0], {"fps": 10.0}, "expected \\(frames, tokens\\)"),
        (codes(0, 2, 3), {"fps": 10.0}, "none of them 0"),
    ],
)
def test_what_is_no_token_array_is_refused(
    tmp_path: Path, array: np.ndarray, options: dict, message: str
) -> None:
    np.save(tmp_path / "a.npy", array)
    with pytest.raises(ValueError, match=message):
        TokenSource(tmp_path / "a.npy", **options)


@pytest.mark.parametrize("bad", [-1, 40])
def test_codes_out_of_range_name_file_and_frame(tmp_path: Path, bad: int) -> None:
    array = codes(5)
    array[3, 1, 1] = bad
    np.save(tmp_path / "a.npy", array)
    source = TokenSource(tmp_path / "a.npy", fps=10.0, vocab_size=40)
    with pytest.raises(ValueError, match=r"a\.npy: expected codes 0\.\.39.*first in frame 3"):
        source.episode(0).read_tokens([0])


def test_pixels_of_a_token_file_are_refused(tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", codes(5))
    with pytest.raises(ValueError, match="no pixels"):
        TokenSource(tmp_path / "a.npy", fps=10.0).episode(0).read([0])


def test_missing_empty_truncated_and_foreign_files_say_so(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="found nothing"):
        TokenSource(tmp_path / "no.npy")
    with pytest.raises(ValueError, match=r"no \.npy file"):
        TokenSource(tmp_path)
    np.save(tmp_path / "a.npy", codes(50))
    whole = (tmp_path / "a.npy").read_bytes()
    (tmp_path / "a.npy").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(ValueError, match=r"a\.npy is no readable"):
        TokenSource(tmp_path / "a.npy", fps=10.0)
    (tmp_path / "a.npz").write_bytes(b"PK but no archive")
    with pytest.raises(ValueError, match=r"a\.npz is no readable"):
        TokenSource(tmp_path / "a.npz", fps=10.0)
    (tmp_path / "a.mp4").touch()
    with pytest.raises(ValueError, match=r"\.npy or \.npz"):
        TokenSource(tmp_path / "a.mp4")


@needs_real
def test_the_real_minute_is_commavq() -> None:
    source = TokenSource(REAL)
    assert (source.grid, source.vocab_size, source.fps) == ((8, 16), 1024, 20.0)
    read = source.episode(0).read_tokens([0, 1199])
    np.testing.assert_array_equal(read[0].reshape(2, 128), np.load(REAL)[[0, 1199]])
