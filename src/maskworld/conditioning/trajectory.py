"""Trajectories as a planner sees them: normalised numbers, delta maps, other time stamps.

Waypoints are x, y (m), heading (rad) in the ego frame of the plan's moment (ADR 0002). Statistics
are buffers, saved with the model, so a planner cannot be used with another data set's. They stay
float32 when the model is cast to half precision: bfloat16 knows 65.17 m only as 65 m.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any, Literal

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from maskworld.types import Batch, PlanBatch

_NAVSIM = ((-1.57, 65.17), (-19.68, 22.32), (-1.67, 1.86))
"""DriveLaW's ranges of x, y (m) and heading (rad) on NAVSIM, 4 s at 2 Hz."""
_BEYONDDRIVE = ((2.950226, 4.525338), (0.060729, 5.072810))
"""BeyondDrive's mean and largest distance from it of dx and dy (m), NAVSIM at 2 Hz."""


class TrajectoryNormaliser(nn.Module):
    """Maps each number of a waypoint or action linearly to [-1, 1] and back.

    Args:
        kind: navsim: DriveLaW's fixed ranges; dataset: estimated by `fit`, or given by `set_range`.
        dim: numbers per row; navsim has 3.
        quantile: dataset only. 0: smallest to largest value; else the range between this quantile
            and its mirror (Mask World Model: 0.01), so that values beyond leave [-1, 1].
    """

    def __init__(
        self,
        kind: Literal["navsim", "dataset"] = "navsim",
        dim: int = 3,
        quantile: float | int = 0,
    ) -> None:
        super().__init__()
        if kind not in ("navsim", "dataset"):
            raise ValueError(f"Expected kind navsim or dataset, found {kind!r}.")
        if kind == "navsim" and (dim != 3 or quantile):
            raise ValueError(
                f"Expected 3 numbers and no quantile with kind navsim, found {dim} and {quantile}: "
                "use kind dataset."
            )
        if not 0 <= quantile < 0.5:
            raise ValueError(f"Expected a quantile in [0, 0.5), found {quantile}: 0.01 is usual.")
        self.quantile = quantile
        fixed = tuple(((a + b) / 2, (b - a) / 2) for a, b in _NAVSIM) if kind == "navsim" else None
        self.statistics = _Statistics("trajectory normaliser", dim, fixed)

    def fit(self, trajectories: Float[Tensor, "*n d"]) -> None:
        """Estimates the range of each number from all rows.

        Raises:
            ValueError: kind navsim, NaN, another width, no rows, or a number that never changes.
        """
        self.statistics.check(trajectories)
        rows = trajectories.detach().double().flatten(0, -2).cpu().numpy()
        if not len(rows):
            raise ValueError("Expected trajectories to fit to, found none.")
        low, high = np.quantile(rows, (self.quantile, 1 - self.quantile), axis=0)
        self.set_range(torch.from_numpy(low), torch.from_numpy(high))

    def set_range(self, low: Float[Tensor, " d"], high: Float[Tensor, " d"]) -> None:
        """What becomes -1 and 1, for statistics that are known already."""
        self.statistics.set((low + high) / 2, (high - low) / 2)

    def normalise(self, trajectory: Float[Tensor, "*n d"]) -> Float[Tensor, "*n d"]:
        """To [-1, 1] inside the range; not clamped outside."""
        return self.statistics.apply_to(trajectory)

    def denormalise(
        self, action: Float[Tensor, "*n d"], clamp: bool = True
    ) -> Float[Tensor, "*n d"]:
        """Back to metres and radians.

        Args:
            clamp: to [-1, 1] first, as DriveLaW does with what it predicts. Numbers beyond then
                pass no gradient, which also bounds ReWorld's repulsion; Eq. 16 has no clamp.
        """
        return self.statistics.undo(action.clamp(-1, 1) if clamp else action)


class DeltaMap(nn.Module):
    """Trajectories as relative motion: normalised dx, dy, then sine and cosine of the heading.

    The first difference is from the origin, where the plan begins.

    Args:
        kind: beyonddrive: its constants, for plans at 2 Hz; dataset: estimated by `fit`.

    Reference: ReWorld, Eq. 17, which names no constants; BeyondDrive's are our assumption.
    """

    def __init__(self, kind: Literal["beyonddrive", "dataset"] = "beyonddrive") -> None:
        super().__init__()
        if kind not in ("beyonddrive", "dataset"):
            raise ValueError(f"Expected kind beyonddrive or dataset, found {kind!r}.")
        fixed = _BEYONDDRIVE if kind == "beyonddrive" else None
        self.statistics = _Statistics("delta map", 2, fixed)

    def fit(self, trajectories: Float[Tensor, "*b l 3"]) -> None:
        """Mean of dx and dy, and the largest distance from it, as BeyondDrive's constants are."""
        steps = _steps(trajectories.detach().double()).flatten(0, -2)
        self.statistics.check(steps)
        if not len(steps):
            raise ValueError("Expected trajectories to fit to, found none.")
        mean = steps.mean(dim=0)
        self.statistics.set(mean, (steps - mean).abs().amax(dim=0))

    def forward(self, trajectory: Float[Tensor, "*b l 3"]) -> Float[Tensor, "*b l 4"]:
        """Delta(tau) of metres and radians."""
        delta = self.statistics.apply_to(_steps(trajectory))
        heading = trajectory[..., 2:]
        return torch.cat([delta, heading.sin(), heading.cos()], dim=-1)  # Eq. 17

    def inverse(self, delta: Float[Tensor, "*b l 4"]) -> Float[Tensor, "*b l 3"]:
        """The trajectory of a delta map; its heading in (-pi, pi]."""
        places = self.statistics.undo(delta[..., :2]).cumsum(dim=-2)
        heading = torch.atan2(delta[..., 2:3], delta[..., 3:4])
        return torch.cat([places, heading], dim=-1)


def experts_of(batch: Batch) -> tuple[Bool[Tensor, " b"], PlanBatch]:
    """Which samples an expert drove, and their plans.

    Raises:
        ValueError: none of them.
    """
    plan = batch.plan
    if plan is None or plan.has_trajectory is None or not bool(plan.has_trajectory.any()):
        raise ValueError(
            "Expected expert trajectories in Batch.plan to train a planner, found none: leave "
            "clips that no expert drove out of the stages action, joint and standard."
        )
    return plan.has_trajectory, plan.rows(plan.has_trajectory)


def resample_trajectory(
    times: Float[Tensor, " k"], poses: Float[Tensor, "*b n 3"], new_times: Float[Tensor, " m"]
) -> Float[Tensor, "*b m 3"]:
    """Poses at other time stamps (s), linear in between, headings the short way round.

    Stamps of seconds since an epoch need float64.

    Raises:
        ValueError: stamps that do not increase, NaN, or a new time outside the old ones: a
            trajectory is never extended.
    """
    if len(times) != poses.shape[-2]:
        raise ValueError(f"Expected one time per pose, found {len(times)} and {poses.shape[-2]}.")
    if len(times) < 2 or not bool((times.diff() > 0).all()):
        raise ValueError(
            "Expected at least two time stamps, increasing: sort and deduplicate them."
        )
    if not all(bool(x.isfinite().all()) for x in (times, poses, new_times)):
        raise ValueError("Expected finite times and poses, found NaN or infinity.")
    slack = 1e-4 * times.diff().amin()
    if len(new_times) and bool(
        (new_times.amin() < times[0] - slack) | (new_times.amax() > times[-1] + slack)
    ):
        raise ValueError(
            f"Expected new times within {float(times[0]):g} to {float(times[-1]):g} s, found "
            f"{float(new_times.amin()):g} to {float(new_times.amax()):g} s: ask for fewer or give "
            "a longer trajectory."
        )
    right = torch.searchsorted(times, new_times.contiguous()).clamp(1, len(times) - 1)
    share = ((new_times - times[right - 1]) / (times[right] - times[right - 1])).clamp(0, 1)
    poses = torch.cat([poses[..., :2], unwrap_heading(poses[..., 2])[..., None]], dim=-1)
    return torch.lerp(
        poses[..., right - 1, :], poses[..., right, :], share[:, None].to(poses.dtype)
    )


def unwrap_heading(heading: Float[Tensor, "*b n"]) -> Float[Tensor, "*b n"]:
    """Headings without jumps of a full turn: neighbours differ by at most pi; the first stays."""
    step = torch.remainder(heading.diff(dim=-1) + math.pi, math.tau) - math.pi
    first = heading[..., :1]
    return torch.cat([first, first + step.cumsum(dim=-1)], dim=-1)


def _steps(trajectory: Float[Tensor, "*b l 3"]) -> Float[Tensor, "*b l 2"]:
    places = trajectory[..., :2]
    return torch.diff(places, dim=-2, prepend=torch.zeros_like(places[..., :1, :]))


class _Statistics(nn.Module):
    """(x - offset) / scale with fixed or estimated buffers, and the checks around them."""

    offset: Tensor
    scale: Tensor
    is_fitted: Tensor

    def __init__(
        self, name: str, dim: int, fixed: tuple[tuple[float, float], ...] | None = None
    ) -> None:
        super().__init__()
        if dim < 1:
            raise ValueError(f"Expected at least one number per row, found dim {dim}.")
        self.name = name
        self.is_fixed = fixed is not None
        offset, scale = zip(*fixed) if fixed else ((0.0,) * dim, (1.0,) * dim)
        self.register_buffer("offset", torch.tensor(offset, dtype=torch.float32))
        self.register_buffer("scale", torch.tensor(scale, dtype=torch.float32))
        self.register_buffer("is_fitted", torch.tensor(self.is_fixed))

    def set(self, offset: Float[Tensor, " d"], scale: Float[Tensor, " d"]) -> None:
        if self.is_fixed:
            raise ValueError(
                f"Expected a {self.name} of kind dataset to fit, found fixed constants."
            )
        if offset.shape != self.offset.shape or scale.shape != self.scale.shape:
            raise ValueError(
                f"Expected statistics of {len(self.offset)} numbers, found {tuple(offset.shape)}."
            )
        if not bool((offset.isfinite() & scale.isfinite()).all()):
            raise ValueError(
                f"Expected finite statistics of the {self.name}, found NaN or infinity."
            )
        if not bool((scale > 0).all()):
            constant = [i for i, value in enumerate(scale.tolist()) if value <= 0]
            raise ValueError(
                f"Expected numbers that vary, found a range of zero or less for number {constant} "
                f"(from 0) of the {self.name}: fit on more data, or set the range by hand."
            )
        self.offset.copy_(offset)
        self.scale.copy_(scale)
        self.is_fitted.fill_(True)

    def apply_to(self, x: Tensor) -> Tensor:
        self.check(x, used=True)
        return (x - self.offset) / self.scale

    def undo(self, x: Tensor) -> Tensor:
        self.check(x, used=True)
        return x * self.scale + self.offset

    def check(self, x: Tensor, used: bool = False) -> None:
        if x.shape[-1] != len(self.offset):
            raise ValueError(
                f"Expected {len(self.offset)} numbers per row for the {self.name}, found "
                f"{x.shape[-1]}: set its dim."
            )
        if used and not bool(self.is_fitted):
            raise ValueError(
                f"Expected a fitted {self.name}, found one without statistics: call fit, or load a "
                "checkpoint."
            )
        # A prediction in training is left to the trainer, which tests its loss and gradient.
        if not x.requires_grad and not bool(x.isfinite().all()):
            raise ValueError(f"Expected finite numbers for the {self.name}, found NaN or infinity.")

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> _Statistics:
        kept = {"offset": self.offset, "scale": self.scale}
        super()._apply(fn, recurse)
        for key, value in kept.items():
            cast = getattr(self, key)
            if cast.dtype != torch.float32:
                setattr(self, key, value.to(cast.device))
        return self

    def _load_from_state_dict(
        self, state_dict: Mapping[str, Any], prefix: str, *args: Any, **kwargs: Any
    ) -> None:
        """Refuses a file's statistics where this module has others already."""
        mine = {"offset": self.offset, "scale": self.scale}
        found = {key: state_dict[prefix + key] for key in mine if prefix + key in state_dict}
        same = all(
            found[key].shape == value.shape
            and torch.allclose(found[key].to(value), value, rtol=1e-5, atol=1e-6)
            for key, value in mine.items()
            if key in found
        )
        if found and bool(self.is_fitted) and not same:
            raise ValueError(
                f"Expected the statistics of this {self.name}, "
                f"{ {key: value.tolist() for key, value in mine.items()} }, found "
                f"{ {key: value.tolist() for key, value in found.items()} } in the file: they come "
                "from other data. Build it with the kind the file was written with, unfitted."
            )
        super()._load_from_state_dict(state_dict, prefix, *args, **kwargs)
