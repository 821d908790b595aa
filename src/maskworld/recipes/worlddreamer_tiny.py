"""WorldDreamer on a laptop: the quickstart.

Paper: arXiv 2401.09985, all tasks of section 3.1 at toy size.
Command: maskworld quickstart worlddreamer
Hardware: two CPU cores, no GPU. Time and results: docs/worlddreamer.md.

What differs from the paper, and why:
- patch codes fitted by k-means instead of a VQGAN: they fit in seconds;
- carry, AdaLN by the frame's action, tied head, learned positions, no skeleton blocks: a model of
  this size does not learn to steer or to copy without them (docs/log.md);
- a mask mixture instead of tubes only, so that the tasks are trained as they are asked;
- stylization reads the source as a reference instead of keeping some of its tokens, and 15 % of the
  batches are drives filmed in two styles: with kept tokens either they win over the prompt, or the
  layout is lost (docs/log.md);
- no regions: 480 tokens are too few for them to pay, and with them the dream turns later and less
  often as it is told (docs/log.md).
"""

from maskworld.backbones.stpt import STPTConfig
from maskworld.conditioning.text import SmallTextConfig
from maskworld.masking import MaskMixture
from maskworld.recipes.recipe import DriveData, WorldDreamerRecipe
from maskworld.samplers.parallel import ParallelDecoding
from maskworld.systems.worlddreamer import WorldDreamerConfig
from maskworld.tokenizers.patch import PatchTokenizerConfig
from maskworld.training.config import Stage

RECIPE = WorldDreamerRecipe(
    name="worlddreamer-tiny",
    summary="0.7M parameters, patch codes, minutes on two CPU cores",
    hardware="2 CPU cores",
    system=WorldDreamerConfig(
        backbone=STPTConfig(
            vocab_size=512,
            dim=64,
            num_layers=4,
            num_heads=2,
            ffn="gelu",
            ffn_dim=256,
            partition="full",
            conv="separable",
            num_conv_blocks=0,
            position="learned",
            max_frames=32,
            max_side=32,
            action_modulation=True,
            carry_forward=True,
            reference=True,
            tie_head=True,
        ),
        tokenizer=PatchTokenizerConfig(
            patch_size=12, num_components=12, vocab_size=512, decoder="conv"
        ),
        text=SmallTextConfig(num_buckets=1024),
        integrate_actions=True,
        masks=MaskMixture(tube=0.1, first_frame=0.35, prefix=0.3, frame_by_frame=0.25),
        num_frames=8,
        frame_size=(72, 120),
        fps=5.0,
    ),
    stages=(
        Stage("tokenizer", num_steps=600, batch_size=2, learning_rate=3e-3, save_every=0),
        Stage(
            "world",
            num_steps=1500,
            batch_size=8,
            learning_rate=3e-3,
            warmup_steps=50,
            save_every=500,
        ),
    ),
    decoding=ParallelDecoding(num_steps=6, temperature=0.8, scope="clip"),
    drive=DriveData(),
)
