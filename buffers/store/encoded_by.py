"""What a store's latents and embeddings belong to: another VAE or text encoder could not read them."""

import json
from collections.abc import Mapping

from buffers.store.places import Place

MADE_FOR = "made_for.json"


def read_made_for(place: Place) -> dict[str, str]:
    """Name of a part -> its fingerprint; empty where nothing was stored yet, or nobody said."""
    try:
        return json.loads(place.read(MADE_FOR))
    except FileNotFoundError:
        return {}


def check_made_for(place: Place, wanted: Mapping[str, str]) -> None:
    """Raises ValueError that names the first part which is another one there."""
    there = read_made_for(place)
    for name, value in wanted.items():
        if there.get(name, value) != value:
            raise ValueError(
                f"{place} was made with another {name} ({there[name]}; the bundle's is {value}): its latents "
                "mean nothing to this bundle. Use the bundle it was made with, or ingest the videos anew"
            )


def keep_made_for(place: Place, made_for: Mapping[str, str]) -> None:
    """Written with the first append and not before: an empty store is nobody's."""
    if dict(made_for) != read_made_for(place):
        with place.create(MADE_FOR) as file:
            file.write(json.dumps(made_for, indent=1).encode())
