"""Class names, and how the values or colours of a mask file become class ids."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from lamella.contracts.batch import IGNORE
from lamella.errors import ConfigError, DataError

REST = "rest"
_COLOR = re.compile(r"#[0-9a-fA-F]{6}")


@dataclass(frozen=True)
class Classes:
    """The classes of a set in order, and what each looks like in a mask or is called among labels of whole images.

    ``marks`` holds per class a grey value (of whole images a number), a colour ``"#rrggbb"``, or ``"rest"`` for
    whatever no other class claims; beside colours a grey value is the grey of that level. Written as a list of names,
    class i has grey value i and 255 is ignored.
    """

    names: tuple[str, ...]
    marks: tuple[int | str, ...]

    @classmethod
    def of(cls, spec: Sequence[str] | Mapping[str, int | str]) -> "Classes":
        """From a list of names or a table of marks; raises `ConfigError` naming the class at fault."""
        names = tuple(spec)
        marks = tuple(spec.values()) if isinstance(spec, Mapping) else tuple(range(len(names)))
        if not names:
            raise ConfigError("classes: name at least one class")
        if len(set(names)) < len(names):
            raise ConfigError(f"classes: a name occurs twice in {', '.join(names)}")
        for name, mark in zip(names, marks):
            colour = isinstance(mark, str) and (mark == REST or _COLOR.fullmatch(mark))
            if not colour and not (isinstance(mark, int) and 0 <= mark <= 65535):
                raise ConfigError(f"classes: {name} = {mark!r} must be a grey value, a colour '#rrggbb', or 'rest'")
        if marks.count(REST) > 1:
            raise ConfigError("classes: only one class can be 'rest'")
        if len(names) >= IGNORE:
            raise ConfigError(f"classes: {len(names)} are too many; at most {IGNORE - 1} fit beside the ignored label")
        return cls(names, marks)

    @property
    def coloured(self) -> bool:
        """Whether masks are read as colours."""
        return any(isinstance(mark, str) and mark != REST for mark in self.marks)

    def ids(self, mask: np.ndarray, name: str) -> np.ndarray:
        """Class ids (H, W) uint8 of a mask as it was read.

        Args:
            mask: (H, W) grey values or (H, W, 3 or 4) colours.
            name: what to call the mask in an error message.

        Raises:
            DataError: colours where grey values are expected (or the reverse), or a value no class claims.
        """
        if self.coloured:
            return self._from_colours(mask, name)
        if mask.ndim == 3 and (mask.shape[2] == 1 or (mask[..., :3] == mask[..., :1]).all()):
            mask = mask[..., 0]
        if mask.ndim != 2:
            raise DataError(
                f"{name}: the mask has colours, but classes are given as grey values; "
                'write classes = { NAME = "#rrggbb", … }'
            )
        ids = np.full(mask.shape, self._rest(), np.uint8)
        claimed = np.zeros(mask.shape, bool)
        for number, mark in enumerate(self.marks):
            if mark != REST:
                here = mask == mark
                ids[here] = number
                claimed |= here
        if IGNORE not in self.marks:
            claimed |= mask == IGNORE
            ids[mask == IGNORE] = IGNORE
        if REST not in self.marks and not claimed.all():
            stray = sorted({int(value) for value in np.unique(mask[~claimed])[:5]})
            raise DataError(
                f"{name}: the mask holds the value {', '.join(map(str, stray))}, which no class claims "
                f"({self._listed()})"
            )
        return ids

    def id_of(self, label: int, name: str) -> int:
        """Class id of a whole image's label; IGNORE for one below 0, as the Hub writes none, and for an unclaimed 255.

        Args:
            name: what to call the sample in an error message.

        Raises:
            DataError: a label that no class claims.
        """
        if label in self.marks:
            return self.marks.index(label)
        if label < 0 or label == IGNORE:
            return IGNORE
        if REST not in self.marks:
            raise DataError(f"{name}: its label is {label}, which no class claims ({self._listed()})")
        return self._rest()

    def _listed(self) -> str:
        return ", ".join(f"{name} = {mark}" for name, mark in zip(self.names, self.marks))

    def _rest(self) -> int:
        return self.marks.index(REST) if REST in self.marks else IGNORE

    def _from_colours(self, mask: np.ndarray, name: str) -> np.ndarray:
        if mask.ndim != 3 or mask.shape[2] < 3:
            raise DataError(f"{name}: the mask is grey, but classes are given as colours")
        ids = np.full(mask.shape[:2], self._rest(), np.uint8)
        for number, mark in enumerate(self.marks):
            if mark != REST:
                colour = [int(mark[i : i + 2], 16) for i in (1, 3, 5)] if isinstance(mark, str) else [mark] * 3
                ids[(mask[..., :3] == colour).all(-1)] = number
        if REST not in self.marks and (ids == IGNORE).any():
            red, green, blue = (int(value) for value in mask[ids == IGNORE][0, :3])
            raise DataError(
                f"{name}: the mask holds the colour #{red:02x}{green:02x}{blue:02x}, which no class claims "
                f"({self._listed()}); one class may be 'rest'"
            )
        return ids
