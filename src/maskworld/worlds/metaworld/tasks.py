"""The 50 tasks of Meta-World, each with one plain sentence to tell a policy what to do."""

from __future__ import annotations

from difflib import get_close_matches

TASKS = {
    "assembly-v3": "pick up the round nut and put it onto the peg",
    "basketball-v3": "pick up the basketball and dunk it into the hoop",
    "bin-picking-v3": "pick up the block from one bin and put it into the other bin",
    "box-close-v3": "pick up the lid and close the box with it",
    "button-press-topdown-v3": "press the button from above",
    "button-press-topdown-wall-v3": "reach over the wall and press the button from above",
    "button-press-v3": "press the button from the front",
    "button-press-wall-v3": "reach around the wall and press the button from the front",
    "coffee-button-v3": "press the button of the coffee machine",
    "coffee-pull-v3": "pull the mug away from the coffee machine",
    "coffee-push-v3": "push the mug under the coffee machine",
    "dial-turn-v3": "turn the dial",
    "disassemble-v3": "pick up the round nut and take it off the peg",
    "door-close-v3": "close the door",
    "door-lock-v3": "lock the door by turning the lock clockwise",
    "door-open-v3": "open the door",
    "door-unlock-v3": "unlock the door by turning the lock counter-clockwise",
    "hand-insert-v3": "take the block and put it into the hole of the table",
    "drawer-close-v3": "push the drawer closed",
    "drawer-open-v3": "pull the drawer open",
    "faucet-open-v3": "turn the faucet counter-clockwise",
    "faucet-close-v3": "turn the faucet clockwise",
    "hammer-v3": "pick up the hammer and drive the nail into the block",
    "handle-press-side-v3": "press the handle down from the side",
    "handle-press-v3": "press the handle down",
    "handle-pull-side-v3": "pull the handle up from the side",
    "handle-pull-v3": "pull the handle up",
    "lever-pull-v3": "pull the lever up",
    "peg-insert-side-v3": "pick up the peg and insert it into the hole from the side",
    "pick-place-wall-v3": "pick up the block and carry it over the wall to the goal",
    "pick-out-of-hole-v3": "pick the block out of the hole and lift it to the goal",
    "reach-v3": "move the gripper to the goal",
    "push-back-v3": "pull the block back to the goal",
    "push-v3": "push the block to the goal",
    "pick-place-v3": "pick up the block and carry it to the goal",
    "plate-slide-v3": "slide the plate into the cabinet",
    "plate-slide-side-v3": "slide the plate sideways into the cabinet",
    "plate-slide-back-v3": "slide the plate back out of the cabinet",
    "plate-slide-back-side-v3": "slide the plate sideways out of the cabinet",
    "peg-unplug-side-v3": "pull the plug out of the wall sideways",
    "soccer-v3": "push the ball into the soccer goal",
    "stick-push-v3": "pick up the stick and push the thermos with it",
    "stick-pull-v3": "pick up the stick and pull the thermos with it",
    "push-wall-v3": "push the block around the wall to the goal",
    "reach-wall-v3": "move the gripper over the wall to the goal",
    "shelf-place-v3": "pick up the block and put it onto the shelf",
    "sweep-into-v3": "sweep the block into the hole of the table",
    "sweep-v3": "sweep the block off the table",
    "window-open-v3": "push the window open",
    "window-close-v3": "push the window closed",
}
"""Task name to instruction. The sentences are ours; no two tasks share one."""


def check_task(task: str) -> str:
    """Returns `task`.

    Raises:
        ValueError: Meta-World has no such task; names the nearest.
    """
    if task in TASKS:
        return task
    near = get_close_matches(task, TASKS, n=1, cutoff=0.5)
    hint = f" Did you mean {near[0]!r}?" if near else ""
    raise ValueError(f"Expected one of Meta-World's {len(TASKS)} tasks, found {task!r}.{hint}")
