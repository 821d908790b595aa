"""Mask World Model as a system: stages, memory, what is never read, variants, pruning, releases."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from mask_world_model_material import (
    ACTIONS,
    CHUNK,
    FEW,
    FUTURE,
    MEMORY,
    SIZE,
    STATES,
    batch_of,
    micro_config,
    micro_model,
)

from maskworld.guidance import Guidance
from maskworld.nn.latent_window import bank_of, draw_kept, grid_places
from maskworld.systems.mask_world_model import MaskWorldModel
from maskworld.types import Batch, Prompt


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@contextmanager
def counted(model: MaskWorldModel) -> Iterator[dict[str, int]]:
    """Counts the passes of both towers."""
    counts = {"video": 0, "action": 0}

    def count(name: str) -> Any:
        def hook(*_: Any) -> None:
            counts[name] += 1

        return hook

    hooks = [getattr(model, name).register_forward_hook(count(name)) for name in counts]
    yield counts
    for hook in hooks:
        hook.remove()


def moved_by(stage: str, data: Batch | None = None, **changes: Any) -> set[str]:
    """Names of the parameters that one optimizer step of a stage changes."""
    model = micro_model(micro_config(**changes), awake=True)
    before = {name: value.clone() for name, value in model.named_parameters()}
    optimizer = torch.optim.SGD([{"params": g["params"]} for g in model.parameter_groups(stage)])
    model.training_loss(data or batch_of(), stage, seeded()).total.backward()
    optimizer.step()
    return {n for n, value in model.named_parameters() if not torch.equal(value, before[n])}


def parts(names: set[str]) -> set[str]:
    return {name.split(".")[0] for name in names}


def test_stage_dynamics_moves_the_video_tower_and_what_it_is_told() -> None:
    assert parts(moved_by("dynamics")) == {"video", "prompter", "view_embedding"}


def test_stage_policy_moves_both_towers_but_what_the_bank_does_not_read() -> None:
    moved = moved_by("policy")
    assert parts(moved) == {"video", "prompter", "view_embedding", "action"}
    assert not any(name.startswith("video.head.") for name in moved)


def test_stage_policy_of_the_action_alone_gives_the_video_no_gradient() -> None:
    assert parts(moved_by("policy", trains="action_only")) == {"action"}
    model = micro_model(micro_config(trains="action_only"), awake=True)
    model.training_loss(batch_of(), "policy", seeded()).total.backward()
    assert all(p.grad is None for name, p in model.named_parameters() if name.startswith("video."))


def test_a_world_loss_beside_the_actions_keeps_the_head_in_training() -> None:
    assert any(n.startswith("video.head.") for n in moved_by("policy", world_loss_weight=0.5))
    terms = micro_model(micro_config(world_loss_weight=0.5)).training_loss(
        batch_of(), "policy", seeded()
    )
    assert set(terms.terms) == {"action", "velocity"}


def test_stage_tokenizer_trains_on_pictures_and_palettes_and_the_towers_stay() -> None:
    conv = replace(micro_config().tokenizer, decoder="conv", decoder_dim=8, detail_dim=4)
    assert parts(moved_by("tokenizer", tokenizer=conv)) == {"tokenizer"}
    model, data = micro_model(), batch_of(3)
    clips = model.clips.tokenizer_clips(data)
    assert clips.shape == (2 * 3 * 2, FUTURE, 3, *SIZE)
    assert torch.equal(clips[0, 4], data.frames[0, 0, -1])  # now, standing still
    assert torch.equal(clips[6:], model.palette.render(data.labels).flatten(0, 1))


def test_a_stage_of_no_name_is_refused() -> None:
    model = micro_model()
    with pytest.raises(ValueError, match="tokenizer, dynamics, policy"):
        model.parameter_groups("video")
    with pytest.raises(ValueError, match="tokenizer, dynamics, policy"):
        model.training_loss(batch_of(), "video", seeded())


def test_the_memory_stays_clean_at_any_sigma_and_has_time_zero() -> None:
    model = micro_model(
        micro_config(
            dynamics_conditions=replace(micro_config().dynamics_conditions, memory_noise=0.0)
        ),
        awake=True,
    )
    seen: list[tuple[torch.Tensor, torch.Tensor]] = []
    original = model.run_video

    def noting(z: torch.Tensor, t: torch.Tensor, *rest: Any) -> Any:
        seen.append((z, t))
        return original(z, t, *rest)

    model.run_video = noting  # type: ignore[method-assign]
    data = batch_of()
    memory = model.clips.encode(data, with_future=False)
    per_view = memory.flatten(0, 1).movedim(2, -1).flatten(1, 3)
    for seed in range(4):
        model.training_loss(data, "dynamics", seeded(seed))
    model.act_chunk(data, seeded(), FEW)
    for z, t in seen:
        count = per_view.shape[1]
        assert torch.equal(z[:, :count], per_view)
        assert t[:, :count].abs().max() == 0
        assert (t[:, count:] > 0).all()
    assert len({float(t[0, -1]) for _, t in seen}) > 3
    assert (seen[-1][1][:, count:] == 1).all()  # the bank's future is pure noise


def test_noise_on_remembered_frames_is_there_in_both_stages_and_never_when_acting() -> None:
    noisy = replace(micro_config().dynamics_conditions, memory_noise=1.0, p_drop_caption=0.0)
    quiet = replace(noisy, memory_noise=0.0)
    for stage, name in (("dynamics", "dynamics_conditions"), ("policy", "policy_conditions")):
        models = [micro_model(micro_config(**{name: each}), awake=True) for each in (noisy, quiet)]
        a, b = (model.training_loss(batch_of(), stage, seeded()).total for model in models)
        assert not torch.equal(a, b)
        chunks = [model.act_chunk(batch_of(), seeded(), FEW).actions for model in models]
        assert torch.equal(*chunks)


def test_captions_matter_and_are_dropped_at_the_stages_own_rate() -> None:
    conditions = micro_config().dynamics_conditions
    always = micro_model(
        micro_config(dynamics_conditions=replace(conditions, p_drop_caption=1.0)), awake=True
    )
    never = micro_model(
        micro_config(dynamics_conditions=replace(conditions, p_drop_caption=0.0)), awake=True
    )
    data = batch_of()
    other = replace(data, captions=["do nothing"] * len(data))

    def losses(model: MaskWorldModel) -> list[torch.Tensor]:
        return [model.training_loss(d, "dynamics", seeded()).total for d in (data, other)]

    assert torch.equal(*losses(always))
    assert not torch.equal(*losses(never))
    chunks = [never.act_chunk(d, seeded(), FEW).actions for d in (data, other)]
    assert not torch.equal(*chunks)


def test_every_token_may_have_a_time_of_its_own() -> None:
    model = micro_model(awake=True)
    k, gh, gw = model.config.grid
    z = torch.randn(2, k * gh * gw, 12, generator=seeded())
    prompt = model.prompter(Prompt(), 1, 1)
    t = torch.rand(2, k, generator=seeded()).repeat_interleave(gh * gw, dim=1)
    per_frame = model.run_video(z, t, prompt, model.config.grid).velocity
    per_token = replace(model.config, video_times=replace(model.config.video_times, scope="token"))
    model.config = per_token
    torch.testing.assert_close(model.run_video(z, t, prompt, per_token.grid).velocity, per_frame)
    t = t.clone()
    t[0, 3] = 0.9
    assert not torch.equal(model.run_video(z, t, prompt, per_token.grid).velocity, per_frame)


def test_stage_policy_and_acting_never_read_masks_or_the_future() -> None:
    for changes in ({}, {"target": "rgb"}, {"carries_mean": True}):
        model = micro_model(micro_config(**changes), awake=True)
        full = batch_of(has_future=True)
        bare = batch_of(has_labels=False)
        other = replace(full, labels=1 - full.labels.clamp(max=1))
        losses = [model.training_loss(d, "policy", seeded()).total for d in (full, bare, other)]
        assert torch.equal(losses[0], losses[1])
        assert torch.equal(losses[0], losses[2])
        chunks = [model.act_chunk(d, seeded(), FEW).actions for d in (full, bare, other)]
        assert torch.equal(chunks[0], chunks[1])
        assert torch.equal(chunks[0], chunks[2])


def test_a_chunk_takes_one_video_pass_and_its_steps_none() -> None:
    model = micro_model(awake=True)
    with counted(model) as counts:
        chunk = model.act_chunk(batch_of(), seeded(), FEW)
        assert counts == {"video": 1, "action": 3}
        model.act_chunk(batch_of(), seeded(), replace(FEW, num_averaged=4))
        assert counts == {"video": 2, "action": 6}
    assert chunk.actions.shape == (6, CHUNK, ACTIONS)
    assert chunk.states.shape == (6, CHUNK, STATES)


def test_features_made_once_give_the_loss_of_features_made_in_the_step() -> None:
    quiet = replace(micro_config().policy_conditions, memory_noise=0.0)
    model = micro_model(micro_config(trains="action_only", policy_conditions=quiet), awake=True)
    data = batch_of()
    generator = seeded()
    torch.randn(6, CHUNK, ACTIONS + STATES, generator=generator)  # drawn before the bank
    torch.rand(6, generator=generator)  # times
    torch.rand(6, generator=generator)  # which captions to drop
    memory = model.clips.encode(data, with_future=False)
    bank = model.feature_bank(memory, model.prompter(Prompt(data.captions), 6, 1), generator)
    kept = replace(data, frames=None, features=torch.stack(bank.states, dim=1))
    with counted(model) as counts:
        once = model.training_loss(kept, "policy", seeded()).total
        assert counts["video"] == 0
    torch.testing.assert_close(once, model.training_loss(data, "policy", seeded()).total)


@pytest.mark.parametrize("target", ["mask", "rgb"])
@pytest.mark.parametrize("num_views", [1, 2])
def test_c1_dreams_decodes_and_reads_actions_while_c2_reads_features_of_one_view(
    target: str, num_views: int
) -> None:
    data = batch_of(num_views=num_views, has_future=target == "rgb")
    bare = batch_of(num_views=num_views, has_labels=False)
    c1 = micro_model(
        micro_config(target=target, num_views=num_views, policy="inverse_dynamics"), awake=True
    )
    trained = {id(p) for group in c1.parameter_groups("policy") for p in group["params"]}
    named = {name for name, p in c1.named_parameters() if id(p) in trained}
    assert parts(named) == {"inverse_dynamics"}
    assert torch.isfinite(c1.training_loss(data, "policy", seeded()).total)
    assert c1.act_chunk(bare, seeded(), FEW).actions.shape == (6, CHUNK, ACTIONS)
    with pytest.raises(ValueError, match="p_prune"):
        c1.act_chunk(bare, seeded(), FEW, 0.5)
    full = micro_model(micro_config(target=target, num_views=num_views), awake=True)
    assert torch.isfinite(full.training_loss(data, "policy", seeded()).total)
    assert full.act_chunk(bare, seeded(), FEW).actions.shape == (6, CHUNK, ACTIONS)


def test_a_rollout_gives_frames_and_labels_of_the_future() -> None:
    model = micro_model(awake=True)
    dreamt = model.rollout(batch_of(has_labels=False), seeded(), FEW)
    assert dreamt.frames.shape == (6, 2, FUTURE, 3, *SIZE)
    assert dreamt.labels is not None
    assert int(dreamt.labels.max()) <= 2
    rgb = micro_model(micro_config(target="rgb"), awake=True)
    assert rgb.rollout(batch_of(has_labels=False), seeded(), FEW).labels is None
    with pytest.raises(ValueError, match="no guidance"):
        model.rollout(batch_of(), seeded(), replace(FEW, guidance=Guidance(gamma=1.4)))


@pytest.mark.parametrize(("encoding", "num_latents"), [("joint", 2), ("separate", 5)])
def test_the_future_is_encoded_jointly_or_frame_by_frame(encoding: str, num_latents: int) -> None:
    model = micro_model(micro_config(future_encoding=encoding))
    data = batch_of()
    latents = model.clips.encode(data, with_future=True)
    assert latents.shape[2] == MEMORY + num_latents == model.config.grid[0]
    frames, labels = model.clips.decode(latents[:, :, MEMORY:])
    assert frames.shape == (6, 2, FUTURE, 3, *SIZE)
    assert labels is not None
    assert (labels == data.labels).float().mean() > 0.97
    assert model.clips.recovery(data) > 0.99


def test_views_are_joined_and_told_apart() -> None:
    model, data = micro_model(awake=True), batch_of()
    other = data.frames.clone()
    other[:, 1] = 255 - other[:, 1]
    banks = [
        model.encode_once(replace(data, frames=frames), seeded()) for frames in (data.frames, other)
    ]
    per_view = banks[0].states[0].shape[1] // 2
    assert not torch.equal(banks[0].states[0][:, :per_view], banks[1].states[0][:, :per_view])
    swapped = model.encode_once(replace(data, frames=data.frames.flip(1)), seeded())
    assert not torch.allclose(swapped.states[2].mean(dim=1), banks[0].states[2].mean(dim=1))


def test_pruning_drops_tokens_with_their_times_and_places() -> None:
    model, data = micro_model(awake=True), batch_of()
    whole = model.encode_once(data, seeded())
    k, gh, gw = model.config.grid
    z, t = torch.randn(4, k * gh * gw, 12, generator=seeded()), torch.zeros(4, k * gh * gw)
    t[:, MEMORY * gh * gw :] = 1.0
    prompt = model.prompter(Prompt(["push", "pull"]), 2, 1)
    everything = torch.arange(z.shape[1]).expand(4, -1)
    a = model.run_video(z, t, prompt, (k, gh, gw)).velocity
    b = model.run_video(z, t, prompt, (k, gh, gw), kept=everything).velocity
    torch.testing.assert_close(a, b)
    shuffled = torch.randperm(z.shape[1], generator=seeded()).expand(4, -1)
    c = model.run_video(z, t, prompt, (k, gh, gw), kept=shuffled).velocity
    torch.testing.assert_close(c, a[:, shuffled[0]], atol=1e-5, rtol=1e-4)
    pruned = model.encode_once(data, seeded(), 0.75)
    assert pruned.states[0].shape[1] == round(0.25 * whole.states[0].shape[1])
    assert model.act_chunk(data, seeded(), FEW, 0.75).actions.shape == (6, CHUNK, ACTIONS)
    with pytest.raises(ValueError, match="p_prune"):
        model.encode_once(data, seeded(), 1.0)


def test_the_bank_is_told_its_places_also_where_it_is_pruned() -> None:
    places = grid_places((3, 2, 4), 2)
    assert len({tuple(row.tolist()) for row in places}) == len(places) == 24
    kept = draw_kept(4, 24, 0.5, seeded())
    states = torch.randn(4, 12, 5, generator=seeded())
    bank = bank_of({3: states}, (3, 3), 2, places, kept)
    assert len(bank.states) == 2
    for row in range(4):  # views of a clip side by side
        own = bank.states[0][row // 2, 12 * (row % 2) : 12 * (row % 2) + 12]
        assert torch.equal(own[:, :5], states[row])
        assert torch.equal(own[:, 5:], places[kept[row]])
    model = micro_model(micro_config(bank_positions=2), awake=True)
    whole = model.encode_once(batch_of(1), seeded()).states[0]
    assert torch.equal(whole[0, :, 24:], grid_places(model.config.grid, 2).repeat(2, 1))
    assert model.encode_once(batch_of(1), seeded(), 0.5).states[0].shape[-1] == 36


def test_a_policy_without_a_world_model_runs_no_video_tower() -> None:
    config = micro_config()
    blind = micro_model(replace(config, action=replace(config.action, video_dim=0)), awake=True)
    with counted(blind) as counts:
        blind.training_loss(batch_of(), "policy", seeded())
        blind.act_chunk(batch_of(has_labels=False), seeded(), FEW)
        assert counts["video"] == 0
    assert parts(moved_by("policy", action=blind.config.action)) == {"action"}


def test_an_untrained_model_that_carries_the_mean_dreams_and_does_the_average() -> None:
    model, data = micro_model(micro_config(carries_mean=True)), batch_of(24, has_future=True)
    one = replace(
        FEW, video=replace(FEW.video, num_steps=1), actions=replace(FEW.actions, num_steps=1)
    )
    u = model.normaliser.normalise(data.control.actions, data.control.states)
    actions, states = model.normaliser.denormalise(u.mean(dim=0, keepdim=True))
    chunk = model.act_chunk(data, seeded(), one)
    torch.testing.assert_close(
        chunk.actions, actions.expand_as(chunk.actions), atol=1e-3, rtol=1e-3
    )
    torch.testing.assert_close(chunk.states, states.expand_as(chunk.states), atol=1e-2, rtol=1e-3)
    mean = model.clips.encode(data, with_future=True)[:, :, MEMORY:].mean(dim=0)
    dreamt = model.rollout(data, seeded(), one).latents[:, :, MEMORY:]
    torch.testing.assert_close(dreamt, mean.expand_as(dreamt), atol=1e-3, rtol=1e-3)


def test_a_release_brings_statistics_and_gives_the_same_chunks(tmp_path: Path) -> None:
    for changes in ({}, {"policy": "inverse_dynamics"}, {"carries_mean": True}):
        model = micro_model(micro_config(**changes), awake=True)
        model.save_pretrained(tmp_path / "model")
        again = MaskWorldModel.from_pretrained(tmp_path / "model")
        assert again.config == model.config
        chunks = [each.act_chunk(batch_of(), seeded(), FEW).actions for each in (model, again)]
        assert torch.equal(*chunks)


def test_bad_batches_are_refused_with_the_fix() -> None:
    model, data = micro_model(), batch_of()
    for broken, message in (
        (replace(data, frames=data.frames[:, :1], labels=None), "every camera"),
        (replace(data, frames=data.frames[:, :, :1]), "at least 2 remembered"),
        (replace(data, labels=None), "reads_labels"),
        (replace(data, labels=data.labels[:, :, :3]), "shape"),
        (replace(data, labels=data.labels + 5), "classes 0 to 2"),
    ):
        with pytest.raises(ValueError, match=message):
            model.training_loss(broken, "dynamics", seeded())
    with pytest.raises(ValueError, match="state in"):
        model.act_chunk(replace(data, control=None), seeded())
    only_state = replace(data, control=replace(data.control, actions=None))
    with pytest.raises(ValueError, match="demonstrated actions"):
        model.training_loss(only_state, "policy", seeded())
    wide = replace(data.control, actions=torch.zeros(6, CHUNK, 9))
    with pytest.raises(ValueError, match="4 numbers per row"):
        model.training_loss(replace(data, control=wide), "policy", seeded())
    with pytest.raises(ValueError, match="reads_future"):
        micro_model(micro_config(target="rgb")).training_loss(data, "dynamics", seeded())


def test_settings_that_do_not_fit_are_refused() -> None:
    for changes, message in (
        ({"future_frames": 7}, "4k"),
        ({"state_dim": 7}, "action_dim"),
        ({"exec_steps": 9}, "chunk"),
        ({"action": replace(micro_config().action, video_dim=30)}, "width 24"),
        ({"bank_blocks": (1, 4)}, "bank_blocks"),
        ({"carries_mean": True, "action_objective": "score"}, "flow"),
    ):
        with pytest.raises(ValueError, match=message):
            micro_config(**changes)
