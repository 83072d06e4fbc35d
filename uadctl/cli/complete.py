"""What the shell offers at a TAB: names from the registry, run folders, and the scripts that ask for them.

The three scripts in completions/ are what the program prints with _UADCTL_COMPLETE=source_bash, source_zsh and
source_fish. A TAB runs the program as well, so nothing here loads more than the registry.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable

from typer._click.shell_completion import CompletionItem, add_completion_class
from typer._completion_classes import BashComplete, FishComplete, ZshComplete

from uadctl.spec.data_sets import DATASETS, DatasetEntry
from uadctl.spec.registry import BACKBONES, BackboneEntry, ModelEntry, all_models

RUNS = "runs"
"""The folder in which run folders are looked for: the default of `[run] dir`."""


def complete_model(incomplete: str) -> list[tuple[str, str]]:
    """The models whose name or alias starts with `incomplete`, each with its summary; aliases only once begun."""
    return _names(all_models().values(), incomplete)


def complete_network(incomplete: str) -> list[tuple[str, str]]:
    """The models and, once begun, the backbones whose name or alias starts with `incomplete`, as `complete_model`."""
    return complete_model(incomplete) + (_names(BACKBONES.values(), incomplete) if incomplete else [])


def complete_dataset(incomplete: str) -> list[tuple[str, str]]:
    """The kinds of data set whose name or alias starts with `incomplete`, as `complete_model`."""
    return _names(DATASETS.values(), incomplete)


def _names(entries: Iterable[ModelEntry | DatasetEntry | BackboneEntry], incomplete: str) -> list[tuple[str, str]]:
    return sorted(
        (name, entry.summary)
        for entry in entries
        for name in (entry.name, *(entry.aliases if incomplete else ()))
        if name.startswith(incomplete)
    )


def complete_run(incomplete: str) -> list[str]:
    """The run folders below ./runs that `incomplete` may become, and the other files that it may become as well.

    Nothing where no run folder fits: then the shell completes files by itself, and better.
    """
    runs = [
        f"{RUNS}/{name}"
        for name in _listed(RUNS)
        if os.path.isfile(f"{RUNS}/{name}/run.json")  # noqa: PTH113
        and os.path.isfile(f"{RUNS}/{name}/spec.toml")  # noqa: PTH113
        and not name.startswith(".")  # one that is being made
    ]
    fitting = [run for run in runs if run.startswith(incomplete)]
    return fitting + _files(incomplete, besides={RUNS, *runs}) if fitting else []


def _files(incomplete: str, *, besides: set[str]) -> list[str]:
    folder, slash, begun = incomplete.rpartition("/")
    paths = [
        f"{folder}{slash}{name}"
        for name in _listed(folder or slash or ".")
        if name.startswith(begun) and (begun or not name.startswith("."))
    ]
    return [f"{path}/" if os.path.isdir(path) else path for path in paths if path not in besides]  # noqa: PTH112


def _listed(folder: str) -> list[str]:
    """What lies in a folder, sorted; nothing where it cannot be listed, for a TAB has nobody to tell."""
    try:
        return sorted(os.listdir(folder))  # noqa: PTH208
    except OSError:
        return []


class _Bash(BashComplete):
    def get_completion_args(self) -> tuple[list[str], str]:
        args, incomplete = super().get_completion_args()
        # bash takes --model=vi apart into three words.
        if args and args[-1] == "=":
            args.pop()
        return args, incomplete

    def format_completion(self, item: CompletionItem) -> str:
        return re.sub(r"([^\w@%+=:,./-])", r"\\\1", item.value)

    def source(self) -> str:
        return f"{_made('bash')}\n{super().source().strip()}"


def _joined(items: list[CompletionItem], incomplete: str) -> list[CompletionItem]:
    """The items as whole words: where bash asks for the value of --model=vi alone, the others take the word as one."""
    option, equals, _ = incomplete.partition("=")
    if not equals or not option.startswith("--"):
        return items
    return [CompletionItem(f"{option}={item.value}", help=item.help) for item in items]


class _Zsh(ZshComplete):
    def get_completions(self, args: list[str], incomplete: str) -> list[CompletionItem]:
        return _joined(super().get_completions(args, incomplete), incomplete)

    def format_completion(self, item: CompletionItem) -> str:
        # Typer sends help texts through rich, which takes longer than all the rest; ours are plain.
        texts = [item.value, item.help] if item.help else [item.value]
        return ":".join(super(_Zsh, self).format_completion(CompletionItem(text)) for text in texts)

    def source(self) -> str:
        # compinit reads the first line; and the first TAB, which loads the file, must complete as well.
        head, _, body = super().source().strip().partition("\n")
        return f'{head}\n{_made("zsh")}\n{body}\n\n[[ $funcstack[1] = _{self.prog_name} ]] && {self.func_name} "$@"'


class _Fish(FishComplete):
    def get_completions(self, args: list[str], incomplete: str) -> list[CompletionItem]:
        return _joined(super().get_completions(args, incomplete), incomplete)

    def format_completion(self, item: CompletionItem) -> str:
        return f"{item.value}\t{' '.join(item.help.split())}" if item.help else f"{item.value}"

    def source(self) -> str:
        return f"{_made('fish')}\n{super().source().strip()}"


def _made(shell: str) -> str:
    return f"# Written by: _UADCTL_COMPLETE=source_{shell} uadctl"


def offer_completion() -> None:
    """Teach Typer the three shells. It knows them by itself only together with its --install-completion."""
    for cls in (_Bash, _Zsh, _Fish):
        add_completion_class(cls, cls.name)
