"""The learner: timesteps, an objective, one optimizer step, and its checkpoints. Pure torch.

Read `objectives/dpo.py` first (the loss of a pair), then `timesteps.py` (at which timesteps it is taken), then
`learner.py` (a window of timesteps accumulated into one AdamW step on the LoRA adapter). Every random draw is keyed
by (seed, step) or (seed, step, pair), never by a stream: a checkpoint holds no random state.
"""
