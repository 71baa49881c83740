"""The model being aligned: a Wan video transformer with LoRA adapters; pure torch, diffusers and peft.

`flow` is the one definition of the flow: sampler and learner both use it. `policy` loads a bundle and gives
velocities, conditionings and pixels. `sampler` makes latents as `WanPipeline` does. `lora/` holds the policy and
the frozen reference on one base. `bundle` reads config files only.

Nothing here knows whether it generates or learns. Importing `policy.flow` loads torch and no more.
"""
