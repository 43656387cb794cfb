"""Collecting what is found in a cluster file, each at its line."""

from collections.abc import Collection, Iterable, Mapping
from difflib import get_close_matches
from typing import Any

from mottle.core.naming import suggestion
from mottle.storage.document import Document, Fault, KeyPath


class Findings:
    """Faults and remarks on one document."""

    def __init__(self, document: Document) -> None:
        self._document = document
        self.faults: list[Fault] = []
        self.remarks: list[Fault] = []

    def fault(self, path: KeyPath, message: str) -> None:
        self.faults.append(self._document.fault(path, message))

    def remark(self, path: KeyPath, message: str) -> None:
        self.remarks.append(self._document.fault(path, message))

    def unknown(self, path: KeyPath, key: str, known: Collection[str]) -> None:
        """A key that nobody reads."""
        self.fault((*path, key), f"unknown key; {suggestion(key, known)}")

    def misspelt(self, path: KeyPath, mapping: Mapping[str, Any], known: Collection[str]) -> None:
        """Keys that nearly have a known name, in a place that may have others too."""
        for key in mapping:
            if key not in known and (close := get_close_matches(key, known, n=1, cutoff=0.8)) and close[0] not in mapping:
                self.fault((*path, key), f"unknown key; did you mean {close[0]!r}?")

    @staticmethod
    def in_order(found: Iterable[Fault]) -> tuple[Fault, ...]:
        """By line, each once."""
        return tuple(sorted(dict.fromkeys(found), key=lambda fault: fault.line))
