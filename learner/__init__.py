"""The learner: Diffusion-APO's timesteps, its objective, one optimizer step, and its checkpoints. Pure torch; no ray.

Read `objective.py` first (the loss of one pair), then `timesteps.py` (where on the trajectory it is taken), then
`learner.py` (a window of timesteps accumulated into one AdamW step on the LoRA adapter).
Every random draw is keyed by (seed, step) or (seed, step, pair), never by a stream: a checkpoint holds no random state.
"""
