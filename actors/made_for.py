"""What stored latents and embeddings belong to; found without loading any of it."""

from buffers.people.fingerprints import fingerprint_of
from policy.bundle import BundleFacts


def made_for(facts: BundleFacts, *, max_text_tokens: int) -> dict[str, str]:
    """What latents and embeddings of a bundle belong to, for `PairStore`: another VAE could not read them."""
    parts = {"VAE": ["vae"], "text encoder": ["text_encoder", "tokenizer"]}
    prints = {
        name: fingerprint_of(path for folder in folders for path in (facts.path / folder).iterdir() if path.is_file())
        for name, folders in parts.items()
    }
    size = f"{facts.in_channels} channels, 1 in {facts.vae_temporal} x {facts.vae_spatial} x {facts.vae_spatial}"
    return {"size of latents": size, **prints, "model.max_text_tokens": str(max_text_tokens)}
