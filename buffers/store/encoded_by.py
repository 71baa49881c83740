"""What encoded a store's latents and embeddings: another VAE or text encoder could not read them."""

import json
from collections.abc import Mapping

from buffers.store.places import Place

ENCODED_BY = "made_for.json"
"""Its name in a store and in an export; schema version 2 calls it so."""


def read_encoded_by(place: Place) -> dict[str, str]:
    """Name of a part -> its fingerprint; empty if nothing was stored yet, or the writer did not say."""
    try:
        return json.loads(place.read(ENCODED_BY))
    except FileNotFoundError:
        return {}


def check_encoded_by(place: Place, bundle: Mapping[str, str]) -> None:
    """Raises ValueError that names the first part of the bundle which is another one in the store."""
    stored = read_encoded_by(place)
    for name, value in bundle.items():
        if stored.get(name, value) != value:
            raise ValueError(
                f"{place} was made with another {name} ({stored[name]}; the bundle's is {value}): its latents "
                "mean nothing to this bundle. Use the bundle it was made with, or ingest the videos anew"
            )


def keep_encoded_by(place: Place, encoded_by: Mapping[str, str]) -> None:
    """Written with the first append and not before: an empty store belongs to no bundle."""
    if dict(encoded_by) != read_encoded_by(place):
        with place.create(ENCODED_BY) as file:
            file.write(json.dumps(encoded_by, indent=1).encode())
