"""Runs on the Hugging Face hub: an address in place of a folder, and how a run gets there."""

from __future__ import annotations

import re
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml
from huggingface_hub import HfApi, constants, get_token, snapshot_download
from huggingface_hub.errors import LocalEntryNotFoundError

from unseen.backbones.hub import check_reachable, explained, log_first_warning_only
from unseen.errors import CheckpointError, SettingError
from unseen.runs import CONFIG, HUB, SCORES, TEXT, TOWER, WEIGHTS, Run, read_config, read_scores
from unseen.settings.ranges import shown
from unseen.texts import is_file

_PART = r"[A-Za-z0-9][\w.-]*"
_ADDRESS = re.compile(rf"hf://(?P<repo>{_PART}/{_PART})(?:@(?P<revision>[\w./-]+))?")
FILES = (CONFIG, TEXT, SCORES, TOWER, WEIGHTS)
"""Of a run, as far as it has them; the weights last, so that where they are all is."""
CARD = "README.md"


# --------------------------------------------------------------------- fetching


def fetch_run(address: str) -> Path:
    """The folder of a run on the hub, from the cache, or fetched.

    Args:
        address: hf://user/name, with @ and a revision (a branch, a tag or a commit) if it is not
            to be the main one.

    Raises:
        SettingError: It is no such address.
        CheckpointError: The run cannot be fetched, with the cause; or there is none.
    """
    found = _ADDRESS.fullmatch(address)
    if found is None:
        raise SettingError(
            f"{shown(address)} is no address of a run; give hf://user/name or"
            " hf://user/name@revision"
        )
    repo, revision, local = found["repo"], found["revision"], "or give a local run folder"
    try:
        folder = Path(_snapshot(repo, revision, list(FILES), local_files_only=True))
        if (folder / WEIGHTS).exists():
            return folder
    except LocalEntryNotFoundError:
        pass
    check_reachable(repo, CONFIG, address, revision)
    try:
        with log_first_warning_only():
            # The weights last, so that a fetch that was broken off is not taken for a whole run.
            _snapshot(repo, revision, list(FILES[:-1]))
            folder = Path(_snapshot(repo, revision, list(FILES)))
    except Exception as error:
        raise explained(error, address, local=local) from error
    if not (folder / WEIGHTS).exists():
        raise CheckpointError(
            f"{address} has no {WEIGHTS}; it is no run of unseen, or was not pushed whole"
        )
    return folder


def _snapshot(repo: str, revision: str | None, files: list[str], **how: Any) -> str:
    """The hub's library fetches files of one revision; the folder they are in."""
    return str(
        snapshot_download(
            repo,
            revision=revision,
            allow_patterns=files,
            cache_dir=constants.HF_HUB_CACHE,
            endpoint=constants.ENDPOINT,
            **how,
        )
    )


# ---------------------------------------------------------------------- pushing


def push_run(folder: Path, repo: str, *, licence: str, private: bool = False) -> str:
    """Put a run on the hub, with a card that says what it is.

    Args:
        folder: Of the run.
        repo: user/name.
        licence: Of the weights, by the hub's name: "mit", "apache-2.0", "cc-by-4.0", "other", ...
        private: Whether a new repository is only for its owner.

    Returns:
        The address to load it by, with the commit.

    Raises:
        SettingError: No user/name, or no licence.
        CheckpointError: No complete run, or the hub refuses.
    """
    if _ADDRESS.fullmatch(HUB + repo) is None or "@" in repo:
        raise SettingError(f"{shown(repo)} is no place on the hub; give user/name")
    if re.fullmatch(r"[a-z0-9.-]+", licence) is None:
        raise SettingError(f"--license is {shown(licence)}; give one such as mit or cc-by-4.0")
    run = read_config(folder)
    if not (folder / WEIGHTS).exists():
        raise CheckpointError(f"{folder} has no {WEIGHTS} yet; end its training with --resume")
    _check_alone(run, folder)
    if get_token() is None:
        raise CheckpointError(
            "the hub wants to know who pushes; log in with `hf auth login`, or set HF_TOKEN"
        )
    api = HfApi(endpoint=constants.ENDPOINT)
    scores = read_scores(folder)
    with tempfile.TemporaryDirectory() as place:
        card = Path(place) / CARD
        card.write_text(model_card(run, repo, licence, scores), encoding="utf-8")
        try:
            api.create_repo(repo, private=private, exist_ok=True)
            api.upload_file(path_or_fileobj=card, path_in_repo=CARD, repo_id=repo)
            commit = api.upload_folder(
                repo_id=repo,
                folder_path=folder,
                allow_patterns=list(FILES),
                commit_message="Run of unseen",
            )
        except Exception as error:
            failed = f"{folder} could not be pushed to {repo}"
            raise explained(error, repo, failed=failed, local="try again later") from error
    return f"{HUB}{repo}@{commit.oid}"


def _check_alone(run: Run, folder: Path) -> None:
    """Refuse a run that stands on files of this machine.

    Raises:
        CheckpointError: Names the first of them.
    """
    values = {"clip": run.model.clip, **run.model.options}
    for name, value in values.items():
        # A tower that came with a checkpoint lies in the folder and is pushed.
        path = Path(str(value).rpartition("@")[2])
        elsewhere = path.resolve().parent != folder.resolve()
        if isinstance(value, str) and is_file(str(path)) and elsewhere:
            raise CheckpointError(
                f"{name} of {folder} is the file {value}, which others do not have; train with a"
                " tower and weights that have a name"
            )


def model_card(run: Run, repo: str, licence: str, scores: Mapping[str, Any]) -> str:
    """The card of a run, in Markdown below the hub's header.

    Args:
        run: What `config.yaml` says.
        repo: Where it will be.
        licence: Of the weights.
        scores: Of evaluations, by benchmark.
    """
    header = {
        "library_name": "unseen",
        "pipeline_tag": "image-segmentation",
        "license": licence,
        "tags": ["zero-shot", "semantic-segmentation", run.model.method],
    }
    unseen = [name for name in run.class_names if name not in run.seen]
    kind = "as published" if run.model.published else "with the settings of unseen"
    name = repo.partition("/")[2]
    parts = [
        f"---\n{yaml.safe_dump(header, sort_keys=False)}---\n",
        f"# {name}\n",
        f"`{run.model.method}`, {kind}, trained on `{run.benchmark}`"
        f" ({run.train['regime']}, {run.train['steps']} steps of {run.train['batch_size']}) with"
        f" the tower `{run.model.clip}`.\n",
        "## Use\n",
        "```\npip install unseen\n"
        f'unseen segment photo.jpg --classes "{", ".join(run.class_names[:3])}"'
        f" --model hf://{repo}\n```\n",
        f'```python\nimport unseen\n\nmodel = unseen.load("hf://{repo}")\n```\n',
        "## Classes\n",
        f"Trained on masks of {', '.join(run.seen)}.\n",
    ]
    if unseen:
        parts.append(f"Known by name alone: {', '.join(unseen)}.\n")
    parts += ["## Scores\n", _table(scores) if scores else "Not evaluated.\n"]
    versions = ", ".join(f"{name} {number}" for name, number in run.versions.items())
    parts.append(f"All settings stand in `config.yaml`. Made with {versions}.\n")
    return "\n".join(parts)


def _table(scores: Mapping[str, Any]) -> str:
    """A table of the numbers of each benchmark."""
    lines = ["| benchmark | score | |", "|---|---|---|"]
    for benchmark, told in scores.items():
        for name, value in told.items():
            if isinstance(value, (int, float)):
                lines.append(f"| {benchmark} | {name} | {value:.1f} |")
    return "\n".join(lines) + "\n"
