"""A condensed set onto the Hugging Face hub."""

from __future__ import annotations

import re
import tempfile
from dataclasses import replace
from pathlib import Path

from attar.errors import MissingError, UserError
from attar.sets.export import export_set
from attar.sets.synthetic import SyntheticSet
from attar.settings.config import Recipe, with_role
from attar.settings.schema import settings_of

NAME = re.compile(r"[\w.-]+/[\w.-]+")


def push_set(condensed: SyntheticSet, name: str, *, what: str | None = None, private: bool = False) -> str:
    """Put the set as parquet with its card into the data set USER/NAME, made if need be. Returns its address.

    Raises UserError for a name of another form and when the hub refuses, MissingError without package, token or
    network.
    """
    if NAME.fullmatch(name) is None:
        raise UserError(f"'{name}' is no name on the Hugging Face hub; a name is USER/NAME")
    try:
        from huggingface_hub import HfApi, get_token
        from huggingface_hub.errors import HfHubHTTPError, OfflineModeIsEnabled
    except ImportError as error:
        raise MissingError("pushing needs the package huggingface_hub; pip install 'attar[hf]'") from error
    if not get_token():
        raise MissingError("there is no Hugging Face token; run `hf auth login`, or put one into HF_TOKEN")
    with tempfile.TemporaryDirectory() as scratch:
        folder = export_set(_without_places(condensed), "parquet", Path(scratch) / "set", what=what)
        try:
            api = HfApi()
            address = api.create_repo(name, repo_type="dataset", private=private, exist_ok=True)
            api.upload_folder(repo_id=name, repo_type="dataset", folder_path=folder, commit_message="Condensed set")
        except OfflineModeIsEnabled as error:
            raise MissingError(f"{name} cannot be pushed: HF_HUB_OFFLINE is set; unset it") from error
        except HfHubHTTPError as error:
            said = " ".join(str(error).split())
            raise UserError(f"the Hugging Face hub refuses {name}: {said}") from error
        except Exception as error:  # the HTTP library's own errors
            kind = type(error).__name__
            raise MissingError(f"{name} cannot be pushed: no network, or the hub does not answer ({kind})") from error
    return str(address)


def _without_places(condensed: SyntheticSet) -> SyntheticSet:
    """The set with a recipe that names no folder of this machine."""
    plain = settings_of(Recipe())
    recipe = {name: dict(values) for name, values in condensed.recipe.items()}
    if "data" in recipe:
        recipe["data"] |= {name: plain["data"][name] for name in with_role("data", "place") if name in recipe["data"]}
        if Path(str(recipe["data"].get("dataset"))).expanduser().exists():
            recipe["data"]["dataset"] = condensed.source
    if "condense" in recipe:
        recipe["condense"] |= {
            name: plain["condense"][name] for name in with_role("condense", "place") if name in recipe["condense"]
        }
    return replace(condensed, recipe=recipe)
