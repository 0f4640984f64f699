"""Publish a condensed set on the Hugging Face hub."""

from __future__ import annotations

import re
import tempfile
from pathlib import Path

from attar.errors import MissingError, UserError, one_line
from attar.sets.card import CARD
from attar.sets.card_code import NAME
from attar.sets.export import check_free, export_set
from attar.sets.set_files import as_set
from attar.sets.synthetic import SyntheticSet

HUB_NAME = re.compile(r"[\w.-]+/[\w.-]+")


def push_set(condensed: SyntheticSet | str | Path, name: str, *, what: str | None = None, private: bool = False) -> str:
    """Upload a set as parquet, with a data set card, to the Hugging Face hub; see `write_upload` for what that is.

    Args:
        condensed: the set, or its file or run folder. Folders of this machine are taken out of its recipe.
        name: USER/NAME of a data set, which is created if it does not exist.
        what: which images, "stored", "decoded" or "both" (the default).
        private: whether a created data set is private.

    Returns:
        The address of the data set.

    Raises:
        UserError: for a name of another form, and when the hub refuses.
        MissingError: without the package huggingface_hub, a token, or a network.

    Example:
        address = attar.push_set("runs/mine", "me/my-small-set", private=True)
    """
    check_name(name)
    try:
        from huggingface_hub import HfApi, get_token
        from huggingface_hub.errors import HfHubHTTPError, OfflineModeIsEnabled
    except ImportError as error:
        raise MissingError("pushing needs the package huggingface_hub; pip install 'attar[hf]'") from error
    if not get_token():
        raise MissingError("there is no Hugging Face token; run `hf auth login`, or put one into HF_TOKEN")
    with tempfile.TemporaryDirectory() as scratch:
        folder = write_upload(as_set(condensed), name, Path(scratch) / "set", what=what)
        try:
            api = HfApi()
            address = api.create_repo(name, repo_type="dataset", private=private, exist_ok=True)
            api.upload_folder(repo_id=name, repo_type="dataset", folder_path=folder, commit_message="Condensed set")
        except OfflineModeIsEnabled as error:
            raise MissingError(f"{name} cannot be pushed: HF_HUB_OFFLINE is set; unset it") from error
        except HfHubHTTPError as error:
            raise UserError(f"the Hugging Face hub refuses {name}: {one_line(error)}") from error
        except Exception as error:  # the HTTP library's own errors
            kind = type(error).__name__
            raise MissingError(f"{name} cannot be pushed: no network, or the hub does not answer ({kind})") from error
    return str(address)


def check_name(name: str) -> None:
    """Raise `UserError` for what is no name on the hub."""
    if HUB_NAME.fullmatch(name) is None:
        raise UserError(f"'{name}' is no name on the Hugging Face hub; a name is USER/NAME")


def write_upload(condensed: SyntheticSet, name: str, folder: Path, *, what: str | None = None) -> Path:
    """Write the folder that is uploaded as `name`; an earlier one is replaced. Returns it."""
    check_name(name)
    check_free(folder, folder=True, overwrite=True, advice="move it away: the upload is written there")
    export_set(condensed, "parquet", folder, what=what, overwrite=True)
    card = folder / CARD
    card.write_text(card.read_text(encoding="utf-8").replace(NAME, name), encoding="utf-8")
    return folder
