"""Score images as they come, for as long as they come: files that appear in a folder, or paths that are written in.

A feed (`Folder`, `Paths`) says which files there are to judge, `serve` judges them a few at a time, and a `Journal` is
the record of what was said: one row a file, on the disk before anybody sees it, also across restarts.
"""

from uadctl.service.arrivals import Arrived, Facts, Say, key_of, look
from uadctl.service.feeds import Feed, Folder, Paths, Read, reading
from uadctl.service.journal import Journal, JournalHead, JournalRow, model_digest
from uadctl.service.serving import Judge, Model, Tally, resident, serve

__all__ = [
    "Arrived",
    "Facts",
    "Feed",
    "Folder",
    "Journal",
    "JournalHead",
    "JournalRow",
    "Judge",
    "Model",
    "Paths",
    "Read",
    "Say",
    "Tally",
    "key_of",
    "look",
    "model_digest",
    "reading",
    "resident",
    "serve",
]
