"""Which bundle encodes a run's latents and embeddings; found without loading any of it."""

from buffers.people.fingerprints import fingerprint_of
from policy.bundle import BundleFacts


def encoded_by(facts: BundleFacts, *, max_text_tokens: int) -> dict[str, str]:
    """The bundle's parts, for `PairStore`: another VAE or text encoder could not read the latents and embeddings."""
    parts = {"VAE": ["vae"], "text encoder": ["text_encoder", "tokenizer"]}
    if facts.image_dim is not None:
        parts["image encoder"] = ["image_encoder", "image_processor"]
    prints = {
        name: fingerprint_of(path for folder in folders for path in (facts.path / folder).iterdir() if path.is_file())
        for name, folders in parts.items()
    }
    size = f"{facts.channels} channels, 1 in {facts.vae_temporal} x {facts.vae_spatial} x {facts.vae_spatial}"
    framed = {} if facts.first_frame == "not taken" else {"first frames": f"{facts.in_channels} channels"}
    return {"size of latents": size, **framed, **prints, "model.max_text_tokens": str(max_text_tokens)}
