"""Web-scale sets as a stream of tar shards (WebDataset): WebVid, LAION and their like.

A shard holds files of one key side by side: `000.mp4` or `000.jpg`, `000.txt`, `000.json`.
"""

from __future__ import annotations

import random
import tarfile
import zlib
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from einops import rearrange
from jaxtyping import UInt8
from torch import Tensor
from torch.utils.data import IterableDataset, get_worker_info

from maskworld.data.sources.row_filter import RowFilter
from maskworld.data.sources.tar_samples import SampleVideo, TarSample, parse_sample
from maskworld.data.transforms import ResizeCrop, Transform, apply_transforms
from maskworld.types import Clip

Ordinal = int
"""The number of a sample within an epoch of one consumer, after shuffling."""
_DAMAGES = (OSError, tarfile.TarError, EOFError, zlib.error, ValueError)


class TarShardStream(IterableDataset[Clip]):
    """Clips of shards: one window of each video at a random start; `images_per_clip` images
    side by side make one clip with `is_image`, its caption one line per image.

    The order depends on `seed` alone (and on how many ranks and workers share the shards), so a
    stream continues exactly where its `state_dict` was taken: samples before it are skipped
    without decoding. `counts` tells what was dropped, and why.

    Args:
        shards: paths or URLs, a folder of .tar files, or a pattern such as "web-{000..099}.tar".
        num_frames: frames of a video clip.
        size: height and width that frames are resized and cropped to.
        transforms: applied after that, to each video and to each image by itself.
        frame_stride: video frames per frame of the clip.
        images_per_clip: 16 in WorldDreamer, section 4.2.
        row_filter: which rows to leave out by their scores.
        shuffle_buffer: samples to draw from; 0 = in the order of the shards.
        num_epochs: passes over the shards; None = without end.
        rank, world_size: this process and the number of processes that share the shards;
            None = as torch.distributed says. Workers of a loader share them further.
        on_error: "raise" at a bad shard or sample, or "skip" and count it as "bad".

    Raises:
        ValueError: no shards; while iterating: a damaged shard or sample, by name.
    """

    def __init__(
        self,
        shards: Path | str | Sequence[Path | str],
        *,
        num_frames: int,
        size: tuple[int, int],
        transforms: Sequence[Transform] = (),
        frame_stride: int = 1,
        images_per_clip: int = 16,
        row_filter: RowFilter | None = None,
        shuffle_buffer: int = 1000,
        seed: int = 0,
        num_epochs: int | None = None,
        rank: int | None = None,
        world_size: int | None = None,
        on_error: Literal["raise", "skip"] = "raise",
    ) -> None:
        if on_error not in ("raise", "skip"):
            raise ValueError(f"Expected on_error 'raise' or 'skip', got {on_error!r}.")
        for name, value in (
            ("num_frames", num_frames),
            ("frame_stride", frame_stride),
            ("images_per_clip", images_per_clip),
        ):
            if value < 1:
                raise ValueError(f"Expected {name} of at least 1, got {value}.")
        self.shards = find_shards(shards)
        self.name = Path(self.shards[0]).stem
        self.num_frames, self.frame_stride = num_frames, frame_stride
        self.transforms: list[Transform] = [ResizeCrop(size), *transforms]
        self.images_per_clip, self.row_filter = images_per_clip, row_filter or RowFilter()
        self.shuffle_buffer, self.seed, self.num_epochs = shuffle_buffer, seed, num_epochs
        self.on_error = on_error
        self._share = _share_of_rank(rank, world_size)
        self.counts: Counter[str] = Counter()
        """By reason: clips, kept, unscored, watermark, nsfw, too_short, bad."""
        self._epoch, self._consumed = 0, 0
        self._pending: dict[Ordinal, Clip] = {}
        self._restored: dict[str, Any] | None = None

    def state_dict(self) -> dict[str, Any]:
        """The position after the clip that came last, as plain numbers."""
        return {
            "epoch": self._epoch,
            "consumed": self._consumed,
            "pending": list(self._pending),
            "counts": dict(self.counts),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Lets the next iteration start at that position."""
        self._restored = dict(state)

    def __iter__(self) -> Iterator[Clip]:
        state = self._restored or {"epoch": 0, "consumed": 0, "pending": [], "counts": {}}
        self._restored = None
        self.counts, self._pending = Counter(state["counts"]), {}
        self._epoch, skip, again = state["epoch"], state["consumed"], set(state["pending"])
        while self.num_epochs is None or self._epoch < self.num_epochs:
            self._consumed = 0
            for sample in self.samples(self._epoch):
                ordinal, self._consumed = self._consumed, self._consumed + 1
                if ordinal == skip - 1:  # what reading up to here counted was counted before
                    self.counts = Counter(state["counts"])
                if ordinal >= skip or ordinal in again:
                    clip = self._take(sample, ordinal, is_new=ordinal >= skip)
                    if clip is not None:
                        self.counts["clips"] += 1
                        yield clip
            if self._consumed == 0:
                raise ValueError(
                    f"The {len(self.shards)} shards of {self.name} hold no sample for this "
                    "process: check the files, or use fewer ranks and workers."
                )
            self._epoch, skip, again = self._epoch + 1, 0, set()
            # Images that do not fill a clip are left out: every epoch starts alike.
            self.counts["left_over"] += len(self._pending)
            self._pending = {}
            self._consumed = 0

    def samples(self, epoch: int = 0) -> Iterator[TarSample]:
        """The undecoded samples of this process and worker, shuffled for `epoch`."""
        import webdataset

        worker = get_worker_info()
        rank, world_size = self._share
        count = world_size * (worker.num_workers if worker else 1)
        mine = rank * (worker.num_workers if worker else 1) + (worker.id if worker else 0)
        rng = random.Random(f"{self.seed}/{epoch}")  # the same order of shards for all
        shards = list(self.shards)
        if self.shuffle_buffer:
            rng.shuffle(shards)
        # With fewer shards than consumers, each reads all shards and takes every n-th sample.
        by_shard = len(shards) >= count
        mine_only = shards[mine::count] if by_shard else shards
        stream: Any = (files for shard in mine_only for files in self._shard(shard))
        if not by_shard:
            stream = (s for i, s in enumerate(stream) if i % count == mine)
        if self.shuffle_buffer:
            rng = random.Random(f"{self.seed}/{epoch}/{mine}")
            shuffle = webdataset.shuffle(self.shuffle_buffer, initial=self.shuffle_buffer, rng=rng)
            stream = shuffle(stream)
        for files in stream:
            try:
                yield parse_sample(files)
            except ValueError:
                self._bad()

    def _shard(self, shard: str) -> Iterator[dict[str, Any]]:
        """The samples of one shard; one by one, since webdataset lets the first sample after a
        damaged shard have files of the last sample before it."""
        import webdataset

        def handle(error: Exception) -> bool:
            if not isinstance(error, _DAMAGES) or self.on_error == "raise":
                raise error
            damages.append(error)
            return True

        damages: list[Exception] = []
        samples = iter(webdataset.tarfile_samples([{"url": shard}], handler=handle))
        while True:
            try:
                files = next(samples, None)
            except _DAMAGES as error:
                raise ValueError(
                    f"{shard} cannot be read as a tar shard ({type(error).__name__}: "
                    f"{error.args[0]}): copy it again, or pass on_error='skip'."
                ) from error
            if damages:  # the sample at hand may lack files
                self.counts["bad"] += 1
                return
            if files is None:
                return
            yield files

    def _bad(self) -> None:
        """Within an except block: raises again, or counts."""
        if self.on_error == "raise":
            raise
        self.counts["bad"] += 1

    def _take(self, sample: TarSample, ordinal: Ordinal, is_new: bool) -> Clip | None:
        """A clip, or None if the sample was dropped or waits for more images."""
        verdict = self.row_filter.verdict(sample.row)
        if is_new:
            self.counts[verdict] += 1
        if not self.row_filter.keeps(verdict):
            return None
        # Drawn for this sample alone, so that skipping others changes nothing.
        rng = np.random.default_rng([self.seed, self._epoch, zlib.crc32(sample.where.encode())])
        try:
            if not sample.is_image:
                return self._video_clip(sample, rng)
            self._pending[ordinal] = self._image(sample, rng)
        except ValueError:
            self._bad()
            return None
        return self._image_clip() if len(self._pending) == self.images_per_clip else None

    def _video_clip(self, sample: TarSample, rng: np.random.Generator) -> Clip | None:
        span = (self.num_frames - 1) * self.frame_stride + 1
        with SampleVideo(sample) as video:
            if video.num_frames < span:
                self.counts["too_short"] += 1
                return None
            start = int(rng.integers(video.num_frames - span + 1))
            images = video.read(list(range(start, start + span, self.frame_stride)))
            fps = video.fps / self.frame_stride
        clip = Clip(
            frames=_as_frames(images),
            caption=sample.caption,
            fps=fps,
            source=self.name,
            start=start,
        )
        return apply_transforms(clip, self.transforms, seed=int(rng.integers(2**62)))

    def _image(self, sample: TarSample, rng: np.random.Generator) -> Clip:
        clip = Clip(
            frames=_as_frames(sample.image()[None]),
            caption=sample.caption,
            is_image=True,
            source=self.name,
        )
        return apply_transforms(clip, self.transforms, seed=int(rng.integers(2**62)))

    def _image_clip(self) -> Clip:
        images, self._pending = list(self._pending.values()), {}
        return replace(
            images[0],
            frames=torch.cat([i.frames for i in images if i.frames is not None], dim=1),
            caption="\n".join(image.caption for image in images),
        )


def _as_frames(images: UInt8[np.ndarray, "t h w 3"]) -> UInt8[Tensor, "1 t 3 h w"]:
    return torch.from_numpy(np.ascontiguousarray(rearrange(images, "t h w c -> 1 t c h w")))


def find_shards(shards: Path | str | Sequence[Path | str]) -> list[str]:
    """Shards by name: of a folder, of a pattern with braces or *, or as listed.

    Raises:
        ValueError: none, or a local one that is missing.
    """
    from webdataset.shardlists import expand_urls

    if isinstance(shards, (str, Path)):
        path = Path(shards)
        if path.is_dir():
            found = [str(p) for p in sorted(path.rglob("*.tar*")) if not p.name.startswith(".")]
            if not found:
                raise ValueError(f"{path} holds no .tar file: expected WebDataset shards.")
            return found
        if "*" in str(shards):
            found = [str(p) for p in sorted(path.parent.glob(path.name))]
        else:
            found = list(expand_urls(str(shards)))
    else:
        found = [str(shard) for shard in shards]
    if not found:
        raise ValueError(f"No shard found for {shards!r}: expected .tar files.")
    missing = [url for url in found if _is_local(url) and not Path(url).is_file()]
    if missing:
        raise ValueError(f"{len(missing)} of {len(found)} shards are missing: {missing[:3]}.")
    return found


def _is_local(url: str) -> bool:
    return ":" not in url


def _share_of_rank(rank: int | None, world_size: int | None) -> tuple[int, int]:
    from torch import distributed

    if rank is None or world_size is None:
        if not (distributed.is_available() and distributed.is_initialized()):
            return 0, 1
        rank, world_size = distributed.get_rank(), distributed.get_world_size()
    if not 0 <= rank < world_size:
        raise ValueError(f"Expected a rank of 0..{world_size - 1}, got {rank}.")
    return rank, world_size
