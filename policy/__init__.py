"""The model being aligned: a Wan video transformer with LoRA adapters, pure torch, diffusers and peft.

`flow` is the one definition of the flow (the sampler and the learner both use it), `policy` loads a bundle and
gives velocities, prompt embeddings and pixels, `sampler` makes latents as `WanPipeline` does, `adapters` holds the
policy and the frozen reference on one base, `video` writes and reads mp4. `bundle_check` reads config files only.

Nothing here knows whether it generates or learns, and nothing imports ray, vllm or a sibling package. Importing
`policy.flow` loads torch and no more.
"""
