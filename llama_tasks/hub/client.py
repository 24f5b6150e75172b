"""Talking to the Hub: timeouts, retries of the whole upload, and one plain sentence for each way it can fail.

huggingface_hub itself waits for ever by default, and retries neither the creation of a repository nor the commit.
"""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from huggingface_hub import CommitOperationAdd, HfApi, constants, get_token, set_client_factory, snapshot_download
from huggingface_hub.errors import GatedRepoError, HfHubHTTPError, LocalEntryNotFoundError, OfflineModeIsEnabled
from huggingface_hub.hf_api import RepoFile
from huggingface_hub.utils._http import hf_request_event_hook

from llama_tasks.errors import HubError
from llama_tasks.hub.checks import PICKLES

try:
    import httpx2 as httpx  # huggingface_hub 2
except ModuleNotFoundError:
    import httpx  # type: ignore[import-not-found,no-redef]  # huggingface_hub 1

T = TypeVar("T")

WAITS = (1.0, 3.0, 9.0)  # seconds before the second, third and fourth attempt
_BASE_PATTERNS = ["*.json", "*.safetensors", "tokenizer.model", "*.jinja"]
_TRANSIENT = (408, 409, 412, 429, 500, 502, 503, 504)  # 409, 412: somebody else committed meanwhile
_UNCONNECTED = (httpx.TimeoutException, httpx.NetworkError, httpx.RemoteProtocolError)


@dataclass(frozen=True)
class Sent:
    """A commit on the Hub."""

    commit: str
    url: str


def in_cache(model: str, revision: str) -> Path | None:
    """The folder of a base in the local cache, without asking the network; None where it is not there."""
    try:
        return Path(snapshot_download(model, revision=revision, allow_patterns=_BASE_PATTERNS, local_files_only=True))
    except LocalEntryNotFoundError:
        return None


class Client:
    """One user's connection to the Hub. Every method raises HubError, with the command that tries again."""

    def __init__(self, token: str | None, timeout: float, again: str) -> None:
        """`timeout`: seconds without an answer; `again`: the command line of this push."""
        self._token = token or get_token()
        self._timeout = timeout
        self._again = again
        if not self._token:
            raise HubError(
                "There is no Hugging Face token. Make one with write permission at "
                f"https://huggingface.co/settings/tokens, store it with `hf auth login` or in HF_TOKEN, then: {again}"
            )
        set_client_factory(self._http)
        self._api = HfApi(token=self._token)

    def download(self, model: str, revision: str) -> Path:
        """The folder of a base at a commit, from the cache or the Hub."""
        return in_cache(model, revision) or self._insist(model, lambda: self._download(model, revision))

    def publish(self, repo_id: str, folder: Path, private: bool, message: str) -> Sent:
        """Create the repository if need be, send the folder's files in one commit, and check what arrived."""
        return self._insist(repo_id, lambda: self._publish(repo_id, folder, private, message))

    def _download(self, model: str, revision: str) -> Path:
        found = snapshot_download(model, revision=revision, allow_patterns=_BASE_PATTERNS, token=self._token)
        return Path(found)

    def _publish(self, repo_id: str, folder: Path, private: bool, message: str) -> Sent:
        self._api.create_repo(repo_id, private=private, exist_ok=True)
        info = self._api.model_info(repo_id)
        if private and info.private is False:
            raise HubError(
                f"{repo_id} exists and is public, but a private repository was asked for; nothing was sent. "
                "Publish openly with --public, make the repository private in its settings, or choose another name."
            )
        present = {sibling.rfilename for sibling in info.siblings or []}
        names = sorted(path.name for path in folder.iterdir())
        strange = sorted(name for name in present - set(names) if name == "config.json" or name.endswith(PICKLES))
        if strange or ("config.json" in names and "adapter_config.json" in present):
            raise HubError(
                f"{repo_id} already holds something else ({', '.join(strange) or 'an adapter'}); nothing was sent. "
                "Choose another repository name, or remove those files there."
            )
        operations = [CommitOperationAdd(name, folder / name) for name in names]
        made = self._api.create_commit(
            repo_id, operations, commit_message=f"{message} by llama-tasks", parent_commit=info.sha
        )
        self._verify(repo_id, folder, made.oid)
        if not private and info.private:  # last: what else was there might have had to stay private
            self._api.update_repo_settings(repo_id, private=False)
        return Sent(made.oid, f"{self._api.endpoint}/{repo_id}")

    def _verify(self, repo_id: str, folder: Path, commit: str) -> None:
        """Compare size and hash of every file with what the Hub lists."""
        entries = self._api.list_repo_tree(repo_id, revision=commit, recursive=True)
        remote = {entry.path: entry for entry in entries if isinstance(entry, RepoFile)}
        for path in sorted(folder.iterdir()):
            there = remote.get(path.name)
            if there is None or (there.lfs.sha256 if there.lfs else there.blob_id) != _digest(path, there):
                where = f"{repo_id} at {commit[:8]}"
                raise HubError(f"{path.name} did not arrive whole in {where}. Send it again: {self._again}")

    def _insist(self, repo_id: str, action: Callable[[], T]) -> T:
        """Run an action, again after a pause while the trouble may pass."""
        for wait in (*WAITS, None):
            try:
                return action()
            except HubError:
                raise
            except (httpx.HTTPError, OSError, ValueError, RuntimeError) as error:
                if wait is None or not _may_pass(error):
                    raise HubError(self._sentence(error, repo_id)) from None
                time.sleep(_asked_wait(error) or wait)
        raise AssertionError("unreachable")

    def _sentence(self, error: BaseException, repo_id: str) -> str:
        what = _cause(error, repo_id, self._timeout).replace(str(self._token), "***")
        return f"{what} The run itself is complete. Try again: {self._again}"

    def _http(self) -> httpx.Client:
        return httpx.Client(
            event_hooks={"request": [hf_request_event_hook]},
            follow_redirects=True,
            timeout=httpx.Timeout(self._timeout, connect=min(10.0, self._timeout)),
        )


def _chain(error: BaseException | None) -> Iterator[BaseException]:
    """The error and what caused it; the library wraps those of its upload threads in RuntimeError."""
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__


def _status(error: BaseException) -> int | None:
    """HTTP status of the first answer in the chain that has one."""
    answers = (getattr(link, "response", None) for link in _chain(error) if isinstance(link, HfHubHTTPError))
    return next((answer.status_code for answer in answers if answer is not None), None)


def _may_pass(error: BaseException) -> bool:
    """Whether to try once more. An answer that is not JSON is a proxy's or a server's error page."""
    status = _status(error)
    if status is not None:
        return status in _TRANSIENT
    return any(isinstance(link, (*_UNCONNECTED, json.JSONDecodeError)) for link in _chain(error))


def _asked_wait(error: BaseException) -> float | None:
    """Seconds that the server asked to wait (Retry-After), at most a minute."""
    for link in _chain(error):
        asked = getattr(getattr(link, "response", None), "headers", {}).get("Retry-After", "")
        if asked.isdigit():
            return min(float(asked), 60.0)
    return None


def _cause(error: BaseException, repo_id: str, timeout: float) -> str:
    """What happened, in one sentence."""
    links = list(_chain(error))
    status = _status(error)
    if any(isinstance(link, OfflineModeIsEnabled) for link in links):
        return "HF_HUB_OFFLINE is set, so the Hub cannot be reached; unset it."
    if any(isinstance(link, GatedRepoError) for link in links):
        return f"{repo_id} is gated: accept its terms on its page with the account of your token."
    if "Invalid metadata in README.md" in str(error):
        return f"The Hub refuses the model card of {repo_id}: {' '.join(str(error).split())}"
    if status is not None:
        return _of_status(status, repo_id, error)
    if any(isinstance(link, httpx.TimeoutException) for link in links):
        return f"{constants.ENDPOINT} gave no answer within {timeout:g} seconds, {len(WAITS) + 1} times."
    if any(isinstance(link, (*_UNCONNECTED, json.JSONDecodeError)) for link in links):
        reason = f"{type(links[-1]).__name__}: {links[-1]}"
        return f"The connection to {constants.ENDPOINT} failed {len(WAITS) + 1} times ({reason})."
    return f"Publishing {repo_id} failed ({type(error).__name__}: {error})."


def _of_status(status: int, repo_id: str, error: BaseException) -> str:
    known = {
        401: "The Hub does not accept the token (401): it is wrong or has expired. Log in with `hf auth login`.",
        403: f"The token may not write to {repo_id} (403): use one with write permission for that account.",
        404: f"There is no {repo_id} that this token may see (404); check the name.",
        409: f"{repo_id} is being changed by somebody else (409).",
        412: f"{repo_id} is being changed by somebody else (412).",
        429: "The Hub asks to slow down (429); wait some minutes.",
    }
    if status in known:
        return known[status]
    if status >= 500:
        return f"The Hub has trouble of its own ({status}), {len(WAITS) + 1} times."
    return f"The Hub refuses {repo_id} ({status}: {' '.join(str(error).split())[:300]})."


def _digest(path: Path, entry: RepoFile) -> str:
    """The hash by which the Hub lists this file: SHA-256 of large files, git's blob id of others."""
    data = path.read_bytes()
    if entry.lfs:
        return hashlib.sha256(data).hexdigest()
    return hashlib.sha1(b"blob %d\0" % len(data) + data, usedforsecurity=False).hexdigest()
