from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import pytest
import torch
from mask_world_model_material import ACTIONS, FEW, MEMORY, SIZE, STATES, micro_model
from torch import Tensor

from maskworld.data.control import MemoryPick
from maskworld.interfaces import Policy
from maskworld.policies.robot import ChunkModel, ChunkPolicy, ControlSpec, act_together
from maskworld.policies.robot_baselines import RandomActions, Replay, WorldExpert
from maskworld.policies.robot_chunk_net import (
    ChunkNet,
    ChunkNetConfig,
    Demonstrations,
    fit_chunk_net,
    read_demonstrations,
)
from maskworld.policies.robot_noise import draws_by_row
from maskworld.policies.robot_world_model import world_model_policy
from maskworld.types import Batch, ControlBatch, Observation

SPEC = ControlSpec(("front", "wrist"), (16, 16), 2, (-1.0, -1.0), (1.0, 1.0), fps=20)
NONE = torch.Generator()
"""For networks that draw nothing."""


@dataclass
class Echo:
    """Acts what it saw: the numbers of the frames shown, and noise where asked."""

    noise: float = 0.0
    chunk: int = 4
    shown: list[list[list[int]]] = field(default_factory=list)

    def act_chunk(self, batch: Batch, generator: torch.Generator) -> Tensor:
        assert batch.frames is not None
        self.shown.append(batch.frames[:, 0, :, 0, 0, 0].tolist())
        drawn = torch.randn((len(batch), self.chunk, 2), generator=generator)
        steps = torch.arange(self.chunk)[None, :, None] * 0.1
        return steps + self.noise * drawn


def observation(step: int, **changes: object) -> Observation:
    frames = torch.full((2, 3, 16, 16), step, dtype=torch.uint8)
    return replace(Observation(frames, torch.zeros(2), "push"), **changes)


def blank(step: int) -> Observation:
    """No camera was asked."""
    return observation(step, frames=torch.zeros(0, 3, 16, 16, dtype=torch.uint8))


def run(policy: ChunkPolicy, steps: int, seed: int = 0) -> tuple[np.ndarray, list[bool]]:
    """Actions and which steps read frames; others get none."""
    policy.reset(seed)
    actions, read = [], []
    for step in range(steps):
        read.append(policy.reads_frames)
        actions.append(policy.act(observation(step) if read[-1] else blank(step)))
    return np.stack(actions), read


@pytest.mark.parametrize("exec_steps", [1, 2, 4])
def test_a_chunk_is_carried_out_for_exec_steps_and_then_asked_again(exec_steps: int) -> None:
    model = Echo()
    policy = ChunkPolicy(model, SPEC, memory=MemoryPick(1, "every"), exec_steps=exec_steps)
    assert isinstance(model, ChunkModel)
    assert isinstance(policy, Policy)
    actions, read = run(policy, 8)
    np.testing.assert_allclose(actions[:, 0], 0.1 * (np.arange(8) % exec_steps), atol=1e-6)
    assert read == [step % exec_steps == 0 for step in range(8)]
    assert [shown[0] for shown in model.shown] == [[s] for s in range(0, 8, exec_steps)]


@pytest.mark.parametrize(("stride", "exec_steps"), [(2, 4), (3, 4), (4, 4), (5, 2), (1, 1)])
def test_the_memory_shown_is_that_of_the_training_rule(stride: int, exec_steps: int) -> None:
    model, pick = Echo(), MemoryPick(3, "every", stride=stride)
    policy = ChunkPolicy(model, SPEC, memory=pick, exec_steps=exec_steps)
    _, read = run(policy, 24)  # frames that are not asked for are not there
    expected = [pick.indices(now) for now in range(0, 24, exec_steps)]
    assert [shown[0] for shown in model.shown] == expected
    needed = {
        step for chosen in [pick.indices(n) for n in range(0, 60, exec_steps)] for step in chosen
    }
    assert [step for step in range(24) if read[step]] == sorted(s for s in needed if s < 24)


def test_random_memory_reads_every_frame_and_draws_from_the_episodes_seed() -> None:
    model = Echo(chunk=8)
    policy = ChunkPolicy(model, SPEC, memory=MemoryPick(3, "random"), exec_steps=8)
    _, read = run(policy, 17)
    assert all(read)
    first = list(model.shown)
    assert [each[0][-1] for each in first] == [0, 8, 16]
    model.shown.clear()
    run(policy, 17)
    assert model.shown == first
    run(policy, 17, seed=1)
    assert model.shown[3:] != first


def test_actions_outside_the_range_are_cut_and_counted() -> None:
    policy = ChunkPolicy(Echo(noise=5.0), SPEC, memory=MemoryPick(1, "every"), exec_steps=4)
    actions, _ = run(policy, 40)
    assert np.abs(actions).max() == 1.0
    at_limit = int((np.abs(actions) == 1.0).any(axis=1).sum())
    assert policy.num_actions == 40
    assert policy.num_clipped == at_limit > 10


def test_an_episode_acts_the_same_alone_and_beside_others() -> None:
    policy = ChunkPolicy(Echo(noise=0.2), SPEC, memory=MemoryPick(2, "every"), exec_steps=2)
    alone = [run(policy, 7, seed)[0] for seed in (3, 4, 5)]
    several = [policy, policy.twin(), policy.twin()]
    for each, seed in zip(several, (3, 4, 5)):
        each.reset(seed)
    policy.model.shown.clear()
    together = np.stack([act_together(several, [observation(s)] * 3) for s in range(7)], axis=1)
    np.testing.assert_array_equal(together, np.stack(alone))
    assert len(policy.model.shown) == 4  # one pass for all three
    assert np.abs(alone[0] - alone[1]).max() > 0.01


def test_draws_by_row_share_out_views_and_refuse_what_they_cannot() -> None:
    def generators() -> list[torch.Generator]:
        return [torch.Generator().manual_seed(seed) for seed in (5, 6)]

    with draws_by_row(generators()) as shared:
        found = torch.randn(4, 3, generator=shared), torch.rand((2, 3), generator=shared)
        own = torch.randn(2, generator=torch.Generator().manual_seed(7))
    for row, alone in enumerate(generators()):
        torch.testing.assert_close(found[0][2 * row :][:2], torch.randn(2, 3, generator=alone))
        torch.testing.assert_close(found[1][row], torch.rand(1, 3, generator=alone)[0])
    torch.testing.assert_close(own, torch.randn(2, generator=torch.Generator().manual_seed(7)))
    with draws_by_row(generators()) as shared:
        with pytest.raises(ValueError, match="multiple of 2"):
            torch.randn(3, 3, generator=shared)
        with pytest.raises(ValueError, match="randint"):
            torch.randint(4, (2,), generator=shared)


def test_an_observation_that_does_not_fit_is_refused_by_what_is_wrong() -> None:
    policy = ChunkPolicy(Echo(), SPEC, memory=MemoryPick(1, "every"), exec_steps=2)
    for wrong, words in (
        (observation(0, frames=torch.zeros(1, 3, 16, 16, dtype=torch.uint8)), "'front', 'wrist'"),
        (observation(0, frames=torch.zeros(2, 3, 8, 8, dtype=torch.uint8)), "8x8"),
        (observation(0, state=torch.zeros(3)), "2 finite numbers"),
        (observation(0, state=torch.tensor([0.0, float("nan")])), "nan"),
    ):
        with pytest.raises(ValueError, match=words):
            policy.act(wrong)
    long = ChunkPolicy(Echo(chunk=4), SPEC, memory=MemoryPick(1, "every"), exec_steps=5)
    with pytest.raises(ValueError, match="exec_steps = 5"):
        long.act(observation(0))


def test_simple_policies_need_no_frames() -> None:
    random = RandomActions([-1, -1], [1, 0])
    replay = Replay({"push": np.array([[0.1, 0], [0.2, 0]], np.float32)})
    expert = WorldExpert()
    assert all(isinstance(p, Policy) and not p.reads_frames for p in (random, replay, expert))
    drawn = []
    for seed in (1, 1, 2):
        random.reset(seed)
        drawn.append(np.stack([random.act(blank(0)) for _ in range(20)]))
    np.testing.assert_array_equal(drawn[0], drawn[1])
    assert (drawn[0] != drawn[2]).all()
    assert drawn[0][:, 1].max() <= 0
    assert [float(replay.act(blank(0))[0]) for _ in range(3)] == pytest.approx([0.1, 0.2, 0.2])
    with pytest.raises(ValueError, match="'pull'"):
        replay.act(replace(blank(0), instruction="pull"))
    with pytest.raises(ValueError, match="bind"):
        expert.act(blank(0))


def spots(count: int, seed: int) -> Demonstrations:
    """Move towards a bright spot, of which the state says nothing."""
    rng = np.random.default_rng(seed)
    where = rng.integers(1, 15, size=(count, 2))
    frames = np.zeros((count, 1, 3, 16, 16), np.uint8)
    for i, (row, column) in enumerate(where):
        frames[i, 0, :, row - 1 : row + 2, column - 1 : column + 2] = 255
    goal = (where - 7.5) / 7.5
    actions = torch.from_numpy(goal.astype(np.float32))[:, None].repeat(1, 2, 1)
    real = torch.ones(count, 2, dtype=torch.bool)
    real[::5, 1] = False
    actions[::5, 1] = 100.0  # must not be learnt
    control = ControlBatch(torch.zeros(count, 2), actions, torch.zeros(count, 2, 2), real)
    return Demonstrations(control, ["to"] * count, torch.arange(count), torch.from_numpy(frames))


def test_a_seeing_net_learns_what_a_blind_one_cannot() -> None:
    train, test = spots(256, 0), spots(128, 1)
    shape = ChunkNetConfig(("to", "away"), 2, 2, chunk=2, dim=64, frame_size=(16, 16), width=16)
    errors = {}
    for views in (0, 1):
        config = replace(shape, num_views=views)
        net = fit_chunk_net(train, config, torch.Generator().manual_seed(0), num_steps=80)
        found = net.act_chunk(test.batch(torch.arange(128)), NONE)
        assert test.control.actions is not None
        errors[views] = float((found[:, 0] - test.control.actions[:, 0]).abs().mean())
    assert errors[1] < 0.5 * errors[0]
    assert errors[0] > 0.3


def test_one_seed_gives_one_net_and_augmenting_is_seen() -> None:
    data = spots(64, 0)
    config = ChunkNetConfig(
        ("to", "away"), 2, 2, chunk=2, dim=16, num_views=1, frame_size=(16, 16), width=8
    )

    def fit(augment: object = None) -> ChunkNet:
        generator = torch.Generator().manual_seed(0)
        return fit_chunk_net(data, config, generator, num_steps=3, augment=augment)

    batch = data.batch(torch.arange(4))
    torch.testing.assert_close(
        fit().act_chunk(batch, NONE), fit().act_chunk(batch, NONE), rtol=0, atol=0
    )
    dark = fit(lambda frames, generator: frames // 2)
    assert not torch.equal(dark.act_chunk(batch, NONE), fit().act_chunk(batch, NONE))
    with pytest.raises(ValueError, match="'fly'"):
        fit().act_chunk(replace(batch, captions=["fly"] * 4), NONE)


@dataclass
class Recorded:
    """An episode whose action into frame t is t and whose state is 10 t."""

    num_frames: int = 5
    fps: float = 20.0
    caption: str = "push"
    segments: tuple[tuple[int, int], ...] = ((0, 5),)
    attributes: dict[str, object] = field(default_factory=dict)

    @property
    def actions(self) -> np.ndarray:
        return np.arange(self.num_frames, dtype=np.float32)[:, None]

    @property
    def state(self) -> np.ndarray:
        return 10 * self.actions

    def read(self, indices: Sequence[int]) -> np.ndarray:
        frames = np.zeros((1, len(indices), 3, 16, 16), np.uint8)
        frames[:] = np.array(indices)[None, :, None, None, None]
        return frames

    def read_labels(self, indices: Sequence[int]) -> None:
        return None


@dataclass
class Recordings:
    episodes: list[Recorded]
    name: str = "recordings"

    def __len__(self) -> int:
        return len(self.episodes)

    def episode(self, index: int) -> Recorded:
        return self.episodes[index]


def test_demonstrations_pair_a_moment_with_the_actions_that_leave_it() -> None:
    failed = Recorded(attributes={"success": False})
    source = Recordings([Recorded(), failed, Recorded(attributes={"success": True})])
    data = read_demonstrations(source, chunk=3)
    assert len(data) == 8
    assert data.episode.tolist() == [0] * 4 + [2] * 4
    batch = data.batch(torch.tensor([1, 3]))
    assert batch.control is not None
    assert batch.frames is not None
    assert batch.control.state[:, 0].tolist() == [10, 30]
    assert batch.control.actions[..., 0].tolist() == [[2, 3, 4], [4, 4, 4]]
    assert batch.control.is_real.tolist() == [[True] * 3, [True, False, False]]
    assert batch.frames[:, 0, 0, 0, 0, 0].tolist() == [1, 3]
    with pytest.raises(ValueError, match="record some"):
        read_demonstrations(Recordings([failed]), chunk=3)


def test_mask_world_model_acts_alone_as_beside_others_and_as_its_chunk_says() -> None:
    system = micro_model(awake=True)
    spec = ControlSpec(("front", "wrist"), SIZE, STATES, (-1e3,) * ACTIONS, (1e3,) * ACTIONS, 20)
    policy = world_model_policy(system, spec, sampling=FEW)
    assert policy.exec_steps == system.config.exec_steps == 2
    assert policy.memory == MemoryPick(MEMORY, "every", stride=system.config.memory_stride)
    draws = torch.Generator().manual_seed(0)
    shown = torch.randint(256, (3, 4, 2, 3, *SIZE), generator=draws).to(torch.uint8)
    seen = [
        [Observation(shown[e, t], torch.full((STATES,), 5.0), "push the block") for e in range(3)]
        for t in range(4)
    ]
    alone = []
    for episode in range(3):
        policy.reset(episode)
        alone.append([policy.act(seen[t][episode]) for t in range(4)])
    several = [policy.twin() for _ in range(3)]
    for episode, each in enumerate(several):
        each.reset(episode)
    together = [act_together(several, now) for now in seen]
    np.testing.assert_allclose(np.swapaxes(together, 0, 1), alone, rtol=1e-4, atol=1e-4)
    policy.reset(0)
    batch = Batch(
        shown[0, 0][None, :, None].expand(-1, -1, MEMORY, -1, -1, -1),
        control=ControlBatch(torch.full((1, STATES), 5.0)),
        captions=["push the block"],
    )
    chunk = system.act_chunk(batch, policy._noise, FEW).actions[0]
    np.testing.assert_allclose(np.stack(alone[0][:2]), chunk[:2], rtol=1e-5, atol=1e-5)
    pruned = world_model_policy(system, spec, sampling=FEW, p_prune=0.5)
    assert pruned.describe()["p_prune"] == 0.5
    pruned.reset(0)
    assert not np.allclose(pruned.act(seen[0][0]), alone[0][0])
    with pytest.raises(ValueError, match="cameras 1, not 2"):
        world_model_policy(system, replace(spec, cameras=("front",)))
