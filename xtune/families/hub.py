"""Models of the Hugging Face hub, by the name they have there."""

from __future__ import annotations

import os
import re
import socket
from pathlib import Path
from urllib.parse import urlsplit
from urllib.request import getproxies

from xtune.errors import UsageError
from xtune.terminal import messages

# Weights in one format only, and nothing of other frameworks.
_SMALL = ("*.json", "*.model", "*.tiktoken", "*.txt", "*.jinja", "*.py", "LICENSE*", "*.md")


def is_hub_name(path: str | Path) -> bool:
    """Whether it looks like owner/name, as "Qwen/Qwen2.5-7B-Instruct", and nothing that is, or was to be, on this disk:
    of a mistyped path nobody else is asked."""
    looks_like_one = re.fullmatch(r"\w[\w.-]*/\w[\w.-]*", str(path)) is not None
    return looks_like_one and not os.path.lexists(path) and not os.path.isdir(os.path.dirname(path))


def hub_directory(name: str) -> Path:
    """The hub's local copy of a model, downloaded at first use. Raises UsageError where it cannot be had."""
    from huggingface_hub import HfApi, snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError

    try:
        return Path(snapshot_download(name, local_files_only=True))
    except LocalEntryNotFoundError:
        pass
    if fault := network_fault():
        raise _unavailable(name, fault)
    try:
        files = HfApi().list_repo_files(name)
        weights = "*.safetensors" if any(file.endswith(".safetensors") for file in files) else "*.bin"
        messages().print(f"downloading {name} (once)", soft_wrap=True)
        return Path(snapshot_download(name, allow_patterns=[*_SMALL, weights]))
    except HfHubHTTPError as error:
        status = error.response.status_code if error.response is not None else None
        reason = {401: "it is not there, or needs a login", 403: "its publisher has to grant access first"}
        raise _unavailable(name, reason.get(status, f"the hub answers {status}")) from None
    except Exception as error:  # of the network, in many classes
        raise _unavailable(name, f"the hub cannot be reached ({error})") from None


def network_fault() -> str | None:
    """Why the hub cannot be reached, where that shows at once; its library would try for half a minute."""
    from huggingface_hub import constants

    if constants.HF_HUB_OFFLINE:
        return "HF_HUB_OFFLINE is set"
    host = urlsplit(constants.ENDPOINT).hostname
    if not getproxies():
        try:
            socket.getaddrinfo(host, 443)
        except OSError:
            return f"there is no network, or no {host}"
    return None


def _unavailable(name: str, reason: str) -> UsageError:
    return UsageError(
        f"There is no directory {name} here, and it cannot be downloaded from the hub: {reason}.",
        where="model.path",
        fix="Give the path of a local copy of the model.",
    )
