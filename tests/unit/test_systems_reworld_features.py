"""Claims about the features that a plan reads: the sampler's own first step, once is enough."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from reworld_material import batch_of, micro_reworld, moving_drives

from maskworld.flow import SigmaSchedule
from maskworld.samplers.flow_sampling import FlowSampling
from maskworld.systems.reworld import ReWorld
from maskworld.tokenizers.latent import encode_views
from maskworld.types import Prompt

FEW = FlowSampling(SigmaSchedule("uniform", 2), SigmaSchedule("uniform", 2))


def seeded() -> torch.Generator:
    return torch.Generator().manual_seed(3)


def test_features_are_the_states_of_the_first_step_of_the_dream(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    model, batch = micro_reworld(), batch_of(moving_drives())
    assert batch.frames is not None
    past = encode_views(model.tokenizer, batch.frames[:, :, : model.config.num_past])
    prompt = Prompt(batch.captions, plan=batch.plan)
    calls: list[tuple[Any, ...]] = []
    original = ReWorld.run_video

    def noting(self: ReWorld, *given: Any, **named: Any) -> Any:
        calls.append(given[:5])
        return original(self, *given, **named)

    monkeypatch.setattr(ReWorld, "run_video", noting)
    with torch.no_grad():
        model.generate(past, prompt, FEW, seeded())
        first = original(model, *calls[0], return_blocks=model.config.bank_blocks)
        bank = model.feature_bank(past, prompt, seeded())
    assert len(calls) == 3  # two steps of the dream, one pass for the plan
    for block, states in zip(model.config.bank_blocks, bank.states, strict=True):
        torch.testing.assert_close(states, first.blocks[block])


def test_a_plan_from_features_that_were_kept_is_the_plan_made_in_one_go() -> None:
    model, batch = micro_reworld(), batch_of(moving_drives())
    assert batch.frames is not None
    assert batch.plan is not None
    whole = model.plan(batch, seeded(), FEW, num_plans=2)
    generator = seeded()
    past = encode_views(model.tokenizer, batch.frames[:, :, : model.config.num_past])
    with torch.no_grad():
        kept = model.feature_bank(past, Prompt(batch.captions or None, plan=batch.plan), generator)
    assert torch.equal(whole, model.plan_from(kept, batch.plan, FEW, generator, num_plans=2))
